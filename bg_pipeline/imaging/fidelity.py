"""How true a result is to its photo, in figures that need no model."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter

from bg_pipeline.imaging.edge import Floats, average, picture, planes
from bg_pipeline.imaging.photo import Photo, on_white

Flags = npt.NDArray[np.bool]

TOLERANCE = 12
"""A pixel is changed if a channel differs by more levels than this; JPEG at quality 95 stays below."""

UNIFORM = 6
"""A background is uniform if 96 % of it lies within this many levels, in every channel."""

# Judged is a copy with its longer side about this, the rest of the subject on one a quarter of that.
_SIDE = 1024
_COARSER = 4

# A halo is looked for this many pixels of the copy around the subject.
_RIM = 4

# Pixels this near the edge of the subject may be soft and do not count as its interior.
_MARGIN = 6


@dataclass(frozen=True)
class Fidelity:
    """What was measured on a result.

    ``subject_changed``: share of the subject's interior pixels that differ from the photo's by more than `TOLERANCE`.
    ``edge_halo``: how much of the old background shows along the subject's edge, 0 none, 1 as much as in the photo;
    a fringe that is seen at a glance is above 0.25. ``background_changed``: share of the background that differs
    from the photo's. ``uniform``: the background is of one colour, as asked for or not. Shares are of 0-1, and 0
    where there is nothing to measure.
    """

    subject_changed: float
    edge_halo: float
    background_changed: float
    uniform: bool


def measure(photo: Photo, result: Image.Image, subject: Image.Image) -> Fidelity:
    """The fidelity of a result of the photo's size; ``subject`` is L, 255 = subject, as for `put_back`.

    The interior is all that lies more than 6 pixels inside the subject's edge; of it one pixel in about
    (longer side / 1024)² is compared. Halo and background are measured on copies of about 1,024 and 256 pixels.
    The halo compares three rings along the edge (just inside, just outside, a little further) with a clean
    composite of what lies deeper inside and further outside: how far on the way to the old background is the worst.
    """
    step = max(1, round(max(photo.size) / _SIDE))
    before, after = on_white(photo.image), on_white(result)
    mask = subject.reduce(step)
    coarse_before, coarse_after = before.reduce(step * _COARSER), after.reduce(step * _COARSER)
    coarse_mask = mask.reduce(_COARSER)
    background = np.asarray(coarse_mask.filter(ImageFilter.BoxBlur(1))) == 0
    behind = np.asarray(coarse_after)[background]
    return Fidelity(
        subject_changed=_subject_changed(before, after, mask, max(1, round(_MARGIN / step))),
        edge_halo=_halo(after.reduce(step), mask, coarse_before, coarse_after, coarse_mask),
        background_changed=_share(_differs(coarse_before, coarse_after)[background]),
        uniform=behind.size > 0
        and float(np.ptp(np.percentile(behind, (2, 98), axis=0), axis=0).max()) <= UNIFORM,
    )


def _subject_changed(before: Image.Image, after: Image.Image, mask: Image.Image, margin: int) -> float:
    interior = np.asarray(mask.filter(ImageFilter.BoxBlur(margin))) == 255
    before, after = (image.resize(mask.size, Image.Resampling.NEAREST) for image in (before, after))
    return _share(_differs(before, after)[interior])


def _halo(
    after: Image.Image,
    mask: Image.Image,
    coarse_before: Image.Image,
    coarse_after: Image.Image,
    coarse_mask: Image.Image,
) -> float:
    near, nearer = (np.asarray(mask.filter(ImageFilter.BoxBlur(reach))) for reach in (_RIM, 1))
    band = (near > 0) & (nearer < 255)
    inside = _weights(coarse_mask)
    outside = 1 - _weights(coarse_mask.filter(ImageFilter.MaxFilter(3)))
    subject = _at(band, coarse_before, inside)
    old, new = (_at(band, image, outside) for image in (coarse_before, coarse_after))
    share = np.asarray(mask)[band, None].astype(np.float32) / np.float32(255)
    clean = share * subject + (1 - share) * new
    difference = np.asarray(after)[band] - clean
    towards_old = old - clean
    within, touching = share[:, 0] > 0.5, nearer[band] > 0
    rings = (within, ~within & touching, ~touching)
    return round(max(_slope(difference[ring], towards_old[ring]) for ring in rings), 4)


def _slope(difference: Floats, towards_old: Floats) -> float:
    """How far along the way to the old background the difference goes, from 0 to 1."""
    power = float((towards_old**2).sum())
    # An old background that looks like the new one, or like the subject, cannot show.
    if power < 10.0**2 * max(1, len(towards_old)):
        return 0.0
    return min(1.0, max(0.0, float((difference * towards_old).sum()) / power))


def _weights(coarse_mask: Image.Image) -> Floats:
    return np.asarray(coarse_mask, np.float32) / np.float32(255)


def _at(band: Flags, coarse: Image.Image, weights: Floats) -> Floats:
    """The weighted local mean of a coarse picture, at the pixels of the band."""
    means = picture(average(planes(coarse), weights**8, 3))
    fine = means.resize((band.shape[1], band.shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(fine)[band].astype(np.float32)


def _differs(before: Image.Image, after: Image.Image) -> Flags:
    red, green, blue = ImageChops.difference(before, after).split()
    return np.asarray(ImageChops.lighter(red, ImageChops.lighter(green, blue))) > TOLERANCE


def _share(flags: Flags) -> float:
    return round(float(flags.mean()), 4) if flags.size else 0.0
