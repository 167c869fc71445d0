"""The report of a batch: one row for each image asked for, whatever happened to it, as JSON, CSV and table.

`Row` and `Output` bear the names of the JSON, which is a list of rows. A price that is not known is None
(null; ``unknown`` in the CSV).
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Any, Final, get_type_hints

import orjson
from pydantic import TypeAdapter, ValidationError

from bg_pipeline.domain.payments import total
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.text import amount, printable, spreadsheet_text
from bg_pipeline.errors import BgPipelineError

if TYPE_CHECKING:
    import pandas as pd


COLUMNS: Final = tuple(name for name in Row.__dataclass_fields__ if name != "Outputs")
"""What the CSV and the data frame have of a row."""
_VALUES: Final = attrgetter(*COLUMNS)
_DOLLARS: Final = tuple(index for index, name in enumerate(COLUMNS) if name.endswith("USD"))
_BEFORE_NAME: Final = b'\n    "ImageName": '


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
        kinds = {name: kind for name in COLUMNS if (kind := _COLUMN_TYPES.get(types[name]))}
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


_COLUMN_TYPES: Final[Mapping[Any, str]] = {
    int | None: "Int64",
    float | None: "float64",
    float: "float64",
    bool: "bool",
}
"""Types of columns in a data frame."""

TABLE_HEAD: Final = ("Image", "Status", "Seconds", "USD", "Results, cause")

_ROWS = TypeAdapter(tuple[Row, ...])


def _cell(value: object) -> object:
    if isinstance(value, str):
        return spreadsheet_text(value)
    return spreadsheet_text("\n".join(value)) if isinstance(value, tuple) else value
