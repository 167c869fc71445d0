"""How sure a found mask is: what speaks against it in the photo itself and in the network's mask.

Each sign is measured on a small copy, 0 where nothing speaks against the mask and 1 where much does. Their weighted
sum gives the confidence. Weights were fitted on rendered photos with exact mattes; `python -m benchmarks.subjects`
measures on others how many wrong masks are doubted, and how many right ones. numpy and Pillow only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from bg_pipeline.masks.ground import Ground, Plane, ground_around, grown

Area = NDArray[np.bool_]

LONG_SIDE = 384
"""The longer side of the copies that are measured, in pixels."""

DOUBTFUL = 0.4
"""A mask with a lower confidence is for review."""

WEIGHTS: Final[Mapping[str, float]] = {
    "ground inside": 4.5,
    "translucent": 4.1,
    "loose strands": 2.5,
    "network unsteady": 2.5,
    "network differs": 2.2,
    "edge like ground": 2.0,
    "network unsure": 0.4,
    "undecided": 0.1,
}
START = 1.9
"""The sum without any sign: a confidence of 0.87."""

SENTENCES: Final[Mapping[str, str]] = {
    "ground inside": "the background seems to show through holes that the mask keeps",
    "translucent": "the subject seems to be translucent, and the mask keeps the background seen through it",
    "loose strands": "fine strands beside the mask seem to belong to the subject",
    "network unsteady": "the network sees another subject in the mirrored photo",
    "network differs": "the network sees another subject",
    "edge like ground": "along its edge the photo looks like the background",
    "network unsure": "the network is not sure of the subject",
    "undecided": "much of it is half-transparent",
}

# Pixels are like the background up to so many of its deviations.
LIKE, VERY_LIKE = 2.0, 1.2
# From this deviation, of 0..1, a background is textured.
TEXTURED = 0.045
# Pixels nearer to the mask's edge than this are mixtures; what grows or shrinks by OPENED pixels is thin.
RIM, OPENED = 2, 3
# A picture's part that is not in the mask and not near it counts as background.
BESIDE = 3


@dataclass(frozen=True)
class Opinion:
    """``confidence`` is 0..1. ``signs`` has the strength of each sign, 0..1, by its name in `WEIGHTS`.

    ``doubt`` is a sentence with the strongest signs, empty where the confidence is not below `DOUBTFUL`. ``where``
    is a small picture (mode "L", 255 = there), in the photo's shape.
    """

    confidence: float
    signs: Mapping[str, float] = field(default_factory=dict)
    doubt: str = ""
    where: Image.Image | None = None


@dataclass(frozen=True)
class Seen:
    """What the network sees in a photo: masks of any size with its own soft values.

    ``subject`` is what it takes for the subject that the mask is to show. ``mirrored`` is the same seen in the
    mirrored photo, and turned back. ``everything`` is what is no background, where the mask is to show only a part.
    """

    subject: Image.Image
    mirrored: Image.Image | None = None
    everything: Image.Image | None = None


def second_opinion(photo: Image.Image, mask: Image.Image, seen: Seen | None = None) -> Opinion:
    """The opinion on ``mask`` (mode "L", 255 = kept) of an upright photo.

    A mask that keeps nothing, or leaves no background, has the confidence 0. About 0.1 s of one core.
    """
    scale = min(1.0, LONG_SIDE / max(photo.size))
    size = max(8, round(photo.width * scale)), max(8, round(photo.height * scale))
    colours = _unit(photo.resize(size, Image.Resampling.BOX, reducing_gap=2.0).convert("RGB"))
    kept = _unit(mask.resize(size, Image.Resampling.BOX, reducing_gap=2.0))
    if not (kept > 0.5).any() or (kept > 0.5).all():
        return Opinion(0.0, doubt="the mask keeps nothing, or everything")
    found = _Signs(colours, kept, seen).found()
    signs = {name: round(strength, 3) for name, (strength, _) in found.items()}
    total = START - sum(WEIGHTS[name] * strength for name, strength in signs.items())
    confidence = round(1 / (1 + math.exp(-total)), 3)
    if confidence >= DOUBTFUL:
        return Opinion(confidence, signs)
    strongest = sorted(signs, key=lambda name: -WEIGHTS[name] * signs[name])[:2]
    named = [name for name in strongest if WEIGHTS[name] * signs[name] >= 0.5]
    where = np.any([found[name][1] for name in named], axis=0)
    return Opinion(
        confidence,
        signs,
        f"the mask is doubtful (confidence {confidence:.2f}): {' and '.join(SENTENCES[name] for name in named)}; "
        "look at the mask, and give one (MaskKey) if it is wrong",
        Image.fromarray(np.uint8(255) * np.asarray(where, np.uint8)),
    )


class _Signs:
    """``colours`` (height, width, 3) and the mask (height, width), 0..1."""

    def __init__(self, colours: Plane, mask: Plane, seen: Seen | None) -> None:
        self.colours, self.mask, self.seen = colours, mask, seen
        self.inside: Area = mask > 0.5
        self.area = max(1, int(self.inside.sum()))
        self.outside = ~grown(mask > 0.03, BESIDE)
        if seen is not None and seen.everything is not None:
            self.outside &= self._resized(seen.everything) < 0.3
        if self.outside.mean() < 0.02:
            self.outside = mask <= 0.03
        self.core = ~grown(mask < 0.9, RIM)
        self.ground: Ground = ground_around(colours, self.outside)
        unlike = self.ground.unlike[self.inside]
        self.contrast = float(np.percentile(np.minimum(unlike, 1e3), 90))
        self.textured = float(np.median(self.ground.deviation[grown(self.inside, 6)])) > TEXTURED
        self.thin = _thin(colours.mean(axis=2))
        reach = max(6, round(0.35 * math.sqrt(self.area)))
        self.near = self.outside & grown(self.inside, reach) & ~grown(mask > 0.05, BESIDE)
        far = ~grown(self.inside, reach)
        # The thin structure of the background itself.
        usual = np.percentile(self.thin[far], 95) if far.sum() > 50 else 0.02
        self.usual_thin = 1.3 * float(usual)

    def found(self) -> dict[str, tuple[float, Area]]:
        """The strength of each sign, and where it is."""
        signs = {
            "ground inside": self._ground_inside(),
            "translucent": self._translucent(),
            "loose strands": self._loose(),
            "edge like ground": self._edge(),
            "undecided": (
                _ramp(float(np.minimum(self.mask, 1 - self.mask).sum() / self.mask.sum()), 0.04, 0.12),
                (self.mask > 0.1) & (self.mask < 0.9),
            ),
        }
        if self.seen is not None:
            signs |= self._network(self.seen)
        return signs

    def _resized(self, picture: Image.Image) -> Plane:
        return _unit(picture.resize(self.mask.shape[::-1], Image.Resampling.BICUBIC))

    def _clear(self, weak: float, plain: float) -> float:
        """0..1: whether the subject differs from the background enough to say anything.

        Before a textured background nothing can be said: on real photos half of the subject has its colours.
        """
        return 0.0 if self.textured else _ramp(self.contrast, weak, plain)

    def _ground_inside(self) -> tuple[float, Area]:
        core = max(1, int(self.core.sum()))
        like = self.core & (self.ground.unlike < LIKE)
        # Holes have edges; a smooth subject in the background's colour has none.
        structure = float((self.core & (self.thin > max(0.03, self.usual_thin))).sum() / core)
        like_itself = self.outside & (self.ground.unlike < VERY_LIKE)
        usual = max(0.2, float(like_itself.sum() / max(1, self.outside.sum())))
        very_like = float((self.core & (self.ground.unlike < VERY_LIKE)).sum() / core)
        share = _ramp(very_like / usual, 0.02, 0.12) * self._clear(7, 11)
        return share * _ramp(structure, 0.02, 0.06), like

    def _translucent(self) -> tuple[float, Area]:
        """Inner pixels whose colour lies between the background's and that of the subject's densest parts."""
        apart = self.colours - self.ground.mean
        distance = np.where(self.inside, np.sqrt((apart * apart).sum(axis=2)), 0)
        dense = self.inside & (distance >= np.percentile(distance[self.inside], 93))
        way = self.colours[dense].mean(axis=0) - self.ground.mean
        length = (way * way).sum(axis=2) + np.float32(1e-6)
        share = (apart * way).sum(axis=2) / length
        off = apart - share[..., None] * way
        between = (share > 0.12) & (share < 0.6) & (length > 0.01)
        straight = np.sqrt((off * off).sum(axis=2)) < 0.04 + 0.1 * np.sqrt(length)
        seen = self.core & between & straight
        core = max(1, int(self.core.sum()))
        amount = float(seen.sum() / core)
        # A box has faces of two shades; what is translucent has no more than rims and drops of its densest colour.
        solid = float((self.core & straight & (share > 0.85)).sum() / core)
        return _ramp(amount, 0.22, 0.4) * _ramp(solid, 0.36, 0.25) * self._clear(7.5, 10), seen

    def _loose(self) -> tuple[float, Area]:
        strands = self.near & (self.thin > max(0.02, self.usual_thin))
        return _ramp(float(strands.sum() / self.area), 0.1, 0.7), strands

    def _edge(self) -> tuple[float, Area]:
        rim = self.inside & grown(~self.inside, RIM)
        like = rim & (self.ground.unlike < LIKE)
        return _ramp(float(like.sum() / max(1, rim.sum())), 0.08, 0.3) * self._clear(7, 11), like

    def _network(self, seen: Seen) -> dict[str, tuple[float, Area]]:
        subject = self._resized(seen.subject)
        visible = subject[subject > 0.05]
        sure = float(np.abs(2 * visible - 1).mean()) if visible.size else 0.0
        signs = {
            "network differs": (
                _ramp(1 - _overlap(self.mask, subject), 0.06, 0.35),
                np.abs(self.mask - subject) > 0.5,
            ),
            "network unsure": (_ramp(1 - sure, 0.05, 0.2), (subject > 0.1) & (subject < 0.9)),
        }
        if seen.mirrored is not None:
            mirrored = self._resized(seen.mirrored)
            signs["network unsteady"] = (
                _ramp(1 - _overlap(mirrored, subject), 0.06, 0.3),
                np.abs(mirrored - subject) > 0.5,
            )
        return signs


def _overlap(one: Plane, other: Plane) -> float:
    """Intersection over union of two soft masks."""
    return float(np.minimum(one, other).sum() / max(1e-6, float(np.maximum(one, other).sum())))


def _thin(light: Plane) -> Plane:
    """How much brighter or darker each pixel is than everything wider than a few pixels around it."""
    picture = Image.fromarray((255 * light).astype(np.uint8))
    width = 2 * OPENED + 1
    low = picture.filter(ImageFilter.MinFilter(width)).filter(ImageFilter.MaxFilter(width))
    high = picture.filter(ImageFilter.MaxFilter(width)).filter(ImageFilter.MinFilter(width))
    values = np.asarray(picture, np.float32)
    return np.asarray(
        np.maximum(values - np.asarray(low, np.float32), np.asarray(high, np.float32) - values) / 255,
        np.float32,
    )


def _unit(picture: Image.Image) -> Plane:
    return np.asarray(picture, np.float32) / np.float32(255)


def _ramp(value: float, none: float, full: float) -> float:
    """0 at ``none`` and before, 1 at ``full`` and beyond."""
    return float(np.clip((value - none) / (full - none), 0, 1))
