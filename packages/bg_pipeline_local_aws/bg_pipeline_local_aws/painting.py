"""Outpainting, inpainting and cut-outs: composites a picture's subject with a painted background."""

import io
import re

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bg_pipeline_local_aws.backgrounds import paint_background
from bg_pipeline_local_aws.segmentation import Pixels, Plane
from bg_pipeline_local_aws.subject_detection import encode_png, read_bgr

NOTE = "painted by the stand-in"


def outpaint(
    data: bytes, *, prompt: str, negative: str, seed: int, mask_png: bytes, precise: bool, note: bool
) -> bytes:
    """A PNG (RGB, the upright picture's size) with a new background around the subject (mask: 255 = subject).

    With ``precise``, pixels whose mask is 255 stay unchanged. Otherwise the mask's edge is blurred and the subject is
    tinted slightly by the background. With ``note``, the text `NOTE` is written into a corner away from the subject.
    ValueError if the mask's size differs from the picture's.
    """
    picture, _ = read_bgr(data)
    alpha = _read_mask(mask_png, picture)
    painted = paint_background(prompt, negative, seed, (picture.shape[1], picture.shape[0]))[..., ::-1]
    background = _add_shadow(painted, alpha)
    foreground = _remove_old_edge(picture, alpha)
    if not precise:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), max(2.0, min(alpha.shape) / 160)), np.float32)
        tint = painted.mean(axis=(0, 1)) - 128
        foreground = np.asarray(np.clip(foreground + 0.08 * tint, 0, 255), np.float32)
    return _composite(picture, foreground, background, alpha, note)


def inpaint(data: bytes, *, prompt: str, seed: int, strength_png: bytes, note: bool) -> bytes:
    """A PNG (RGB, the upright picture's size), repainted with the opacity of ``strength_png`` (255 = fully).

    ValueError if the size of ``strength_png`` differs from the picture's.
    """
    picture, _ = read_bgr(data)
    alpha = 1 - _read_mask(strength_png, picture)
    painted = paint_background(prompt, "", seed, (picture.shape[1], picture.shape[0]))[..., ::-1]
    return _composite(picture, picture.astype(np.float32), painted.astype(np.float32), alpha, note)


def cut_out(data: bytes, mask_png: bytes) -> bytes:
    """A PNG (RGBA) of the upright picture with the mask as its alpha channel; ValueError if the sizes differ."""
    picture, _ = read_bgr(data)
    alpha = np.rint(_read_mask(mask_png, picture) * 255).astype(np.uint8)
    return encode_png(np.dstack([picture, alpha]))


def _read_mask(mask_png: bytes, picture: Pixels) -> Plane:
    with Image.open(io.BytesIO(mask_png)) as file:
        mask: Plane = np.asarray(file.convert("L"), np.float32) / np.float32(255)
    height, width = picture.shape[:2]
    if mask.shape != (height, width):
        raise ValueError(f"the mask is {mask.shape[1]}×{mask.shape[0]} pixels, the picture {width}×{height}")
    return mask


def _add_shadow(background: Pixels, alpha: Plane) -> Plane:
    """The background with a faint shadow under and around the subject."""
    height, width = alpha.shape
    small = (max(1, width // 4), max(1, height // 4))
    shadow = cv2.GaussianBlur(
        cv2.resize(alpha, small, interpolation=cv2.INTER_AREA), (0, 0), max(1.0, height / 120)
    )
    shifted = np.roll(shadow, height // 120, axis=0)
    shifted[: height // 120] = 0
    return np.asarray(background * (1 - 0.25 * cv2.resize(shifted, (width, height)))[..., None], np.float32)


def _remove_old_edge(picture: Pixels, alpha: Plane) -> Plane:
    """The picture with its half-transparent edge recoloured from the opaque subject next to it.

    Without this a rim of the old background would remain.
    """
    solid = (alpha == 1).astype(np.float32)
    window = max(5, min(alpha.shape) // 60 | 1)
    weight = cv2.blur(solid, (window, window))
    colours = cv2.blur(picture * solid[..., None], (window, window)) / np.maximum(weight, 1e-3)[..., None]
    edge = (alpha > 0) & (alpha < 1) & (weight > 0.02)
    return np.asarray(np.where(edge[..., None], colours, picture), np.float32)


def _composite(picture: Pixels, foreground: Plane, background: Plane, alpha: Plane, note: bool) -> bytes:
    weight = alpha[..., None]
    result = np.rint(foreground * weight + background * (1 - weight)).astype(np.uint8)
    if note:
        _write_note(result, alpha, _content_frame(picture))
    return encode_png(result)


def _content_frame(picture: Pixels) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the picture without repeated edge lines, which are padding that callers crop."""
    columns = picture.swapaxes(0, 1)
    height, width = picture.shape[:2]
    return (
        _count_repeated_lines(columns),
        _count_repeated_lines(picture),
        width - _count_repeated_lines(columns[::-1]),
        height - _count_repeated_lines(picture[::-1]),
    )


def _count_repeated_lines(lines: Pixels) -> int:
    """The number of leading lines equal to the first, at most a third of all; 0 if there are fewer than three."""
    sample = lines[: len(lines) // 3, ::4].astype(np.int16)
    equal = np.abs(sample - sample[:1]).mean(axis=(1, 2)) < 2
    count = int(np.argmin(equal)) if not equal.all() else len(sample)
    return count if count > 2 else 0


def _write_note(result: Pixels, alpha: Plane, frame: tuple[int, int, int, int]) -> None:
    """Writes `NOTE` at the corner with the least of the subject, never over the subject itself.

    Corners of ``frame`` (left, top, right, bottom) are preferred to those of the picture.
    """
    height, width = alpha.shape
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
    x, y = min(places, key=lambda place: alpha[place[1] : place[1] + high, place[0] : place[0] + wide].sum())
    layer = Image.new("L", (wide, high))
    ImageDraw.Draw(layer).text((gap - left, gap - top), NOTE, fill=255, font=font)
    ink = np.asarray(layer, np.float32) / 255
    halo = np.clip(cv2.GaussianBlur(ink, (0, 0), gap / 2.5) * 1.4, 0, 0.6)
    free = 1 - alpha[y : y + high, x : x + wide]
    patch = result[y : y + high, x : x + wide]
    letters, halo_level = (30, 255) if patch.mean() > 150 else (255, 0)
    under = patch + (halo * free)[..., None] * (halo_level - patch.astype(np.float32))
    patch[:] = np.rint(under + (0.9 * ink * free)[..., None] * (letters - under)).astype(np.uint8)


def paint_scene(*, prompt: str, negative: str, seed: int, size: tuple[int, int], note: bool) -> bytes:
    """A PNG (RGB) of an empty scene; with ``note``, the text `NOTE` is written into it twice.

    Away from the edges, because a scene is cropped, and on both sides, because a subject is put before it.
    """
    words = f"{prompt} room" if _TABLES.search(prompt.lower()) else prompt
    painted = np.ascontiguousarray(paint_background(words, negative, seed, size)[..., ::-1])
    if note:
        width, height = size
        frame = (round(0.2 * width), round(0.2 * height), round(0.8 * width), round(0.8 * height))
        for taken in (slice(0, width // 2), slice(width // 2, width)):
            free = np.zeros((height, width), np.float32)
            free[:, taken] = 1e-3
            _write_note(painted, free, frame)
    return encode_png(painted)


_TABLES = re.compile(r"\b(table|counter|desk|worktop|shelf|windowsill)s?\b")
