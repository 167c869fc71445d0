"""Before and after on this machine."""

from datetime import date
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from bg_pipeline.layout import Batch
from bg_pipeline.reports.contact_sheet import CELL, GAP, PAIRS_PER_LINE, Pair, contact_sheet, kept
from bg_pipeline_tests.pictures import photo

BATCH = Batch(date(2026, 11, 21), "101530")


def test_each_pair_is_shown_undistorted_before_left_of_after() -> None:
    plain = Image.new("RGB", (400, 200), "#ff0000")
    red, blue = BytesIO(), BytesIO()
    plain.save(red, "PNG")
    plain.paste("#0000ff", (0, 0, 400, 200))
    plain.save(blue, "PNG")
    sheet = Image.open(BytesIO(contact_sheet([Pair("a", red.getvalue(), blue.getvalue())], "title")))
    left = [x for x in range(sheet.width) if sheet.getpixel((x, 100))[0] > 200 > sheet.getpixel((x, 100))[2]]
    right = [x for x in range(sheet.width) if sheet.getpixel((x, 100))[2] > 200 > sheet.getpixel((x, 100))[0]]
    assert abs(len(left) - CELL) < 4
    assert abs(len(right) - CELL) < 4
    assert max(left) < min(right)
    tall = [y for y in range(sheet.height) if sheet.getpixel((GAP + CELL // 2, y))[1] < 60]
    assert abs(len(tall) - CELL // 2) < 4


@pytest.mark.parametrize("number", [0, 1, PAIRS_PER_LINE + 1])
def test_a_sheet_takes_what_there_is(number: int) -> None:
    pairs = [Pair(f"{each} 😀 " * 40, photo(each), None, "Failed: no picture") for each in range(number)]
    Image.open(BytesIO(contact_sheet(pairs, "title"))).load()


def test_what_is_no_picture_leaves_its_place_empty() -> None:
    Image.open(BytesIO(contact_sheet([Pair("a", b"no picture", b"")], "title"))).load()


@pytest.mark.parametrize(
    "name", ["../../up.jpg", "/etc/x.jpg", "..", "a/b.jpg", "con.jpg", "x" * 400 + ".jpg", "😀.jpg"]
)
def test_nothing_is_written_outside_its_folder(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "pictures"
    assert [pair.name for pair in kept(inside, BATCH, [Pair(name, b"before", b"after")])] == [name]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in written) == [b"after", b"before"]
    assert all(path.parents[1].parent == inside for path in written)
