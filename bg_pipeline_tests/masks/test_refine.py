"""Small masks at full size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from bg_pipeline.masks import conventions
from bg_pipeline.masks.refine import enlarge
from bg_pipeline_tests.masks.scenes import Scene, overlap, scene

SIZE = (1200, 900)


def error_at_edge(found: Image.Image, true: Image.Image) -> float:
    """The mean error in 0..255 within a few pixels of the true edge."""
    edge = np.asarray(true.filter(ImageFilter.MaxFilter(9))) != np.asarray(
        true.filter(ImageFilter.MinFilter(9))
    )
    return float(np.abs(np.asarray(found, np.float32) - np.asarray(true, np.float32))[edge].mean())


@pytest.fixture(name="shoe", scope="module")
def _shoe() -> Scene:
    return scene("shoe", "grey", SIZE)


@pytest.mark.parametrize("factor", [2, 3, 6])
def test_an_enlarged_mask_follows_the_photo_better_than_interpolation(shoe: Scene, factor: int) -> None:
    small = conventions.harden(shoe.mask.resize((SIZE[0] // factor, SIZE[1] // factor), Image.Resampling.BOX))
    refined = enlarge(small, shoe.photo)
    plain = small.resize(SIZE, Image.Resampling.BICUBIC)
    assert overlap(refined, shoe.mask) > 0.99
    assert error_at_edge(refined, shoe.mask) < 0.6 * error_at_edge(plain, shoe.mask)


def test_far_from_the_edge_nothing_is_touched(shoe: Scene) -> None:
    small = shoe.mask.resize((400, 300), Image.Resampling.BOX)
    refined = np.asarray(enlarge(small, shoe.photo))
    inside, outside = (
        np.asarray(small.filter(near(15)).resize(SIZE))
        for near in (ImageFilter.MinFilter, ImageFilter.MaxFilter)
    )
    assert (refined[inside == 255] == 255).all()
    assert (refined[outside == 0] == 0).all()


def test_without_an_edge_in_the_photo_it_is_interpolation(shoe: Scene) -> None:
    small = shoe.mask.resize((400, 300), Image.Resampling.BOX)
    flat = enlarge(small, Image.new("RGB", SIZE, (99, 99, 99)))
    plain = small.resize(SIZE, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(flat, np.int16) - np.asarray(plain, np.int16)).max() <= 1


@pytest.mark.parametrize("level", [0, 255])
def test_an_even_mask_stays_even(shoe: Scene, level: int) -> None:
    assert set(enlarge(Image.new("L", (400, 300), level), shoe.photo).tobytes()) == {level}


def test_a_mask_of_the_photos_size_is_returned_as_it_is(shoe: Scene) -> None:
    assert enlarge(shoe.mask, shoe.photo).tobytes() == shoe.mask.tobytes()


def test_a_larger_mask_is_reduced(shoe: Scene) -> None:
    assert overlap(enlarge(shoe.mask.resize((2400, 1800)), shoe.photo), shoe.mask) > 0.995


def test_a_photo_with_alpha_serves_as_well(shoe: Scene) -> None:
    small = shoe.mask.resize((400, 300), Image.Resampling.BOX)
    assert enlarge(small, shoe.photo.convert("RGBA")).tobytes() == enlarge(small, shoe.photo).tobytes()


@settings(max_examples=30, deadline=None)
@given(
    mask_size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    photo_size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    seed=st.integers(0, 99),
)
def test_any_sizes_fit(mask_size: tuple[int, int], photo_size: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = Image.fromarray((random.random(mask_size[::-1]) > 0.7).astype(np.uint8) * 255)
    photo = Image.fromarray(random.integers(0, 256, (*photo_size[::-1], 3), np.uint8))
    assert enlarge(mask, photo).size == photo_size


def test_a_shape_that_was_meant_soft_stays_soft(shoe: Scene) -> None:
    soft = shoe.mask.resize((400, 300), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(15))
    plain = soft.resize(SIZE, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(enlarge(soft, shoe.photo), np.int16) - np.asarray(plain, np.int16)).max() <= 2
