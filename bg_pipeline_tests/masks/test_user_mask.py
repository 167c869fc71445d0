"""Given masks: which are used, which are corrected, and which are refused with which sentence."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from bg_pipeline.errors import ImageError
from bg_pipeline.masks import conventions
from bg_pipeline.masks.user_mask import read_user_mask
from bg_pipeline_tests.masks.scenes import outline, overlap

SIZE = (400, 300)


def stored(kept: Image.Image) -> Image.Image:
    return conventions.STORED.write(kept)


def file(picture: Image.Image, format: str = "PNG", **options: int) -> bytes:
    with BytesIO() as data:
        picture.save(data, format, **options)
        return data.getvalue()


@pytest.fixture(name="kept")
def _kept() -> Image.Image:
    return conventions.harden(outline("shoe", SIZE))


def test_black_is_the_subject(kept: Image.Image) -> None:
    mask = read_user_mask(file(stored(kept)), SIZE)
    assert mask.picture.tobytes() == kept.tobytes()
    assert (mask.source, mask.notes) == ("given", ())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_every_mode_of_png_means_the_same(kept: Image.Image, mode: str) -> None:
    picture = stored(kept)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    assert read_user_mask(file(picture), SIZE).picture.tobytes() == kept.tobytes()


def test_with_alpha_the_opaque_part_is_the_subject_whatever_its_colour(kept: Image.Image) -> None:
    cut = Image.new("RGB", SIZE, "white")
    cut.putalpha(kept)
    assert read_user_mask(file(cut), SIZE).picture.tobytes() == kept.tobytes()


def test_translucent_alpha_stays_translucent(kept: Image.Image) -> None:
    glass = kept.point([value // 2 for value in range(256)])
    glass.paste(255, (0, 0, 40, 40))
    cut = Image.new("RGB", SIZE)
    cut.putalpha(glass)
    assert read_user_mask(file(cut), SIZE).picture.tobytes() == glass.tobytes()


def test_a_soft_edge_stays_soft(kept: Image.Image) -> None:
    soft = kept.filter(ImageFilter.GaussianBlur(1.5))
    mask = read_user_mask(file(stored(soft)), SIZE).picture
    assert overlap(mask, soft) > 0.99
    assert len(set(mask.tobytes())) > 20


def test_noise_of_a_jpeg_is_cleaned(kept: Image.Image) -> None:
    mask = read_user_mask(file(stored(kept), "JPEG", quality=70), SIZE).picture
    assert overlap(mask, kept) > 0.99
    inside = np.asarray(kept.filter(ImageFilter.MinFilter(21))) == 255
    outside = np.asarray(kept.filter(ImageFilter.MaxFilter(21))) == 0
    assert (np.asarray(mask)[inside] == 255).all()
    assert (np.asarray(mask)[outside] == 0).all()


def test_nearly_black_and_nearly_white_are_black_and_white(kept: Image.Image) -> None:
    dull = stored(kept).point([40 + value * 170 // 255 for value in range(256)])
    assert read_user_mask(file(dull), SIZE).picture.tobytes() == kept.tobytes()


@pytest.mark.parametrize(
    "picture",
    [
        Image.new("L", SIZE, 128),
        Image.linear_gradient("L").resize(SIZE).point([80 + v // 4 for v in range(256)]),
    ],
)
def test_greys_without_white_are_refused(picture: Image.Image) -> None:
    with pytest.raises(ImageError, match="white") as refused:
        read_user_mask(file(picture), SIZE, name="image-files/masks/a.png")
    assert refused.value.code == "MaskIsGrey"
    assert "image-files/masks/a.png" in str(refused.value)


@pytest.mark.parametrize("level", [100, 128, 160])
def test_a_soft_grey_mask_is_a_matte_and_a_note_says_so(kept: Image.Image, level: int) -> None:
    cloth = kept.point([value * level // 255 for value in range(256)])
    mask = read_user_mask(file(stored(cloth)), SIZE, name="cloth.png")
    share = 255 * np.clip((level - 16) / 223, 0, 1)
    assert np.abs(np.asarray(mask.picture, np.float32)[np.asarray(kept) == 255] - share).max() <= 1
    assert (np.asarray(mask.picture)[np.asarray(kept) == 0] == 0).all()
    (note,) = mask.notes
    assert "cloth.png is grey on" in note
    assert "matte" in note


def test_a_gradient_is_a_matte() -> None:
    mask = read_user_mask(file(Image.linear_gradient("L").resize(SIZE)), SIZE)
    column = np.asarray(mask.picture)[:, 200]
    assert (column[0], column[-1]) == (255, 0)
    assert (np.diff(column.astype(np.int16)) <= 0).all()


def test_a_mask_in_colours_is_refused(kept: Image.Image) -> None:
    picture = Image.new("RGB", SIZE, "white")
    picture.paste((230, 60, 60), mask=kept)
    with pytest.raises(ImageError, match="colours"):
        read_user_mask(file(picture), SIZE)


@pytest.mark.parametrize(("colour", "code"), [(0, "MaskKeepsEverything"), (255, "MaskKeepsNothing")])
def test_a_mask_of_one_colour_is_refused(colour: int, code: str) -> None:
    with pytest.raises(ImageError, match=r"marks (every|no) pixel") as refused:
        read_user_mask(file(Image.new("L", SIZE, colour)), SIZE)
    assert refused.value.code == code


def test_a_fully_transparent_mask_keeps_nothing() -> None:
    with pytest.raises(ImageError) as refused:
        read_user_mask(file(Image.new("RGBA", SIZE, (0, 0, 0, 0))), SIZE)
    assert refused.value.code == "MaskKeepsNothing"


@pytest.mark.parametrize("factor", [0.25, 0.5, 3])
def test_another_size_of_the_same_shape_is_resized_with_a_note(kept: Image.Image, factor: float) -> None:
    size = (round(SIZE[0] * factor), round(SIZE[1] * factor))
    mask = read_user_mask(file(stored(conventions.harden(outline("shoe", size)))), SIZE, name="m.png")
    assert mask.picture.size == SIZE
    assert overlap(mask.picture, kept) > 0.97
    assert mask.notes == (f"m.png was resized from {size[0]}×{size[1]} to the photo's 400×300",)


def test_an_enlarged_mask_has_an_edge_of_a_pixel_or_two() -> None:
    small = conventions.harden(outline("shoe", (100, 75)))
    mask = np.asarray(read_user_mask(file(stored(small)), (1600, 1200)).picture)
    edge_length = np.asarray(outline("shoe", (1600, 1200)).filter(ImageFilter.FIND_EDGES)).astype(bool).sum()
    assert ((mask > 20) & (mask < 235)).sum() < 3 * edge_length


def test_another_shape_is_refused(kept: Image.Image) -> None:
    with pytest.raises(ImageError, match="400×300 pixels and the photo 400×400") as refused:
        read_user_mask(file(stored(kept)), (400, 400))
    assert refused.value.code == "MaskShapeDiffers"


def test_a_mask_painted_on_the_unturned_photo_is_told_so(kept: Image.Image) -> None:
    with pytest.raises(ImageError, match="turned by 90"):
        read_user_mask(file(stored(kept)), (300, 400))


def test_a_file_that_is_no_picture_is_refused() -> None:
    with pytest.raises(ImageError):
        read_user_mask(b"not a picture", SIZE)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(40, 400), height=st.integers(40, 400), factor=st.floats(0.2, 4))
def test_every_scaled_copy_fits_its_photo(width: int, height: int, factor: float) -> None:
    picture = Image.new("L", (max(1, round(width * factor)), max(1, round(height * factor))), 255)
    ImageDraw.Draw(picture).rectangle((0, 0, picture.width // 2, picture.height // 2), fill=0)
    mask = read_user_mask(file(picture), (width, height)).picture
    assert mask.size == (width, height)
    assert mask.getpixel((0, 0)) == 255
    assert mask.getpixel((width - 1, height - 1)) == 0
