"""The true edge of a found mask: a matte of its uncertain band, from the photo's own colours.

Closed-form matting (Levin, Lischinski, Weiss 2008): alpha is a linear function of the colours in every small window,
as far as the sure subject and the sure background allow. Its matrix is applied with box filters (He, Sun, Tang 2010)
and solved by conjugate gradients on a copy of the photo; numpy and Pillow only.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bg_pipeline.masks.connected_components import components
from bg_pipeline.masks.ground import blurred, ground_around, grown
from bg_pipeline.masks.refine import enlarge

Plane = NDArray[np.float32]
Area = NDArray[np.bool_]

LONG_SIDE = 640
"""The longer side of the copy, in pixels: twice what networks and plain backgrounds are found at."""

# A mask is trusted from here on, and this far from where it is not: in pixels of the copy.
SURELY_OUT, SURELY_IN = 0.03, 0.95
INSIDE, OUTSIDE = 4, 6
# Hair is looked for within this share of the subject's size around it, where pixels differ from the background
# further away by more than so many of its own deviations, if there is enough of that.
REACH = 0.35
UNLIKE = 4.0
LEAST_FAR = 0.1
MOST_STRANDS = 0.5
# A mask is wrong where it differs from the matte by more than this, on this share of its edge at least. What is
# redrawn reaches this many pixels beyond.
DIFFERS, LEAST_WRONG, BAND = 0.5, 0.3, 3
# The share of an exact mask that must be surely inside.
LEAST_SURE = 0.3
# Contrasts below sqrt(SMOOTHNESS), 2.5 of 255, count as noise.
SMOOTHNESS = np.float32(1e-4)
# Contrasts, of 0..1, between subject and background in windows of this radius: none, and plain to see. In between the
# mask itself counts with up to this weight, against 1 of what is sure.
AROUND = 24
CONTRAST = 0.1, 0.2
TRUST_LEAST, TRUST_MOST = np.float32(0.001), np.float32(10)
ROUNDS = 40
ENOUGH = 1e-7
# An alpha nearer to 0 or 1 than this is noise of the solution.
HAZE = np.float32(0.03)


def draw_edge(mask: Image.Image, photo: Image.Image, *, exact: bool = False) -> Image.Image:
    """``mask`` (mode "L", 255 = kept) with its edge where the photo's is, in the mask's size.

    Pixels deep inside and far outside stay as they are. ``photo`` shows the same, in any size. An ``exact`` mask is
    one that was made at about its own size: it may hold finer things than can be found here, and is changed only
    along those parts of its edge that are some pixels too wide or too tight. About 0.2 s of one core.
    """
    scale = min(1.0, LONG_SIDE / max(mask.size))
    size = max(1, round(mask.width * scale)), max(1, round(mask.height * scale))
    small = photo.resize(size, Image.Resampling.BOX, reducing_gap=2.0).convert("RGB")
    colours = np.asarray(small, np.float32) / np.float32(255)
    coarse = mask.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    shape = np.asarray(coarse, np.float32) / np.float32(255)
    alpha = _matte(colours, shape)
    if alpha is None:
        return mask
    elsewhere = None
    if exact:
        # Of a mesh nothing is sure, and its own wires are finer than the matte.
        if (~grown(shape < SURELY_IN, INSIDE)).sum() < LEAST_SURE * (shape > 0.5).sum():
            return mask
        elsewhere = _right(shape, alpha)
        if elsewhere is None:
            return mask
    drawn = Image.fromarray((255 * alpha + 0.5).astype(np.uint8))
    result = enlarge(drawn, photo if photo.size == mask.size else photo.resize(mask.size))
    if elsewhere is not None:
        result.paste(mask, mask=elsewhere.resize(mask.size, Image.Resampling.BILINEAR))
    return result


def _right(shape: Plane, alpha: Plane) -> Image.Image | None:
    """Where a mask and its matte differ in only thin lines, 255 = there; None if that is nearly everywhere."""
    differs = np.abs(shape - alpha) > DIFFERS
    # Bands along the edge are at least two pixels wide; what is lost of hair is thinner.
    pairs = differs[:-1] & differs[1:]
    squares = pairs[:, :-1] & pairs[:, 1:]
    bands = grown(np.pad(squares, ((0, 1), (0, 1))), BAND)
    edge = grown(shape > 0.5, 1) & grown(shape <= 0.5, 1)
    if (bands & edge).sum() < LEAST_WRONG * edge.sum():
        return None
    return Image.fromarray(np.uint8(255) * ~bands)


def _matte(colours: Plane, shape: Plane) -> Plane | None:
    """The matte, (height, width), of a photo (height, width, 3) with a mask; None if nothing is sure on one side."""
    inside, outside = ~grown(shape < SURELY_IN, INSIDE), ~grown(shape > SURELY_OUT, OUTSIDE)
    if not inside.any() or not outside.any():
        return None
    outside &= ~_strands(colours, outside, inside)
    known = inside | outside
    if known.all():
        return shape
    top, left, bottom, right = _box(~known, 8)
    part = slice(top, bottom), slice(left, right)
    trusted = _little_contrast(colours[part], inside[part], outside[part])
    alpha = _solved(colours[part], known[part], inside[part].astype(np.float32), shape[part], trusted)
    result = inside.astype(np.float32)
    result[part] = np.where(known[part], result[part], alpha)
    return result


def _strands(colours: Plane, outside: Area, inside: Area) -> Area:
    """What is connected to the subject and unlike the background further away: hair, fur, straps."""
    near = grown(inside, max(OUTSIDE + 1, round(REACH * math.sqrt(inside.sum()))))
    far = outside & ~near
    if far.mean() < LEAST_FAR:
        return np.zeros_like(outside)
    unlike = near & (ground_around(colours, far).unlike > UNLIKE)
    numbers, counts = components(unlike | ~outside)
    touching = np.zeros(len(counts), bool)
    touching[np.unique(numbers[inside])] = True
    touching[0] = False
    strands = unlike & touching[numbers]
    # More than that is another thing, or a background that changes.
    if strands.sum() > MOST_STRANDS * near.sum():
        return np.zeros_like(outside)
    return grown(strands, 1)


def _little_contrast(colours: Plane, inside: Area, outside: Area) -> Plane:
    """How far the mask itself is trusted: more where subject and background have nearly one colour."""
    difference = np.zeros(inside.shape, np.float32)
    weights = [area.astype(np.float32) for area in (inside, outside)]
    shares = [blurred(weight, AROUND) + np.float32(1e-6) for weight in weights]
    for channel in range(3):
        plane = colours[..., channel]
        inner, outer = (
            blurred(plane * weight, AROUND) / share for weight, share in zip(weights, shares, strict=True)
        )
        difference = np.maximum(difference, np.abs(inner - outer))
    none, plain = CONTRAST
    trusted: Plane = TRUST_LEAST + TRUST_MOST * np.clip((plain - difference) / (plain - none), 0, 1)
    return trusted


def _solved(colours: Plane, known: Area, value: Plane, start: Plane, trusted: Plane) -> Plane:
    """Alpha that fits ``value`` where it is ``known`` and the colours elsewhere, by conjugate gradients.

    ``trusted`` is the weight with which ``start`` holds where nothing is known.
    """
    model = _Windows(colours)
    value = np.where(known, value, start)
    weight: Plane = np.where(known, np.float32(1), trusted).astype(np.float32)
    alpha = start.copy()
    residual = weight * value - model.apply(alpha) - weight * alpha
    preconditioner: Plane = np.float32(1) / (np.float32(1) + weight)
    direction = residual * preconditioner
    power = float((residual * direction).sum(dtype=np.float64))
    enough = ENOUGH * max(power, 1e-9)
    for _ in range(ROUNDS):
        if power <= enough:
            break
        applied = model.apply(np.asarray(direction, np.float32)) + weight * direction
        step = np.float32(power / float((direction * applied).sum(dtype=np.float64)))
        alpha += step * direction
        residual -= step * applied
        better = residual * preconditioner
        power, before = float((residual * better).sum(dtype=np.float64)), power
        direction = better + np.float32(power / before) * direction
    solved: Plane = np.clip((alpha - HAZE) / (1 - 2 * HAZE), 0, 1)
    return solved


class _Windows:
    """The matting matrix of a photo, (height, width, 3), over windows of 3 × 3 pixels, divided by their number."""

    def __init__(self, colours: Plane) -> None:
        self._colours = [np.ascontiguousarray(colours[..., channel]) for channel in range(3)]
        self._mean = [_mean(plane) for plane in self._colours]

        def covariance(one: int, other: int) -> Plane:
            return _mean(self._colours[one] * self._colours[other]) - self._mean[one] * self._mean[other]

        rr, gg, bb = (covariance(channel, channel) + SMOOTHNESS for channel in range(3))
        rg, rb, gb = covariance(0, 1), covariance(0, 2), covariance(1, 2)
        rows = [
            [gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg],
            [rb * gb - rg * bb, rr * bb - rb * rb, rg * rb - rr * gb],
            [rg * gb - rb * gg, rg * rb - rr * gb, rr * gg - rg * rg],
        ]
        determinant = rr * rows[0][0] + rg * rows[0][1] + rb * rows[0][2]
        self._inverse = [[entry / determinant for entry in row] for row in rows]

    def apply(self, alpha: Plane) -> Plane:
        """``alpha`` minus what the windows' colours explain of it."""
        mean = _mean(alpha)
        with_alpha = [
            _mean(plane * alpha) - own * mean for plane, own in zip(self._colours, self._mean, strict=True)
        ]
        explained = mean
        fitted = np.zeros_like(alpha)
        for row, plane, own in zip(self._inverse, self._colours, self._mean, strict=True):
            slope = row[0] * with_alpha[0] + row[1] * with_alpha[1] + row[2] * with_alpha[2]
            explained = explained - slope * own
            fitted += _mean(slope) * plane
        return alpha - fitted - _mean(explained)


def _mean(plane: Plane) -> Plane:
    padded = np.pad(plane, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    mean: Plane = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) * np.float32(1 / 9)
    return mean


def _box(area: Area, margin: int) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    return (
        max(0, int(rows[0]) - margin),
        max(0, int(columns[0]) - margin),
        int(rows[-1]) + 1 + margin,
        int(columns[-1]) + 1 + margin,
    )
