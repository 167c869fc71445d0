"""Whether a mask can be right, told before anything is paid for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.connected_components import components

# Judged at this longer side: what a person sees in a thumbnail, and the same cost for any photo.
LONG_SIDE = 256
# Below this share of the picture a mask is a speck: a ring on a full-length portrait is about 0.5 %.
TINY = 0.005
# Above this share there is no background left worth paying for.
EVERYTHING = 0.97
# A portrait touches the bottom and some of both sides, under half of the frame; an inverted mask most of it.
MOST_OF_FRAME = 0.7
# Three pairs of shoes are six pieces; a mask that needs more than this for 90 % of its area is confetti.
MANY_PIECES = 8
BULK = 0.9
# A matte that is half-transparent on this much of its own area has not decided what the subject is.
MOST_UNDECIDED = 0.4
# Half-transparency that a person drew, or that the photo itself has, is glass, not doubt.
MEANT = ("given", "alpha")
# Rekognition's boxes are loose by some percent: nearly all of a right mask lies in the boxes grown by SLACK.
SLACK = 0.1
LEAST_IN_BOXES = 0.6
# A bicycle fills a fifth of its box, a rope less; below this the mask has missed what the box is about.
LEAST_OF_BOX = 0.04


@dataclass(frozen=True)
class MaskVerdict:
    """Whether the mask may be paid for; ``reasons`` are sentences for people, empty when ``ok``."""

    ok: bool
    reasons: tuple[str, ...]


def validate_mask(
    mask: Mask | Image.Image,
    *,
    boxes: Sequence[Box] = (),
    expected: int | None = None,
    beyond: bool = False,
) -> MaskVerdict:
    """The verdict on ``mask``: empty, tiny, everything, around the frame, in pieces, undecided, or not in ``boxes``.

    ``boxes`` are those of the chosen labels or faces; a mask must reach each of them and lie mostly in
    them, unless the subject goes ``beyond`` them as people do beyond their faces. ``expected`` is how
    many separate things the subject may be (default: the number of boxes). Every defect that applies is told,
    an empty mask alone. Takes a few milliseconds for any size.
    """
    picture = mask.picture if isinstance(mask, Mask) else mask
    small = _small(picture)
    inside = small >= 0.5
    share = float(inside.mean())
    if not inside.any():
        return MaskVerdict(False, ("the mask is empty: no subject was found",))
    reasons = []
    if share < TINY:
        reasons.append(f"the subject is tiny: {share:.2%} of the picture")
    if share > EVERYTHING:
        reasons.append(f"the mask keeps {share:.1%} of the picture: there is no background left to replace")
    else:
        frame = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
        if frame.mean() > MOST_OF_FRAME:
            reasons.append(
                f"the mask touches {frame.mean():.0%} of the picture's frame: it may hold the background, "
                "not the subject"
            )
    soft = float(((small > 0.2) & (small < 0.8)).sum() / (small > 0.2).sum())
    meant = isinstance(mask, Mask) and mask.source in MEANT
    if soft > MOST_UNDECIDED and not meant:
        reasons.append(f"the mask is half-transparent on {soft:.0%} of its area: it did not decide")
    reasons += _in_pieces(inside, max(expected or 0, len(boxes)))
    if boxes:
        reasons += _at_odds(inside, boxes, beyond)
    return MaskVerdict(not reasons, tuple(reasons))


def _small(picture: Image.Image) -> NDArray[np.float32]:
    scale = max(picture.size) / LONG_SIDE
    if scale > 1:
        size = (max(1, round(picture.width / scale)), max(1, round(picture.height / scale)))
        picture = picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(picture, np.float32) / np.float32(255)


def _in_pieces(inside: NDArray[np.bool_], expected: int) -> list[str]:
    _, counts = components(inside)
    largest_first = np.sort(counts[1:])[::-1]
    needed = int(np.searchsorted(np.cumsum(largest_first), BULK * largest_first.sum())) + 1
    if needed <= max(MANY_PIECES, 2 * expected):
        return []
    return [
        f"the mask is in pieces: it takes {needed} of its {len(largest_first)} to make up {BULK:.0%} of it"
    ]


def _at_odds(inside: NDArray[np.bool_], boxes: Sequence[Box], beyond: bool) -> list[str]:
    height, width = inside.shape
    in_boxes = np.zeros_like(inside)
    reasons = []
    for number, box in enumerate(boxes, 1):
        left, top, right, bottom = box.grown(SLACK).pixels((width, height))
        in_boxes[top:bottom, left:right] = True
        left, top, right, bottom = box.pixels((width, height))
        covered = float(inside[top:bottom, left:right].mean())
        if covered < LEAST_OF_BOX:
            what = f"“{box.name}”" if box.name else "the label"
            which = f" (box {number} of {len(boxes)})" if len(boxes) > 1 else ""
            reasons.append(f"the mask misses {what}{which}: it covers {covered:.0%} of its box")
    kept = float(inside[in_boxes].sum() / inside.sum())
    if kept < LEAST_IN_BOXES and not beyond:
        reasons.append(f"only {kept:.0%} of the mask lies in the boxes of the chosen labels")
    return reasons
