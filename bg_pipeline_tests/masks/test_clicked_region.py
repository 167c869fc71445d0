"""The region that a click means: the part with the click's colours, within reach, without a seam, never a crash."""

import io
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from bg_pipeline.errors import SettingsError
from bg_pipeline.masks.clicked_region import region_at
from bg_pipeline.masks.conventions import STORED

pytest.importorskip("cv2")

SIZE = (600, 400)
BODY = (100, 100, 300, 300)
ARM = (300, 170, 450, 230)
REACH = 150.0


def noisy(draw: Callable[[ImageDraw.ImageDraw], None], size: tuple[int, int] = SIZE) -> bytes:
    """A photo with a green, grainy background on which ``draw`` paints."""
    grain = np.random.default_rng(1).normal(0, 5, (size[1], size[0], 3))
    picture = Image.new("RGB", size, (60, 120, 70))
    draw(ImageDraw.Draw(picture))
    pixels = np.asarray(picture.filter(ImageFilter.GaussianBlur(1))) + grain
    return png(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))


def png(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def mask_of(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> Image.Image:
    mask = Image.new("L", size)
    for box in boxes:
        ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


def found(
    photo: bytes, kept: Image.Image, at: tuple[float, float], reach: float = REACH, *, keep: bool
) -> Image.Image | None:
    data = region_at(photo, STORED.write_png(kept), at, reach, keep=keep)
    if not data:
        return None
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.mode, picture.size) == ("L", kept.size)
        return picture.copy()


def overlap(one: Image.Image, other: Image.Image) -> float:
    a, b = (np.asarray(each) > 127 for each in (one, other))
    return float((a & b).sum() / (a | b).sum())


def toy(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle(BODY, fill=(200, 60, 50))
    draw.rectangle(ARM, fill=(210, 180, 60))


def test_a_missing_part_is_found_by_a_click_on_it_and_nothing_else() -> None:
    region = found(noisy(toy), mask_of(BODY), (380, 200), keep=True)
    assert region is not None
    together = np.maximum(np.asarray(region), np.asarray(mask_of(BODY)))
    assert overlap(Image.fromarray(together), mask_of(BODY, ARM)) > 0.97
    assert int(together[200, 295:310].min()) > 250, "there is no seam between the old part and the new one"


def test_a_part_too_much_is_found_by_a_click_on_it_and_nothing_else() -> None:
    region = found(noisy(toy), mask_of(BODY, ARM), (380, 200), keep=False)
    assert region is not None
    left = np.minimum(255 - np.asarray(region), np.asarray(mask_of(BODY, ARM)))
    assert overlap(Image.fromarray(left), mask_of(BODY)) > 0.97


def test_a_piece_of_background_that_is_kept_is_found_between_the_parts() -> None:
    hole = (180, 180, 220, 220)

    def ring(draw: ImageDraw.ImageDraw) -> None:
        toy(draw)
        draw.rectangle(hole, fill=(60, 120, 70))

    region = found(noisy(ring), mask_of(BODY), (200, 200), keep=False)
    assert region is not None
    assert overlap(region, mask_of(hole)) > 0.85


@pytest.mark.parametrize(("at", "keep"), [((200, 200), True), ((20, 20), False)])
def test_nothing_is_found_where_the_mask_is_so_already(at: tuple[float, float], keep: bool) -> None:
    assert found(noisy(toy), mask_of(BODY), at, keep=keep) is None


def test_a_region_ends_within_reach_and_a_larger_reach_finds_more() -> None:
    def bar(draw: ImageDraw.ImageDraw) -> None:
        draw.rectangle((20, 180, 580, 220), fill=(210, 180, 60))

    sizes = []
    for reach in (60.0, 200.0):
        region = found(noisy(bar), mask_of((20, 180, 40, 220)), (300, 200), reach, keep=True)
        assert region is not None
        inside = np.argwhere(np.asarray(region) > 127)
        assert np.hypot(inside[:, 1] - 300, inside[:, 0] - 200).max() <= reach + 6
        sizes.append(len(inside))
    assert sizes[1] > 2 * sizes[0]


def test_the_same_click_finds_the_same_region() -> None:
    args = noisy(toy), STORED.write_png(mask_of(BODY)), (380.0, 200.0), REACH
    assert region_at(*args, keep=True) == region_at(*args, keep=True)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (9, 9), (640, 640)])
@pytest.mark.parametrize("at", [(0.0, 0.0), (1e3, 1e3)])
@pytest.mark.parametrize("reach", [0.0, 1.0, 1000.0])
@pytest.mark.parametrize("keep", [True, False])
def test_no_picture_and_no_click_is_too_odd(
    size: tuple[int, int], at: tuple[float, float], reach: float, keep: bool
) -> None:
    photo = png(Image.new("RGB", size, (90, 90, 90)))
    for kept in (Image.new("L", size, 0), Image.new("L", size, 255), Image.new("L", size, 128)):
        data = region_at(photo, STORED.write_png(kept), at, reach, keep=keep)
        if data:
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.size == size


def test_without_opencv_the_sentence_names_the_brush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SettingsError, match=r"extra `masks`.*brush"):
        region_at(b"", b"", (0, 0), 1, keep=True)
