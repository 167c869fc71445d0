"""The report of a batch: one row for each image asked for, whatever happened to it, as JSON, CSV and table.

`Row` and `Output` bear the names of the JSON, which is a list of rows. A price that is not known is None
(null; ``unknown`` in the CSV).
"""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Any, Final, Self, get_type_hints

import orjson
from pydantic import TypeAdapter, ValidationError

from bg_pipeline.domain.payments import total
from bg_pipeline.domain.s3_keys import REQUEST
from bg_pipeline.errors import BgPipelineError, RequestError

if TYPE_CHECKING:
    import pandas as pd


class Status(StrEnum):
    """How an image or one of its outputs ended, from the best to the worst.

    What the next run does again is worse than what it leaves alone, so that a row whose outputs ended
    differently says that there is something left to do.
    """

    SUCCEEDED = "Succeeded"
    NEEDS_REVIEW = "NeedsReview"
    BLOCKED = "Blocked"
    SKIPPED = "Skipped"
    FAILED = "Failed"


_BADNESS: Final = {status: badness for badness, status in enumerate(Status)}

TO_DO_AGAIN: Final = frozenset({Status.FAILED, Status.SKIPPED})
"""The statuses of the images that a retry asks for again, but for those that are `WAITING_FOR_APPROVAL`."""

WAITING_FOR_APPROVAL: Final = "SampleWaits"
"""The ``Error`` of an image that waits for a person to approve its batch's sample."""


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of the statuses, of which there is at least one."""
    return max(statuses, key=_BADNESS.__getitem__)


@dataclass(frozen=True, slots=True)
class Output:
    """One picture or file of an image; ``Key`` is empty where there is none, ``Seed`` None where it is unknown."""

    Key: str
    Status: Status
    Cause: str = ""
    Model: str = ""
    Region: str = ""
    Seed: int | None = None
    CostUSD: float | None = 0.0

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """The output in a record that bears the same names; other names in it mean nothing here.

        Raises `KeyError` if the record has no ``Status``.
        """
        said = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**{"Key": "", **said, "Status": Status(record["Status"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one image; made with `compose`, which keeps its fields true to each other.

    Stored reports are read as rows too: a field that is added needs a default, which older reports then have.
    """

    Id: str
    ImageName: str
    Ref: str = ""
    Status: Status
    Error: str = ""
    Cause: str = ""
    Results: tuple[str, ...] = ()
    Outputs: tuple[Output, ...] = ()
    Model: str = ""
    Region: str = ""
    Seed: int | None = None
    Labels: str = ""
    Caption: str = ""
    CostUSD: float | None = 0.0
    MaybeBilledUSD: float | None = 0.0
    Seconds: float = 0.0
    Reused: bool = False

    @property
    def to_do_again(self) -> bool:
        """Whether a retry asks for the image; it is no way round the approval of a sample."""
        return self.Status in TO_DO_AGAIN and self.ImageName != REQUEST and not self.waits_for_approval

    @property
    def waits_for_approval(self) -> bool:
        return self.Error == WAITING_FOR_APPROVAL


COLUMNS: Final = tuple(name for name in Row.__dataclass_fields__ if name != "Outputs")
"""What the CSV and the data frame have of a row."""
_VALUES: Final = attrgetter(*COLUMNS)
_DOLLARS: Final = tuple(index for index, name in enumerate(COLUMNS) if name.endswith("USD"))
_BEFORE_NAME: Final = b'\n    "ImageName": '


def compose(
    batch_id: str,
    image: str,
    *,
    status: Status,
    error: str = "",
    cause: str = "",
    ref: str = "",
    outputs: Sequence[Output] = (),
    labels: str = "",
    caption: str = "",
    cost_usd: float | None = 0.0,
    maybe_usd: float | None = 0.0,
    seconds: float = 0.0,
    reused: bool = False,
) -> Row:
    """The row of an image that ended as ``status``, or as the worst of its outputs where that is worse.

    Without a ``cause`` it has that of the first output which ended like the row. ``cost_usd`` is all that was
    surely billed for the image, its labels and caption included, ``maybe_usd`` what may have been billed besides.
    """
    status = worst([status, *(output.Status for output in outputs)])
    first = outputs[0] if outputs else Output(Key="", Status=status)
    causes = (output.Cause for output in outputs if output.Status == status and output.Cause)
    return Row(
        Id=batch_id,
        ImageName=image,
        Ref=ref,
        Status=status,
        Error=error,
        Cause=cause or next(causes, ""),
        Results=tuple(output.Key for output in outputs if output.Key),
        Outputs=tuple(outputs),
        Model=first.Model,
        Region=first.Region,
        Seed=first.Seed,
        Labels=labels,
        Caption=caption,
        CostUSD=None if cost_usd is None else round(cost_usd, 6),
        MaybeBilledUSD=None if maybe_usd is None else round(maybe_usd, 6),
        Seconds=round(seconds, 3),
        Reused=reused,
    )


def unreadable(batch_id: str, problem: RequestError) -> Row:
    """The one row of a batch whose request cannot be read; ``batch_id`` is the derived one."""
    return compose(batch_id, REQUEST, status=Status.FAILED, error="RequestError", cause=str(problem))


class JsonWriter:
    """Writes rows, one by one as they come, into a file: what `Report.json` gives."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._before = b"["

    def write(self, row: Row) -> None:
        """Adds a row."""
        # A line break in a text is written as an escape: each of these is one of the layout's.
        lines = orjson.dumps(row, option=orjson.OPT_INDENT_2).replace(b"\n", b"\n  ")
        self._file.writelines((self._before, b"\n  ", lines))
        self._before = b","

    def end(self) -> None:
        """After the last row: the file is whole, and stays open."""
        self._file.write(b"[]\n" if self._before == b"[" else b"\n]\n")


class CsvWriter:
    """The same for `Report.csv`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._text = io.TextIOWrapper(file, "utf-8", newline="")
        self._csv = csv.writer(self._text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        self._csv.writerow(COLUMNS)

    def write(self, row: Row) -> None:
        """Adds a row."""
        cells = [_cell(value) for value in _VALUES(row)]
        for index in _DOLLARS:
            if cells[index] is None:
                cells[index] = "unknown"
        self._csv.writerow(cells)

    def end(self) -> None:
        """After the last row: the file is whole, and stays open."""
        self._text.detach()


def names_in(blocks: Iterable[bytes]) -> Iterator[str]:
    """The images' names in the blocks of a report as `Report.json` gives it, of which few are held at a time."""
    rest = b"\n"
    for block in blocks:
        lines, newline, rest = (rest + block).rpartition(b"\n")
        rest = newline + rest
        for found in lines.split(_BEFORE_NAME)[1:]:
            yield orjson.loads(found.partition(b"\n")[0].rstrip(b","))


@dataclass(frozen=True)
class Report:
    """The rows of one batch, in the order in which its images were asked for; going through it gives them."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(cls, data: bytes) -> "Report":
        """The report that was written as JSON; a `BgPipelineError` where ``data`` is none.

        Columns that are not known here are left out, those that are missing have their defaults.
        """
        try:
            return cls(_ROWS.validate_json(data))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(step) for step in first["loc"])
            raise BgPipelineError(f"this is not a status report: {place} {first['msg']}") from None

    def json(self) -> bytes:
        """A list of rows with the names of `Row`, indented; the same bytes for the same rows."""
        return self._written(JsonWriter)

    def csv(self) -> bytes:
        """A table in UTF-8 with one row for each image, which a spreadsheet may open without running anything.

        Its columns are those of `Row` but ``Outputs``; several results stand on lines of one cell. Numbers are
        numbers. A text that a spreadsheet would take for a formula has an apostrophe before it.
        """
        return self._written(CsvWriter)

    def _written(self, form: type[JsonWriter] | type[CsvWriter]) -> bytes:
        file = io.BytesIO()
        writer = form(file)
        for row in self.rows:
            writer.write(row)
        writer.end()
        return file.getvalue()

    def frame(self) -> "pd.DataFrame":
        """A table to compute with: one row for each image, indexed by its name, unknown prices and seeds missing."""
        # It takes half a second and 50 MB, which a run need not wait for.
        import pandas as pd

        columns = {name: [getattr(row, name) for row in self.rows] for name in COLUMNS}
        types = get_type_hints(Row)
        kinds = {name: kind for name in COLUMNS if (kind := _KINDS.get(types[name]))}
        return pd.DataFrame(columns).astype(kinds).set_index("ImageName")

    @property
    def counts(self) -> dict[Status, int]:
        """How many rows have each status, every status being named."""
        found = Counter(row.Status for row in self.rows)
        return {status: found[status] for status in Status}

    @property
    def cost_usd(self) -> float | None:
        """What was surely billed for all images; None where a part of it is not known."""
        return total((row.CostUSD for row in self.rows), 6)

    @property
    def maybe_usd(self) -> float | None:
        """What may have been billed besides, for calls whose end is not known."""
        return total((row.MaybeBilledUSD for row in self.rows), 6)

    @property
    def to_do_again(self) -> tuple[str, ...]:
        """The names of the images that a retry asks for."""
        return tuple(row.ImageName for row in self.rows if row.to_do_again)

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """The cells of `TABLE_HEAD` for each row, safe to print on a terminal."""
        return [
            (
                printable(row.ImageName),
                row.Status.value,
                f"{row.Seconds:.1f}",
                amount(row.CostUSD, row.MaybeBilledUSD),
                "\n".join(map(printable, [*row.Results, *([row.Cause] if row.Cause else [])])),
            )
            for row in self.rows
        ]


def amount(cost_usd: float | None, maybe_usd: float | None, places: int = 2) -> str:
    """Dollars for a person, with what may have been billed besides: ``0.12`` or ``0.12 to 0.15``."""
    if cost_usd is None or maybe_usd is None:
        return "unknown"
    told = f"{cost_usd:.{places}f}"
    most = f"{cost_usd + maybe_usd:.{places}f}"
    return told if told == most else f"{told} to {most}"


_KINDS: Final[Mapping[Any, str]] = {
    int | None: "Int64",
    float | None: "float64",
    float: "float64",
    bool: "bool",
}
"""Types of columns in a data frame."""

TABLE_HEAD: Final = ("Image", "Status", "Seconds", "USD", "Results, cause")

_ROWS = TypeAdapter(tuple[Row, ...])


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


def _cell(value: object) -> object:
    if isinstance(value, str):
        return spreadsheet_text(value)
    return spreadsheet_text("\n".join(value)) if isinstance(value, tuple) else value


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
