"""The subject before a plain studio background: the pixels that the backdrop does not explain, refined by GrabCut."""

from types import ModuleType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]
Area = NDArray[np.bool_]

# GrabCut takes seconds at 1024 pixels and 0.1 s at 320, with smoother edges after refinement.
LONG_SIDE = 320
# Colour steps from pixel to pixel (all channels together) at this size. Grain, vignettes and cloudy
# backdrops stay below CALM, soft shadows below SOFT, outlines above.
CALM, SOFT = 3.0, 12.0
# Colours within this distance of the backdrop's count as backdrop.
SAME, VERY_SAME = 10.0, 6.0
# A smaller hole, as a share of the picture, is ignored; a larger one may be backdrop behind a handle, or a label.
SMALLEST_HOLE = 0.0006
# A bust that the frame cuts off fills up to a fifth of the frame; a wall or a table more.
MOST_OF_CUT_OFF = 0.2
# From this confidence on none of the rendered trials was wrong; below it the next mask source is tried.
SURE = 0.8


class PlainBackground:
    """One small picture, (height, width, 3), and the steps to its matte."""

    def __init__(self, cv2: ModuleType, picture: NDArray[np.uint8]) -> None:
        self.cv2 = cv2
        self.picture = picture
        self.colours: Plane = picture.astype(np.float32)
        self.smooth: Plane = cv2.GaussianBlur(self.colours, (0, 0), 0.8)
        steps = [cv2.Sobel(self.smooth, cv2.CV_32F, *axis, ksize=3, scale=1 / 8) for axis in ((1, 0), (0, 1))]
        self.steepness: Plane = np.sqrt(sum((step**2).sum(axis=2) for step in steps))
        self.frame = np.ones(picture.shape[:2], bool)
        self.frame[3:-3, 3:-3] = False

    def cut(self) -> tuple[Image.Image, float] | None:
        """The matte and its confidence, or None below `SURE`."""
        calm_frame = float((self.steepness[self.frame] < CALM).mean())
        if calm_frame < 0.75:
            return None
        calm = self._backdrop()
        if calm.mean() < 0.05:
            return None
        backdrop = self.cv2.GaussianBlur(self._spread(calm, (4, 8, 16, 32, 64, 128))[0], (0, 0), 4)
        distance = _length(self.smooth - backdrop)
        alike = self._alike(backdrop, distance) & (self.steepness < SOFT)
        reached = self._reached(alike)
        holes = self._components_above(alike & ~reached, SMALLEST_HOLE * reached.size)
        # GrabCut needs some pixels of both.
        if reached.mean() < 0.05 or (~reached & ~holes).mean() < 0.003:
            return None
        certain = self._certain(holes, distance, backdrop)
        subject = self._grab(reached | certain, holes, distance < SAME)
        if not subject.any() or subject.all():
            return None
        confidence = (
            _ramp(calm_frame, 0.70, 0.85)
            * self._agreement(subject, reached | holes)
            * _ramp(self._roughness_around(subject), 0.02, 0.006)
            * float((holes & ~self._grown(certain)).mean() < SMALLEST_HOLE)
        )
        return (self._matte(subject), confidence) if confidence >= SURE else None

    def _backdrop(self) -> Area:
        """The calm areas at the frame, except those of a smooth subject that the frame cuts off."""
        count, number = self.cv2.connectedComponents((self.steepness < CALM).astype(np.uint8), connectivity=4)
        on_frame = np.bincount(number[self.frame], minlength=count) / self.frame.sum()
        on_frame[0] = 0
        large = on_frame >= MOST_OF_CUT_OFF
        if not large.any():
            return np.zeros_like(self.frame)
        usual = np.median(self.colours[large[number]], axis=0)
        backdrop = large.copy()
        for piece in np.flatnonzero((on_frame > 0) & ~large):
            colour = np.median(self.colours[number == piece], axis=0)
            backdrop[piece] = float(np.linalg.norm(colour - usual)) < 3 * SAME
        return np.asarray(backdrop[number])

    def _reached(self, free: Area) -> Area:
        """The free pixels connected with the picture's frame."""
        count, number = self.cv2.connectedComponents(free.astype(np.uint8), connectivity=4)
        connected = np.zeros(count, bool)
        connected[np.unique(number[self.frame])] = True
        connected[0] = False
        return np.asarray(connected[number])

    def _spread(self, known: Area, reaches: tuple[int, ...]) -> tuple[Plane, Area]:
        """The colours of ``known`` pixels extended to the others from the nearest ones, and where that worked."""
        weight = known.astype(np.float32)
        colours = self.colours * weight[..., None]
        result, done = np.zeros_like(colours), np.zeros_like(known)
        for reach in reaches:
            window = (2 * reach + 1, 2 * reach + 1)
            share = self.cv2.blur(weight, window)
            new = (share > 0.03) & ~done
            result[new] = self.cv2.blur(colours, window)[new] / share[new][:, None]
            done |= new
        return result, done

    def _alike(self, backdrop: Plane, distance: Plane) -> Area:
        """Pixels with the colour of the backdrop, or of the backdrop in a shadow."""
        brightness = (backdrop**2).sum(axis=2)
        light = (self.smooth * backdrop).sum(axis=2) / (brightness + 50)
        off_colour = _length(self.smooth - light[..., None] * backdrop)
        shaded = (off_colour < 6 + 0.04 * np.sqrt(brightness)) & (light > 0.4) & (light < 1.15)
        return np.asarray((distance < SAME + 4) | shaded)

    def _grab(self, reached: Area, holes: Area, same: Area) -> Area:
        """GrabCut between the pixels reached from the frame and the others, without specks and pinholes."""
        cv2 = self.cv2
        labels = np.full(reached.shape, cv2.GC_BGD, np.uint8)
        labels[self._grown(~reached, 2) & ~(reached & same)] = cv2.GC_PR_BGD
        labels[~reached] = cv2.GC_PR_FGD
        labels[holes & ~reached] = cv2.GC_PR_BGD
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(self.picture, labels, None, *models, 2, cv2.GC_INIT_WITH_MASK)
        subject = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
        largest = self._sizes(subject)[1].max(initial=0)
        subject = self._components_above(subject, max(12, 0.01 * largest))
        number, sizes = self._sizes(~subject)
        backdrop_in = np.bincount(number[reached | holes], minlength=len(sizes) + 1)[1:]
        is_backdrop = np.concatenate([[False], backdrop_in > 0.3 * sizes])
        return ~is_backdrop[number]

    def _agreement(self, subject: Area, backdrop: Area) -> float:
        """0..1: how well GrabCut's result, by colour, matches what the outlines enclose, and lies on outlines."""
        area = int(subject.sum())
        enclosed = ~backdrop
        lost = (self._shrunk(enclosed) & ~subject).sum() / area
        added = (subject & ~self._grown(enclosed)).sum() / area
        rim = subject & ~self._shrunk(subject)
        unexplained = (~backdrop & ~self._grown(subject, 3)).sum() / rim.sum()
        outline = self.cv2.dilate(self.steepness, np.ones((3, 3)))
        faint = float((outline[rim] < 0.8 * SOFT).mean())
        opened = self.cv2.morphologyEx(
            subject.astype(np.uint8), self.cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)
        )
        hairy = (subject & (opened == 0)).sum() / area
        on_frame = float(subject[self.frame].mean())
        return (
            _ramp(lost + added, 0.15, 0.03)
            * _ramp(unexplained, 0.20, 0.05)
            * _ramp(faint, 0.40, 0.10)
            * _ramp(hairy, 0.12, 0.04)
            * _ramp(on_frame, 0.30, 0.20)
        )

    def _roughness_around(self, subject: Area) -> float:
        """The share of pixels around the subject rougher than the backdrop's grain: hair too fine to be seen here."""
        roughness = _length(self.colours - self.cv2.GaussianBlur(self.colours, (0, 0), 2))
        grain = float(np.percentile(roughness[self.frame], 95))
        around = self._grown(subject, 20) & ~self._grown(subject, 5)
        return float((roughness[around] > max(4, 2 * grain)).mean()) if around.any() else 0.0

    def _certain(self, holes: Area, distance: Plane, backdrop: Plane) -> Area:
        """Where a hole certainly shows the backdrop.

        Where the backdrop is blown out or black, a label on the product may have its exact colour.
        """
        clipped = (backdrop.max(axis=2) < 14) | (backdrop.min(axis=2) > 240)
        coloured = backdrop.max(axis=2) - backdrop.min(axis=2) > 30
        return np.asarray(holes & ((distance < VERY_SAME) | coloured) & ~clipped)

    def _matte(self, subject: Area) -> Image.Image:
        """The subject with a soft rim: the share of the subject's colour in each pixel."""
        inside, outside = self._shrunk(subject, 2), ~self._grown(subject, 2)
        inner, has_inner = self._spread(inside, (2, 4, 8, 16, 64))
        outer, has_outer = self._spread(outside, (2, 4, 8, 16, 64))
        direction = inner - outer
        length = (direction**2).sum(axis=2)
        share = ((self.colours - outer) * direction).sum(axis=2) / np.maximum(length, 1)
        share = np.clip((share - 0.05) / 0.9, 0, 1)
        separable = has_inner & has_outer & (length > 24**2)
        share = np.where(separable, share, subject)
        share[inside], share[outside] = 1, 0
        return Image.fromarray((255 * share + 0.5).astype(np.uint8))

    def _sizes(self, area: Area) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Each pixel's component number, 0 outside, and the sizes of components 1, 2 …"""
        _, number, stats, _ = self.cv2.connectedComponentsWithStats(area.astype(np.uint8), connectivity=4)
        return number, stats[1:, self.cv2.CC_STAT_AREA]

    def _components_above(self, area: Area, pixels: float) -> Area:
        number, sizes = self._sizes(area)
        return np.asarray(np.concatenate([[False], sizes >= pixels])[number])

    def _grown(self, area: Area, by: int = 1) -> Area:
        return np.asarray(
            self.cv2.dilate(area.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=by) > 0
        )

    def _shrunk(self, area: Area, by: int = 1) -> Area:
        return np.asarray(self.cv2.erode(area.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=by) > 0)


def _length(vectors: Plane) -> Plane:
    return np.asarray(np.sqrt((vectors**2).sum(axis=2)))


def _ramp(value: float, bad: float, good: float) -> float:
    """0 at ``bad`` or worse, 1 at ``good`` or better."""
    return float(np.clip((value - bad) / (good - bad), 0, 1))
