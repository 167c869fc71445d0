"""Small masks and cut-outs at full size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import Fitted
from bg_pipeline.masks import conventions
from bg_pipeline.masks.cutout import full_size, read_cutout
from bg_pipeline.masks.refine import enlarge
from bg_pipeline_tests.masks.scenes import Scene, Shape, overlap, scene

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


@pytest.mark.parametrize("shape", ["bottle", "mug", "bust"])
def test_a_smaller_cut_out_becomes_a_precise_mask(shape: Shape) -> None:
    shot = scene(shape, "cloudy", SIZE)
    small = (512, 384)
    cut = conventions.to_alpha(shot.photo.resize(small), shot.mask.resize(small, Image.Resampling.BOX))
    mask = read_cutout(cut, shot.photo)
    assert mask.source == "cut-out"
    assert overlap(mask.picture, shot.mask) > 0.99
    assert error_at_edge(mask.picture, shot.mask) < 12


def test_a_cut_out_of_the_photos_size_is_taken_as_it_is(shoe: Scene) -> None:
    cut = conventions.to_alpha(shoe.photo, shoe.mask)
    assert read_cutout(cut, shoe.photo).picture.tobytes() == shoe.mask.tobytes()


@pytest.mark.parametrize("scale", [1, 0.5])
def test_padding_is_cut_off_again(shoe: Scene, scale: float) -> None:
    fitted = Fitted(inner=(600, 450), canvas=(640, 640), offset=(20, 95))
    canvas = Image.new("L", fitted.canvas, 255)
    canvas.paste(shoe.mask.resize(fitted.inner, Image.Resampling.BOX), fitted.offset)
    sent = canvas.resize((round(640 * scale), round(640 * scale)), Image.Resampling.BOX)
    assert overlap(full_size(sent, shoe.photo, fitted), shoe.mask) > 0.985


def test_a_cut_out_without_alpha_is_refused(shoe: Scene) -> None:
    with pytest.raises(ImageError, match="no alpha"):
        read_cutout(shoe.photo, shoe.photo)


def test_a_cut_out_of_another_shape_is_refused(shoe: Scene) -> None:
    with pytest.raises(ImageError, match="shapes differ"):
        read_cutout(Image.new("RGBA", (500, 500)), shoe.photo)


def test_a_shape_that_was_meant_soft_stays_soft(shoe: Scene) -> None:
    soft = shoe.mask.resize((400, 300), Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(15))
    plain = soft.resize(SIZE, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(enlarge(soft, shoe.photo), np.int16) - np.asarray(plain, np.int16)).max() <= 2
