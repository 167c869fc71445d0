"""What is measured on a result: nothing on a true one, and each fault where it is."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from bg_pipeline.imaging import Photo, composite, encode, measure, open_photo, restore_subject
from bg_pipeline_tests.imaging.scenes import NEW, OLD, SIZE, SUBJECT, shape, shot


@pytest.fixture(params=[1, 4], ids=["small", "large"])
def scale(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def enlarged(image: Image.Image, scale: int) -> Image.Image:
    return image.resize((SIZE[0] * scale, SIZE[1] * scale), Image.Resampling.BICUBIC)


def parts(scale: int) -> tuple[Photo, Image.Image, Image.Image]:
    """A photo, its matte and a new background."""
    matte = enlarged(shape(), scale)
    photo = Photo(Image.composite(enlarged(SUBJECT, scale), enlarged(OLD, scale), matte), "jpeg")
    return photo, matte, enlarged(NEW, scale)


def test_a_true_result_measures_clean(scale: int) -> None:
    photo, matte, new = parts(scale)
    found = measure(photo, restore_subject(photo, new, matte, feather=1.5), matte)
    assert found.subject_changed == 0
    assert found.edge_halo < 0.1
    assert found.background_changed > 0.9
    assert not found.uniform


def test_jpeg_does_not_count_as_a_change(scale: int) -> None:
    photo, matte, new = parts(scale)
    result = open_photo(encode(restore_subject(photo, new, matte, feather=1.5), "jpeg")).image
    assert measure(photo, result, matte).subject_changed < 0.001


def test_the_share_of_a_subject_that_changed_is_what_changed(scale: int) -> None:
    photo, matte, new = parts(scale)
    result = restore_subject(photo, new, matte, feather=1.5)
    ImageDraw.Draw(result).rectangle((0, 0, result.width, result.height * 155 // 300), fill="yellow")
    assert measure(photo, result, matte).subject_changed == pytest.approx(0.5, abs=0.05)


def test_a_subject_painted_anew_has_changed_wholly(scale: int) -> None:
    photo, matte, new = parts(scale)
    assert measure(photo, new, matte).subject_changed > 0.9


def test_an_unchanged_background_is_seen(scale: int) -> None:
    photo, matte, _ = parts(scale)
    assert measure(photo, photo.image, matte).background_changed == 0


def test_a_background_of_one_colour_is_seen_and_a_soft_gradient_is_none(scale: int) -> None:
    photo, matte, _ = parts(scale)
    assert measure(photo, composite(photo, matte, "#808080"), matte).uniform
    sky = Image.linear_gradient("L").resize(photo.size).convert("RGB")
    assert not measure(photo, composite(photo, matte, sky), matte).uniform


def test_a_rim_of_the_old_background_is_a_halo_and_grows_with_it(scale: int) -> None:
    photo, matte, new = parts(scale)
    halos = []
    for width in (0, 2, 4):
        wide = matte.filter(ImageFilter.MaxFilter(2 * width + 1))
        halos.append(measure(photo, Image.composite(photo.image, new, wide), matte).edge_halo)
    assert halos[0] < 0.2
    assert halos[0] + 0.05 < halos[1] < halos[2] - 0.05


def test_a_mask_too_wide_by_itself_shows_as_a_halo() -> None:
    photo, matte, new = parts(1)
    wide = matte.filter(ImageFilter.MaxFilter(9))
    assert measure(photo, restore_subject(photo, new, wide, feather=1), wide).edge_halo > 0.3


def test_the_texture_of_a_new_background_is_no_halo() -> None:
    photo, matte = shot(shape()), shape()
    random = np.random.default_rng(0)
    busy = Image.fromarray(random.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8))
    assert measure(photo, restore_subject(photo, busy, matte, feather=1.5), matte).edge_halo < 0.1


@pytest.mark.parametrize("level", [0, 255])
def test_without_subject_or_background_nothing_is_measured_of_it(level: int) -> None:
    photo, mask = shot(shape()), Image.new("L", SIZE, level)
    found = measure(photo, restore_subject(photo, NEW, mask, feather=1), mask)
    assert found.subject_changed == 0
    assert found.edge_halo == 0
    assert found.background_changed == (0 if level else pytest.approx(1, abs=0.1))


def test_a_cut_out_is_measured_on_white() -> None:
    photo, matte = shot(shape()), shape()
    cut = photo.image.copy()
    cut.putalpha(matte)
    assert measure(photo, cut, matte).uniform


def test_the_tiniest_photo_can_be_measured() -> None:
    photo = Photo(Image.new("RGB", (1, 1)), "png")
    assert measure(photo, photo.image, Image.new("L", (1, 1), 255)).subject_changed == 0
