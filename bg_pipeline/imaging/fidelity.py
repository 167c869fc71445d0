"""How true a result is to its photo, in figures that need no model."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from bg_pipeline.imaging.edge import average
from bg_pipeline.imaging.photo import Photo, on_white

TOLERANCE = 12
"""A pixel counts as changed if one of its channels differs by more levels than this; JPEG at quality 95 stays below."""

UNIFORM = 6
"""A background is uniform if 96 % of it lies within this many levels, in every channel."""

# Judged is a copy with its longer side about this, the rest of the subject on one a quarter of that.
_SIDE = 1024
_COARSER = 4

# Pixels this near the edge of the subject may be soft and do not count as its interior.
_MARGIN = 6


@dataclass(frozen=True)
class Fidelity:
    """What was measured on a result.

    ``subject_changed``: share of the subject's interior pixels that differ from the photo's by more than `TOLERANCE`.
    ``edge_halo``: how much of the old background shows in a band on both sides of the subject's edge, 0 none,
    1 as much as in the photo. ``background_changed``: share of the background that differs from the photo's.
    ``uniform``: the background is of one colour, as asked for or not. Shares are of 0-1 and 0 where there is
    nothing to measure.
    """

    subject_changed: float
    edge_halo: float
    background_changed: float
    uniform: bool


def measure(photo: Photo, result: Image.Image, subject: Image.Image) -> Fidelity:
    """The fidelity of a result of the photo's size; ``subject`` is L, 255 = subject, as for `put_back`.

    The interior is all that lies more than 6 pixels inside the subject's edge; one pixel in about (size / 1024)²
    of it is compared, at full resolution. Halo and background are measured on copies of about 1,024 and 256
    pixels: the halo is the regression of what the edge differs from a clean composite of the colours further inside
    and further outside, on what the photo's own pixels there differ from it.
    """
    step = max(1, round(max(photo.size) / _SIDE))
    before, after = on_white(photo.image), on_white(result)
    mask = subject.reduce(step)
    coarse_mask = mask.reduce(_COARSER)
    coarse_before, coarse_after = (image.reduce(step * _COARSER) for image in (before, after))
    background = np.asarray(coarse_mask.filter(ImageFilter.BoxBlur(1))) == 0
    behind = np.asarray(coarse_after)[background]
    return Fidelity(
        subject_changed=_subject_changed(before, after, mask, max(1, round(_MARGIN / step))),
        edge_halo=_halo(before.reduce(step), after.reduce(step), mask, coarse_before, coarse_after, coarse_mask),
        background_changed=_share(_differs(coarse_before, coarse_after)[background]),
        uniform=behind.size > 0 and float(np.ptp(np.percentile(behind, (2, 98), axis=0), axis=0).max()) <= UNIFORM,
    )


def _subject_changed(before: Image.Image, after: Image.Image, mask: Image.Image, margin: int) -> float:
    interior = np.asarray(mask.filter(ImageFilter.BoxBlur(margin))) == 255
    samples = (image.resize(mask.size, Image.Resampling.NEAREST) for image in (before, after))
    return _share(_differs(*samples)[interior])


def _halo(
    before: Image.Image,
    after: Image.Image,
    mask: Image.Image,
    coarse_before: Image.Image,
    coarse_after: Image.Image,
    coarse_mask: Image.Image,
) -> float:
    around = np.asarray(mask.filter(ImageFilter.BoxBlur(1)))
    band = np.flatnonzero((around > 0) & (around < 255))
    if not band.size:
        return 0.0
    share = np.asarray(coarse_mask, np.float32)[..., None] / np.float32(255)
    inside = average(np.asarray(coarse_before, np.float32), share**8, 2)
    outside = average(np.asarray(coarse_after, np.float32), (1 - share) ** 8, 2)

    def at_band(image: Image.Image) -> np.ndarray:
        return np.asarray(image).reshape(band_source, -1)
    ...
