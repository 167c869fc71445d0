"""The one reader of text that people write: UTF-8 or refused, and JSON whose slips are named with their line."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from bg_pipeline.domain.requests.problems import first_of
from bg_pipeline.errors import RequestError

_BYTE_ORDER_MARKS: Final = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
MAX_FIELDS: Final = 1000
"""Fields of one object of the JSON; no object of a request knows so many."""

_SNIFFED_BYTES: Final = 4000
"""Bytes from the beginning that tell UTF-16 without a mark."""


def decode(data: bytes, what: str = "the request") -> str:
    """The text of ``data``, which is UTF-8 with or without a byte order mark.

    Anything else is a `RequestError` that says what it is and what to do: nothing is guessed, and no byte is
    replaced by another.
    """
    if coding := wide_coding(data):
        raise RequestError([("", f"{what} is not UTF-8 text but {coding}: save it as UTF-8")])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        words = f"{what} is not UTF-8 text (byte {error.start + 1}) in line {line}"
        raise RequestError([("", f"{words}: {_guess(data)}save it as UTF-8")]) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise RequestError([("", f"{what} holds a NUL character in line {line}: it is damaged or no text")])
    return text


def wide_coding(data: bytes) -> str:
    """The name of the coding of text in UTF-16 or UTF-32, marked or not, else empty."""
    for mark, name in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return name
    start = data[:_SNIFFED_BYTES]
    even, odd = start[0::2].count(0), start[1::2].count(0)
    half = len(start) // 2
    # Letters, digits and marks of JSON and CSV have a zero for their other byte, in one place or the other.
    if half >= 2 and max(even, odd) * 3 >= half:
        if min(even, odd) * 4 < max(even, odd):
            return f"UTF-16 ({'big' if even > odd else 'little'}-endian, without a byte order mark)"
        if start.count(0) * 2 > len(start):
            return "UTF-32 (without a byte order mark)"
    return ""


def _guess(data: bytes) -> str:
    # The bytes that Windows-1252 has no character for are of no such text.
    if re.search(rb"[\x81\x8d\x8f\x90\x9d]", data):
        return ""
    return "it looks like Windows-1252 (or Latin-1); "


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``. A `RequestError` says in which line what is wrong, in words for its writer."""
    text = decode(data)
    twice: list[str] = []

    def an_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > MAX_FIELDS:
            words = f"the request holds an object of {len(pairs):,} fields; it may have {MAX_FIELDS:,}"
            raise RequestError([("", words)])
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        return found

    def no_number(name: str) -> Any:
        raise _NoNumberError(name)

    try:
        document = json.loads(text, object_pairs_hook=an_object, parse_constant=no_number)
    except json.JSONDecodeError as error:
        raise RequestError([("", f"the request is not JSON: {_syntax_error(error)}")]) from None
    except RecursionError:
        raise RequestError([("", "the request is nested too deeply")]) from None
    except _NoNumberError as error:
        name = str(error)
        at = next(one.start() for one in _TOKEN.finditer(text) if one[0] == name)
        raise RequestError(
            [("", f"the request holds what is no JSON number: {name} in {_place(text, at)}")]
        ) from None
    except ValueError:
        # The interpreter's own limit of digits, which does not tell where.
        at = next((one.start() for one in re.finditer(r"\d{4300}", text)), 0)
        words = f"the request holds what is no JSON number: thousands of digits in {_place(text, at)}"
        raise RequestError([("", words)]) from None
    if not isinstance(document, dict):
        raise RequestError([("", 'the request must be a JSON object, {"Id": …, "Prompt": …}')])
    if twice:
        raise RequestError(
            first_of([(name[:100], "is given twice in one object") for name in dict.fromkeys(twice)])
        )
    return document


class _NoNumberError(Exception):
    """NaN or Infinity stands where JSON has a number."""


# A string (which may lack its end), or a word between marks.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*(?:"|(?=\n)|\Z)|[^\s"\[\]{},:]+', re.DOTALL)

_DOUBLE: Final = "“”„‟«»″＂"
_SINGLE: Final = "‘’‚‛′＇`´"
_PYTHON: Final[Mapping[str, str]] = {
    "None": "null",
    "True": "true",
    "False": "false",
    "undefined": "null",
    "nan": "null",
    "NULL": "null",
    "TRUE": "true",
    "FALSE": "false",
}


def _place(text: str, at: int) -> str:
    return f"line {text.count(chr(10), 0, at) + 1}, column {at - text.rfind(chr(10), 0, at)}"


def _syntax_error(error: json.JSONDecodeError) -> str:
    """What is wrong in words, by what stands where the JSON ends to be one."""
    text, at = error.doc, error.pos
    if not text.strip():
        return f"it is empty ({_place(text, 0)})"
    if typographic := _typographic(text, at):
        return typographic
    here = _place(text, at)
    rest = text[at:]
    char = rest[:1]
    before = text[:at].rstrip()
    if char and char in "]}," and before[-1:] == ",":
        return f"there is a comma too many in {_place(text, len(before) - 1)}, before '{char}'"
    if rest.startswith(("//", "/*", "#")):
        return f"there is a comment in {here}, which JSON has none of: take it out"
    if char == "'":
        return f"there is a single quote (') in {here} where a double one (\") belongs"
    if char == "\\" or error.msg.startswith("Invalid \\"):
        return f"there is a single backslash in {here}: write it twice, \\\\"
    if error.msg.startswith("Invalid control character"):
        if char in "\n\r":
            return f'a text is not ended by a double quote (") in {here}; a line break in it is written \\n'
        return f"there is a control character (U+{ord(char):04X}) inside a text in {here}: take it out"
    if error.msg.startswith("Unterminated string"):
        return f'a text that begins in {here} is not ended by a double quote (")'
    word = re.match(r"[^\s\"\[\]{},:]+", rest)
    if word and word[0] in _PYTHON:
        return f"there is {word[0]} in {here} where JSON has {_PYTHON[word[0]]}"
    if char and unicodedata.category(char) in ("Cc", "Cf", "Zs", "Co") and not char.isascii():
        return f"there is an invisible character (U+{ord(char):04X}) in {here}: take it out"
    if error.msg.startswith("Expecting ',' delimiter") and (char in '"{[' if char else False):
        return f"a comma (,) is missing before {here}"
    return f"{error.msg} in {here}"


def _typographic(text: str, at: int) -> str:
    """A typographic quote that stands where a straight one belongs: where the JSON breaks, or in the text before."""
    if text[at : at + 1] and text[at] in _DOUBLE + _SINGLE:
        return _quote_error(text, at)
    last = None
    for token in _TOKEN.finditer(text, _previous_line_start(text, at)):
        if token.start() > at:
            break
        if token[0].startswith('"'):
            last = token
        elif token[0][0] in _DOUBLE + _SINGLE:
            return _quote_error(text, token.start())
    if last is None:
        return ""
    # It ends a text where a mark of JSON follows it.
    ends = re.search(rf"[{_DOUBLE}{_SINGLE}](?=\s*(?:[,:}}\]]|\Z))", last[0][1:])
    return _quote_error(text, last.start() + 1 + ends.start()) if ends else ""


def _previous_line_start(text: str, at: int) -> int:
    """Where the line before that of ``at`` begins: as far back as one looks for the cause."""
    line = text.rfind("\n", 0, at)
    return text.rfind("\n", 0, max(line, 0)) + 1


def _quote_error(text: str, at: int) -> str:
    return f'there is a typographic quote ({text[at]}) in {_place(text, at)} where a straight one (") belongs'
