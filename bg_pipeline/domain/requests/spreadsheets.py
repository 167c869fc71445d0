"""Recognizes texts that a spreadsheet or another program changed or put there: errors, shortened numbers, dates."""

import re
from typing import Final

# The name of an error between # and ! or ?, in any language; _NOT_AVAILABLE has the names without such an end.
_ERROR = re.compile(r"#[¡¿]?[^\W\d_]{2,}(?:[/_][^\W\d_]+)*(?:/0)?[!?]|#{3,}")
_NOT_AVAILABLE: Final = frozenset(
    {"#N/A", "#NV", "#N/D", "#N/B", "#I/T", "#ND", "#N/V", "#Н/Д", "#N/D!", "#GETTING_DATA"}
)

# What programs write where they have no value: pandas, Python, JavaScript, databases, Google Sheets.
_NOTHING: Final = frozenset(
    {"nan", "NaN", "NAN", "NaT", "<NA>", "None", "null", "NULL", "(null)", "undefined", "[object Object]"}
    | {"Loading...", "Loading…"}
)

_SCIENTIFIC = re.compile(r"[+-]?\d(?:[.,]\d+)?E\+\d{1,3}|[+-]?\d[.,]\d+E-\d{1,3}", re.IGNORECASE)
_FORMULA_TEXT = re.compile(r'="((?:[^"]|"")*)"')
_FORMULA = re.compile(r"=\s*[\w.$'!:+\-(\"]")
_MONTHS: Final = (
    "jan|feb|m[aä]r[sz]?|mrz|mrt|apr|a[vb]r|ma[iy]|mei|maj|jun|juin|jul|juil|aug|ago|ao[uû]t|sep|sept|set|o[ck]t|out|"
    "nov|de[czs]|d[ée]c|janv|f[ée]v|f[ée]vr|gen|mag|giu|lug|ott|dic|ene|dez"
)
_DAY_AND_MONTH = re.compile(
    rf"(?:\d{{1,2}}[-. ]{{1,2}}(?:{_MONTHS})\.?|(?:{_MONTHS})\.?[- ]\d{{2}})", re.IGNORECASE
)
_DATE = re.compile(r"\d{1,2}([./-])\d{1,2}\1(?:\d{4}|\d{2})|\d{4}-\d{2}-\d{2} 00:00:00|\d{4}/\d{1,2}/\d{1,2}")


def is_error_value(text: str) -> bool:
    """Whether the whole text is an error value of a spreadsheet, such as ``#NAME?``, ``#N/A`` or ``#BEZUG!``."""
    text = text.strip()
    if text.upper() in _NOT_AVAILABLE:
        return True
    return (bool(_ERROR.fullmatch(text)) and text == text.upper()) or bool(re.fullmatch(r"Err:\d{3}", text))


def is_nothing(text: str) -> bool:
    """Whether the whole text is what a program writes where it has no value, such as ``nan`` or ``undefined``."""
    return text.strip() in _NOTHING


def misread(text: str) -> str:
    """What was written, if ``text`` is UTF-8 that was read as Windows-1252 (``cafÃ©`` for ``café``); else empty.

    Each character beyond ASCII must fit, which does not happen by chance.
    """
    if text.isascii():
        return ""
    try:
        return b"".join(_byte(char) for char in text).decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return ""


def _byte(char: str) -> bytes:
    # Windows-1252 has no character for five bytes, which programs keep as they are.
    return char.encode("latin-1" if char in "\x81\x8d\x8f\x90\x9d" else "cp1252")


def text_of_formula(cell: str) -> str:
    """The text of a cell: ``00123`` for ``="00123"``, which people write to keep leading zeros; else the cell."""
    match = _FORMULA_TEXT.fullmatch(cell.strip())
    return match[1].replace('""', '"') if match else cell


def is_formula(cell: str) -> bool:
    """Whether a cell contains a formula instead of its value; the form of `text_of_formula` is not one."""
    return bool(_FORMULA.match(cell.strip())) and not _FORMULA_TEXT.fullmatch(cell.strip())


def reference_damage(text: str) -> str:
    """A sentence on how a spreadsheet has damaged a reference or a name; empty if no damage is visible."""
    if _SCIENTIFIC.fullmatch(text):
        return (
            f"'{text}' is a long number that the spreadsheet has shortened: format the column as text and enter "
            "it again"
        )
    if _DAY_AND_MONTH.fullmatch(text):
        return (
            f"'{text}' is a date that the spreadsheet has made from something like 10-12: format the column as text "
            "and enter it again"
        )
    return ""


def reference_doubt(text: str) -> str:
    """A question about a text that a spreadsheet may have changed; empty if nothing looks changed."""
    if _DATE.fullmatch(text):
        return f"'{text}' is a date: was it a size or a number before the spreadsheet changed it?"
    if re.fullmatch(r"\d{16,}", text) and not text[15:].strip("0"):
        return f"'{text}' has more digits than a spreadsheet keeps: are the zeros at its end right?"
    if re.fullmatch(r"\d{3,}[.,]0", text):
        return f"'{text}' ends with '{text[-2:]}': was it a whole number before another program wrote it?"
    if re.fullmatch(r"['’]\d+", text):
        return f"{text} begins with an apostrophe, which only a spreadsheet hides: does it belong to it?"
    return ""
