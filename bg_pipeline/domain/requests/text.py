"""Reads text and JSON that people write: only UTF-8, and syntax errors are explained with their line and column."""

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
"""Maximum number of fields in one JSON object; no object of a request has nearly as many."""

_SNIFFED_BYTES: Final = 4000
"""Number of leading bytes that are examined to detect UTF-16 and UTF-32 without a byte order mark."""


def decode(data: bytes, what: str = "the request") -> str:
    """The text of ``data``, which must be UTF-8, with or without a byte order mark.

    Raises `RequestError`, which names the encoding if it can be recognized and what to do. No byte is ever replaced
    or guessed.
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
        raise RequestError(
            [("", f"{what} contains a NUL character in line {line}: it is damaged or not a text file")]
        )
    return text


def wide_coding(data: bytes) -> str:
    """The name of the encoding if ``data`` is UTF-16 or UTF-32, with or without a byte order mark; else empty."""
    for mark, name in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return name
    start = data[:_SNIFFED_BYTES]
    even, odd = start[0::2].count(0), start[1::2].count(0)
    half = len(start) // 2
    # In UTF-16 the ASCII characters of JSON and CSV have a zero byte, always in the even or always in the odd place.
    if half >= 2 and max(even, odd) * 3 >= half:
        if min(even, odd) * 4 < max(even, odd):
            return f"UTF-16 ({'big' if even > odd else 'little'}-endian, without a byte order mark)"
        if start.count(0) * 2 > len(start):
            return "UTF-32 (without a byte order mark)"
    return ""


def _guess(data: bytes) -> str:
    # Windows-1252 does not define these bytes.
    if re.search(rb"[\x81\x8d\x8f\x90\x9d]", data):
        return ""
    return "it looks like Windows-1252 (or Latin-1); "


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``. Raises `RequestError`, which explains the error and names its line."""
    text = decode(data)
    duplicates: list[str] = []

    def make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > MAX_FIELDS:
            sentence = f"the request contains an object of {len(pairs):,} fields; it may have {MAX_FIELDS:,}"
            raise RequestError([("", sentence)])
        result = dict(pairs)
        if len(result) < len(pairs):
            duplicates.extend(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        return result

    def refuse_constant(name: str) -> Any:
        raise _NoNumberError(name)

    try:
        document = json.loads(text, object_pairs_hook=make_object, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        raise RequestError([("", f"the request is not JSON: {_syntax_error(error)}")]) from None
    except RecursionError:
        raise RequestError([("", "the request is nested too deeply")]) from None
    except _NoNumberError as error:
        name = str(error)
        at = next(token.start() for token in _TOKEN.finditer(text) if token[0] == name)
        raise RequestError(
            [("", f"the request contains an invalid JSON number: {name} in {_place(text, at)}")]
        ) from None
    except ValueError:
        # Python limits the number of digits, and its error does not name the place.
        at = next((match.start() for match in re.finditer(r"\d{4300}", text)), 0)
        sentence = f"the request contains an invalid JSON number: thousands of digits in {_place(text, at)}"
        raise RequestError([("", sentence)]) from None
    if not isinstance(document, dict):
        raise RequestError([("", 'the request must be a JSON object, {"Id": …, "Prompt": …}')])
    if duplicates:
        raise RequestError(
            first_of([(name[:100], "is given twice in one object") for name in dict.fromkeys(duplicates)])
        )
    return document


class _NoNumberError(Exception):
    """The JSON contains NaN or Infinity, which only Python's parser accepts as numbers."""


# A string (whose end may be missing), or a word between punctuation.
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
    """A description of the error for the writer of the JSON, from the text at the place where parsing failed."""
    text, at = error.doc, error.pos
    if not text.strip():
        return f"it is empty ({_place(text, 0)})"
    if typographic := _typographic(text, at):
        return typographic
    here = _place(text, at)
    rest = text[at:]
    char = rest[:1]
    before = text[:at].rstrip()
    if error.msg.startswith("Illegal trailing comma"):  # of Python 3.13, at the comma
        return f"there is an extra comma in {here}, before '{rest[1:].lstrip()[:1]}'"
    if char and char in "]}," and before[-1:] == ",":
        return f"there is an extra comma in {_place(text, len(before) - 1)}, before '{char}'"
    if rest.startswith(("//", "/*", "#")):
        return f"there is a comment in {here}, which JSON does not allow: remove it"
    if char == "'":
        return f"there is a single quote (') in {here} where a double one (\") belongs"
    if char == "\\" or error.msg.startswith("Invalid \\"):
        return f"there is a single backslash in {here}: write it twice, \\\\"
    if error.msg.startswith("Invalid control character"):
        if char in "\n\r":
            return f'a text is not ended by a double quote (") in {here}; a line break in it is written \\n'
        return f"there is a control character (U+{ord(char):04X}) inside a text in {here}: remove it"
    if error.msg.startswith("Unterminated string"):
        return f'a text that begins in {here} is not ended by a double quote (")'
    word = re.match(r"[^\s\"\[\]{},:]+", rest)
    if word and word[0] in _PYTHON:
        return f"there is {word[0]} in {here} where JSON has {_PYTHON[word[0]]}"
    if char and unicodedata.category(char) in ("Cc", "Cf", "Zs", "Co") and not char.isascii():
        return f"there is an invisible character (U+{ord(char):04X}) in {here}: remove it"
    if error.msg.startswith("Expecting ',' delimiter") and (char in '"{[' if char else False):
        return f"a comma (,) is missing before {here}"
    return f"{error.msg} in {here}"


def _typographic(text: str, at: int) -> str:
    """The description of a typographic quote in place of a straight one, at or shortly before ``at``; else empty."""
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
    # A typographic quote ends a text if JSON punctuation follows it.
    ends = re.search(rf"[{_DOUBLE}{_SINGLE}](?=\s*(?:[,:}}\]]|\Z))", last[0][1:])
    return _quote_error(text, last.start() + 1 + ends.start()) if ends else ""


def _previous_line_start(text: str, at: int) -> int:
    """The start of the line before that of ``at``, from which typographic quotes are searched."""
    line = text.rfind("\n", 0, at)
    return text.rfind("\n", 0, max(line, 0)) + 1


def _quote_error(text: str, at: int) -> str:
    return f'there is a typographic quote ({text[at]}) in {_place(text, at)} where a straight one (") belongs'
