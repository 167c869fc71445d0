"""The shadow of a subject that stands on a ground: where it touches it, around that, and in the light's direction.

Shadows are soft, so they are computed on a small copy and enlarged.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from bg_pipeline.domain.shadows import Shadow

Floats = npt.NDArray[np.float32]

_SIDE = 640
"""Longer side, in pixels, of the copy."""

_REACH = 0.22
"""Parts of the lower edge higher above the lowest point than this share of the subject's height touch nothing."""

_STEEP = 0.8
"""The slope, in rows a column, from which a lower edge is a side."""

_FORESHORTENED = 0.35
"""A ground that is seen from a little above the horizontal shows this share of its depth."""

_LENGTH = 0.5
"""Length of a cast shadow, in heights of the subject."""

_CONTACT, _AMBIENT, _CAST = 0.9, 0.6, 0.5
"""Darkness of the three parts at full strength."""


def lowest_row(subject: Image.Image) -> int | None:
    """The row below the subject's lowest solid pixel; None without one, or if the frame cuts it off."""
    box = subject.point([0] * 128 + [255] * 128).getbbox()
    # A mask that ends one pixel above the frame's edge is a cut as well.
    return None if box is None or box[3] >= subject.height - 1 else box[3]


def ground_shadow(subject: Image.Image, shadow: Shadow, *, cast: float = 1.0) -> Image.Image:
    """How dark the ground is around the foot of the subject (mode L, of the subject's size; 255 is black).

    It follows the subject's lower edge: the ground is darkest where that is lowest. ``cast`` (0 to 1) is how much of
    the shadow in the light's direction there is. A subject that the lower edge of
    the frame cuts off has no shadow.
    """
    if lowest_row(subject) is None:
        return Image.new("L", subject.size)
    step = max(1, round(max(subject.size) / _SIDE))
    small = np.asarray(subject.reduce(step), np.float32) / np.float32(255)
    solid = small > 0.5
    if not solid.any():
        return Image.new("L", subject.size)
    rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
    top, base = int(rows[0]), int(rows[-1])
    height, width = base - top + 1, int(columns[-1] - columns[0]) + 1
    edge = len(solid) - 1 - np.argmax(solid[::-1], axis=0)
    above = np.where(solid.any(axis=0), base - edge, np.inf)
    touching = np.clip(1 - above / max(2.0, _REACH * height), 0, 1).astype(np.float32) ** 2
    # A side that rises steeply from the ground does not touch it; a foot or the rim of a plate does.
    steepness = np.abs(np.diff(edge.astype(np.float32), append=edge[-1]))
    touching *= 0.1 + 0.9 * np.exp(-((steepness / _STEEP) ** 2))
    softness = 0.4 + 1.2 * shadow.softness
    thin = max(1.0, 0.012 * height)
    contact = _blurred(_band(solid.shape, edge, touching, thin), softness * max(0.8, 0.007 * width))
    around = _blurred(
        _band(solid.shape, edge, touching, max(2.0, 0.05 * height)), softness * max(1.5, 0.04 * width)
    )
    light = 1 - (1 - _CONTACT * _scaled(contact, 1.0)) * (1 - _AMBIENT * _scaled(around, 0.9))
    if shadow.direction is not None:
        thrown = _cast(small, base, height, shadow.direction, softness, width)
        light = 1 - (1 - light) * (1 - cast * _CAST * thrown)
    strength = min(1.0, 2 * shadow.strength) * light + max(0.0, 2 * shadow.strength - 1) * light * (1 - light)
    dark = Image.fromarray(np.rint(np.clip(strength, 0, 1) * 255).astype(np.uint8))
    whole = (small.shape[1] * step, small.shape[0] * step)
    return dark.resize(whole, Image.Resampling.BICUBIC).crop((0, 0, *subject.size))


def _band(shape: tuple[int, ...], edge: npt.NDArray[np.intp], weights: Floats, thickness: float) -> Floats:
    """The weights in the rows just above and below the lower edge of each column."""
    below = np.arange(shape[0], dtype=np.float32)[:, None] - edge[None, :].astype(np.float32)
    return (np.clip(1 - np.abs(below) / (thickness + 1), 0, 1) * weights[None, :]).astype(np.float32)


def _scaled(values: Floats, most: float) -> Floats:
    """The values with their maximum at ``most``."""
    peak = float(values.max())
    return values * np.float32(most / peak) if peak > 0 else values


def _blurred(values: Floats, deviation: float) -> Floats:
    picture = Image.fromarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))
    # Blurred in a wider frame: outside the picture there is no shadow.
    pad = math.ceil(3 * deviation)
    wide = Image.new("L", (picture.width + 2 * pad, picture.height + 2 * pad))
    wide.paste(picture, (pad, pad))
    soft = wide.filter(ImageFilter.GaussianBlur(deviation))
    inner = soft.crop((pad, pad, pad + picture.width, pad + picture.height))
    return np.asarray(inner, np.float32) / np.float32(255)


def _cast(small: Floats, base: int, height: int, direction: float, softness: float, width: int) -> Floats:
    """The subject's outline laid on the ground: sharp and dark at its foot, soft and faint at its end."""
    angle = math.radians(direction)
    along, away = _LENGTH * math.sin(angle), _LENGTH * _FORESHORTENED * math.cos(angle)
    # A shadow that falls exactly sideways would be a line.
    away = math.copysign(max(abs(away), 0.1), away)
    outline = Image.fromarray(np.rint(small * 255).astype(np.uint8))
    # Output (x, y) shows the outline's point at the height h = (base - y) / away above the ground.
    coefficients = (1.0, along / away, -along * base / away, 0.0, 1 / away, base - base / away)
    laid = outline.transform(outline.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    values = np.asarray(laid, np.float32) / np.float32(255)
    heights = (base - np.arange(len(values), dtype=np.float32)) / np.float32(away) / np.float32(height)
    far = np.clip(heights, 0, 1)[:, None]
    values = values * (heights[:, None] >= -0.02)
    near_copy, far_copy = (_blurred(values, softness * max(1.0, share * width)) for share in (0.012, 0.06))
    cast: Floats = ((1 - far) * near_copy + far * far_copy) * (1 - np.float32(0.65) * far)
    return cast
