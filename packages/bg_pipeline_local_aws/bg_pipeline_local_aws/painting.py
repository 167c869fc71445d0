"""The brush of the stand-in: backgrounds painted from a prompt and a seed around the subject of a picture."""

import io

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bg_pipeline_local_aws.scene import painted
from bg_pipeline_local_aws.sight import opened, png
from bg_pipeline_local_aws.subject import Pixels, Plane

NOTE = "painted by the stand-in"


def outpaint(
    data: bytes, *, prompt: str, negative: str, seed: int, mask_png: bytes, precise: bool, note: bool
) -> bytes:
    """A PNG (RGB, the upright picture's size) with a new background around the subject (mask: 255 = subject).

    PRECISE keeps every pixel whose mask is 255 as it was. Otherwise picture and background melt into each other near
    the mask's edge, and the subject takes on a little of the background's light. With `note`, a corner away from the
    subject says that the stand-in painted it. ValueError when the mask's size is not the picture's.
    """
    picture, _ = opened(data)
    kept = _plane(mask_png, picture)
    backdrop = background(prompt, negative, seed, (picture.shape[1], picture.shape[0]))[..., ::-1]
    ground = _shaded(backdrop, kept)
    front = _without_old_edge(picture, kept)
    if not precise:
        kept = np.asarray(cv2.GaussianBlur(kept, (0, 0), max(2.0, min(kept.shape) / 160)), np.float32)
        light = backdrop.mean(axis=(0, 1)) - 128
        front = np.asarray(np.clip(front + 0.08 * light, 0, 255), np.float32)
    return _finished(picture, front, ground, kept, note)


def inpaint(data: bytes, *, prompt: str, seed: int, strength_png: bytes, note: bool) -> bytes:
    """A PNG (RGB, the upright picture's size) painted over where `strength_png` is 255, in part where it is grey.

    ValueError when the strength's size is not the picture's.
    """
    picture, _ = opened(data)
    kept = 1 - _plane(strength_png, picture)
    backdrop = background(prompt, "", seed, (picture.shape[1], picture.shape[0]))[..., ::-1]
    front, back = picture.astype(np.float32), backdrop.astype(np.float32)
    return _finished(picture, front, back, kept, note)


def cut_out(data: bytes, mask_png: bytes) -> bytes:
    """A PNG (RGBA) of the upright picture with the mask as its alpha; ValueError when the sizes differ."""
    picture, _ = opened(data)
    alpha = np.rint(_plane(mask_png, picture) * 255).astype(np.uint8)
    return png(np.dstack([picture, alpha]))


def background(prompt: str, negative: str, seed: int, size: tuple[int, int]) -> Pixels:
    """RGB pixels of a scene for the prompt; the same words, seed and size (width, height) give the same pixels."""
    return painted(prompt, negative, seed, size)


def _plane(mask_png: bytes, picture: Pixels) -> Plane:
    with Image.open(io.BytesIO(mask_png)) as file:
        mask: Plane = np.asarray(file.convert("L"), np.float32) / np.float32(255)
    height, width = picture.shape[:2]
    if mask.shape != (height, width):
        raise ValueError(f"the mask is {mask.shape[1]}×{mask.shape[0]} pixels, the picture {width}×{height}")
    return mask


def _shaded(backdrop: Pixels, kept: Plane) -> Plane:
    """The background with a faint shadow under and around the subject."""
    height, width = kept.shape
    small = (max(1, width // 4), max(1, height // 4))
    shadow = cv2.GaussianBlur(
        cv2.resize(kept, small, interpolation=cv2.INTER_AREA), (0, 0), max(1.0, height / 120)
    )
    fallen = np.roll(shadow, height // 120, axis=0)
    fallen[: height // 120] = 0
    return np.asarray(backdrop * (1 - 0.25 * cv2.resize(fallen, (width, height)))[..., None], np.float32)


def _without_old_edge(picture: Pixels, kept: Plane) -> Plane:
    """The picture, where the mask is grey in the colours of the subject beside it: no rim of the old background."""
    solid = (kept == 1).astype(np.float32)
    reach = max(5, min(kept.shape) // 60 | 1)
    weight = cv2.blur(solid, (reach, reach))
    colours = cv2.blur(picture * solid[..., None], (reach, reach)) / np.maximum(weight, 1e-3)[..., None]
    edge = (kept > 0) & (kept < 1) & (weight > 0.02)
    return np.asarray(np.where(edge[..., None], colours, picture), np.float32)


def _finished(picture: Pixels, front: Plane, back: Plane, kept: Plane, note: bool) -> bytes:
    weight = kept[..., None]
    result = np.rint(front * weight + back * (1 - weight)).astype(np.uint8)
    if note:
        _write_note(result, kept, _frame(picture))
    return png(result)


def _frame(picture: Pixels) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part without repeated edge lines: padding, which the caller will cut off."""
    columns = picture.swapaxes(0, 1)
    height, width = picture.shape[:2]
    return (
        _repeats(columns),
        _repeats(picture),
        width - _repeats(columns[::-1]),
        height - _repeats(picture[::-1]),
    )


def _repeats(lines: Pixels) -> int:
    """How many lines, at most a third of them, are like the first."""
    some = lines[: len(lines) // 3, ::4].astype(np.int16)
    alike = np.abs(some - some[:1]).mean(axis=(1, 2)) < 2
    count = int(np.argmin(alike)) if not alike.all() else len(some)
    return count if count > 2 else 0


def _write_note(result: Pixels, kept: Plane, frame: tuple[int, int, int, int]) -> None:
    """Writes where least of the subject is, the frame's corners first, and never on the subject itself."""
    height, width = kept.shape
    font = ImageFont.load_default(max(10, min(height, width) / 32))
    left, top, right, bottom = (round(edge) for edge in font.getbbox(NOTE))
    gap = max(4, min(height, width) // 60)
    wide, high = right - left + 2 * gap, bottom - top + 2 * gap
    if wide > width or high > height:
        return
    places = [
        (int(np.clip(x, 0, width - wide)), int(np.clip(y, 0, height - high)))
        for start, upper, end, lower in (frame, (0, 0, width, height))
        for x in (end - wide, start, (start + end - wide) // 2)
        for y in (lower - high, upper)
    ]
    x, y = min(places, key=lambda place: kept[place[1] : place[1] + high, place[0] : place[0] + wide].sum())
    layer = Image.new("L", (wide, high))
    ImageDraw.Draw(layer).text((gap - left, gap - top), NOTE, fill=255, font=font)
    ink = np.asarray(layer, np.float32) / 255
    halo = np.clip(cv2.GaussianBlur(ink, (0, 0), gap / 2.5) * 1.4, 0, 0.6)
    free = 1 - kept[y : y + high, x : x + wide]
    patch = result[y : y + high, x : x + wide]
    letters, around = (30, 255) if patch.mean() > 150 else (255, 0)
    under = patch + (halo * free)[..., None] * (around - patch.astype(np.float32))
    patch[:] = np.rint(under + (0.9 * ink * free)[..., None] * (letters - under)).astype(np.uint8)
