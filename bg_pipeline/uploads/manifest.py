"""Manifests: CSV tables that ask for a batch, one row per image; a manifest is checked completely before it is used.

The columns have the names of the request's fields in any spelling (``negative_prompt``, ``Negative prompt``,
``NegativePrompt``). An empty cell sets nothing, so the value for the whole batch is used. This module accesses no
files or buckets: `sources` finds what the cells of ``source``, ``mask`` and ``backdrop`` name.
"""

import csv
import difflib
import io
import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args, get_origin

import orjson
from pydantic.alias_generators import to_snake

from bg_pipeline.domain import shadows
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import (
    KNOWN,
    MAX_BYTES,
    MAX_IMAGES,
    BatchRequest,
    ImageEntry,
    image_settings,
    type_of,
)
from bg_pipeline.domain.requests.spreadsheets import (
    is_error_value,
    is_formula,
    is_nothing,
    misread,
    reference_damage,
    reference_doubt,
    text_of_formula,
)
from bg_pipeline.domain.requests.text import decode, wide_coding
from bg_pipeline.domain.text import text_of_cell
from bg_pipeline.domain.upload_kinds import NAMEABLE, kind_of
from bg_pipeline.errors import ImageError, RequestError
from bg_pipeline.settings import Settings
from bg_pipeline.uploads.submitting import check_submission

_COLUMN_OF_FIELD: Final = {"ImageName": "name", "Renditions": "preset", "MaskKey": "mask"}
"""Columns whose names differ from the field's."""
FIELDS: Final[Mapping[str, str]] = {
    "source": "",
    **{_COLUMN_OF_FIELD.get(field, to_snake(field)): field for field in ("ImageName", *KNOWN[ImageEntry])},
}
"""All columns, each with the field of `ImageEntry` that it fills; ``source`` names the photo itself."""

MAX_PROBLEMS: Final = 100
"""Maximum number of problems that are listed; further ones are only counted."""

Problem = tuple[int, str, str]
"""The line number of a problem, its place for the user, and a sentence about it."""

_DELIMITERS: Final = ",;\t"
# What people give for a CSV table, by how it begins.
_OTHER_FILES: Final = (
    (rb"PK\x03\x04", "a workbook (Excel, LibreOffice or Numbers)"),
    (rb"\xd0\xcf\x11\xe0", "a workbook of an old Excel"),
    (rb"(?i)(\xef\xbb\xbf)?\s*(<!doctype|<html|<table|<\?xml|<meta)", "a web page or XML"),
    (rb"(\xef\xbb\xbf)?\s*(\[\s*)?\{\s*\"", "JSON"),
    (rb"%PDF-", "a PDF document"),
    (rb"\{\\rtf", "a text document (RTF)"),
    (rb"\x1f\x8b", "compressed with gzip"),
)
_COLUMN_OF_NAME: Final = {
    re.sub(r"[^a-z]", "", name.lower()): column
    for column, field in FIELDS.items()
    for name in (column, *([field] if field and field != "Renditions" else []))
}


@dataclass(frozen=True, slots=True)
class Line:
    """One row, which is one image: the line of the file where it begins (from 1) and its cells.

    ``cells`` has one member for each column of the header; ``values`` has the non-empty cells by column of `FIELDS`.
    """

    number: int
    cells: tuple[str, ...]
    values: Mapping[str, str]

    def problem(self, column: str, sentence: str) -> Problem:
        """A problem in one of the row's cells."""
        return self.number, f"line {self.number}, column {column}", sentence


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was written; ``unused`` are columns without a meaning, which are only repeated in the report.

    ``warnings`` are about cells that a spreadsheet may have changed; a person should look at them, and they stop
    nothing. ``delimiter`` and ``has_bom`` (a byte order mark, which spreadsheets need) are used to write a table in
    the same format.
    """

    header: tuple[str, ...]
    lines: tuple[Line, ...]
    unused: tuple[str, ...]
    delimiter: str
    has_bom: bool
    warnings: tuple[Problem, ...] = ()


def read(data: bytes) -> Manifest:
    """The manifest in ``data``: CSV in UTF-8 or UTF-16 with commas, semicolons or tabs, as spreadsheets write it.

    Rows without any text are skipped. The cell ``="00123"``, a way to keep leading zeros in spreadsheets, is read as
    ``00123``. Values that a spreadsheet put in place of a text (``#NAME?``, ``4.00639E+12``) are refused. Raises
    `RequestError` with all problems by line and column, up to `MAX_PROBLEMS`. `compose` finds the problems that need
    the whole request.
    """
    text, has_bom = _text(data)
    delimiter, text, skipped = _delimiter(text)
    records = _records(text, delimiter, skipped)
    number, header = next(records, (1, []))
    columns = _columns(number, header)
    lines: list[Line] = []
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for number, cells in records:
        if len(cells) > len(header) and any(cells[len(header) :]):
            sentence = (
                f"has {len(cells)} cells and the header has {len(header)}: "
                f"a text that contains {_DELIMITER_NAMES[delimiter]} must be in double quotes"
            )
            problems.append((number, f"line {number}", sentence))
            continue
        raw = [text_of_formula(cell) for cell in [*cells, *[""] * len(header)][: len(header)]]
        formulas = {
            column: cell for column, cell in zip(columns, raw, strict=True) if column and is_formula(cell)
        }
        cells = [text_of_cell(cell) for cell in raw]
        if not any(cell.strip() for cell in cells):
            continue
        values = {
            column: cell.strip()
            for column, cell in zip(columns, cells, strict=True)
            if column and cell.strip()
        }
        line = Line(number, tuple(cells), values)
        problems += [
            line.problem(column, _NOT_ITS_VALUE.format(cell[:60])) for column, cell in formulas.items()
        ]
        for column, text in values.items():
            if sentence := _damage(column, text):
                problems.append(line.problem(column, sentence))
            elif column in _NAME_COLUMNS and (sentence := reference_doubt(text)):
                warnings.append(line.problem(column, sentence))
        if "source" not in values:
            problems.append(line.problem("source", "is empty: name the photo, as a file or an s3:// address"))
        if len(lines) >= MAX_IMAGES:
            sentence = f"a batch has at most {MAX_IMAGES:,} images; split the manifest"
            problems.append((number, f"line {number}", sentence))
            break
        lines.append(line)
    if not lines and not problems:
        problems.append((0, "", "the manifest has a header and no row, so it names no image"))
    _raise_if_any(problems)
    unused = tuple(name for name, column in zip(header, columns, strict=True) if not column and name.strip())
    return Manifest(tuple(header), tuple(lines), unused, delimiter, has_bom, tuple(warnings))


def compose(
    settings: Settings,
    batch: Batch,
    manifest: Manifest,
    names: Sequence[str],
    keys: Mapping[tuple[str, str], str],
    fields: Mapping[str, Any],
    problems: Sequence[Problem] = (),
) -> tuple[bytes, BatchRequest]:
    """The request JSON of ``batch`` that a manifest asks for, and the request as it is read from it.

    ``names`` are the images' names in the batch, one for each line. ``keys`` are the keys of masks and backdrops, by
    column (``mask``, ``backdrop``) and cell. ``fields`` are request fields for all images; ``Labels`` among them are
    used for lines without labels. Raises `RequestError` with all problems by line and column, including those in
    ``problems``.
    """
    found = list(problems)
    labels = fields.get("Labels")
    top = {name: value for name, value in fields.items() if name != "Labels" and value not in (None, (), "")}
    entries = []
    for line, name in zip(manifest.lines, names, strict=True):
        entry: dict[str, Any] = {"ImageName": name}
        if labels is not None:
            entry["Labels"] = labels
        for column, text in line.values.items():
            if column not in ("source", "name"):
                try:
                    entry[FIELDS[column]] = _value(column, keys.get((column, text), text), manifest.delimiter)
                except ValueError as error:
                    found.append(line.problem(column, str(error)))
        entries.append(entry)
    # A placeholder prompt for the whole batch, so that missing prompts are found below, each with its line.
    prompted = "Prompt" in top or "Prompts" in top
    document = {"Id": str(uuid.uuid4()), **({} if prompted else {"Prompt": "-"}), **top, "Images": entries}
    try:
        request = check_submission(settings, batch, orjson.dumps(document))
    except RequestError as error:
        found += [_problem(manifest, field, text) for field, text in error.problems]
        raise _error(found) from None
    if not prompted:
        del document["Prompt"]
        request = replace(request, Prompt=None)
        for line, name in zip(manifest.lines, names, strict=True):
            asked = image_settings(request, name, PRESET_REQUESTS)
            if asked.needs_prompt and not asked.prompts:
                found.append(line.problem("prompt", "is empty, and there is no prompt for the whole batch"))
    _raise_if_any(found)
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return data, request


def _raise_if_any(problems: Sequence[Problem]) -> None:
    if problems:
        raise _error(problems)


def _error(problems: Sequence[Problem]) -> RequestError:
    """All problems in the order of their lines; of several problems in one place only the first."""
    by_place: dict[str, str] = {}
    for _, place, sentence in sorted(problems, key=lambda problem: problem[0]):
        by_place.setdefault(place, sentence)
    listed = list(by_place.items())
    more = len(listed) - MAX_PROBLEMS
    return RequestError([*listed[:MAX_PROBLEMS], *([("", f"and {more} more problems")] if more > 0 else [])])


# Text and table


def _text(data: bytes) -> tuple[str, bool]:
    """The text without its byte order mark, and whether it had one."""
    if len(data) > MAX_BYTES:
        _raise_if_any(
            [
                (
                    0,
                    "",
                    f"the manifest has {len(data):,} bytes, and at most {MAX_BYTES:,} are allowed; split it",
                )
            ]
        )
    for start, name in _OTHER_FILES:
        if re.match(start, data):
            words = f"the manifest is {name} and not a CSV table: save it as 'CSV UTF-8'"
            _raise_if_any([(0, "", words)])
    if wide_coding(data) == "UTF-16":
        # UTF-16 with a byte order mark is what spreadsheets call "Unicode text".
        try:
            return data.decode("utf-16"), True
        except UnicodeDecodeError as error:
            _raise_if_any(
                [
                    (
                        0,
                        "",
                        f"the manifest is UTF-16 text that is cut short or damaged (byte {error.start + 1})",
                    )
                ]
            )
    try:
        return decode(data, "the manifest"), data[:3] == b"\xef\xbb\xbf"
    except RequestError as error:
        ((_, sentence),) = error.problems
        line = re.search(r"in line (\d+)", sentence)
        place = f"line {line[1]}" if line else ""
        raise RequestError([(place, f"{sentence}; in a spreadsheet, save it as 'CSV UTF-8'")]) from None


def _delimiter(text: str) -> tuple[str, str, int]:
    """The delimiter, the text without a ``sep=`` line, and the number of removed lines (0 or 1).

    The delimiter is that of ``sep=`` in the first line, else the one with which the header has most known columns.
    """
    match = re.match(r"\"?sep=(.)\"?[,;\t]*\r?\n", text, re.IGNORECASE)
    if match and match[1] in _DELIMITERS:
        return match[1], text[match.end() :], 1
    first = text.lstrip("\r\n").partition("\n")[0]

    def known_columns(delimiter: str) -> int:
        return sum(_normalized(cell) in _COLUMN_OF_NAME for cell in first.split(delimiter))

    return max(_DELIMITERS, key=known_columns), text, 0


_DELIMITER_NAMES: Final = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


def _records(text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The non-empty records, each with the line on which it begins."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1 + skipped
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise RequestError([(f"line {begins}", f"cannot be read as CSV from here on: {error}")]) from None
        if cells is None:
            return
        if cells:
            yield begins, cells
        begins = reader.line_num + 1 + skipped


def _normalized(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _columns(number: int, header: Sequence[str]) -> list[str]:
    """The column of `FIELDS` for each name in the header; empty for an unknown name."""
    columns = [_COLUMN_OF_NAME.get(_normalized(name), "") for name in header]
    problems: list[Problem] = []
    for place, (name, column) in enumerate(zip(header, columns, strict=True)):
        if column and column in columns[:place]:
            problems.append((number, f"line {number}, column {name}", "is there twice"))
        close = difflib.get_close_matches(_normalized(name), _COLUMN_OF_NAME, 1, 0.8) if not column else []
        if close and _COLUMN_OF_NAME[close[0]] not in columns:
            sentence = f"is not a column; did you mean '{_COLUMN_OF_NAME[close[0]]}'? Otherwise rename it"
            problems.append((number, f"line {number}, column {name}", sentence))
    if "source" not in columns:
        sentence = (
            "the header, which is the first line, has no column 'source', which names each row's photo; "
            f"columns are {', '.join(FIELDS)}"
        )
        problems.append((number, f"line {number}", sentence))
    _raise_if_any(problems)
    return columns


# Cells

_NAME_COLUMNS: Final = ("ref", "name")
_NOT_ITS_VALUE: Final = "is the formula {} and not its value: save the table with values"


def _damage(column: str, text: str) -> str:
    """A sentence on how a spreadsheet has damaged the cell; empty if no damage is visible."""
    parts = text.split(",") if column in ("labels", "preset") else text.splitlines()
    error_value = next((part.strip() for part in [text, *parts] if is_error_value(part)), None)
    if error_value is not None:
        return f"is {error_value}, which a spreadsheet writes in place of a value that it cannot compute"
    if column in _NAME_COLUMNS and is_nothing(text):
        return f"is {text.strip()}, which a program writes where it has no value; leave it empty"
    if column in _NAME_COLUMNS and (meant := misread(text)):
        return f"was changed by a program that read UTF-8 as Windows-1252; '{meant}' was meant"
    return reference_damage(text) if column in (*_NAME_COLUMNS, "source") else ""


def _value(column: str, text: str, delimiter: str) -> Any:
    """The value of a cell in its field's type. Raises ``ValueError`` with a sentence on what it should be."""
    kind = type_of(ImageEntry, FIELDS[column])
    if kind is int:
        if not re.fullmatch(r"[+-]?[0-9]{1,15}", text):
            raise ValueError(f"must be a whole number, not '{text}'")
        return int(text)
    if kind is float:
        # If cells are separated by semicolons, spreadsheets write numbers with a decimal comma.
        number = text.replace(",", ".") if delimiter != "," else text
        if not re.fullmatch(r"[+-]?[0-9]{1,9}(\.[0-9]{1,9})?", number):
            raise ValueError(f"must be a number, not '{text}'")
        return float(number)
    if column == "prompts":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if column == "shadow":
        return shadows.normalized(text)
    if column == "preset":
        return [{"Preset": name.strip()} for name in text.split(",") if name.strip()]
    if get_origin(kind) is Literal:
        return next((word for word in get_args(kind) if word.lower() == text.lower()), text)
    return text


_ENTRY = re.compile(r"Images\[(\d+)\]\.?(\w*)")


def _problem(manifest: Manifest, field: str, text: str) -> Problem:
    """A problem of a request field, with the place in the manifest from which the field came."""
    sentence = _ENTRY.sub(lambda entry: f"line {manifest.lines[int(entry[1])].number}", text)
    entry = _ENTRY.match(field)
    if entry is None:
        return 0, field, sentence
    line = manifest.lines[int(entry[1])]
    column = next((column for column, name in FIELDS.items() if name and name == entry[2]), "source")
    return line.problem("source" if column == "name" and column not in line.values else column, sentence)


def find_name_problems(
    manifest: Manifest, batch: Batch, names: Iterable[str], taken: Collection[str]
) -> Iterator[Problem]:
    """Problems of names that images cannot have in ``batch``; ``taken`` are keys of other files."""
    first: dict[str, Line] = {}
    for line, name in zip(manifest.lines, names, strict=True):
        column = "name" if "name" in line.values else "source"
        other = first.setdefault(name, line)
        try:
            known = kind_of(name) in NAMEABLE
            if not known or batch.upload_key(name) in taken:
                sentence = f"'{name}' cannot be the name of an image; write another in column name"
                yield line.problem(column, sentence)
        except ImageError as error:
            yield line.problem(column, str(error))
        if other is not line:
            sentence = f"'{name}' is already the image of line {other.number}; write another in column name"
            yield line.problem(column, sentence)
