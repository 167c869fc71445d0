"""Recognizes cells that a spreadsheet changed before it saved them as CSV: errors, shortened numbers, dates."""

import re
from typing import Final

# The name of an error between # and ! or ?, in any language; _NOT_AVAILABLE has the names without such an end.
_ERROR = re.compile(r"#[¡¿]?[^\W\d_]{2,}(?:[/_][^\W\d_]+)*(?:/0)?[!?]|#{3,}")
_NOT_AVAILABLE: Final = frozenset(
    {"#N/A", "#NV", "#N/D", "#N/B", "#I/T", "#ND", "#N/V", "#Н/Д", "#N/D!", "#GETTING_DATA"}
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
    return ""
