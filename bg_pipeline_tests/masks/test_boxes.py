"""Boxes in ratios of the picture."""

from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.masks.boxes import Box

ratios = st.floats(-0.5, 1.5)
sides = st.integers(1, 5000)


def test_a_box_is_read_as_rekognition_gives_it() -> None:
    box = Box.read({"Left": 0.25, "Top": 0.5, "Width": 0.5, "Height": 0.25}, "Bus")
    assert (box.left, box.top, box.right, box.bottom, box.name) == (0.25, 0.5, 0.75, 0.75, "Bus")
    assert box.pixels((400, 200)) == (100, 100, 300, 150)


def test_growing_adds_a_share_on_every_side() -> None:
    assert Box(0.4, 0.4, 0.6, 0.8).grown(0.5) == Box(0.4 - 0.1, 0.4 - 0.2, 0.6 + 0.1, 1.0)


@given(left=ratios, top=ratios, width=ratios, height=ratios, across=sides, down=sides)
def test_any_box_has_pixels_in_the_picture(
    left: float, top: float, width: float, height: float, across: int, down: int
) -> None:
    box = Box.read({"Left": left, "Top": top, "Width": width, "Height": height})
    assert 0 <= box.left <= box.right <= 1
    x0, y0, x1, y1 = box.pixels((across, down))
    assert 0 <= x0 < x1 <= across
    assert 0 <= y0 < y1 <= down
