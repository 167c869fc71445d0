"""A photo's own ground out of focus, without the subject in it."""

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from bg_pipeline.imaging.arrays import Floats, average, to_array
from bg_pipeline.imaging.photo import on_white

Flags = npt.NDArray[np.bool]

_SIDE = 512
"""Longer side, in pixels, of the copy that is blurred: nothing finer is left in it."""

_BLUR = 0.018
"""The radius of the blur as a share of the longer side."""

_GRAIN = 1.1
"""Standard deviation, in levels, of the grain that hides the steps of a smooth ground."""

_STRIP = 256


def blurred_ground(picture: Image.Image, subject: Image.Image) -> Image.Image:
    """The ground of a picture, blurred as if out of focus: RGB, of the picture's size.

    The subject (mode L, 255 = subject) does not run into it: its place is filled from the ground around it. The same
    arguments give the same pixels.
    """
    step = max(1, round(max(picture.size) / _SIDE))
    colours = to_array(on_white(picture).reduce(step))
    # The mask's edge is not exact, and pixels there are a mixture.
    wide = subject.reduce(step).filter(ImageFilter.MaxFilter(5))
    ground = filled(colours, np.asarray(wide, np.float32) < 1)
    radius = max(2, round(_BLUR * max(picture.size) / step))
    for _ in range(3):
        # Three boxes in a row are nearly a Gaussian.
        ground = average(ground, np.ones_like(ground[0]), radius)
    return _enlarged(ground, picture.size, step)


def filled(colours: Floats, known: Flags) -> Floats:
    """Planes whose unknown pixels are filled smoothly from the known ones around them; grey if none is known.

    Each level of a pyramid has the means of the known pixels below it; gaps are filled from the level above.
    """
    weights = known.astype(np.float32)
    return _filled(colours * weights, weights)


def _filled(sums: Floats, weights: Floats) -> Floats:
    means = np.where(weights > 0, sums / np.maximum(weights, np.float32(1e-6)), np.float32(128))
    if weights.shape == (1, 1) or bool((weights > 0).all()):
        return means.astype(np.float32)
    above = _filled(_halved(sums), _halved(weights))
    height, width = weights.shape
    larger = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        for plane in above
    ]
    return np.where(weights > 0, means, np.stack(larger)).astype(np.float32)


def _halved(values: Floats) -> Floats:
    """The sums of 2 x 2 pixels."""
    ends = [(0, 0)] * (values.ndim - 2) + [(0, values.shape[-2] % 2), (0, values.shape[-1] % 2)]
    padded = np.pad(values, ends)
    return padded[..., ::2, ::2] + padded[..., 1::2, ::2] + padded[..., ::2, 1::2] + padded[..., 1::2, 1::2]


def _enlarged(values: Floats, size: tuple[int, int], step: int) -> Image.Image:
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in values.astype(np.float32)]
    grain = np.random.default_rng(7).normal(0, _GRAIN, (_STRIP, size[0], 1)).astype(np.float32)
    result = Image.new("RGB", size)
    for top in range(0, size[1], _STRIP):
        rows = min(_STRIP, size[1] - top)
        box = (0.0, top / step, size[0] / step, (top + rows) / step)
        box = (0.0, box[1], min(box[2], planes[0].width), min(box[3], planes[0].height))
        strip = np.stack(
            [np.asarray(plane.resize((size[0], rows), Image.Resampling.BICUBIC, box)) for plane in planes],
            axis=-1,
        )
        strip = np.clip(np.rint(strip + grain[:rows]), 0, 255).astype(np.uint8)
        result.paste(Image.fromarray(strip), (0, top))
    return result
