"""What spreadsheets make of texts before they are saved as CSV: errors, shortened numbers, dates."""

import re
from typing import Final

# An error's name between # and ! or ?, in whatever language, and those without such an end.
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
    """Whether a text is nothing but a spreadsheet's error, such as ``#NAME?``, ``#N/A`` or ``#BEZUG!``."""
    text = text.strip()
    if text.upper() in _NOT_AVAILABLE:
        return True
    return (bool(_ERROR.fullmatch(text)) and text == text.upper()) or bool(re.fullmatch(r"Err:\d{3}", text))


def text_of_formula(cell: str) -> str:
    """A cell's text: of ``="00123"``, which keeps a spreadsheet from making a number of it, it is ``00123``."""
    found = _FORMULA_TEXT.fullmatch(cell.strip())
    return found[1].replace('""', '"') if found else cell


def is_formula(cell: str) -> bool:
    """Whether a cell holds a formula and not what it comes to; one of a text alone is none (`text_of_formula`)."""
    return bool(_FORMULA.match(cell.strip())) and not _FORMULA_TEXT.fullmatch(cell.strip())


def reference_damage(text: str) -> str:
    """What a spreadsheet has made of a reference or a name, in words; empty where it shows no damage."""
    if _SCIENTIFIC.fullmatch(text):
        return (
            f"'{text}' is a long number that the spreadsheet has cut short: format the column as text and enter "
            "it anew"
        )
    if _DAY_AND_MONTH.fullmatch(text):
        return (
            f"'{text}' is a date that the spreadsheet has made of something like 10-12: format the column as text "
            "and enter it anew"
        )
    return ""


def reference_doubt(text: str) -> str:
    """What may have been something else before a spreadsheet changed it, in words; empty where nothing shows."""
    if _DATE.fullmatch(text):
        return f"'{text}' is a date: was it a size or a number before the spreadsheet changed it?"
    if re.fullmatch(r"\d{16,}", text) and not text[15:].strip("0"):
        return f"'{text}' has more digits than a spreadsheet keeps: are the zeros at its end right?"
    return ""
