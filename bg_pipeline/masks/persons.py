"""People around given faces, separated by GrabCut within their head-and-shoulders shapes."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from bg_pipeline.masks.boxes import Box

Area = NDArray[np.bool_]

LONG_SIDE = 320
ROUNDS = 4
# Hair, hats and arms extend this far beyond the shape, in widths of the largest face.
REACH = 0.7
# Certainly the person: the face's box without this much on each side; the forehead and hair above it, which GrabCut
# easily takes for a dark background; a strip of the chest below the chin. In shares of the box.
FACE_INSIDE, HAIR_ABOVE, CHEST_OUT = 0.08, 0.22, 0.22
# The result is compared with the shape down to this many face heights below the chin: further down it may end at a
# lap or at shoes, while the shape continues to the picture's lower edge.
COMPARED = 2.0
# The result's area there, as a share of the shape's; people are slimmer than the shape, rarely wider.
SLIMMEST, WIDEST = 0.45, 1.35
# Share of the outline along the limit of the allowed area: there the colours separated nothing.
MOST_AT_LIMIT = 0.12
# Share of the shape's inside, without a border of this share of a face, that the result must contain.
LEAST_OF_CORE, BORDER = 0.75, 0.35


def cut(
    cv2: ModuleType, picture: NDArray[np.uint8], shape: NDArray[np.uint8], faces: Sequence[Box]
) -> Image.Image | None:
    """The matte of the people in ``picture`` (height, width, 3), or None where it is not plausible.

    ``shape`` is their head-and-shoulders shape, 255 = kept, of the same height and width.
    """
    size = (picture.shape[1], picture.shape[0])
    widest = max(face.width * size[0] for face in faces)
    certain = _certain(faces, size)
    allowed = _grown(cv2, shape > 128, max(2, round(REACH * widest)))
    labels = np.full(shape.shape, cv2.GC_BGD, np.uint8)
    labels[allowed] = cv2.GC_PR_BGD
    labels[shape > 128] = cv2.GC_PR_FGD
    labels[certain] = cv2.GC_FGD
    if allowed.mean() > 0.98 or not certain.any():
        # No background is certain: both colour models would be learnt from the same pixels.
        return None
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(picture, labels, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    found = _without_specks(cv2, found, certain)
    if not _plausible(cv2, found, shape > 128, allowed, faces):
        return None
    return Image.fromarray(np.uint8(255) * found).filter(ImageFilter.GaussianBlur(0.8))


def _certain(faces: Sequence[Box], size: tuple[int, int]) -> Area:
    drawn = Image.new("L", size)
    draw = ImageDraw.Draw(drawn)
    for face in faces:
        left, top, right, bottom = face.grown(-FACE_INSIDE).pixels(size)
        draw.ellipse((left, top - HAIR_ABOVE * (bottom - top), right - 1, bottom - 1), fill=255)
        middle, out = (left + right) / 2, CHEST_OUT * face.width * size[0]
        chest = min(size[1], round(bottom + 1.1 * (bottom - top)))
        draw.rectangle((middle - out, (top + bottom) // 2, middle + out, chest), fill=255)
    return np.asarray(drawn) > 0


def _without_specks(cv2: ModuleType, found: Area, certain: Area) -> Area:
    """The components that contain a face, opened by a pixel, with their small holes closed."""
    kernel = np.ones((3, 3), np.uint8)
    opened = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_OPEN, kernel) | certain
    count, number = cv2.connectedComponents(opened.astype(np.uint8), connectivity=4)
    has_face = np.zeros(count, bool)
    has_face[np.unique(number[certain])] = True
    has_face[0] = False
    people = has_face[number]
    _, number, stats, _ = cv2.connectedComponentsWithStats((~people).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < 0.01 * people.sum()
    small[0] = False
    return np.asarray(people | small[number])


def _plausible(cv2: ModuleType, found: Area, shape: Area, allowed: Area, faces: Sequence[Box]) -> bool:
    height, width = shape.shape
    rows = np.arange(height)[:, None] / height
    compared = np.zeros_like(shape)
    for face in faces:
        reach = 2 * face.width * width / height
        columns = np.arange(width)[None] / width
        beside = (columns > face.left - reach) & (columns < face.right + reach)
        compared |= beside & (rows < face.bottom + COMPARED * face.height)
    expected, found_there = shape & compared, found & compared
    share = found_there.sum() / max(1, expected.sum())
    smallest = min(face.width for face in faces) * width
    inside = _shrunk(cv2, shape, max(1, round(BORDER * smallest))) & compared
    core = (found & inside).sum() / max(1, inside.sum())
    rim = found & ~_shrunk(cv2, found, 1)
    at_limit = (rim & ~_shrunk(cv2, allowed, 2)).sum() / max(1, rim.sum())
    return bool(SLIMMEST < share < WIDEST and core > LEAST_OF_CORE and at_limit < MOST_AT_LIMIT)


def _grown(cv2: ModuleType, area: Area, by: int) -> Area:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1))
    return np.asarray(cv2.dilate(area.astype(np.uint8), kernel) > 0)


def _shrunk(cv2: ModuleType, area: Area, by: int) -> Area:
    """Pixels beyond the picture's frame count as inside."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by + 1, 2 * by + 1))
    return np.asarray(cv2.erode(area.astype(np.uint8), kernel) > 0)
