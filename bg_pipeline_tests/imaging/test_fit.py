"""Photos in a model's sizes and back: within every limit, never stretched, never displaced."""

import io
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import (
    AllowedSizes,
    Bounds,
    Fitted,
    Photo,
    Sizes,
    fit,
    fit_mask,
    open_photo,
    read_header,
    small_jpeg,
    unfit,
)
from bg_pipeline_tests.corpus import COMPLAINTS, DISPLAY_P3, SRGB, Case, corpus, exif, lying, saved
from bg_pipeline_tests.pictures import photo_and_mask

TITAN = AllowedSizes(
    [
        *(
            (1024, 1024),
            (768, 768),
            (512, 512),
            (768, 1152),
            (384, 576),
            (1152, 768),
            (576, 384),
            (768, 1280),
        ),
        *((384, 640), (1280, 768), (640, 384), (896, 1152), (448, 576), (1152, 896), (576, 448), (768, 1408)),
        *((384, 704), (1408, 768), (704, 384), (640, 1408), (320, 704), (1408, 640), (704, 320), (1152, 640)),
        (1173, 640),
    ]
)
NOVA_CANVAS = Bounds(min_side=320, max_side=4096, max_pixels=4_194_303, max_aspect=4, multiple_of=16)
STABILITY = Bounds(min_side=64, max_side=9_437_184, max_pixels=9_437_184, max_aspect=2.5)
MODELS = {"titan": TITAN, "nova-canvas": NOVA_CANVAS, "stability": STABILITY}

SIDES = st.integers(1, 20_000) | st.sampled_from([1, 2, 63, 64, 319, 320, 1408, 3072, 4096, 9999])


def picture(data: bytes) -> Image.Image:
    return open_photo(data).image


@pytest.mark.parametrize("sizes", MODELS.values(), ids=MODELS)
@given(SIDES, SIDES)
@settings(max_examples=300, deadline=None)
def test_a_photo_lies_unstretched_on_a_canvas_the_model_takes(sizes: Sizes, width: int, height: int) -> None:
    fitted = sizes.canvas((width, height))
    (inner_width, inner_height), (left, top) = fitted.inner, fitted.offset
    assert left >= 0
    assert top >= 0
    assert left + inner_width <= fitted.canvas[0]
    assert top + inner_height <= fitted.canvas[1]
    # One scale explains both sides, but for rounding to whole pixels; what would vanish is one pixel.
    least = max((inner_width - 0.501) / width, (inner_height - 0.501) / height if inner_height > 1 else 0)
    most = min((inner_width + 0.501) / width, (inner_height + 0.501) / height)
    assert least <= most or min(inner_width, inner_height) == 1
    if isinstance(sizes, AllowedSizes):
        assert fitted.canvas in sizes.pairs
    else:
        assert isinstance(sizes, Bounds)
        long, short = max(fitted.canvas), min(fitted.canvas)
        assert short >= sizes.min_side
        assert long <= sizes.max_side
        assert long * short <= sizes.max_pixels
        assert long <= short * sizes.max_aspect
        assert long % sizes.multiple_of == short % sizes.multiple_of == 0


@pytest.mark.parametrize("sizes", MODELS.values(), ids=MODELS)
@given(st.integers(8, 260), st.integers(8, 260), st.sampled_from([1.0, 1.0, 0.5, 2.0]))
@settings(max_examples=60, deadline=None)
def test_what_comes_back_is_where_it_was_to_half_a_pixel(
    sizes: Sizes, width: int, height: int, answer: float
) -> None:
    fitted = sizes.canvas((width, height))
    assume(fitted.inner[0] >= 16 and fitted.inner[1] >= 16)
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    for places in (across, down):
        sent = Image.new("F", fitted.canvas)
        sent.paste(Image.fromarray(places).resize(fitted.inner, Image.Resampling.BICUBIC), fitted.offset)
        size = (round(fitted.canvas[0] * answer), round(fitted.canvas[1] * answer))
        returned = unfit(sent.resize(size, Image.Resampling.BICUBIC), fitted, (width, height))
        assert returned.size == (width, height)
        # Away from the borders, where a filter's reach ends.
        rim = math.ceil(4 / min(1, answer * fitted.inner[0] / width)) + 2
        error = np.abs(np.asarray(returned) - places)[rim:-rim, rim:-rim]
        assert error.size == 0 or error.max() <= 0.5


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=60, deadline=None)
def test_padding_is_cropped_off_again_and_repeats_the_edge(width: int, height: int) -> None:
    photo = Photo(Image.new("RGB", (width, height), (200, 30, 60)), "png")
    fitted = TITAN.canvas(photo.size)
    sent = picture(fit(photo, fitted))
    assert sent.size == fitted.canvas
    assert sent.getextrema() == ((200, 200), (30, 30), (60, 60))
    white = Image.new("RGB", fitted.canvas, "white")
    white.paste(sent.crop((0, 0, *fitted.inner)), fitted.offset)
    back = unfit(white, fitted, photo.size)
    middle = back.getpixel((width // 2, height // 2))
    assert middle == (200, 30, 60)


@pytest.mark.parametrize(
    ("size", "canvas"),
    [
        ((4000, 3000), (1152, 896)),
        ((3000, 4000), (896, 1152)),
        ((1920, 1080), (1408, 768)),
        ((6000, 4000), (1152, 768)),
        ((2000, 2000), (1024, 1024)),
        ((512, 512), (512, 512)),
        ((700, 700), (768, 768)),
        ((500, 375), (576, 448)),
        ((1600, 640), (1408, 640)),
    ],
)
def test_titan_is_sent_the_best_of_its_sizes(size: tuple[int, int], canvas: tuple[int, int]) -> None:
    assert TITAN.canvas(size).canvas == canvas


@pytest.mark.parametrize("size", [(1000, 800), (3072, 3072), (64, 64), (64, 160), (4800, 1920)])
def test_a_photo_within_a_models_bounds_is_sent_in_its_own_size(size: tuple[int, int]) -> None:
    assert STABILITY.canvas(size) == Fitted(size, size, (0, 0))


def test_a_phone_photo_is_shrunk_to_the_pixels_a_model_takes_and_no_further() -> None:
    fitted = STABILITY.canvas((4032, 3024))
    assert 0.998 < fitted.canvas[0] * fitted.canvas[1] / 9_437_184 <= 1
    assert fitted.inner == fitted.canvas


def test_a_panorama_is_padded_into_the_models_aspect() -> None:
    fitted = STABILITY.canvas((6000, 1000))
    assert fitted.canvas[0] / fitted.canvas[1] == pytest.approx(2.5, rel=0.01)
    assert fitted.inner[0] == fitted.canvas[0]
    assert fitted.inner[0] / fitted.inner[1] == pytest.approx(6, rel=0.01)


def test_a_tiny_photo_is_enlarged_to_the_models_least() -> None:
    assert NOVA_CANVAS.canvas((40, 40)).inner == (320, 320)


def test_a_model_is_sent_no_translucent_pixel() -> None:
    cut = photo_and_mask(1)[0].convert("RGBA")
    cut.putalpha(photo_and_mask(1)[1])
    photo = open_photo(saved(cut, "PNG"))
    sent = open_photo(fit(photo, TITAN.canvas(photo.size)))
    assert sent.alpha is None
    assert sent.image.getpixel((3, 3)) == (255, 255, 255)


def test_a_limit_of_bytes_is_kept_or_told() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8))
    photo = Photo(noise, "png")
    fitted = STABILITY.canvas(photo.size)
    assert len(fit(photo, fitted, media="jpeg", max_bytes=100_000)) <= 100_000
    with pytest.raises(ImageError, match="allowed"):
        fit(photo, fitted, media="png", max_bytes=100_000)


def test_a_jpeg_for_a_model_differs_little_from_the_photo() -> None:
    photo = Photo(photo_and_mask(1, size=(600, 400))[0], "png")
    sent = picture(fit(photo, STABILITY.canvas(photo.size), media="jpeg"))
    difference = np.asarray(sent, np.float32) - np.asarray(photo.image, np.float32)
    assert 10 * np.log10(255**2 / (difference**2).mean()) > 40


# Masks


@pytest.mark.parametrize("sizes", MODELS.values(), ids=MODELS)
def test_a_mask_is_pure_and_its_padding_is_background(sizes: Sizes) -> None:
    mask = Image.new("L", (900, 120), 255)
    fitted = sizes.canvas(mask.size)
    sent = fit_mask(mask, fitted)
    assert sent.size == fitted.canvas
    assert set(np.unique(np.asarray(sent))) <= {0, 255}
    assert np.asarray(sent).sum() == 255 * fitted.inner[0] * fitted.inner[1]


@given(st.integers(30, 400), st.integers(30, 400))
@settings(max_examples=40, deadline=None)
def test_a_mask_comes_back_as_it_was(width: int, height: int) -> None:
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).ellipse((width * 0.2, height * 0.2, width * 0.8, height * 0.8), fill=255)
    fitted = TITAN.canvas(mask.size)
    back = np.asarray(unfit(fit_mask(mask, fitted), fitted, mask.size)) >= 128
    before = np.asarray(mask) >= 128
    assert (back & before).sum() / (back | before).sum() > 0.93


# Small JPEGs


@pytest.mark.filterwarnings(COMPLAINTS)
@pytest.mark.parametrize(
    "case", [case for case in corpus() if case.outcome == "opens"], ids=lambda case: case.name
)
def test_services_get_a_small_upright_srgb_jpeg_of_any_photo(case: Case) -> None:
    if max(read_header(case.data).size) / min(read_header(case.data).size) > 150:
        pytest.skip("too narrow for any service")
    data = small_jpeg(case.data, within=(120, 120), min_side=80)
    facts = read_header(data)
    assert (facts.format, facts.orientation) == ("jpeg", 1)
    assert min(facts.size) >= 80
    assert facts.size[0] / facts.size[1] == pytest.approx(
        read_header(case.data).size[0] / read_header(case.data).size[1], rel=0.02
    )
    assert open_photo(data).notes == ()
    if case.picture is not None and min(case.picture.size) > 100 and read_header(case.data).mode != "1":
        page = Photo(case.picture, "").flattened().resize(facts.size, Image.Resampling.BOX)
        difference = np.asarray(picture(data).convert("RGB"), np.float32) - np.asarray(page, np.float32)
        assert np.abs(difference).mean() < 12


def test_a_jpeg_that_is_small_enough_already_is_sent_as_it_is() -> None:
    for options in ({}, {"icc_profile": SRGB}, {"exif": exif(1)}):
        data = saved(photo_and_mask(1)[0], "JPEG", quality=80, **options)
        assert read_header(data).plain
        assert small_jpeg(data, within=(1280, 720), min_side=80, max_bytes=len(data)) is data


@pytest.mark.parametrize(
    "data",
    [
        saved(photo_and_mask(1)[0], "PNG"),
        saved(lying(photo_and_mask(1)[0], 6), "JPEG", exif=exif(6)),
        saved(photo_and_mask(1)[0], "JPEG", icc_profile=DISPLAY_P3),
        saved(photo_and_mask(1)[0].convert("CMYK"), "JPEG"),
    ],
    ids=["png", "lying", "p3", "cmyk"],
)
def test_anything_else_is_made_anew_in_the_same_size(data: bytes) -> None:
    assert not read_header(data).plain
    made = small_jpeg(data, within=(1280, 720))
    assert made != data
    assert read_header(made).size == (240, 180)


def test_a_small_jpeg_keeps_its_limit_of_bytes() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8))
    data = saved(noise, "JPEG", quality=95)
    assert len(small_jpeg(data, within=(700, 700), max_bytes=200_000)) <= 200_000


def test_a_photo_that_no_service_can_look_at_is_refused_in_words() -> None:
    with pytest.raises(ImageError, match="long and narrow"):
        small_jpeg(saved(Image.new("L", (9000, 2)), "PNG"), within=(1280, 720), min_side=80)


def test_from_an_open_photo_and_from_its_bytes_comes_nearly_the_same() -> None:
    data = saved(photo_and_mask(3, size=(2400, 1800))[0], "JPEG", quality=95)
    one, other = (picture(small_jpeg(source, within=(600, 600))) for source in (data, open_photo(data)))
    assert one.size == other.size == (600, 450)
    assert np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16)).mean() < 2
    assert io.BytesIO(data).getbuffer().nbytes == len(data)
