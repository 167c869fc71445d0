"""The main noun of a caption, and the equality of nouns in singular and plural: guesses from English word order."""

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LEAD_INS = re.compile(
    r"""(?:
        \W*(?:image\s)?(?:description|caption|title)\W+
      | (?:in|at)\s(?:the|this)\s(?:\w+\s)?(?:image|photo|photograph|picture|foreground|center|centre)
            (?:\sof\s(?:the|this)\s(?:image|photo|photograph|picture))?,?\s
      | (?:the|this|an?)\s(?:[\w-]+\s){0,4}?(?:image|photo|photograph|picture|shot)\s
            (?:(?:is|was)\s(?:an?\s)?(?:[\w-]+\s)?(?:of|showing|featuring)
              | (?:prominently\s|clearly\s)?
                (?:shows|features|depicts|displays|captures|presents|showcases|contains)
              | of|showing|featuring|depicting)\s
      | (?:there\s(?:is|are)|(?:we|you)\s(?:can\s)?see|this\sis|it\s(?:shows|is))\s
      | (?:an?\s|the\s)?(?:[\w-]+\s){0,2}?
            (?:close-?\s?up|view|scene|image|photo|photograph|picture|shot|portrait|pair|group|set|couple
              |bunch|pile|stack|row|collection|variety|lot)(?:\s(?:view|shot|photo))?\s(?:of|showing)\s
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_DETERMINERS = _words("""
    the a an this that these those some several many few one two three four five six seven eight nine ten another
    various multiple single his her their its
""")
_ENDS = _words("""
    in on at with without against of by near under over above below beside behind before across along around between
    among inside outside into onto from for through to next as and or but while which who whose that where is are was
    were has have had sits stands lies rests can appears seems up down wearing holding riding carrying using drinking
    eating playing featuring showing looking
""")
_NOUNS_IN_ING = _words("""
    building painting ring earring wing king string clothing ceiling drawing swing railing duckling awning sibling
""")
_NOUNS_IN_ED = _words("bed shed seed steed weed reed sled")
_COLOURS = _words("red orange yellow green blue purple pink brown black white grey gray golden silver")
_VAGUE = _words("""
    image photo photograph picture scene view background foreground closeup close-up something there it what object
    item center centre front variety
""")
_TOKENS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[,.;:!?()\n—–]")


def subject_noun(caption: str) -> str | None:
    """The main noun of a caption, lower case: "The image shows a red bicycle leaning…" gives "bicycle".

    A guess from word order, for English captions; None where it finds no noun, never an empty string. The plural is
    kept ("two dogs" gives "dogs").
    """
    text = caption.strip()
    while match := _LEAD_INS.match(text):
        text = text[match.end() :]
    words = _TOKENS.findall(text.casefold())
    followers = [*words[1:], "."]
    head: str | None = None
    for word, following in zip(words, followers, strict=False):
        stops = following in _ENDS or following in _DETERMINERS or not following[0].isalnum()
        if word == "," and head and words[0] in {"a", "an", "the"} and _may_describe(following):
            continue  # "a sleek, modern chair"
        if word in _DETERMINERS:
            if head:
                break
        elif word == "and" and head in _COLOURS and following in _COLOURS:
            continue
        elif word in _ENDS or not word[0].isalnum() or (head and stops and _is_participle(word)):
            break
        else:
            head = word
    if head is None or head in _VAGUE or head in _COLOURS or head.isdecimal():
        return None
    return head.removesuffix("'s").removesuffix("’s")


def singular(name: str) -> str:
    """A key that a noun and its plural share, in any case; not necessarily a word."""
    *before, word = name.casefold().split() or [""]
    return " ".join([*before, _IRREGULAR.get(word) or _regular(word)])


_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "knives": "knife",
    "wolves": "wolf",
    "shelves": "shelf",
    "leaves": "leaf",
}


def _regular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes", "buses", "atoes")):
        return word[:-2]
    # The final s of "Bus", "Glass" and "Tennis" is no plural.
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _may_describe(word: str) -> bool:
    return word[0].isalnum() and word not in _DETERMINERS and word not in _ENDS and not _is_participle(word)


def _is_participle(word: str) -> bool:
    return (word.endswith("ing") and word not in _NOUNS_IN_ING) or (
        word.endswith("ed") and word not in _NOUNS_IN_ED
    )
