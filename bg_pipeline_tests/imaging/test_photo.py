"""Opening photos: every kind of file becomes one upright sRGB picture, or one sentence."""

import io
import re
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import open_photo, read_header, small_jpeg
from bg_pipeline_tests.corpus import (
    COMPLAINTS,
    DISPLAY_P3,
    SIZE,
    SRGB,
    SRGB_LIKE,
    Case,
    corpus,
    exif,
    lying,
    png_file,
    saved,
)
from bg_pipeline_tests.odd_writers import odd_writers
from bg_pipeline_tests.pictures import photo_and_mask
from bg_pipeline_tests.unusual import unusual

pytestmark = pytest.mark.filterwarnings(COMPLAINTS, "ignore::PIL.Image.DecompressionBombWarning")

CASES = (*corpus(), *unusual(), *odd_writers())
OPENING = [case for case in CASES if case.outcome == "opens"]
REFUSED = [case for case in CASES if case.outcome != "opens"]


def by_name(case: Case) -> str:
    return case.name


def named(name: str) -> bytes:
    return next(case.data for case in corpus() if case.name == name)


def refusal(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        open_photo(data)
    return caught.value


def test_the_corpus_is_wide_and_every_name_in_it_is_another() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 350
    assert {case.outcome for case in CASES} == {
        "opens",
        "EmptyFile",
        "NotAnImage",
        "UnsupportedImage",
        "DamagedImage",
        "TooManyPixels",
        "FullyTransparent",
    }


@pytest.mark.parametrize("case", OPENING, ids=by_name)
def test_a_photo_opens_upright_in_srgb_as_its_header_says(case: Case) -> None:
    header, photo = read_header(case.data), open_photo(case.data)
    assert (header.size, header.format, header.bytes) == (photo.size, photo.format, len(case.data))
    assert header.has_alpha or photo.alpha is None
    assert photo.format == case.format
    assert photo.image.mode in ("RGB", "RGBA")
    assert not case.note or any(case.note in note for note in photo.notes)
    if case.picture is not None:
        assert (photo.image.mode, photo.size) == (case.picture.mode, case.picture.size)
        difference = np.asarray(photo.image, np.float32) - np.asarray(case.picture, np.float32)
        assert np.abs(difference).mean() <= case.tolerance


@pytest.mark.parametrize("case", REFUSED, ids=by_name)
def test_a_file_that_is_no_good_is_refused_with_its_reason(case: Case) -> None:
    error = refusal(case.data)
    assert error.code == case.outcome
    assert case.note in str(error)
    assert len(str(error)) > 20
    assert "\n" not in str(error)


@pytest.mark.parametrize("case", [case for case in REFUSED if case.outcome == "DamagedImage"], ids=by_name)
def test_a_damaged_file_is_never_sent_to_a_service(case: Case) -> None:
    with pytest.raises(ImageError):
        small_jpeg(case.data, within=(1000, 1000))


@pytest.mark.parametrize("case", OPENING, ids=by_name)
def test_within_a_box_the_same_photo_comes_smaller(case: Case) -> None:
    small, full = open_photo(case.data, within=(100, 90)), open_photo(case.data)
    assert small.size[0] <= 100
    assert small.size[1] <= 90
    assert small.image.mode == full.image.mode or small.alpha is None
    expected = full.image.resize(small.size, Image.Resampling.BOX).convert("RGB")
    if min(full.size) > 10 and read_header(case.data).mode != "1":
        difference = np.asarray(small.image.convert("RGB"), np.float32) - np.asarray(expected, np.float32)
        assert np.abs(difference).mean() < 8


def test_what_a_file_says_beside_its_pixels_stays_behind() -> None:
    photo = open_photo(named("phone with place.JPG"))
    assert photo.image.info == {}
    assert read_header(named("phone with place.JPG")).has_exif


def test_a_photo_is_a_plain_picture_even_of_an_animation() -> None:
    assert type(open_photo(named("moving.webp")).image) is Image.Image


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a web page.jpg", "web page"),
        ("a drawing.svg", "SVG"),
        ("a document.pdf", "PDF"),
        ("a data uri.png", "data URI"),
        ("a layered file.psd", "Photoshop"),
        ("a film.mp4", "film"),
        ("a sentence.jpg", "JPEG, PNG"),
        ("cut.webp", "WebP"),
        ("cut.jpg", "cut short"),
        ("bomb.png", "100 megapixels"),
        ("108 megapixels.png", "12000 × 9000"),
    ],
)
def test_a_refusal_says_what_the_file_is(name: str, words: str) -> None:
    assert words in str(refusal(named(name)))


def test_the_limit_of_pixels_can_be_lower() -> None:
    data = named("plain.jpg")
    assert open_photo(data, max_pixels=SIZE[0] * SIZE[1]).size == SIZE
    with pytest.raises(ImageError, match="allowed"):
        open_photo(data, max_pixels=SIZE[0] * SIZE[1] - 1)


def test_a_photo_of_exactly_the_limit_opens() -> None:
    rows = bytes(1251 * 10_000)
    header = struct.pack(">2L5B", 10_000, 10_000, 1, 0, 0, 0, 0)
    assert read_header(png_file(header, (b"IDAT", zlib.compress(rows)))).size == (10_000, 10_000)


def test_colours_of_a_wide_profile_become_the_srgb_they_look_like() -> None:
    # By the formulas of CSS Color 4, Display P3 (200, 60, 40) is about sRGB (219, 37, 13).
    photo = open_photo(saved(Image.new("RGB", (8, 8), (200, 60, 40)), "PNG", icc_profile=DISPLAY_P3))
    red, green, blue = photo.image.getpixel((4, 4))  # type: ignore[misc]
    assert abs(red - 219) <= 3
    assert abs(green - 37) <= 3
    assert abs(blue - 13) <= 3


def test_a_profile_that_changes_nothing_leaves_every_pixel_as_it_is() -> None:
    picture, _ = photo_and_mask(1)
    tagged = open_photo(saved(picture, "PNG", icc_profile=SRGB))
    assert tagged.notes == ()
    assert tagged.image.tobytes() == picture.tobytes()


def test_a_gamma_that_is_not_srgbs_is_seen() -> None:
    assert open_photo(saved(Image.new("RGB", (8, 8)), "PNG", icc_profile=SRGB_LIKE)).notes != ()


def test_the_alpha_of_an_opaque_picture_is_none() -> None:
    assert open_photo(named("opaque alpha.png")).alpha is None
    assert open_photo(named("plain.jpg")).alpha is None


def test_transparency_is_the_files_own_and_flattens_on_white() -> None:
    photo = open_photo(named("translucent.png"))
    assert photo.alpha is not None
    assert photo.alpha.size == photo.size
    assert photo.flattened().getpixel((0, 0)) == (255, 255, 255)


def test_dots_per_inch_are_kept_and_nonsense_is_not() -> None:
    picture, _ = photo_and_mask(1)
    assert open_photo(saved(picture, "JPEG", dpi=(300, 300))).dpi == (300, 300)
    assert open_photo(saved(picture, "PNG", dpi=(0.001, 0.001))).dpi is None


@given(st.integers(1, 8), st.integers(2, 40), st.integers(2, 40), st.sampled_from(["PNG", "TIFF", "WEBP"]))
@settings(max_examples=40, deadline=None)
def test_every_orientation_is_undone_once(orientation: int, width: int, height: int, format: str) -> None:
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    photo = open_photo(saved(lying(picture, orientation), format, exif=exif(orientation), **options))
    assert photo.image.tobytes() == picture.tobytes()


def assert_a_picture_or_a_sentence(data: bytes) -> None:
    """The file opens with the size in its header, or is refused with an error of one line."""
    with suppress(ImageError):  # a header may be good where the pixels are not
        assert min(read_header(data).size) > 0
    refused = None
    try:
        photo = open_photo(data, max_pixels=1_000_000)
    except ImageError as error:
        refused = error
    if refused is None:
        assert photo.size == photo.image.size == read_header(data).size
        assert 0 < photo.image.width * photo.image.height <= 1_000_000
    else:
        assert re.fullmatch(r"\w+", refused.code)
        assert re.fullmatch(r"\S.*", str(refused))


@given(st.data())
@settings(max_examples=150, deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_anywhere_gives_a_picture_or_a_sentence(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from([case for case in OPENING if len(case.data) < 60_000]), label="file")
    damaged = bytearray(case.data)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, min(len(damaged), 800) - 1) | st.integers(0, len(damaged) - 1))
        damaged[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(1, len(damaged)) | st.just(len(damaged)))
    assert_a_picture_or_a_sentence(bytes(damaged[:end]))


@given(st.binary(max_size=300))
@settings(deadline=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_bytes_give_a_sentence(data: bytes) -> None:
    for start in (
        b"",
        b"\xff\xd8\xff\xe1",
        b"\x89PNG\r\n\x1a\n",
        b"II*\0",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBP",
        b"BM",
    ):
        assert_a_picture_or_a_sentence(start + data)


def test_opening_reads_the_bytes_only() -> None:
    data = named("plain.png")
    photo = open_photo(data)
    assert saved(photo.image, "PNG")
    assert Image.open(io.BytesIO(data)).size == photo.size
