"""The report of a batch, with one row for each requested image, as JSON, CSV, data frame and table.

The JSON is a list of rows with the field names of `Row` and `Output`. A price that is not known is None (null in the
JSON, ``unknown`` in the CSV).
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
"""The columns of the CSV and the data frame."""
_VALUES: Final = attrgetter(*COLUMNS)
_DOLLARS: Final = tuple(index for index, name in enumerate(COLUMNS) if name.endswith("USD"))
_BEFORE_NAME: Final = b'\n    "ImageName": '


class JsonWriter:
    """Writes rows one by one into a file, in the format of `Report.json`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._before = b"["

    def write(self, row: Row) -> None:
        """Adds a row."""
        # Line breaks inside strings are escaped in JSON, so every newline here is part of the layout.
        lines = orjson.dumps(row, option=orjson.OPT_INDENT_2).replace(b"\n", b"\n  ")
        self._file.writelines((self._before, b"\n  ", lines))
        self._before = b","

    def end(self) -> None:
        """Completes the file after the last row and leaves it open."""
        self._file.write(b"[]\n" if self._before == b"[" else b"\n]\n")


class CsvWriter:
    """Writes rows one by one into a file, in the format of `Report.csv`."""

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
        """Completes the file after the last row and leaves it open."""
        self._text.detach()


def names_in(blocks: Iterable[bytes]) -> Iterator[str]:
    """The images' names in a report in the format of `Report.json`, read block by block to save memory."""
    rest = b"\n"
    for block in blocks:
        lines, newline, rest = (rest + block).rpartition(b"\n")
        rest = newline + rest
        for part in lines.split(_BEFORE_NAME)[1:]:
            yield orjson.loads(part.partition(b"\n")[0].rstrip(b","))


@dataclass(frozen=True)
class Report:
    """The rows of one batch, in the order of its request. Iterating over the report yields them."""

    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def read(cls, data: bytes) -> "Report":
        """The report in JSON. Raises `BgPipelineError` if ``data`` is not a report.

        Unknown columns are ignored, missing columns get their defaults.
        """
        try:
            return cls(_ROWS.validate_json(data))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(step) for step in first["loc"])
            raise BgPipelineError(f"this is not a status report: {place} {first['msg']}") from None

    def json(self) -> bytes:
        """The report as JSON: an indented list of rows with the field names of `Row`; deterministic."""
        return self._written(JsonWriter)

    def csv(self) -> bytes:
        """The report as CSV in UTF-8 with one row for each image; safe to open in a spreadsheet.

        Its columns are the fields of `Row` except ``Outputs``. Several results are separated by line breaks in one
        cell. Numbers are not quoted. An apostrophe is put before texts that a spreadsheet would evaluate.
        """
        return self._written(CsvWriter)

    def _written(self, writer_type: type[JsonWriter] | type[CsvWriter]) -> bytes:
        file = io.BytesIO()
        writer = writer_type(file)
        for row in self.rows:
            writer.write(row)
        writer.end()
        return file.getvalue()

    def frame(self) -> "pd.DataFrame":
        """A pandas data frame with one row for each image, indexed by its name; unknown prices and seeds are NA."""
        # Imported here because pandas takes half a second and 50 MB, which a run does not need.
        import pandas as pd

        columns = {name: [getattr(row, name) for row in self.rows] for name in COLUMNS}
        types = get_type_hints(Row)
        dtypes = {name: dtype for name in COLUMNS if (dtype := _COLUMN_TYPES.get(types[name]))}
        return pd.DataFrame(columns).astype(dtypes).set_index("ImageName")

    @property
    def counts(self) -> dict[Status, int]:
        """The number of rows by status; every status is a key."""
        counts = Counter(row.Status for row in self.rows)
        return {status: counts[status] for status in Status}

    @property
    def cost_usd(self) -> float | None:
        """Dollars that were certainly billed for all images; None if a part is not known."""
        return total((row.CostUSD for row in self.rows), 6)

    @property
    def maybe_usd(self) -> float | None:
        """Dollars that may have been billed in addition, for calls whose outcome is not known; None if not known."""
        return total((row.MaybeBilledUSD for row in self.rows), 6)

    @property
    def to_do_again(self) -> tuple[str, ...]:
        """The names of the images that a retry asks for again."""
        return tuple(row.ImageName for row in self.rows if row.to_do_again)

    def table(self) -> list[tuple[str, str, str, str, str]]:
        """The cells of the columns `TABLE_HEAD` for each row, safe to print on a terminal."""
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
"""Column types of the data frame, by the type of the field of `Row`."""

TABLE_HEAD: Final = ("Image", "Status", "Seconds", "USD", "Results, cause")

_ROWS = TypeAdapter(tuple[Row, ...])


def _cell(value: object) -> object:
    if isinstance(value, str):
        return spreadsheet_text(value)
    return spreadsheet_text("\n".join(value)) if isinstance(value, tuple) else value
