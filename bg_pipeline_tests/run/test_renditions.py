"""Files made from one result: frame, size, number of bytes, and the rules of their presets."""

import json
import tomllib
from importlib.resources import files
from io import BytesIO
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from bg_pipeline.domain.presets import PRESETS
from bg_pipeline.domain.requests import Rendition
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import Photo, composite, cut_out, encode, open_photo, read_header
from bg_pipeline.run.renditions import Rendered, check, render
from bg_pipeline_tests.corpus import DISPLAY_P3, exif
from bg_pipeline_tests.pictures import photo_and_mask

SIZE = (1200, 900)


def scene(
    box: tuple[int, int, int, int] = (450, 250, 750, 700), size: tuple[int, int] = SIZE
) -> tuple[Image.Image, Photo, Image.Image]:
    """A result, its photo and its mask: an ellipse in a box, on a gradient."""
    mask = Image.new("L", (size[0] * 2, size[1] * 2))
    ImageDraw.Draw(mask).ellipse(tuple(2 * side for side in box), fill=255)
    mask = mask.resize(size, Image.Resampling.BOX)
    picture = Image.new("RGB", size, (90, 120, 90))
    picture.paste((160, 40, 30), mask=mask)
    photo = Photo(picture, "jpeg")
    ground = Image.linear_gradient("L").resize(size).convert("RGB")
    return composite(photo, mask, ground), photo, mask


def made(rendition: Rendition | None, box: tuple[int, int, int, int] = (450, 250, 750, 700)) -> Rendered:
    return render(*scene(box), rendition)


def subject_box(data: bytes) -> tuple[int, int, int, int]:
    """The box of the red subject in a finished file."""
    pixels = np.asarray(open_photo(data).flattened(), np.int16)
    red = (pixels[..., 0] - pixels[..., 1] > 60).nonzero()
    return int(red[1].min()), int(red[0].min()), int(red[1].max()) + 1, int(red[0].max()) + 1


# Sizes, frames, formats


def test_without_a_rendition_the_file_is_the_whole_result_in_the_photos_format() -> None:
    result, photo, mask = scene()
    rendered = render(result, photo, mask, None, ai_note="Edited")
    assert rendered == Rendered(encode(result, "jpeg", ai_note="Edited"), "jpeg", SIZE)


@pytest.mark.parametrize(
    ("rendition", "size"),
    [
        (Rendition(Width=600), (600, 450)),
        (Rendition(Height=300), (400, 300)),
        (Rendition(Width=500, Height=500), (500, 500)),
        (Rendition(Width=2400), (2400, 1800)),
        (Rendition(Width=1, Height=1), (1, 1)),
    ],
)
def test_the_size_asked_for_is_the_size_made(rendition: Rendition, size: tuple[int, int]) -> None:
    rendered = made(rendition)
    assert rendered.size == read_header(rendered.data).size == size


def test_nothing_is_ever_stretched() -> None:
    for rendition in (
        Rendition(Width=500, Height=500),
        Rendition(Width=300, Height=600),
        Rendition(Margin=0.1),
    ):
        left, top, right, bottom = subject_box(made(rendition).data)
        assert (bottom - top) / (right - left) == pytest.approx(450 / 300, rel=0.02)


def test_another_aspect_shows_as_much_of_the_picture_as_it_can_with_the_subject_in_the_middle() -> None:
    data = made(Rendition(Width=900, Height=900), box=(800, 300, 1000, 600)).data
    assert subject_box(data) == pytest.approx((500, 300, 700, 600), abs=2)


def test_of_a_subject_too_tall_for_the_frame_the_head_is_kept() -> None:
    data = made(Rendition(Width=1200, Height=300), box=(450, 100, 750, 850)).data
    assert subject_box(data)[1] <= 2


def test_a_margin_is_the_free_share_of_the_frame_on_each_side() -> None:
    rendered = made(Rendition(Margin=0.2))
    assert rendered.size == pytest.approx((500, 750), abs=4)
    assert subject_box(rendered.data) == pytest.approx((100, 150, 400, 600), abs=4)


def test_a_margin_with_an_aspect_holds_on_the_tighter_side() -> None:
    rendered = made(Rendition(Margin=0.1, Width=800, Height=800))
    left, top, right, bottom = subject_box(rendered.data)
    assert (top, 800 - bottom) == pytest.approx((80, 80), abs=2)
    assert left == pytest.approx(800 - right, abs=2)


def test_a_scene_ends_where_the_photo_ended() -> None:
    rendered = made(Rendition(Margin=0.4), box=(100, 50, 1100, 850))
    assert rendered.size[0] <= SIZE[0]
    assert rendered.size[1] <= SIZE[1]


def test_a_cut_outs_ground_goes_on_beyond_the_photo() -> None:
    _, photo, mask = scene((100, 50, 1100, 850))
    rendered = render(cut_out(photo, mask, feather=1), photo, mask, Rendition(Margin=0.25, Format="png"))
    assert rendered.size == pytest.approx((2000, 1600), abs=8)
    assert open_photo(rendered.data).image.getpixel((5, 5))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("box", "side"),
    [((400, 400, 800, 980), "bottom"), ((-60, 300, 300, 600), "left"), ((400, -80, 700, 300), "top")],
)
def test_a_subject_that_the_photo_cuts_off_does_not_hang_in_the_air(
    box: tuple[int, int, int, int], side: str
) -> None:
    _, photo, mask = scene(box)
    rendered = render(cut_out(photo, mask, feather=1), photo, mask, Rendition(Margin=0.2, Format="png"))
    left, top, right, bottom = subject_box(rendered.data)
    free = {"left": left, "top": top, "right": rendered.size[0] - right, "bottom": rendered.size[1] - bottom}
    assert free.pop(side) <= 1
    assert min(free.values()) > 20


@given(
    st.integers(1, 600), st.integers(1, 600), st.floats(0, 0.49) | st.none(), st.integers(0, 11), st.booleans(),
    st.integers(0, 500),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_frame_of_any_subject_has_the_size_asked_for(
    width: int, height: int, margin: float | None, place: int, cut: bool, offset: int
) -> None:
    mask = Image.new("L", (120, 90))
    mask.paste(255, (place * 10, min(offset, 80), place * 10 + 1 + offset % 60, min(offset, 80) + 10))
    photo = Photo(Image.new("RGB", mask.size, "teal"), "png")
    image = cut_out(photo, mask, feather=0) if cut else photo.image
    rendered = render(image, photo, mask, Rendition(Width=width, Height=height, Margin=margin))
    assert read_header(rendered.data).size == rendered.size == (width, height)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff", "bmp", "avif"])
def test_the_format_asked_for_is_the_format_made(format: str) -> None:
    rendered = made(Rendition(Format=cast(Any, format), Width=200))
    assert read_header(rendered.data).format == rendered.format == format


def test_bytes_are_kept_in_the_format_asked_for_or_refused() -> None:
    assert len(made(Rendition(Format="jpeg", MaxBytes=30_000)).data) <= 30_000
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    with pytest.raises(ImageError, match="MaxBytes"):
        render(
            noisy,
            Photo(noisy, "png"),
            Image.new("L", (300, 300), 255),
            Rendition(Format="png", MaxBytes=50_000),
        )


@pytest.mark.parametrize(("alpha", "format"), [(False, "jpeg"), (True, "webp")])
def test_a_lossless_source_gives_way_where_only_bytes_were_asked_for(alpha: bool, format: str) -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8))
    photo, mask = Photo(noisy.copy(), "png"), Image.new("L", (300, 300), 255)
    if alpha:
        noisy.putalpha(Image.linear_gradient("L").resize(noisy.size))
    rendered = render(noisy, photo, mask, Rendition(MaxBytes=80_000))
    assert rendered.format == read_header(rendered.data).format == format
    assert len(rendered.data) <= 80_000


# Presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_its_own_rules_on_a_good_photo(name: str) -> None:
    result, photo, mask = scene()
    rendered = render(result, photo, mask, Rendition(Preset=name), ai_note="Edited")
    assert rendered.complaints == ()
    assert rendered.format == PRESETS[name].file.Format


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_preset_keeps_its_own_rules_on_a_cut_out(name: str, seed: int) -> None:
    picture, mask = photo_and_mask(seed, size=(1200, 900))
    photo = Photo(picture, "jpeg")
    rendered = render(cut_out(photo, mask, feather=2), photo, mask, Rendition(Preset=name))
    assert rendered.complaints == ()


def test_the_four_presets_of_the_contract_are_there() -> None:
    assert list(PRESETS) == ["marketplace-white", "transparent", "square-social", "portrait-booth"]


def test_the_marketplaces_picture_is_white_full_and_large() -> None:
    rendered = made(Rendition(Preset="marketplace-white"))
    photo = open_photo(rendered.data)
    pixels = np.asarray(photo.image)
    assert (photo.format, photo.size, photo.notes) == ("jpeg", (1600, 1600), ())
    assert (pixels[:40] == 255).all()
    assert (pixels[:, :40] == 255).all()
    left, top, right, bottom = subject_box(rendered.data)
    assert max(right - left, bottom - top) / 1600 >= 0.85


def test_the_transparent_one_is_clear_around_the_subject() -> None:
    alpha = open_photo(made(Rendition(Preset="transparent")).data).alpha
    assert alpha is not None
    assert alpha.getpixel((5, 5)) == 0
    assert alpha.getpixel((600, 475)) == 255


def test_a_booth_portrait_asks_for_faces_and_three_backgrounds() -> None:
    request = PRESETS["portrait-booth"].request
    assert request.Subject == "FACES"
    assert len(request.Prompts or ()) == 3


def test_what_the_request_says_wins_over_the_preset() -> None:
    rendered = made(Rendition(Preset="marketplace-white", Width=2000, Height=1000, Format="png"))
    assert (rendered.format, rendered.size) == ("png", (2000, 1000))
    assert any("png" in complaint for complaint in rendered.complaints)


def test_one_side_alone_scales_the_presets_frame() -> None:
    assert made(Rendition(Preset="portrait-booth", Width=960)).size == (960, 1200)
    assert made(Rendition(Preset="portrait-booth", Height=1000)).size == (800, 1000)


def test_presets_that_cannot_be_read_by_a_request_are_not_in_the_file() -> None:
    text = (files("bg_pipeline.domain") / "presets.toml").read_text(encoding="utf-8")
    for document in tomllib.loads(text).values():
        assert set(document) == {"about", "background", "request", "file", "rules"}
        assert json.dumps(document["request"])


# Compliance


def breaks(
    name: str, image: Image.Image, format: str = "jpeg", mask: Image.Image | None = None, **more: Any
) -> str:
    """All complaints about a picture as one text."""
    subject = mask or Image.new("L", image.size)
    return "; ".join(check(PRESETS[name], encode(image, format), subject, **more))


def square(side: int, ground: Any = "white", share: float = 0.9) -> tuple[Image.Image, Image.Image]:
    image, mask = Image.new("RGB", (side, side), ground), Image.new("L", (side, side))
    free = round(side * (1 - share) / 2)
    for page, ink in ((image, "red"), (mask, 255)):
        page.paste(ink, (free, free, side - free, side - free))
    return image, mask


def test_a_listing_that_complies_is_not_complained_about() -> None:
    image, mask = square(1200)
    assert breaks("marketplace-white", image, mask=mask) == ""


@pytest.mark.parametrize("ground", [(254, 254, 254), (255, 255, 250), "beige"])
def test_a_white_that_is_not_pure_is_told(ground: Any) -> None:
    image, mask = square(1200, ground)
    assert "not pure white" in breaks("marketplace-white", image, mask=mask)


def test_every_broken_rule_has_its_sentence() -> None:
    image, mask = square(600, share=0.5)
    told = breaks("marketplace-white", image, "png", mask, shown=0.9, enlarged=5.0)
    for words in ("format is png", "600 pixels", "fills 50%", "10% of the subject", "enlarged 5.0 times"):
        assert words in told
    image, mask = square(1200)
    assert "the frame is" in breaks(
        "marketplace-white", image.crop((0, 0, 1200, 1000)), mask=mask.crop((0, 0, 1200, 1000))
    )
    assert "nothing in the picture is transparent" in breaks("transparent", image, "png", mask)
    head = Image.new("L", (800, 1000))
    head.paste(255, (200, 0, 600, 1000))
    assert "touches the upper edge" in breaks("portrait-booth", Image.new("RGB", head.size), mask=head)


def test_a_ground_that_is_not_clear_is_told() -> None:
    image, mask = square(400)
    image.putalpha(mask.point(lambda level: level or 3))
    assert "not fully transparent" in breaks("transparent", image, "png", mask)


def test_a_file_that_is_not_srgb_or_holds_exif_is_told() -> None:
    image, mask = square(1200)
    file = BytesIO()
    image.save(file, "JPEG", quality=95, icc_profile=DISPLAY_P3, exif=exif(1, gps=True))
    told = "; ".join(check(PRESETS["marketplace-white"], file.getvalue(), mask))
    assert "not plain sRGB" in told
    assert "EXIF" in told


def test_a_photo_too_small_for_its_preset_is_told() -> None:
    _, photo, mask = scene((60, 40, 100, 90), size=(160, 120))
    rendered = render(cut_out(photo, mask, feather=1), photo, mask, Rendition(Preset="marketplace-white"))
    assert any("enlarged" in complaint for complaint in rendered.complaints)


@pytest.mark.parametrize("box", [(-200, 250, 300, 700), (400, -60, 700, 300), (400, 400, 800, 950)])
def test_a_subject_that_the_frame_cuts_off_cannot_pass_a_preset_that_shows_it_whole(
    box: tuple[int, int, int, int],
) -> None:
    result, photo, mask = scene(box)
    rendered = render(result, photo, mask, Rendition(Preset="marketplace-white"))
    assert any("may cut the subject off" in complaint for complaint in rendered.complaints)
    # A portrait is cut off by its frame.
    rendered = render(result, photo, mask, Rendition(Preset="square-social"))
    assert not any("cut the subject off" in complaint for complaint in rendered.complaints)


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_a_grey_speck_of_21_pixels_on_the_white_is_found_and_its_place_is_told(format: str) -> None:
    image, mask = square(1600, share=0.86)
    image.paste((128, 128, 128), (40, 50, 47, 53))
    preset = PRESETS["marketplace-white"]
    told = "; ".join(check(preset, encode(image, format), mask))
    assert "not white" in told
    assert any(f"at {x}, {y} " in told for x in range(32, 56) for y in range(42, 61))


def test_a_speck_that_the_mask_kept_is_found_as_well() -> None:
    image, mask = square(1600, share=0.86)
    for page, ink in ((image, (128, 128, 128)), (mask, 255)):
        page.paste(ink, (40, 50, 47, 53))
    assert "a speck of 21 pixels" in breaks("marketplace-white", image, mask=mask)


def test_a_pair_of_small_earrings_and_loose_hair_are_no_specks() -> None:
    image, mask = square(1600, share=0.86)
    for box in ((30, 700, 60, 730), (30, 800, 60, 830), (106, 600, 108, 604)):
        image.paste("red", box)
        mask.paste(255, box)
    assert breaks("marketplace-white", image, mask=mask) == ""


@pytest.mark.parametrize("name", ["marketplace-white", "transparent"])
def test_a_mattes_own_traces_of_alpha_are_no_fault(name: str) -> None:
    _, photo, mask = scene()
    traces = np.array(mask)
    traces[20:60, 20:60] = 1
    mask = Image.fromarray(traces)
    rendered = render(cut_out(photo, mask, feather=1), photo, mask, Rendition(Preset=name))
    assert rendered.complaints == ()


def test_a_hole_that_is_not_white_is_told() -> None:
    image, mask = square(1600, share=0.86)
    hole = (790, 790, 812, 812)
    mask.paste(0, hole)
    image.paste("white", hole)
    assert breaks("marketplace-white", image, mask=mask) == ""
    image.paste((200, 200, 196), hole)
    assert "in its holes are not white" in breaks("marketplace-white", image, mask=mask)
