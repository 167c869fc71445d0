"""A small mask enlarged to the photo's full size, with its edge on the photo's own edge.

A colour guided filter (He, Sun, Tang 2013; in the fast form of He and Sun 2015), run only in the tiles that contain
an edge, with numpy and Pillow only.
"""

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bg_pipeline.imaging.arrays import window_sums

Plane = NDArray[np.float32]
Area = tuple[int, int, int, int]

# Pixels of the small mask on each side of its edge within which the photo's edge is looked for.
RADIUS = 2
WINDOW = 2 * RADIUS + 1
# Contrasts below sqrt(SMOOTHNESS), about 3 of 255, count as noise.
SMOOTHNESS = np.float32(1e-4)
# The window must contain the true edge and some of both sides: one step enlarges by at most this factor.
LARGEST_STEP = 4.0
# Below this factor plain interpolation is exact to half a pixel.
SMALLEST_STEP = 1.3
# The filter leaves a haze of this share on both sides of an edge.
HAZE = np.float32(0.06)
TILE = 64
# The filter's two windows, and one pixel for interpolation.
MARGIN = 2 * RADIUS + 1
TO_UNIT = np.float32(1 / 255)


def enlarge(mask: Image.Image, photo: Image.Image) -> Image.Image:
    """``mask`` (mode "L", 255 = kept) at the size of ``photo``, its edge as soft as the photo's own.

    Away from the mask's edge, and where the photo has no edge, the result is plain interpolation: 0 stays 0 and 255
    stays 255. A mask larger than the photo is reduced. Memory: one byte for each pixel of the photo, and seven for
    each pixel of a copy with at most 1/1.3 of its sides.
    """
    if mask.width > photo.width or mask.height > photo.height:
        smaller = min(mask.width, photo.width), min(mask.height, photo.height)
        mask = mask.resize(smaller, Image.Resampling.BOX)
    across, down = photo.width / mask.width, photo.height / mask.height
    width, height = mask.size
    steps = math.ceil(math.log(max(across, down), LARGEST_STEP))
    for step in range(1, steps):
        size = (round(width * across ** (step / steps)), round(height * down ** (step / steps)))
        mask = _one_step(mask, photo.resize(size, Image.Resampling.BOX, reducing_gap=2.0))
    return _one_step(mask, photo)


def _one_step(mask: Image.Image, photo: Image.Image) -> Image.Image:
    if mask.size == photo.size:
        return mask
    if max(photo.width / mask.width, photo.height / mask.height) < SMALLEST_STEP:
        return mask.resize(photo.size, Image.Resampling.BICUBIC)
    # Right where the mask is constant; `_refine` interpolates the other tiles, which are few.
    result = mask.resize(photo.size, Image.Resampling.NEAREST)
    shape = np.pad(np.asarray(mask), MARGIN, mode="edge")
    for top in range(0, mask.height, TILE):
        for left in range(0, mask.width, TILE):
            right, bottom = min(left + TILE, mask.width), min(top + TILE, mask.height)
            window = shape[top : bottom + 2 * MARGIN, left : right + 2 * MARGIN]
            if window.min() != window.max():
                tile = left, top, right, bottom
                planes = _coefficients(_guide(photo, tile, mask.size) * TO_UNIT, window * TO_UNIT)
                _refine(result, photo, mask, planes, tile)
    return result


def _guide(photo: Image.Image, tile: Area, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The photo's colours in a tile of the small mask of ``size`` and `MARGIN` pixels around it."""
    x, y = photo.width / size[0], photo.height / size[1]
    left, top = max(0, tile[0] - MARGIN), max(0, tile[1] - MARGIN)
    right, bottom = min(size[0], tile[2] + MARGIN), min(size[1], tile[3] + MARGIN)
    area = left * x, top * y, right * x, bottom * y
    # Cropped first, because Pillow converts all of a picture with alpha before it scales a part.
    first = math.floor(area[0]), math.floor(area[1])
    part = photo.crop((*first, min(photo.width, math.ceil(area[2])), min(photo.height, math.ceil(area[3]))))
    box = (
        area[0] - first[0],
        area[1] - first[1],
        min(area[2] - first[0], part.width),
        min(area[3] - first[1], part.height),
    )
    small = part.resize((right - left, bottom - top), Image.Resampling.BOX, box).convert("RGB")
    edges = (
        (top - tile[1] + MARGIN, tile[3] + MARGIN - bottom),
        (left - tile[0] + MARGIN, tile[2] + MARGIN - right),
        (0, 0),
    )
    return np.pad(np.asarray(small), edges, mode="edge")


def _coefficients(guide: Plane, shape: Plane) -> list[Plane]:
    """Planes r, g, b, offset, trust: near each pixel the mask is r·R + g·G + b·B + offset, used by the share trust.

    Each is smaller than the (height, width, 3) ``guide`` by the filter's two windows.
    """
    colours = [np.ascontiguousarray(guide[..., channel]) for channel in range(3)]
    mean = [_mean(colour) for colour in colours]
    share = _mean(shape)
    with_shape = [_mean(colour * shape) - own * share for colour, own in zip(colours, mean, strict=True)]

    def covariance(one: int, other: int) -> Plane:
        return _mean(colours[one] * colours[other]) - mean[one] * mean[other]

    rr, gg, bb = (covariance(channel, channel) + SMOOTHNESS for channel in range(3))
    rg, rb, gb = covariance(0, 1), covariance(0, 2), covariance(1, 2)
    # The inverse of a symmetric 3×3 matrix, written out: numpy's own solves one pixel at a time.
    inverse = [
        [gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg],
        [rb * gb - rg * bb, rr * bb - rb * rb, rg * rb - rr * gb],
        [rg * gb - rb * gg, rg * rb - rr * gb, rr * gg - rg * rg],
    ]
    determinant = rr * inverse[0][0] + rg * inverse[0][1] + rb * inverse[0][2]
    slopes = [_dot(row, with_shape) / determinant for row in inverse]
    offset = share - _dot(slopes, mean)

    # The share of the mask's variation that the colours explain; from one half on they are trusted fully.
    variation = _mean(shape * shape) - share * share
    explained = _dot(slopes, with_shape) / (variation + SMOOTHNESS)
    # A wide ramp varies little within the window: it is soft on purpose and stays as it is.
    edge = np.clip(30 * variation - 0.2, 0, 1)
    trust = np.clip(2 * explained, 0, 1) * edge
    return [_mean(plane) for plane in (*slopes, offset, trust)]


def _refine(
    result: Image.Image, photo: Image.Image, mask: Image.Image, planes: list[Plane], tile: Area
) -> None:
    """Rewrites ``result`` (of the photo's size) within ``tile``, in pixels of the small ``mask``."""
    x, y = photo.width / mask.width, photo.height / mask.height
    left, top = round(tile[0] * x), round(tile[1] * y)
    right, bottom = round(tile[2] * x), round(tile[3] * y)
    # The planes begin one pixel left of and above the tile.
    height, width = planes[0].shape
    part = (
        max(0, left / x - tile[0] + 1),
        max(0, top / y - tile[1] + 1),
        min(width, right / x - tile[0] + 1),
        min(height, bottom / y - tile[1] + 1),
    )

    def full(plane: Plane) -> Plane:
        enlarged = Image.fromarray(plane).resize(
            (right - left, bottom - top), Image.Resampling.BILINEAR, box=part
        )
        return np.asarray(enlarged, np.float32)

    colours = np.asarray(photo.crop((left, top, right, bottom)).convert("RGB")) * TO_UNIT
    guided = full(planes[3])
    for channel in range(3):
        guided = guided + full(planes[channel]) * colours[..., channel]
    guided = np.clip((guided - HAZE) * (255 / (1 - 2 * HAZE)), 0, 255)
    area = left / x, top / y, min(right / x, mask.width), min(bottom / y, mask.height)
    interpolated = mask.resize((right - left, bottom - top), Image.Resampling.BICUBIC, area)
    plain = np.asarray(interpolated, np.float32)
    refined = plain + (guided - plain) * full(planes[4])
    result.paste(Image.fromarray((refined + 0.5).astype(np.uint8)), (left, top))


def _mean(plane: Plane) -> Plane:
    """The mean over the window around each pixel that has a whole one."""
    return window_sums(window_sums(plane, WINDOW, -2), WINDOW, -1) * np.float32(1 / WINDOW**2)


def _dot(ones: list[Plane], others: list[Plane]) -> Plane:
    total: Plane = ones[0] * others[0] + ones[1] * others[1] + ones[2] * others[2]
    return total
