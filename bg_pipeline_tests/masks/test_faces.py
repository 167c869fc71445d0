"""Head-and-shoulders shapes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.faces import portrait
from bg_pipeline.masks.validation import validate_mask

SIZE = (800, 600)
FACE = Box(0.4, 0.2, 0.55, 0.5)


def test_the_face_the_hair_and_the_shoulders_are_kept() -> None:
    shape = portrait([FACE], SIZE).picture
    pixels = np.asarray(shape)
    left, top, right, bottom = FACE.pixels(SIZE)
    assert (pixels[top : bottom - 40, left:right] > 250).all()
    assert pixels[top - 40, (left + right) // 2] == 255
    assert (pixels[-1, left - 40 : right + 40] == 255).all()


def test_what_is_away_from_people_is_replaced() -> None:
    pixels = np.asarray(portrait([FACE], SIZE).picture)
    assert pixels[:, :60].max() == 0
    assert pixels[:, -60:].max() == 0
    assert pixels[:15].max() == 0


def test_all_faces_are_merged() -> None:
    second = Box(0.7, 0.3, 0.8, 0.5)
    both = np.asarray(portrait([FACE, second], SIZE).picture, np.int16)
    assert (both >= np.asarray(portrait([FACE], SIZE).picture, np.int16) - 40).all()
    left, top, right, bottom = second.pixels(SIZE)
    assert (both[top : bottom - 30, left:right] > 240).all()


def test_glasses_that_stick_out_are_kept() -> None:
    glasses = Box(0.2, 0.25, 0.3, 0.3)
    without, worn = (portrait([FACE], SIZE, glasses=some).picture for some in ([], [glasses]))
    left, top, right, bottom = glasses.pixels(SIZE)
    assert np.asarray(without)[top:bottom, left:right].max() == 0
    assert np.asarray(worn)[top:bottom, left:right].min() > 128


def test_the_border_is_soft() -> None:
    levels = set(portrait([FACE], SIZE).picture.tobytes())
    assert len(levels) > 100


def test_a_portrait_is_a_valid_mask() -> None:
    assert validate_mask(portrait([FACE], SIZE), boxes=[FACE], beyond=True).ok


def test_no_faces_are_no_subject() -> None:
    assert portrait([], SIZE).picture.tobytes() == Image.new("L", SIZE).tobytes()


ratios = st.floats(0, 1)


@settings(max_examples=40, deadline=None)
@given(
    corners=st.lists(st.tuples(ratios, ratios, ratios, ratios), max_size=4),
    size=st.tuples(st.integers(1, 900), st.integers(1, 900)),
)
def test_any_boxes_give_a_shape(
    corners: list[tuple[float, float, float, float]], size: tuple[int, int]
) -> None:
    faces = [Box.read({"Left": a, "Top": b, "Width": c, "Height": d}) for a, b, c, d in corners]
    assert portrait(faces, size, glasses=faces[:1]).picture.size == size
