"""The region of a photo that a person means by a click on it, to be added to a mask or taken out of it.

Found by GrabCut (Rother, Kolmogorov, Blake 2004; OpenCV's, from the extra ``masks``) from the mask as it is: what is
kept and what is replaced near the click gives the colours of both sides, and the click is certain to change sides.
"""

import io
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bg_pipeline.imaging import open_photo
from bg_pipeline.masks.conventions import HALF, STORED
from bg_pipeline.masks.local_cutout import has_opencv, make_deterministic, opencv
from bg_pipeline.masks.refine import enlarge

LARGEST_PART = 1024
"""Longer side, in pixels, of the part of a photo in which a region is looked for."""
GRID = 256
"""Longer side, in pixels, of the copy that GrabCut works on, which takes 0.1 to 0.8 s of one core."""
ROUNDS = 4
# Shares of the reach: certain to change sides, likely to change at first, and certain to stay.
CLICKED, LIKELY, OUTSIDE = 0.04, 0.25, 0.97
# A region that is not so many times what is certain is looked for a second time.
MUCH_MORE = 4
# GrabCut describes each side by five colours.
FEWEST_PIXELS = 5

Area = NDArray[np.bool_]


def can_find_regions() -> bool:
    """Whether OpenCV is installed, without which `region_at` fails."""
    return has_opencv()


def region_at(part: bytes, mask: bytes, click: tuple[float, float], reach: float, *, keep: bool) -> bytes:
    """The region around ``click`` in a PNG of the size of the photo's ``part``: white where it is; empty if none.

    ``part`` and ``mask`` are picture files of one size, at most `LARGEST_PART`; the mask is in the form of stored
    ones (black is kept). With ``keep`` the region is a part of what is replaced, and is to be kept; otherwise the
    other way round. ``click`` (x, y) and ``reach``, the distance from it within which the region ends, are in pixels.
    Where the region touches what is on its new side already, it overlaps it a little, so that no seam is left. The
    same arguments give the same region. Raises `ImageError` for files that cannot be used, `SettingsError` without
    OpenCV.
    """
    cv2 = opencv("finding what a click means", "use the brush")
    photo = open_photo(part, within=(LARGEST_PART, LARGEST_PART)).image.convert("RGB")
    kept = STORED.to_mask(open_photo(mask, within=(LARGEST_PART, LARGEST_PART)).image)
    scale = min(1.0, GRID / max(photo.size))
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    pixels = np.asarray(photo.resize(size, Image.Resampling.BOX))
    new_side = np.asarray(kept.resize(size, Image.Resampling.BOX)) >= HALF
    if not keep:
        new_side = ~new_side
    x, y = (min(side - 1, max(0, int(at * scale))) for side, at in zip(size, click, strict=True))
    found = None if new_side[y, x] else _grown(cv2, pixels, new_side, (x, y), reach * scale)
    if found is None:
        return b""
    overlapping = found | (_widened(cv2, found) & new_side)
    region = enlarge(Image.fromarray(np.where(overlapping, np.uint8(255), np.uint8(0))), photo)
    with io.BytesIO() as file:
        region.save(file, "PNG", compress_level=1)
        return file.getvalue()


def _grown(
    cv2: ModuleType, pixels: NDArray[np.uint8], new_side: Area, at: tuple[int, int], reach: float
) -> Area | None:
    """The connected pixels around ``at`` that change to the ``new_side``; None if none do."""
    height, width = new_side.shape
    down, right = np.ogrid[:height, :width]
    distance = np.hypot(right - at[0], down - at[1])
    may = ~new_side & (distance <= max(1.0, OUTSIDE * reach))
    clicked = may & (distance <= max(1.5, CLICKED * reach))
    sides = np.full(new_side.shape, cv2.GC_BGD, np.uint8)
    sides[may] = cv2.GC_PR_BGD
    sides[may & (distance <= LIKELY * reach)] = cv2.GC_PR_FGD
    sides[clicked | new_side] = cv2.GC_FGD
    changing = np.isin(sides, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if min(int(changing.sum()), int((~changing).sum())) < FEWEST_PIXELS:
        return None
    make_deterministic(cv2)
    region = _cut(cv2, pixels, sides, may, at)
    if region.sum() < MUCH_MORE * clicked.sum():
        # Where the new side looks quite different, its many pixels outvote the click's: only these count then.
        alike = pixels.copy()
        alike[new_side] = np.resize(pixels[clicked], (int(new_side.sum()), 3))
        region = _cut(cv2, alike, sides, may, at)
    return region if region.sum() >= FEWEST_PIXELS else None


def _cut(
    cv2: ModuleType, pixels: NDArray[np.uint8], sides: NDArray[np.uint8], may: Area, at: tuple[int, int]
) -> Area:
    """The connected pixels around ``at`` that GrabCut puts on the other side, among those that ``may`` change."""
    cut, colours = sides.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.grabCut(np.ascontiguousarray(pixels), cut, None, *colours, ROUNDS, cv2.GC_INIT_WITH_MASK)
    changed = (np.isin(cut, (cv2.GC_FGD, cv2.GC_PR_FGD)) & may).astype(np.uint8)
    _, number = cv2.connectedComponents(changed, connectivity=4)
    region: Area = (number == number[at[1], at[0]]) & (changed > 0)
    return region


def _widened(cv2: ModuleType, area: Area) -> Area:
    grown: Area = cv2.dilate(area.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    return grown
