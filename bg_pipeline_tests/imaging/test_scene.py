"""Subjects in scenes: where the ground is, where the light comes from, and what stays as it was."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from bg_pipeline.imaging import Photo, on_ground
from bg_pipeline.imaging.scene import USUAL_HORIZON, laid, matched, view_of

SIZE = (600, 400)


def room(horizon: float = 0.7, light: float = 0.0, size: tuple[int, int] = SIZE) -> Image.Image:
    """A wall above a table, with noise and a dark picture on the wall; ``light`` brightens the right side."""
    random = np.random.default_rng(3)
    pixels = np.empty((size[1], size[0], 3), np.float32)
    row = round(horizon * size[1])
    pixels[:row], pixels[row:] = (200, 196, 188), (120, 84, 52)
    pixels[row // 3 : row // 2, size[0] // 8 : size[0] // 3] = (60, 60, 70)
    pixels *= 1 + light * np.linspace(-1, 1, size[0], dtype=np.float32)[None, :, None]
    pixels += random.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def subject(foot: int = 300, size: tuple[int, int] = SIZE) -> Image.Image:
    matte = Image.new("L", size)
    ImageDraw.Draw(matte).rectangle((240, max(0, foot - 180), 360, foot - 1), fill=255)
    return matte.filter(ImageFilter.BoxBlur(1))


@pytest.mark.parametrize("horizon", [0.45, 0.6, 0.7, 0.8])
def test_the_grounds_edge_is_found_and_a_thing_on_the_wall_is_not_it(horizon: float) -> None:
    assert view_of(room(horizon)).horizon == pytest.approx(horizon, abs=0.04)


@pytest.mark.parametrize(
    "scene",
    [
        Image.new("RGB", SIZE, "grey"),
        Image.linear_gradient("L").resize(SIZE).convert("RGB"),
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (400, 600, 3), np.uint8)),
        Image.new("RGB", (3, 2), "white"),
    ],
    ids=["plain", "gradient", "noise", "tiny"],
)
def test_a_scene_without_an_edge_has_the_usual_ground(scene: Image.Image) -> None:
    assert view_of(scene).horizon == USUAL_HORIZON


def test_the_light_is_read_from_the_brighter_side() -> None:
    left, none, right = (view_of(room(light=light)) for light in (-0.4, 0.0, 0.4))
    assert left.light < -0.2 < none.light < 0.2 < right.light
    assert 0 < left.shadow.direction < 180, "light from the left throws the shadow to the right"
    assert 180 < right.shadow.direction < 360


@pytest.mark.parametrize("foot", [190, 240, 300, 360, 395])
@pytest.mark.parametrize("horizon", [0.5, 0.7, 0.8])
def test_the_ground_lies_under_the_foot_and_the_scene_is_not_stretched(foot: int, horizon: float) -> None:
    scene = room(horizon)
    placed = laid(scene, view_of(scene), SIZE, subject(foot))
    assert placed.ground.size == SIZE
    if placed.stands:
        pixels = np.asarray(placed.ground)
        below, above = pixels[min(399, foot), 590], pixels[2, 590]
        assert below[2] < 90 < above[2], "table under the foot, wall at the top"
    else:
        assert foot < 250, "only a subject high above everything"


def test_a_subject_that_the_frame_cuts_off_needs_no_ground() -> None:
    scene = room()
    assert laid(scene, view_of(scene), SIZE, subject(400)).stands
    assert laid(scene, view_of(scene), SIZE, Image.new("L", SIZE)).stands


def test_a_subject_too_high_to_stand_has_no_shadow_and_that_is_said() -> None:
    picture = Photo(Image.new("RGB", SIZE, "red"), "png")
    high = Image.new("L", SIZE)
    high.paste(255, (280, 5, 320, 60))
    with_shadow, stands = on_ground(picture, high, room(0.8), shadow="soft", feather=1)
    without, _ = on_ground(picture, high, room(0.8), shadow="none", feather=1)
    assert not stands
    assert with_shadow.tobytes() == without.tobytes()


def test_inside_the_subject_every_pixel_is_the_photos() -> None:
    random = np.random.default_rng(5)
    picture = Photo(Image.fromarray(random.integers(0, 256, (400, 600, 3), np.uint8)), "png")
    matte = subject()
    made, _ = on_ground(picture, matte, room(), shadow="soft", feather=2)
    inside = np.asarray(matte.filter(ImageFilter.MinFilter(9))) == 255
    assert (np.asarray(made)[inside] == np.asarray(picture.image)[inside]).all()


def test_the_edge_takes_the_scenes_colour_and_the_shadow_darkens_the_ground() -> None:
    picture = Photo(Image.new("RGB", SIZE, (230, 230, 230)), "png")
    matte = subject().filter(ImageFilter.BoxBlur(4))
    dark, light = Image.new("RGB", SIZE, (20, 20, 20)), Image.new("RGB", SIZE, (235, 235, 235))
    edge = (np.asarray(matte) > 90) & (np.asarray(matte) < 250)
    on_dark, on_light = (
        np.asarray(on_ground(picture, matte, scene, shadow="none", feather=0)[0], np.int16)[edge].mean()
        for scene in (dark, light)
    )
    plain = np.asarray(matte)[edge].mean() / 255
    assert on_dark < 230 * plain + 20 * (1 - plain) - 8, "darker than a bare cut-out's edge"
    assert on_light > 225
    shaded, bare = (
        np.asarray(on_ground(picture, subject(), room(), shadow=shadow, feather=1)[0], np.int16)
        for shadow in ("soft", "none")
    )
    assert (bare - shaded)[302:306, 260:340].mean() > 25
    assert (shaded <= bare).all()


def test_colour_matching_is_gentle_and_keeps_black_and_white() -> None:
    ramp = Image.merge("RGB", [Image.linear_gradient("L")] * 3)
    warm = matched(ramp, Image.new("RGB", (10, 10), (250, 180, 90)), 1.0)
    change = np.asarray(warm, np.int16) - np.asarray(ramp, np.int16)
    assert change[0].max() == change[-1].max() == 0
    assert 0 < change[..., 0].max() <= 16
    assert -16 <= change[..., 2].min() < 0
    assert matched(ramp, Image.new("RGB", (10, 10), (250, 180, 90)), 0.0).tobytes() == ramp.tobytes()
    assert matched(ramp.convert("RGBA"), warm, 1.0).getchannel("A").getextrema() == (255, 255)
