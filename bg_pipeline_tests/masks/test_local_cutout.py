"""Cutting out before a plain background: what is certain, and what is left to other sources."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from bg_pipeline.errors import SettingsError
from bg_pipeline.masks import plain_background
from bg_pipeline.masks.local_cutout import cut_plain_background, has_opencv
from bg_pipeline_tests.masks.scenes import Backdrop, Shape, overlap, scene


@pytest.mark.parametrize("backdrop", ["white", "grey", "cloudy", "blue", "black"])
@pytest.mark.parametrize("shape", ["bottle", "shoe", "two"])
def test_a_studio_shot_is_cut_out_well(shape: Shape, backdrop: Backdrop) -> None:
    shot = scene(shape, backdrop)
    cut = cut_plain_background(shot.photo)
    assert cut is not None
    assert cut.source == "studio"
    assert cut.confidence is not None
    assert cut.confidence >= plain_background.SURE
    assert overlap(cut.picture, shot.mask) >= 0.97


def test_a_person_cut_off_by_the_frame_is_cut_out() -> None:
    shot = scene("bust", "grey", shadow=False)
    cut = cut_plain_background(shot.photo)
    assert cut is not None
    assert overlap(cut.picture, shot.mask) >= 0.97


def test_the_backdrop_seen_through_a_handle_is_no_subject() -> None:
    shot = scene("mug", "blue")
    cut = cut_plain_background(shot.photo)
    assert cut is not None
    assert overlap(cut.picture, shot.mask) >= 0.97


def test_a_white_label_on_a_white_backdrop_is_left_to_others() -> None:
    photo = scene("bottle", "white").photo
    ImageDraw.Draw(photo).rectangle((350, 330, 450, 420), fill=(250, 250, 250))
    assert cut_plain_background(photo) is None


@pytest.mark.parametrize("shape", ["bottle", "mug", "shoe", "hair"])
def test_a_busy_background_is_left_to_others(shape: Shape) -> None:
    assert cut_plain_background(scene(shape, "busy").photo) is None


@pytest.mark.parametrize(
    ("backdrop", "colour"), [("white", (226, 226, 224)), ("grey", (172, 172, 174)), ("black", (24, 24, 24))]
)
def test_a_subject_in_the_backdrops_colour_is_left_to_others_or_right(
    backdrop: Backdrop, colour: tuple[int, int, int]
) -> None:
    shot = scene("shoe", backdrop, colour=colour)
    cut = cut_plain_background(shot.photo)
    assert cut is None or overlap(cut.picture, shot.mask) >= 0.97


@pytest.mark.parametrize("backdrop", ["white", "grey", "black"])
def test_fine_hair_is_left_to_others(backdrop: Backdrop) -> None:
    assert cut_plain_background(scene("hair", backdrop).photo) is None


@pytest.mark.parametrize("colour", ["white", "grey", "black"])
def test_an_empty_studio_has_no_subject(colour: str) -> None:
    assert cut_plain_background(Image.new("RGB", (640, 480), colour)) is None


def test_a_thumbnail_is_too_small_to_be_sure() -> None:
    assert cut_plain_background(scene("shoe", "white").photo.resize((60, 45))) is None


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(48, 200), st.integers(48, 200)),
    backdrop=st.integers(0, 255),
    patches=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 255)), max_size=5
    ),
    noise=st.sampled_from([0, 2, 40]),
)
def test_any_picture_is_cut_or_left(
    size: tuple[int, int], backdrop: int, patches: list[tuple[float, float, float, int]], noise: int
) -> None:
    photo = Image.new("RGB", size, (backdrop, backdrop, backdrop))
    for x, y, reach, grey in patches:
        corner = int(x * size[0]), int(y * size[1])
        end = corner[0] + int(reach * size[0]), corner[1] + int(reach * size[1])
        ImageDraw.Draw(photo).ellipse((*corner, *end), fill=(grey, backdrop, 255 - grey))
    grain = np.random.default_rng(0).normal(0, noise, (size[1], size[0], 1))
    cut = cut_plain_background(Image.fromarray(np.clip(np.asarray(photo) + grain, 0, 255).astype(np.uint8)))
    assert cut is None or cut.picture.size == size


def test_the_same_photo_gives_the_same_mask() -> None:
    photo = scene("shoe", "cloudy").photo
    first, second = cut_plain_background(photo), cut_plain_background(photo)
    assert first is not None
    assert second is not None
    assert first.picture.tobytes() == second.picture.tobytes()
    assert first.confidence == second.confidence


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_opencv()
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SettingsError, match=r"extra `masks`.*BG_MASK_SOURCES"):
        cut_plain_background(scene("shoe", "white").photo)
