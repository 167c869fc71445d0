"""A manifest: a CSV table that asks for a batch, one row an image, read and checked whole before anything is done.

Its columns bear the names of the request's fields, spelt as one likes (``negative_prompt``, ``Negative prompt``,
``NegativePrompt``), and an empty cell says nothing, so that what is said for the whole batch counts. Nothing here
touches a file or a bucket: what the cells of ``source``, ``mask`` and ``backdrop`` name is for `sources` to find.
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
"""The columns that are not named like their field."""
FIELDS: Final[Mapping[str, str]] = {
    "source": "",
    **{_COLUMN_OF_FIELD.get(field, to_snake(field)): field for field in ("ImageName", *KNOWN[ImageEntry])},
}
"""The columns there are, and the field of an image's entry that each fills; ``source`` is the photo itself."""

MAX_PROBLEMS: Final = 100
"""Problems that are told in words; of more only the number is."""

Problem = tuple[int, str, str]
"""The line that something is wrong in, the place as its writer looks for it, and what is wrong, in words."""

_DELIMITERS: Final = ",;\t"
_COLUMN_OF_NAME: Final = {
    re.sub(r"[^a-z]", "", name.lower()): column
    for column, field in FIELDS.items()
    for name in (column, *([field] if field and field != "Renditions" else []))
}


@dataclass(frozen=True, slots=True)
class Line:
    """One image: the line of the file on which its row begins (from 1), its cells, and what they say by column.

    ``cells`` are as many as the head has; in ``said`` are the columns of `FIELDS` that are not empty.
    """

    number: int
    cells: tuple[str, ...]
    values: Mapping[str, str]

    def problem(self, column: str, words: str) -> Problem:
        """What is wrong in one of its cells."""
        return self.number, f"line {self.number}, column {column}", words


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was written; ``unused`` are the columns that mean nothing here and are only kept.

    ``doubts`` are cells that a spreadsheet may have changed, for a person to look at; they stop nothing.
    ``delimiter`` and ``marked`` (a byte order mark, which spreadsheets want) are for writing its like.
    """

    header: tuple[str, ...]
    lines: tuple[Line, ...]
    unused: tuple[str, ...]
    delimiter: str
    has_bom: bool
    warnings: tuple[Problem, ...] = ()


def read(data: bytes) -> Manifest:
    """The manifest in ``data``: CSV in UTF-8 or UTF-16, with commas, semicolons or tabs, as spreadsheets write it.

    Rows without any text are passed over; of ``="00123"``, which spreadsheets write to keep a number's zeros, the
    text is ``00123``. What a spreadsheet put in the place of a text (``#NAME?``, ``4.00639E+12``) is refused.
    A `RequestError` names what is wrong by line and column: all of it,
    up to `MAX_PROBLEMS`. What only a whole request can tell is found by `compose`.
    """
    text, marked = _text(data)
    delimiter, text, skipped = _delimiter(text)
    records = _records(text, delimiter, skipped)
    number, head = next(records, (1, []))
    columns = _columns(number, head)
    lines: list[Line] = []
    problems: list[Problem] = []
    doubts: list[Problem] = []
    for number, cells in records:
        if len(cells) > len(head) and any(cells[len(head) :]):
            words = (
                f"has {len(cells)} cells and the head has {len(head)}: "
                f"a text that holds {_DELIMITER_NAMES[delimiter]} stands in double quotes"
            )
            problems.append((number, f"line {number}", words))
            continue
        raw = [text_of_formula(cell) for cell in [*cells, *[""] * len(head)][: len(head)]]
        formulas = {
            column: cell for column, cell in zip(columns, raw, strict=True) if column and is_formula(cell)
        }
        cells = [text_of_cell(cell) for cell in raw]
        if not any(cell.strip() for cell in cells):
            continue
        said = {
            column: cell.strip()
            for column, cell in zip(columns, cells, strict=True)
            if column and cell.strip()
        }
        line = Line(number, tuple(cells), said)
        problems += [
            line.problem(column, _NOT_ITS_VALUE.format(cell[:60])) for column, cell in formulas.items()
        ]
        for column, text in said.items():
            if words := _damage(column, text):
                problems.append(line.problem(column, words))
            elif column in _NAME_COLUMNS and (words := reference_doubt(text)):
                doubts.append(line.problem(column, words))
        if "source" not in said:
            problems.append(line.problem("source", "is empty: name the photo, as a file or an s3:// address"))
        if len(lines) >= MAX_IMAGES:
            words = f"a batch has at most {MAX_IMAGES:,} images; split the manifest"
            problems.append((number, f"line {number}", words))
            break
        lines.append(line)
    if not lines and not problems:
        problems.append((0, "", "the manifest has a head and no row: there is no image in it"))
    _raise_if_any(problems)
    unused = tuple(name for name, column in zip(head, columns, strict=True) if not column and name.strip())
    return Manifest(tuple(head), tuple(lines), unused, delimiter, marked, tuple(doubts))


def compose(
    settings: Settings,
    batch: Batch,
    manifest: Manifest,
    names: Sequence[str],
    keys: Mapping[tuple[str, str], str],
    wishes: Mapping[str, Any],
    problems: Sequence[Problem] = (),
) -> tuple[bytes, BatchRequest]:
    """The request JSON of ``batch`` that a manifest asks for, and what it comes to.

    ``names`` are those of the images in the batch, one for each line; ``keys`` what cells of ``mask`` and
    ``backdrop`` lie under, by column and cell. ``wishes`` are the request's fields for all images; ``Labels``
    among them counts where a line has none. A `RequestError` names what is wrong by line and column, with the
    ``problems`` that are known already.
    """
    found = list(problems)
    labels = wishes.get("Labels")
    top = {name: value for name, value in wishes.items() if name != "Labels" and value not in (None, (), "")}
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
    # With a prompt for all, so that those who lack one are found all at once, by their lines.
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
                found.append(line.problem("prompt", "is empty, and no prompt is said for the whole batch"))
    _raise_if_any(found)
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return data, request


def _raise_if_any(problems: Sequence[Problem]) -> None:
    if problems:
        raise _error(problems)


def _error(problems: Sequence[Problem]) -> RequestError:
    """What is wrong, in the order of the lines; of several things in one place the first."""
    first: dict[str, str] = {}
    for _, place, words in sorted(problems, key=lambda problem: problem[0]):
        first.setdefault(place, words)
    told = list(first.items())
    more = len(told) - MAX_PROBLEMS
    return RequestError([*told[:MAX_PROBLEMS], *([("", f"and {more} more problems")] if more > 0 else [])])


# Text and table


def _text(data: bytes) -> tuple[str, bool]:
    """The text, without its byte order mark, and whether it had one."""
    if len(data) > MAX_BYTES:
        _raise_if_any(
            [(0, "", f"the manifest has {len(data):,} bytes, and {MAX_BYTES:,} are taken; split it")]
        )
    if wide_coding(data) == "UTF-16":
        # With its mark it is what spreadsheets call Unicode text.
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
        ((_, words),) = error.problems
        line = re.search(r"in line (\d+)", words)
        place = f"line {line[1]}" if line else ""
        raise RequestError([(place, f"{words}; in a spreadsheet, save it as 'CSV UTF-8'")]) from None


def _delimiter(text: str) -> tuple[str, str, int]:
    """What parts the cells: what ``sep=`` in the first line says, else what makes the most known columns.

    With it the text without such a line, and how many lines that takes away.
    """
    said = re.match(r"sep=(.)\r?\n", text)
    if said and said[1] in _DELIMITERS:
        return said[1], text[said.end() :], 1
    first = text.lstrip("\r\n").partition("\n")[0]

    def known(delimiter: str) -> int:
        return sum(_normalized(cell) in _COLUMN_OF_NAME for cell in first.split(delimiter))

    return max(_DELIMITERS, key=known), text, 0


_DELIMITER_NAMES: Final = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


def _records(text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The records that hold anything, each with the line on which it begins."""
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


def _columns(number: int, head: Sequence[str]) -> list[str]:
    """The column of `FIELDS` that each name in the head means, empty for one that means nothing here."""
    columns = [_COLUMN_OF_NAME.get(_normalized(name), "") for name in head]
    problems: list[Problem] = []
    for place, (name, column) in enumerate(zip(head, columns, strict=True)):
        if column and column in columns[:place]:
            problems.append((number, f"line {number}, column {name}", "is there twice"))
        close = difflib.get_close_matches(_normalized(name), _COLUMN_OF_NAME, 1, 0.8) if not column else []
        if close and _COLUMN_OF_NAME[close[0]] not in columns:
            words = f"is not a column; is '{_COLUMN_OF_NAME[close[0]]}' meant? Otherwise rename it"
            problems.append((number, f"line {number}, column {name}", words))
    if "source" not in columns:
        words = (
            "the head, which is the first line, has no column 'source', which names each row's photo; "
            f"columns are {', '.join(FIELDS)}"
        )
        problems.append((number, f"line {number}", words))
    _raise_if_any(problems)
    return columns


# Cells

_NAME_COLUMNS: Final = ("ref", "name")
_NOT_ITS_VALUE: Final = "is the formula {} and not what it comes to: save the table with its values"


def _damage(column: str, text: str) -> str:
    """What a spreadsheet has made of a cell, in words, where it is no text of anybody's."""
    parts = text.split(",") if column in ("labels", "preset") else text.splitlines()
    wrong = next((part.strip() for part in [text, *parts] if is_error_value(part)), None)
    if wrong is not None:
        return f"is {wrong}, which a spreadsheet writes in the place of a value that it cannot work out"
    return reference_damage(text) if column in (*_NAME_COLUMNS, "source") else ""


def _value(column: str, text: str, delimiter: str) -> Any:
    """A cell as its field has it; a ``ValueError`` says in a sentence what it should be."""
    kind = type_of(ImageEntry, FIELDS[column])
    if kind is int:
        if not re.fullmatch(r"[+-]?[0-9]{1,15}", text):
            raise ValueError(f"must be a whole number, not '{text}'")
        return int(text)
    if kind is float:
        # Where semicolons part the cells, spreadsheets write a comma into numbers.
        number = text.replace(",", ".") if delimiter != "," else text
        if not re.fullmatch(r"[+-]?[0-9]{1,9}(\.[0-9]{1,9})?", number):
            raise ValueError(f"must be a number, not '{text}'")
        return float(number)
    if column == "prompts":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if column == "preset":
        return [{"Preset": name.strip()} for name in text.split(",") if name.strip()]
    if get_origin(kind) is Literal:
        return next((word for word in get_args(kind) if word.lower() == text.lower()), text)
    return text


_ENTRY = re.compile(r"Images\[(\d+)\]\.?(\w*)")


def _problem(manifest: Manifest, field: str, text: str) -> Problem:
    """What is wrong with a field of the request, at the place in the manifest that it came from."""
    words = _ENTRY.sub(lambda entry: f"line {manifest.lines[int(entry[1])].number}", text)
    entry = _ENTRY.match(field)
    if entry is None:
        return 0, field, words
    line = manifest.lines[int(entry[1])]
    column = next((column for column, name in FIELDS.items() if name and name == entry[2]), "source")
    return line.problem("source" if column == "name" and column not in line.values else column, words)


def find_name_problems(
    manifest: Manifest, batch: Batch, names: Iterable[str], taken: Collection[str]
) -> Iterator[Problem]:
    """The names that are not to be had in ``batch``, where ``taken`` are the keys of others."""
    first: dict[str, Line] = {}
    for line, name in zip(manifest.lines, names, strict=True):
        column = "name" if "name" in line.values else "source"
        other = first.setdefault(name, line)
        try:
            known = kind_of(name) in NAMEABLE
            if not known or batch.upload_key(name) in taken:
                words = f"'{name}' means something else in a batch; say another in column name"
                yield line.problem(column, words)
        except ImageError as error:
            yield line.problem(column, str(error))
        if other is not line:
            words = f"'{name}' is the image of line {other.number} already; say another in column name"
            yield line.problem(column, words)
