"""Subjects on new backgrounds: their own pixels inside, no trace of the old background around them."""

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from bg_pipeline.imaging import Photo, composite, cut_out, encode, open_photo, restore_subject
from bg_pipeline_tests.imaging.scenes import NEW, SIZE, SUBJECT, shape, shot


def levels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32)


def error(result: Image.Image, truth: Image.Image, where: np.ndarray) -> float:
    return float(np.sqrt(((levels(result) - levels(truth))[where] ** 2).mean()))


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("feather", [0.0, 1.5, 6.0])
def test_the_subjects_interior_and_the_background_are_bit_identical(hard: bool, feather: float) -> None:
    matte = shape()
    photo = shot(matte)
    mask = matte.point(lambda level: 255 * (level > 127)) if hard else matte
    result = np.asarray(restore_subject(photo, NEW, mask, feather=feather))
    reach = int(4 + 2 * feather)
    inside = np.asarray(mask.filter(ImageFilter.MinFilter(2 * reach + 1))) == 255
    outside = np.asarray(mask.filter(ImageFilter.MaxFilter(2 * reach + 1))) == 0
    assert inside.any()
    assert outside.any()
    assert (result[inside] == np.asarray(photo.image)[inside]).all()
    assert (result[outside] == np.asarray(NEW)[outside]).all()


def test_a_soft_masks_own_255_is_bit_identical_up_to_its_edge() -> None:
    matte = shape(hair=True)
    photo = shot(matte)
    result = np.asarray(restore_subject(photo, NEW, matte, feather=1.0))
    full = np.asarray(matte) == 255
    assert (result[full] == np.asarray(photo.image)[full]).all()


def test_after_a_lossless_format_the_interior_is_still_identical_and_after_jpeg_45_db() -> None:
    matte = shape()
    photo = open_photo(encode(shot(matte).image, "jpeg"))
    result = restore_subject(photo, NEW, matte, feather=1.5)
    inside = np.asarray(matte.filter(ImageFilter.MinFilter(9))) == 255
    kept = np.asarray(open_photo(encode(result, "png")).image)
    assert (kept[inside] == np.asarray(photo.image)[inside]).all()
    pressed = open_photo(encode(result, "jpeg")).image
    assert 20 * np.log10(255 / error(pressed, photo.image, inside)) >= 45


@pytest.mark.parametrize("hair", [False, True])
def test_the_old_background_does_not_bleed_into_a_soft_edge(hair: bool) -> None:
    matte = shape(hair=hair)
    edge = (np.asarray(matte) > 0) & (np.asarray(matte) < 255)
    truth = Image.composite(SUBJECT, NEW, matte)
    pasted = error(Image.composite(shot(matte).image, NEW, matte), truth, edge)
    assert error(restore_subject(shot(matte), NEW, matte, feather=1.5), truth, edge) < 0.4 * pasted


def test_a_mask_that_is_a_little_too_wide_leaves_less_of_the_old_background() -> None:
    matte = shape()
    wide = matte.filter(ImageFilter.MaxFilter(3))
    near = np.asarray(matte.filter(ImageFilter.MaxFilter(9))) > np.asarray(
        matte.filter(ImageFilter.MinFilter(9))
    )
    truth = Image.composite(SUBJECT, NEW, matte)
    pasted = error(Image.composite(shot(matte).image, NEW, wide), truth, near)
    assert error(restore_subject(shot(matte), NEW, wide, feather=1.5), truth, near) < 0.6 * pasted


def test_the_feather_is_as_wide_as_asked() -> None:
    hard = Image.new("L", SIZE)
    hard.paste(255, (0, 0, 200, 300))
    photo, ground = Photo(Image.new("RGB", SIZE, "black"), "png"), Image.new("RGB", SIZE, "white")
    for feather in (2.0, 4.0, 10.0):
        row = np.asarray(restore_subject(photo, ground, hard, feather=feather))[150, :, 0].astype(float)
        assert (np.diff(row) >= 0).all()
        between = ((row > 255 * 0.05) & (row < 255 * 0.95)).sum()
        assert between == pytest.approx(feather, abs=1.1)
        assert row[:185].max() == 0
        assert row[215:].min() == 255


def test_without_feather_a_hard_edge_stays_hard() -> None:
    hard = Image.new("L", SIZE)
    hard.paste(255, (100, 100, 201, 203))
    result = restore_subject(shot(shape()), NEW, hard, feather=0)
    assert result.tobytes() == Image.composite(shot(shape()).image, NEW, hard).tobytes()


@pytest.mark.parametrize("level", [0, 255])
def test_an_empty_or_full_mask_is_no_special_case(level: int) -> None:
    mask = Image.new("L", SIZE, level)
    expected = shot(shape()).image if level else NEW
    assert restore_subject(shot(shape()), NEW, mask, feather=3).tobytes() == expected.tobytes()


def test_neither_photo_nor_mask_nor_background_is_changed() -> None:
    photo, matte, ground = shot(shape()), shape(), NEW.copy()
    before = photo.image.tobytes(), matte.tobytes(), ground.tobytes()
    restore_subject(photo, ground, matte, feather=4)
    cut_out(photo, matte, feather=0)
    composite(photo, matte, ground, shadow="soft")
    assert (photo.image.tobytes(), matte.tobytes(), ground.tobytes()) == before


def test_pictures_of_different_sizes_are_refused() -> None:
    photo, matte = shot(shape()), shape()
    with pytest.raises(ValueError, match="generated"):
        restore_subject(photo, NEW.resize((10, 10)), matte, feather=1)
    with pytest.raises(ValueError, match="subject"):
        restore_subject(photo, NEW, matte.resize((10, 10)), feather=1)


def test_a_photos_own_transparency_limits_its_subject() -> None:
    image = SUBJECT.copy()
    image.putalpha(shape())
    photo = Photo(image, "png")
    result = restore_subject(photo, NEW, Image.new("L", SIZE, 255), feather=1)
    assert result.mode == "RGB"
    assert error(result, Image.composite(SUBJECT, NEW, shape()), np.ones(SIZE[::-1], bool)) < 0.6


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32 - 1), st.floats(0, 8))
@settings(max_examples=80, deadline=None)
def test_any_mask_on_any_size_gives_a_picture_between_its_two(
    width: int, height: int, seed: int, feather: float
) -> None:
    random = np.random.default_rng(seed)
    mask = Image.fromarray(random.choice(np.array([0, 0, 90, 255, 255], np.uint8), (height, width)))
    photo = Photo(Image.new("RGB", (width, height), (200, 100, 50)), "png")
    result = restore_subject(photo, Image.new("RGB", (width, height), (20, 40, 60)), mask, feather=feather)
    for channel, (low, high) in zip(result.split(), ((20, 200), (40, 100), (50, 60)), strict=True):
        lowest, highest = cast(tuple[float, float], channel.getextrema())
        assert low - 1 <= lowest <= highest <= high + 1


# Cut-outs


def test_a_cut_out_laid_on_anything_has_no_fringe() -> None:
    matte = shape(hair=True)
    alone = cut_out(shot(matte), matte, feather=1.5)
    assert alone.mode == "RGBA"
    ground = NEW.convert("RGBA")
    ground.alpha_composite(alone)
    edge = (np.asarray(matte) > 0) & (np.asarray(matte) < 255)
    truth = Image.composite(SUBJECT, NEW, matte)
    pasted = error(Image.composite(shot(matte).image, NEW, matte), truth, edge)
    assert error(ground.convert("RGB"), truth, edge) < 0.45 * pasted


# Backdrops


def test_a_colour_fills_the_background_exactly() -> None:
    result = composite(shot(shape()), shape(), "#ff8800")
    assert result.getpixel((3, 3)) == (255, 136, 0)


@pytest.mark.parametrize("size", [(400, 300), (90, 300), (3000, 200), (1, 1)])
def test_a_backdrop_of_any_shape_covers_the_frame_unstretched(size: tuple[int, int]) -> None:
    result = composite(shot(shape()), shape(), Image.new("RGB", size, (10, 200, 30)))
    assert result.size == SIZE
    assert np.abs(levels(result)[0, 0] - (10, 200, 30)).max() <= 1


def test_a_backdrops_middle_is_kept() -> None:
    backdrop = Image.new("RGB", (800, 300), "red")
    backdrop.paste((0, 0, 255), (200, 0, 600, 300))
    result = composite(shot(shape()), shape(), backdrop)
    assert result.getpixel((5, 5)) == (0, 0, 255)
    assert result.getpixel((395, 295)) == (0, 0, 255)


def test_a_shadow_darkens_the_ground_below_the_subject_and_nothing_else() -> None:
    plain, shaded = (
        composite(shot(shape()), shape(), "#ffffff", shadow=shadow) for shadow in ("none", "soft")
    )
    darker = (levels(plain) - levels(shaded))[..., 0]
    assert darker.min() >= 0
    assert darker[238:244, 190:210].mean() > 40
    assert darker[:150].max() == 0
    assert darker[:, :60].max() <= 2
    inside = np.asarray(shape()) == 255
    assert darker[inside].max() == 0


def test_a_subject_cut_off_by_the_frame_stands_nowhere_and_throws_no_shadow() -> None:
    mask = Image.new("L", SIZE)
    mask.paste(255, (150, 100, 250, 300))
    photo = shot(mask)
    assert composite(photo, mask, "#fff", shadow="soft").tobytes() == composite(photo, mask, "#fff").tobytes()
