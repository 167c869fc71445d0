"""Fidelity metrics of a result against its photo, computed without a model."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter

from bg_pipeline.imaging.arrays import Box, Floats, average, enlarged, to_array, to_image
from bg_pipeline.imaging.edge import edge_boxes, filtered
from bg_pipeline.imaging.photo import Photo, on_white

Flags = npt.NDArray[np.bool]

TOLERANCE = 12
"""A pixel counts as changed if a channel differs by more levels than this; JPEG at quality 95 stays below."""

UNIFORM = 6
"""A background is uniform if 96 % of its pixels lie within this many levels in every channel."""

# Length of the longer side of the copy that is measured; the inside of the subject is measured at a quarter of it.
_SIDE = 1024
_COARSER = 4

# A halo is measured within this many pixels of the copy around the subject's edge.
_RIM = 4

# Pixels of the photo nearer to the subject's edge may be soft and do not belong to its interior.
_MARGIN = 6


@dataclass(frozen=True)
class Fidelity:
    """What was measured on a result. Shares are 0 to 1, and 0 if there is nothing to measure.

    ``subject_changed``: share of the subject's interior pixels that differ from the photo's by more than `TOLERANCE`.
    ``edge_halo``: how much of the old background is visible along the subject's edge, from 0 (none) to 1 (as in the
    photo); above 0.25 the fringe is visible at a glance. ``background_changed``: share of the background that differs
    from the photo's. ``uniform``: the background has one colour, whether that was asked for or not.
    """

    subject_changed: float
    edge_halo: float
    background_changed: float
    uniform: bool


def measure(photo: Photo, result: Image.Image, subject: Image.Image) -> Fidelity:
    """The fidelity of a result of the photo's size; ``subject`` is mode L, 255 = subject, as for `restore_subject`.

    The interior is more than 6 pixels inside the subject's edge; one in about (longer side / 1024)² of its pixels is
    compared. Halo and background are measured on copies of about 1,024 and 256 pixels. For the halo, three rings
    along the edge (just inside, just outside, a little further) are compared with a clean composite of the colours
    deeper inside and further outside: ``edge_halo`` is the largest of the three.
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
    inside = _weights(coarse_mask)
    outside = 1 - _weights(coarse_mask.filter(ImageFilter.MaxFilter(3)))
    means = [
        _mean(coarse_before, inside),
        _mean(coarse_before, outside),
        _mean(coarse_after, outside),
    ]
    rings: list[list[tuple[Floats, Floats]]] = [[], [], []]
    for box in edge_boxes(mask, margin=_RIM):
        for ring, found in zip(rings, _rings(after, mask, means, box), strict=True):
            ring.append(found)
    return round(max(_slope(ring) for ring in rings), 4)


def _rings(
    after: Image.Image, mask: Image.Image, means: Sequence[Image.Image], box: Box
) -> Iterator[tuple[Floats, Floats]]:
    """For each of the three rings in a box: differences from a clean composite, and from that to the old background.

    ``means`` are the colours of the subject, the old and the new background around the edge.
    """
    near, nearer = (np.asarray(filtered(mask, ImageFilter.BoxBlur(reach), box, reach)) for reach in (_RIM, 1))
    band = (near > 0) & (nearer < 255)
    subject, old, new = (enlarged(mean, _COARSER, box)[band].astype(np.float32) for mean in means)
    share = np.asarray(mask.crop(box))[band, None].astype(np.float32) / np.float32(255)
    clean = share * subject + (1 - share) * new
    difference = np.asarray(after.crop(box))[band] - clean
    towards_old = old - clean
    within, touching = share[:, 0] > 0.5, nearer[band] > 0
    for ring in (within, ~within & touching, ~touching):
        yield difference[ring], towards_old[ring]


def _slope(ring: Sequence[tuple[Floats, Floats]]) -> float:
    """How far the differences go towards the old background, from 0 to 1, by least squares."""
    power = sum(float((way**2).sum()) for _, way in ring)
    # An old background that looks like the new one, or like the subject, is not visible.
    if power < 10.0**2 * max(1, sum(len(way) for _, way in ring)):
        return 0.0
    return min(1.0, max(0.0, sum(float((difference * way).sum()) for difference, way in ring) / power))


def _weights(coarse_mask: Image.Image) -> Floats:
    return np.asarray(coarse_mask, np.float32) / np.float32(255)


def _mean(coarse: Image.Image, weights: Floats) -> Image.Image:
    """The weighted local mean of a coarse picture."""
    return to_image(average(to_array(coarse), weights**8, 3))


def _differs(before: Image.Image, after: Image.Image) -> Flags:
    red, green, blue = ImageChops.difference(before, after).split()
    return np.asarray(ImageChops.lighter(red, ImageChops.lighter(green, blue))) > TOLERANCE


def _share(flags: Flags) -> float:
    return round(float(flags.mean()), 4) if flags.size else 0.0


_PLAIN = re.compile(
    r"\b(plain|solid|blank|uniform|seamless|studio|white|black|gr[ae]y|monochrome|single.colou?r)\b",
    re.IGNORECASE,
)

MAX_SUBJECT_CHANGED = 0.01

MIN_BACKGROUND_CHANGED = 0.02

MAX_EDGE_HALO = 0.5
"""A result with a larger ``edge_halo`` needs review; 0.25 is visible at a glance, and found masks often exceed it."""


def failed_background_checks(fidelity: Fidelity, prompt: str = "") -> list[str]:
    """The faults of a painted background; a plain one is no fault if the prompt asks for one."""
    found = []
    if fidelity.uniform and not _PLAIN.search(prompt):
        found.append("the background is blank or of one colour")
    if fidelity.background_changed < MIN_BACKGROUND_CHANGED:
        found.append("the background did not change")
    return found


def failed_checks(fidelity: Fidelity, prompt: str = "") -> tuple[str, ...]:
    """The faults of a result, as sentences."""
    found = failed_background_checks(fidelity, prompt)
    if fidelity.subject_changed > MAX_SUBJECT_CHANGED:
        found.append(f"{fidelity.subject_changed:.1%} of the subject's pixels changed")
    if fidelity.edge_halo > MAX_EDGE_HALO:
        found.append(f"the old background shows as a halo around the subject ({fidelity.edge_halo:.2f})")
    return tuple(found)
