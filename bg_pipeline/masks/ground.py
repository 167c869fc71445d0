"""What the background around a subject looks like, and how unlike it each pixel is."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bg_pipeline.imaging.arrays import window_sums

Plane = NDArray[np.float32]
Area = NDArray[np.bool_]

# Radii of the windows, in pixels: the smallest that contains enough background counts.
REACHES = (6, 16, 45, 130, 400)
LEAST_SHARE = np.float32(0.06)
# The least deviation, of 0..1: a camera's noise.
NOISE = np.float32(0.012)


@dataclass(frozen=True)
class Ground:
    """The background around each pixel: ``mean`` (height, width, 3), 0..1, and ``deviation`` (height, width).

    ``unlike`` is how many deviations a pixel's colour is from the mean, in the channel where it is most.
    """

    mean: Plane
    deviation: Plane
    unlike: Plane


def ground_around(colours: Plane, sure: Area) -> Ground:
    """The background of a picture (height, width, 3), 0..1, by the pixels that are ``sure`` to belong to it.

    Each pixel is compared with those in the smallest window that has enough of them. Where none has, or there are
    none, everything is infinitely unlike.
    """
    weight = sure.astype(np.float32)
    height, width = sure.shape
    mean = np.zeros((height, width, 3), np.float32)
    deviation = np.full((height, width), NOISE)
    unlike = np.full((height, width), np.inf, np.float32)
    missing = np.ones_like(sure)
    planes = [np.ascontiguousarray(colours[..., channel]) for channel in range(3)]
    weighted = [plane * weight for plane in planes]
    squares = [plane * plane for plane in weighted]
    for reach in REACHES:
        share = blurred(weight, min(reach, max(height, width)))
        new = missing & (share > LEAST_SHARE)
        if new.any():
            part = share[new]
            means = [blurred(plane, reach)[new] / part for plane in weighted]
            spreads = [blurred(plane, reach)[new] / part for plane in squares]
            deviations = [
                np.sqrt(np.maximum(spread - own * own, 0)) + NOISE
                for spread, own in zip(spreads, means, strict=True)
            ]
            off = [
                np.abs(plane[new] - own) / each
                for plane, own, each in zip(planes, means, deviations, strict=True)
            ]
            mean[new] = np.stack(means, axis=1)
            deviation[new] = np.maximum.reduce(deviations)
            unlike[new] = np.maximum.reduce(off)
            missing &= ~new
        if not missing.any():
            break
    return Ground(mean, deviation, unlike)


def blurred(plane: Plane, radius: int) -> Plane:
    """The mean over a square around each pixel; the picture's own edge is repeated outside it."""
    width = 2 * radius + 1
    padded = np.pad(plane, radius, mode="edge")
    return window_sums(window_sums(padded, width, -2), width, -1) * np.float32(1 / width**2)


def grown(area: Area, by: int) -> Area:
    """The pixels within ``by`` pixels (a square) of the area."""
    width = 2 * by + 1
    padded = np.pad(area.astype(np.float32), by)
    return window_sums(window_sums(padded, width, -2), width, -1) > 0.5
