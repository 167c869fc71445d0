"""Before and after on this machine."""

from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from bg_pipeline.domain.batches import Batch
from bg_pipeline.reports.contact_sheet import (
    CELL,
    GAP,
    PAIRS_PER_LINE,
    Pair,
    contact_sheet,
    save_pairs,
)
from bg_pipeline_tests.pictures import photo

BATCH = Batch(date(2026, 11, 21), "101530")


def test_each_pair_is_shown_undistorted_before_left_of_after() -> None:
    plain = Image.new("RGB", (400, 200), "#ff0000")
    red, blue = BytesIO(), BytesIO()
    plain.save(red, "PNG")
    plain.paste("#0000ff", (0, 0, 400, 200))
    plain.save(blue, "PNG")
    sheet = Image.open(BytesIO(contact_sheet([Pair("a", red.getvalue(), blue.getvalue())], "title")))
    line: Any = [sheet.getpixel((x, 100)) for x in range(sheet.width)]
    left = [x for x, (red, _, blue) in enumerate(line) if red > 200 > blue]
    right = [x for x, (red, _, blue) in enumerate(line) if blue > 200 > red]
    assert abs(len(left) - CELL) < 4
    assert abs(len(right) - CELL) < 4
    assert max(left) < min(right)
    column: Any = [sheet.getpixel((GAP + CELL // 2, y)) for y in range(sheet.height)]
    tall = [y for y, (_, green, _) in enumerate(column) if green < 60]
    assert abs(len(tall) - CELL // 2) < 4


def sheet_of(pairs: list[Pair]) -> Image.Image:
    return Image.open(BytesIO(contact_sheet(pairs, "title"))).convert("RGB")


def place(sheet: Image.Image, left: bool) -> Image.Image:
    """Where the first pair's picture before (left) or after is."""
    x = GAP if left else 2 * GAP + CELL
    return sheet.crop((x, sheet.height // 2, x + CELL, sheet.height // 2 + 20))


def flat(picture: Image.Image) -> bool:
    return all(high - low < 12 for low, high in cast(Any, picture.getextrema()))


def test_a_sheet_has_a_line_for_every_two_pairs_and_is_as_wide_with_none() -> None:
    sheets = {
        number: sheet_of([Pair("a", photo(each), None) for each in range(number)])
        for number in (0, 1, PAIRS_PER_LINE, PAIRS_PER_LINE + 1)
    }
    heights = {number: sheet.height for number, sheet in sheets.items()}
    assert heights[0] < heights[1] == heights[PAIRS_PER_LINE]
    assert heights[PAIRS_PER_LINE + 1] - heights[PAIRS_PER_LINE] == heights[1] - heights[0]
    assert len({sheet.width for sheet in sheets.values()}) == 1


def test_a_long_name_is_cut_off_at_its_own_column() -> None:
    short, long = (
        sheet_of([Pair(name, photo(1), None), Pair("b", photo(2), None)]) for name in ("a", "a 😀 " * 200)
    )
    assert short.size == long.size
    right = short.width // 2, 0, short.width, short.height
    assert short.crop(right).tobytes() == long.crop(right).tobytes()


@pytest.mark.parametrize("nothing", [None, b"", b"no picture"])
def test_what_is_no_picture_leaves_its_place_empty(nothing: bytes | None) -> None:
    sheet = sheet_of([Pair("a", photo(1), nothing)])
    assert not flat(place(sheet, left=True))
    assert flat(place(sheet, left=False))
    if nothing is not None:
        sheet = sheet_of([Pair("a", nothing, photo(1))])
        assert flat(place(sheet, left=True))
        assert not flat(place(sheet, left=False))


@pytest.mark.parametrize(
    "name", ["../../up.jpg", "/etc/x.jpg", "..", "a/b.jpg", "con.jpg", "x" * 400 + ".jpg", "😀.jpg"]
)
def test_nothing_is_written_outside_its_folder(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "pictures"
    assert [pair.name for pair in save_pairs(inside, BATCH, [Pair(name, b"before", b"after")])] == [name]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in written) == [b"after", b"before"]
    assert all(path.parents[1].parent == inside for path in written)
