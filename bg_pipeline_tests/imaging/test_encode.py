"""Results as files: tagged, private, the same bytes each time, and within their limits."""

import io

import numpy as np
import pytest
from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import (
    WITH_ALPHA,
    WRITABLE,
    encode,
    open_photo,
    read_header,
    writable_format,
)
from bg_pipeline.imaging.provenance import COMPOSITE_WITH_AI, Provenance
from bg_pipeline_tests.pictures import photo_and_mask

NOTE = 'Background by a model & "the subject" is a <photo>'
MADE = Provenance(NOTE, COMPOSITE_WITH_AI)
SOURCE_TYPE = b"http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"


def picture() -> Image.Image:
    return photo_and_mask(1, size=(300, 200))[0]


def cut() -> Image.Image:
    image, mask = photo_and_mask(1, size=(300, 200))
    image.putalpha(mask)
    return image


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))


def decibels(one: Image.Image, other: Image.Image) -> float:
    difference = np.asarray(one, np.float32) - np.asarray(other, np.float32)
    return float(10 * np.log10(255**2 / max(1e-9, (difference**2).mean())))


@pytest.mark.parametrize("format", sorted(WRITABLE))
def test_a_file_opens_as_what_was_written(format: str) -> None:
    data = encode(picture(), format, provenance=MADE)
    photo = open_photo(data)
    assert (photo.format, photo.size, photo.notes) == (format, (300, 200), ())
    assert decibels(photo.image, picture()) > 38


@pytest.mark.parametrize("format", ["png", "tiff", "bmp"])
def test_a_lossless_format_keeps_every_pixel(format: str) -> None:
    assert open_photo(encode(picture(), format)).image.tobytes() == picture().tobytes()


def test_webp_at_quality_100_keeps_every_pixel_and_clear_ones_too() -> None:
    assert open_photo(encode(cut(), "webp", quality=100)).image.tobytes() == cut().tobytes()


def test_a_lossless_webp_stays_lossless_as_long_as_the_bytes_allow() -> None:
    source = open_photo(encode(picture(), "webp", quality=100))
    assert source.lossless
    assert read_header(encode(picture(), "webp", quality=100)).lossless
    kept = encode(source.image, "webp", lossless=source.lossless)
    assert open_photo(kept).image.tobytes() == picture().tobytes()
    pressed = encode(source.image, "webp", lossless=True, max_bytes=len(kept) // 2)
    assert len(pressed) <= len(kept) // 2
    assert not open_photo(pressed).lossless
    assert not open_photo(encode(picture(), "png")).lossless


@pytest.mark.parametrize("format", sorted(WRITABLE))
def test_the_same_picture_gives_the_same_bytes(format: str) -> None:
    assert encode(picture(), format, provenance=MADE) == encode(picture(), format, provenance=MADE)


@pytest.mark.parametrize("format", sorted(WRITABLE - {"bmp"}))
def test_a_file_is_tagged_as_srgb(format: str) -> None:
    with Image.open(io.BytesIO(encode(picture(), format))) as image:
        assert b"sRGB" in image.info["icc_profile"] or b"s\0R\0G\0B" in image.info["icc_profile"]


@pytest.mark.parametrize("format", sorted(WRITABLE - {"bmp"}))
def test_the_note_that_ai_edited_it_is_in_the_files_xmp(format: str) -> None:
    data = encode(picture(), format, provenance=MADE)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        xmp = image.info["xmp"]
        said = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    assert SOURCE_TYPE in (xmp if isinstance(xmp, bytes) else xmp.encode())
    assert said["DigitalSourceType"] == SOURCE_TYPE.decode()
    assert said["CreatorTool"] == "bg-pipeline"
    assert said["description"]["Alt"]["li"]["text"] == NOTE
    assert SOURCE_TYPE not in encode(picture(), format)


@pytest.mark.parametrize("format", sorted(WRITABLE))
def test_nothing_private_gets_into_a_file(format: str) -> None:
    image = picture()
    exif = Image.Exif()
    exif[0x010F] = "Secret Camera"
    exif[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0)}
    image.info = {
        "exif": exif.tobytes(),
        "comment": b"Secret Comment",
        "xmp": b"<Secret/>",
        "icc_profile": b"Secret profile",
        "photoshop": {1: b"Secret"},
    }
    data = encode(image, format, provenance=MADE)
    assert b"Secret" not in data
    with Image.open(io.BytesIO(data)) as written:
        assert set(written.getexif()) <= {*range(254, 340), 700, 34675}
        assert not written.getexif().get_ifd(0x8825)
    assert not read_header(data).has_exif


@pytest.mark.parametrize("format", sorted(WITH_ALPHA))
def test_transparency_is_kept_where_the_format_can(format: str) -> None:
    alpha = open_photo(encode(cut(), format)).alpha
    assert alpha is not None
    assert np.abs(np.asarray(alpha, np.int16) - np.asarray(cut().getchannel("A"), np.int16)).mean() < 1


@pytest.mark.parametrize("format", sorted(WRITABLE - WITH_ALPHA))
def test_elsewhere_it_lies_on_white(format: str) -> None:
    photo = open_photo(encode(cut(), format))
    assert photo.alpha is None
    assert photo.image.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["jpeg", "webp", "avif"])
def test_quality_gives_way_to_the_number_of_bytes(format: str) -> None:
    free = encode(noise(160), format)
    held = encode(noise(160), format, max_bytes=len(free) * 2 // 3)
    assert len(free) / 3 < len(held) <= len(free) * 2 // 3


def test_no_more_quality_is_lost_than_the_bytes_ask_for() -> None:
    free = encode(noise(160), "jpeg")
    assert encode(noise(160), "jpeg", max_bytes=len(free)) == free
    assert len(encode(noise(160), "jpeg", max_bytes=len(free) - 1)) > 0.85 * len(free)


@pytest.mark.parametrize("format", sorted(WRITABLE))
def test_bytes_that_cannot_be_kept_are_told_with_what_to_do(format: str) -> None:
    with pytest.raises(ImageError, match="smaller Width") as caught:
        encode(noise(100), format, max_bytes=500)
    assert caught.value.code == "TooManyBytes"


def test_a_png_that_is_too_large_quickly_is_pressed_before_it_is_refused() -> None:
    quick = encode(picture(), "png")
    assert len(encode(picture(), "png", max_bytes=len(quick) - 1)) < len(quick)


def test_dots_per_inch_are_written() -> None:
    for format in ("jpeg", "png", "tiff", "bmp"):
        dpi = open_photo(encode(picture(), format, dpi=(300, 300))).dpi
        assert dpi is not None
        assert round(dpi[0]) == 300


@pytest.mark.parametrize(("format", "side"), [("jpeg", 65_501), ("webp", 16_384), ("avif", 65_536)])
def test_a_picture_too_long_for_a_format_is_refused_in_words(format: str, side: int) -> None:
    with pytest.raises(ImageError, match="pixels per side"):
        encode(Image.new("L", (side, 1)), format)


def test_a_grey_picture_with_alpha_lies_on_white_too() -> None:
    image = Image.new("LA", (9, 9), (0, 0))
    assert open_photo(encode(image, "jpeg")).image.getpixel((4, 4)) == (255, 255, 255)


def test_an_unknown_format_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        encode(picture(), "gif")


@pytest.mark.parametrize(
    ("source", "opaque", "clear"),
    [
        ("jpeg", "jpeg", "png"),
        ("png", "png", "png"),
        ("webp", "webp", "webp"),
        ("tiff", "tiff", "tiff"),
        ("avif", "avif", "avif"),
        ("bmp", "bmp", "png"),
        ("gif", "png", "png"),
        ("heif", "jpeg", "png"),
    ],
)
def test_a_result_has_its_sources_format_where_that_can_hold_it(source: str, opaque: str, clear: str) -> None:
    assert writable_format(source) == opaque
    assert writable_format(source, needs_alpha=True) == clear
