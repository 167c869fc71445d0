"""Finds the mask of a picture's subject with OpenCV, without a model file.

Two rough masks are made on a copy of at most 224 px: one from contrast to the border, one from faces or the centre.
The edge of the clearer mask, or of their union, is refined at 400 px, and a guided filter scales it to the picture's
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]

CONTRAST_SIDE = 128
GUESS_SIDE = 224
EDGE_SIDE = 400


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in shares (0–1) of the picture's width and height, as in Rekognition's bounding boxes."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """The right edge, 0–1."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """The lower edge, 0–1."""
        return self.top + self.height

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in whole pixels, clipped to the picture and at least one pixel large."""
        left = min(max(round(self.left * width), 0), width - 1)
        top = min(max(round(self.top * height), 0), height - 1)
        right = max(min(round(self.right * width), width), left + 1)
        bottom = max(min(round(self.bottom * height), height), top + 1)
        return left, top, right, bottom


@dataclass(frozen=True, slots=True)
class SubjectMask:
    """A subject: ``mask`` in the picture's size (255 = subject, grey only at the edge), its box, confidence 0–1."""

    mask: Pixels
    box: Box
    confidence: float


def make_deterministic() -> None:
    """Makes OpenCV's results the same in every process: one thread and a fixed seed."""
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)


def downscale(picture: Pixels, side: int) -> Pixels:
    """The picture with its longer side reduced to at most ``side`` pixels."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def find_subject(picture: Pixels, faces: Sequence[Box] = (), box: Box | None = None) -> SubjectMask | None:
    """The subject of a BGR picture, or None if nothing is salient.

    With ``box`` it is the subject inside the box; with ``faces`` the people they belong to; otherwise the region that
    contrasts with the left, upper and right border (subjects often touch the lower one).
    """
    if box is not None:
        return _find_in_box(picture, faces, box)
    make_deterministic()
    if min(picture.shape[:2]) < 16:
        return None
    sketch = downscale(picture, GUESS_SIDE)
    contrast = contrast_to_border(downscale(picture, CONTRAST_SIDE))
    if contrast is None:
        return None
    salient = _grabcut(sketch, _start_from_contrast(sketch, contrast, faces))
    near = [face for face in faces if face.width * picture.shape[1] > 0.15 * min(picture.shape[:2])]
    guess = _grabcut(sketch, _start_from_faces(sketch, near) if near else _start_from_centre(sketch))
    overlap = _overlap(salient, guess)
    if near:
        chosen = guess
    else:
        other = salient | guess if overlap > 0.6 else guess
        # If both masks are equally clear, the larger one is usually right.
        chosen = max(salient, other, key=lambda mask: _score(sketch, mask) + 0.3 * np.mean(mask > 0))
    score = _score(sketch, chosen)
    if score < 0.25:
        return None
    mask = _upscale_mask(_refine_edge(downscale(picture, EDGE_SIDE), chosen), picture)
    if not (mask > 127).any():
        return None
    return SubjectMask(mask, _bounding_box(mask), min(0.99, 0.15 + 0.6 * score + 0.25 * overlap))


def _find_in_box(picture: Pixels, faces: Sequence[Box], box: Box) -> SubjectMask | None:
    height, width = picture.shape[:2]
    margin_x, margin_y = 0.08 * box.width, 0.08 * box.height
    wider = Box(box.left - margin_x, box.top - margin_y, box.width + 2 * margin_x, box.height + 2 * margin_y)
    left, top, right, bottom = wider.pixels(width, height)
    wide, high = right - left, bottom - top
    inside = [
        Box(
            (face.left * width - left) / wide,
            (face.top * height - top) / high,
            face.width * width / wide,
            face.height * height / high,
        )
        for face in faces
        if left < (face.left + face.width / 2) * width < right
        and top < (face.top + face.height / 2) * height < bottom
    ]
    subject = find_subject(picture[top:bottom, left:right], inside)
    if subject is None:
        return None
    mask = np.zeros((height, width), np.uint8)
    mask[top:bottom, left:right] = subject.mask
    return SubjectMask(mask, _bounding_box(mask), subject.confidence)


def contrast_to_border(picture: Pixels) -> Pixels | None:
    """Colour distance (0–255) of each pixel to the left, upper and right border; None for a uniform picture.

    It is the minimum barrier distance in CIE Lab (Zhang et al., ICCV 2015), computed by sweeps in four directions.
    """
    lab = cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 1), cv2.COLOR_BGR2LAB).astype(np.float32)
    distance = np.full(lab.shape, np.inf, np.float32)
    distance[0] = 0
    distance[:, [0, -1]] = 0
    highest, lowest = lab.copy(), lab.copy()
    for turn in (0, 1, 2, 3, 0, 1, 2, 3):
        _sweep(*(np.rot90(plane, turn) for plane in (lab, distance, highest, lowest)))
    total = distance.sum(axis=2)
    peak = float(np.percentile(total, 99))
    if peak < 12:
        return None
    return np.asarray(np.clip(total * (255 / peak), 0, 255), np.uint8)


def _sweep(lab: Plane, distance: Plane, highest: Plane, lowest: Plane) -> None:
    for row in range(1, len(lab)):
        high = np.maximum(highest[row - 1], lab[row])
        low = np.minimum(lowest[row - 1], lab[row])
        better = high - low < distance[row]
        np.copyto(distance[row], high - low, where=better)
        np.copyto(highest[row], high, where=better)
        np.copyto(lowest[row], low, where=better)


def _start_from_contrast(sketch: Pixels, contrast: Pixels, faces: Sequence[Box]) -> Pixels:
    height, width = sketch.shape[:2]
    level, _ = cv2.threshold(contrast, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    grown = cv2.resize(contrast, (width, height), interpolation=cv2.INTER_LINEAR)
    start = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    start[grown < 0.25 * level] = cv2.GC_BGD
    start[grown > level] = cv2.GC_PR_FGD
    start[grown > (level + 255) / 2] = cv2.GC_FGD
    for face in faces:
        left, top, right, bottom = face.pixels(width, height)
        start[top:bottom, left:right] = cv2.GC_FGD
    return start


def _start_from_centre(sketch: Pixels) -> Pixels:
    height, width = sketch.shape[:2]
    start = np.full((height, width), cv2.GC_BGD, np.uint8)
    centre = (width // 2, height // 2)
    cv2.ellipse(start, centre, (int(0.46 * width), int(0.46 * height)), 0, 0, 360, cv2.GC_PR_BGD, -1)
    cv2.ellipse(start, centre, (int(0.33 * width), int(0.33 * height)), 0, 0, 360, cv2.GC_PR_FGD, -1)
    return start


def _start_from_faces(sketch: Pixels, faces: Sequence[Box]) -> Pixels:
    height, width = sketch.shape[:2]
    start = np.full((height, width), cv2.GC_BGD, np.uint8)
    # Head and shoulders in units of the face: (half width, how far below the face's lower edge).
    widest = ((0.9, 0.1), (1.0, 0.3), (2.2, 0.8), (2.6, 2.0), (2.6, 20))
    likely = ((0.5, 0), (0.6, 0.3), (1.4, 0.6), (1.7, 1.5), (1.7, 20))
    for grade, shoulders, head in (
        (cv2.GC_PR_BGD, widest, (1.0, 1.3)),
        (cv2.GC_PR_FGD, likely, (0.75, 0.95)),
    ):
        for face in faces:
            left, top, right, bottom = face.pixels(width, height)
            wide, high, middle = right - left, bottom - top, (left + right) // 2
            side = [(half * wide, min(bottom + below * high, height)) for half, below in shoulders]
            outline = [(middle - x, y) for x, y in side] + [(middle + x, y) for x, y in reversed(side)]
            cv2.fillPoly(start, [np.array(outline, np.int32)], grade)
            axes = (int(head[0] * wide), int(head[1] * high))
            cv2.ellipse(start, (middle, (top + bottom) // 2), axes, 0, 0, 360, grade, -1)
    for face in faces:
        left, top, right, bottom = face.pixels(width, height)
        wide, high, middle = right - left, bottom - top, (left + right) // 2
        axes = (int(0.4 * wide), int(0.5 * high))
        cv2.ellipse(start, (middle, (top + bottom) // 2), axes, 0, 0, 360, cv2.GC_FGD, -1)
        cv2.rectangle(start, (middle - wide // 4, bottom), (middle + wide // 4, height), cv2.GC_FGD, -1)
    return start


def _grabcut(picture: Pixels, start: Pixels) -> Pixels:
    """A cleaned 0/255 mask; all 0 if ``start`` has only foreground or only background."""
    foreground = np.isin(start, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not foreground.any() or foreground.all():
        return np.zeros_like(start)
    cv2.setRNGSeed(0)
    labels = start.copy()
    inside, outside = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(picture, labels, (0, 0, 1, 1), outside, inside, 2, cv2.GC_INIT_WITH_MASK)
    return _remove_specks_and_holes(
        np.where(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)), 255, 0).astype(np.uint8)
    )


def _remove_specks_and_holes(mask: Pixels) -> Pixels:
    """The mask without specks (parts smaller than a tenth of the largest part) and without small holes."""
    mask = np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)), np.uint8)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    specks = 1 + np.flatnonzero(areas < areas.max(initial=0) / 10)
    mask[np.isin(parts, specks)] = 0
    _, gaps, stats, _ = cv2.connectedComponentsWithStats(255 - mask, connectivity=4)
    holes = 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] < 0.004 * mask.size)
    mask[np.isin(gaps, holes)] = 255
    return mask


def _score(sketch: Pixels, mask: Pixels) -> float:
    """Quality of a mask, 0–1: colour step along its edge, times how much the colours of both sides differ."""
    share = np.count_nonzero(mask) / mask.size
    if not 0.004 < share < 0.92:
        return 0.0
    lab = cv2.cvtColor(sketch, cv2.COLOR_BGR2LAB)
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    means, histograms = [], []
    for side in (mask, 255 - mask):
        weight = cv2.blur((side > 0).astype(np.float32), (7, 7)) + 1e-6
        local = cv2.blur(np.where(side[..., None] > 0, lab, 0).astype(np.float32), (7, 7))
        means.append(local / weight[..., None])
        counts = cv2.calcHist([lab], [0, 1, 2], side, [16, 16, 16], [0, 256] * 3)
        histograms.append(counts / counts.sum())
    step = float(np.clip(np.linalg.norm(means[0] - means[1], axis=2)[edge] / 40, 0, 1).mean())
    difference = 1 - float(np.minimum(*histograms).sum())
    return float(step * np.sqrt(difference) * min(1.0, np.sqrt(share / 0.04)))


def _overlap(one: Pixels, other: Pixels) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0


def _refine_edge(picture: Pixels, guess: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    grown = cv2.resize(guess, (width, height), interpolation=cv2.INTER_LINEAR)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (13, 13))
    start = np.where(grown > 127, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    start[cv2.erode(grown, reach) > 250] = cv2.GC_FGD
    start[cv2.dilate(grown, reach) < 5] = cv2.GC_BGD
    gaps = _background_gaps(picture, start)
    start[(cv2.dilate(gaps, reach) > 0) & (start == cv2.GC_FGD)] = cv2.GC_PR_FGD
    start[gaps > 0] = cv2.GC_PR_BGD
    start[cv2.erode(gaps, np.ones((5, 5), np.uint8)) > 0] = cv2.GC_BGD
    mask = _grabcut(picture, start)
    smooth = cv2.GaussianBlur(mask, (0, 0), 1.5)
    return np.asarray(np.where(smooth > 127, 255, 0), np.uint8)


def _background_gaps(picture: Pixels, start: Pixels) -> Pixels:
    """A 0/1 mask of foreground pixels whose green or blue is much more common outside, e.g. lawn between legs.

    Warm colours are ignored, because skin, fur and wood are too similar.
    """
    lab = cv2.cvtColor(cv2.GaussianBlur(picture, (0, 0), 1.5), cv2.COLOR_BGR2LAB)
    inside = start == cv2.GC_FGD
    counts = [
        cv2.GaussianBlur(
            cv2.calcHist([lab], [1, 2], side.astype(np.uint8), [32, 32], [0, 256] * 2), (0, 0), 1.3
        )
        for side in (inside, start == cv2.GC_BGD)
    ]
    common = counts[1] / (counts[0] + counts[1] + 1)
    green_red, blue_yellow = lab[..., 1].astype(int), lab[..., 2].astype(int)
    outdoors = (green_red < 118) | (blue_yellow < 114)
    likely = common[green_red * 32 // 256, blue_yellow * 32 // 256].astype(np.float32)
    gaps = inside & outdoors & (cv2.GaussianBlur(likely, (0, 0), 2) > 0.75)
    return np.asarray(
        cv2.morphologyEx(gaps.astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)), np.uint8
    )


def _upscale_mask(mask: Pixels, picture: Pixels) -> Pixels:
    """The mask in the picture's size, by a guided filter fitted on the small picture and applied to the full one."""
    height, width = picture.shape[:2]
    grey = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).astype(np.float32) / 255
    guide = cv2.resize(grey, mask.shape[::-1], interpolation=cv2.INTER_AREA)
    target = mask.astype(np.float32) / 255
    window = (7, 7)
    mean_guide, mean_target = cv2.blur(guide, window), cv2.blur(target, window)
    variance = cv2.blur(guide * guide, window) - mean_guide**2
    slope = (cv2.blur(guide * target, window) - mean_guide * mean_target) / (variance + 1e-3)
    level = cv2.blur(mean_target - slope * mean_guide, window)
    slope = cv2.blur(slope, window)
    soft = cv2.resize(slope, (width, height)) * grey + cv2.resize(level, (width, height))
    soft = np.clip((soft - 0.5) * 2.5 + 0.5, 0, 1) * 255
    # Use the guided result only near the edge: shading inside the subject must not become holes.
    kernel = np.ones((5, 5), np.uint8)
    certain = cv2.resize(cv2.erode(mask, kernel), (width, height)) > 250
    possible = cv2.resize(cv2.dilate(mask, kernel), (width, height)) > 5
    return np.asarray(np.where(certain, 255, np.where(possible, soft, 0)), np.uint8)


def _bounding_box(mask: Pixels) -> Box:
    height, width = mask.shape
    left, top, wide, high = cv2.boundingRect((mask > 127).astype(np.uint8))
    return Box(left / width, top / height, wide / width, high / height)
