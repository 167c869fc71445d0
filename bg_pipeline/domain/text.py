"""Text for people: numbers, lists, commands, and strings made safe for terminals and spreadsheets."""

import re
import shlex
import unicodedata
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final

from bg_pipeline.domain.batches import Batch


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """At most ``most`` names, comma-separated, and the number of the others: ``a, b and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


COMMAND_OPTIONS: Final = ContextVar[tuple[str, ...]]("COMMAND_OPTIONS", default=())
"""Options that this process was started with and that every command it proposes needs too, such as ``--local``."""


def command(*words: str) -> str:
    """A command of ``bg-pipeline`` that can be pasted into a shell: quoted words, then `COMMAND_OPTIONS`."""
    return shlex.join(("bg-pipeline", *words, *COMMAND_OPTIONS.get()))


def run_command(batch: Batch) -> str:
    """The shell command that runs a batch, with its name quoted if necessary."""
    return command("run", "--batch", batch.path)


def amount(cost_usd: float | None, maybe_usd: float | None, places: int = 2) -> str:
    """Dollars for a person, with the amount that may have been billed in addition: ``0.12`` or ``0.12 to 0.15``."""
    if cost_usd is None or maybe_usd is None:
        return "unknown"
    low = f"{cost_usd:.{places}f}"
    high = f"{cost_usd + maybe_usd:.{places}f}"
    return low if low == high else f"{low} to {high}"


def printable(text: str) -> str:
    """``text`` in one line, with escapes for characters that control a terminal or the writing direction."""
    if text.isprintable():
        return text
    return "".join(_visible(char) if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    # Of the format characters (Cf) only those for the writing direction: others are parts of letters and emoji.
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in _DIRECTIONS


def _visible(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


_DIRECTIONS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def spreadsheet_text(text: str) -> str:
    """``text`` as a table cell that no spreadsheet evaluates as a formula, whichever separator it assumes.

    An apostrophe is inserted before a possible formula: at the start, and after a separator or line break inside the
    cell, because quotation marks do not protect a cell in a table that is split at another separator.
    """
    return _FORMULA.sub("'", text)


def text_of_cell(cell: str) -> str:
    """The inverse of `spreadsheet_text`."""
    return _MADE_HARMLESS.sub("", cell)


# A formula's first character, and its full-width form.
_STARTS: Final = "=+@＝＋－＠-"

# Where a formula would begin: at the start of the cell (some spreadsheets ignore white space there) or after a
# separator (possibly after doubled quotation marks). Existing apostrophes are matched too, so that the inserted one
# can be removed again.
_FORMULA: Final = re.compile(rf"""\A(?='*[\t\r\n{_STARTS}])|(?<=[,;|\t\r\n])(?='*"*[{_STARTS}])""")

_MADE_HARMLESS: Final = re.compile(rf"""\A'(?='*[\t\r\n{_STARTS}])|(?<=[,;|\t\r\n])'(?='*"*[{_STARTS}])""")
