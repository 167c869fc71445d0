"""Numbers, lists and commands as a sentence has them."""

import re
import shlex
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from bg_pipeline.domain.batches import Batch

if TYPE_CHECKING:
    pass


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def run_command(batch: Batch) -> str:
    """The command that runs a batch, as a shell takes it whatever the batch is called."""
    return f"bg-pipeline run --batch {shlex.quote(batch.path)}"


def amount(cost_usd: float | None, maybe_usd: float | None, places: int = 2) -> str:
    """Dollars for a person, with what may have been billed besides: ``0.12`` or ``0.12 to 0.15``."""
    if cost_usd is None or maybe_usd is None:
        return "unknown"
    told = f"{cost_usd:.{places}f}"
    most = f"{cost_usd + maybe_usd:.{places}f}"
    return told if told == most else f"{told} to {most}"


def printable(text: str) -> str:
    """``text`` in one line, with what could steer a terminal or reverse the line's order made visible."""
    if text.isprintable():
        return text
    return "".join(_visible(char) if _steers(char) else char for char in text)


def _steers(char: str) -> bool:
    # Of the format characters those that set the direction of writing; others are parts of letters and emoji.
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _DIRECTIONS


def _visible(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


_DIRECTIONS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def spreadsheet_text(text: str) -> str:
    """``text`` as a cell that no spreadsheet takes for a formula, whatever separator it splits the table at.

    An apostrophe is put before what would be one: at the start, and after a separator or line break inside the
    cell, since quotation marks do not protect a cell in a table that is split at another separator.
    """
    return _FORMULA.sub("'", text)


def text_of_cell(cell: str) -> str:
    """What `spreadsheet_text` made a cell of."""
    return _MADE_HARMLESS.sub("", cell)


# A formula's first character, and its full-width form.
_STARTS: Final = "=+@＝＋－＠-"

# Where a formula would begin: at the start of the cell, where some spreadsheets pass over white space in front of
# it, or after a separator, where doubled quotation marks may stand before it. Apostrophes that are there already
# count, so that the one which is put before them can be told from them.
_FORMULA: Final = re.compile(rf"""\A(?='*[\t\r\n{_STARTS}])|(?<=[,;|\t\r\n])(?='*"*[{_STARTS}])""")

_MADE_HARMLESS: Final = re.compile(rf"""\A'(?='*[\t\r\n{_STARTS}])|(?<=[,;|\t\r\n])'(?='*"*[{_STARTS}])""")
