"""People cut out around their faces."""

import math
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from bg_pipeline import demo_photos
from bg_pipeline.imaging import open_photo
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.faces import portrait
from bg_pipeline.masks.local_cutout import cut_persons
from bg_pipeline.masks.validation import validate_mask
from bg_pipeline_tests.rendered import Ground, rendered

SIZE = (400, 500)
GROUNDS: tuple[Ground, ...] = ("studio", "dark", "cloudy", "room", "leaves")


def bust_face(size: tuple[int, int]) -> Box:
    """Where the face of a rendered bust is, from brows to chin."""
    across, down = (min(size) / side for side in size)
    return Box(0.5 - 0.12 * across, 0.5 - 0.26 * down, 0.5 + 0.12 * across, 0.5 + 0.02 * down)


def demo_photo(name: str) -> Image.Image:
    return open_photo((files(demo_photos) / name).read_bytes()).image


def overlap(one: Image.Image, other: Image.Image) -> float:
    a, b = np.asarray(one, np.float32), np.asarray(other, np.float32)
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_person_is_found_better_than_by_the_shape_alone(ground: Ground) -> None:
    shot, face = rendered("bust", ground, SIZE), bust_face(SIZE)
    cut = cut_persons(shot.photo, [face])
    assert cut is not None
    assert overlap(cut.picture, shot.matte) > 0.95
    assert overlap(portrait([face], SIZE).picture, shot.matte) < 0.9
    assert validate_mask(cut, boxes=[face], beyond=True).ok


def test_the_same_photo_gives_the_same_mask() -> None:
    shot = rendered("bust", "room", SIZE)
    first, second = (cut_persons(shot.photo, [bust_face(SIZE)]) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.picture.tobytes() == second.picture.tobytes()


def test_hair_and_arms_of_a_real_portrait_are_kept_and_the_wall_is_not() -> None:
    photo = demo_photo("astronaut.jpg")
    cut = cut_persons(photo, [Box(0.342, 0.127, 0.529, 0.315)])
    assert cut is not None
    kept = np.asarray(cut.picture)
    assert kept[60, 220] > 250, "her hair"
    assert kept[300, 80] > 250, "her sleeve, which lies outside of the shape"
    assert kept[60, 80] < 5, "the wall"
    assert kept[220, 330] < 5, "the wall above her shoulder, which lies in the shape"


def test_somebody_standing_ends_at_the_shoes() -> None:
    photo = demo_photo("IMG_4312.jpg")
    cut = cut_persons(photo, [Box(0.282, 0.167, 0.386, 0.235)])
    assert cut is not None
    assert np.asarray(cut.picture)[900:].max() < 5, "grass"


def test_two_people_are_found_together() -> None:
    one = rendered("bust", "leaves", (300, 400))
    photo = Image.new("RGB", (600, 400))
    photo.paste(one.photo, (0, 0))
    photo.paste(one.photo, (300, 0))
    face = bust_face((300, 400))
    left, right = (
        Box(face.left / 2 + shift, face.top, face.right / 2 + shift, face.bottom) for shift in (0, 0.5)
    )
    cut = cut_persons(photo, [left, right])
    assert cut is not None
    assert overlap(cut.picture.crop((0, 0, 300, 400)), one.matte) > 0.9
    assert overlap(cut.picture.crop((300, 0, 600, 400)), one.matte) > 0.9


def test_where_colours_do_not_differ_there_is_no_mask() -> None:
    """Noise and a flat grey: whatever is found there is no person."""
    size = (120, 150)  # small, because GrabCut takes long over noise
    face = bust_face(size)
    noise = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), np.uint8)
    for photo in (Image.fromarray(noise), Image.new("RGB", size, "grey")):
        cut = cut_persons(photo, [face])
        assert cut is None or overlap(cut.picture, portrait([face], size).picture) > 0.6


@pytest.mark.parametrize("faces", [[], [Box(0, 0, 1, 1)], [Box(0.5, 0.5, 0.5, 0.5)], [Box(0.99, 0.99, 1, 1)]])
def test_odd_faces_give_no_cut_or_one_of_the_right_size(faces: list[Box]) -> None:
    photo = rendered("bust", "room", SIZE).photo
    cut = cut_persons(photo, faces)
    assert cut is None or cut.picture.size == SIZE
    assert cut_persons(photo.resize((40, math.ceil(40.5))), faces) is None
