"""Checks of a mask before anything is paid for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bg_pipeline.masks import FROM_USER, Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.connected_components import components

# The longer side of the copy that is checked: what a person sees in a thumbnail, and the same cost for any photo.
LONG_SIDE = 256
# For a mask from the user: pieces that touch must not fall apart in the copy.
LONG_SIDE_FROM_USER = 1024
# Below this share of the picture a mask is a speck: a ring on a full-length portrait is about 0.5 %.
TINY = 0.005
# Above this share there is no background left worth paying for.
EVERYTHING = 0.97
# A portrait touches the bottom and some of both sides, under half of the frame; an inverted mask most of it.
MOST_OF_FRAME = 0.7
# Three pairs of shoes are six pieces; a mask that needs more than this for 90 % of its area is confetti.
MANY_PIECES = 8
BULK = 0.9
# A matte that is half-transparent on this much of its own area does not separate the subject.
MOST_UNDECIDED = 0.4
# Rekognition's boxes are loose by some percent: nearly all of a right mask lies in the boxes grown by SLACK.
SLACK = 0.1
LEAST_IN_BOXES = 0.6
# A bicycle fills a fifth of its box, a rope less; below this share the mask does not contain what the box names.
LEAST_OF_BOX = 0.04
# A person's mask covers nearly all of the face's box; below this share the person is not in it.
LEAST_OF_FACE = 0.5
# Confidence from which the network's mask is used. On rendered subjects with exact mattes, wrong masks of chains and
# chairs had 0.62 to 0.82; the lowest of a right mask was 0.87 (0.87 to 0.98 on the demo's photos).
SURE_NETWORK = 0.85
# IoU below which two masks of one photo show different subjects. On rendered scenes, right masks of plain backgrounds
# agreed with the network to 0.97 at least, masks of something else to 0.48 at most; translucent glass, of which both
# show the same part, from 0.87 on (benchmarks/README.md).
LEAST_AGREEMENT = 0.85


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
    least_of_box: float = LEAST_OF_BOX,
) -> MaskVerdict:
    """The verdict on ``mask``: empty, tiny, everything, around the frame, in pieces, undecided, or not in ``boxes``.

    ``boxes`` are those of the chosen labels or faces; a mask must reach each of them and lie mostly in them,
    unless the subject goes ``beyond`` them as people go beyond their faces; ``least_of_box`` is the share of each box
    that it must cover. ``expected`` is the number of separate things that the subject may consist of (default: the
    number of boxes). Every defect that applies is in the reasons, an empty mask alone. Takes some milliseconds for
    any size.
    """
    picture = mask.picture if isinstance(mask, Mask) else mask
    from_user = isinstance(mask, Mask) and mask.source in FROM_USER
    small = _small(picture, LONG_SIDE_FROM_USER if from_user else LONG_SIDE)
    inside = small >= 0.5
    share = float(inside.mean())
    if not (small > 0 if from_user else inside).any():
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
                f"the mask touches {frame.mean():.0%} of the picture's frame: it may be the background, "
                "not the subject"
            )
    undecided = float(((small > 0.2) & (small < 0.8)).sum() / max(1, (small > 0.2).sum()))
    # What a person drew, or the photo itself has, is glass or cloth.
    if undecided > MOST_UNDECIDED and not from_user:
        reasons.append(
            f"the mask is half-transparent on {undecided:.0%} of its area: it does not separate the subject"
        )
    # Of the user's mask thin spokes and chain links count as joined while they touch at all.
    reasons += _in_pieces(small > 0 if from_user else inside, max(expected or 0, len(boxes)))
    if boxes:
        reasons += _not_in_boxes(inside, boxes, beyond, least_of_box)
    return MaskVerdict(not reasons, tuple(reasons))


def keeps_nothing_or_everything(mask: Mask) -> bool:
    """Whether the mask leaves no subject, or no background that could be replaced."""
    small = _small(mask.picture, LONG_SIDE)
    return not (small > 0).any() or float((small >= 0.5).mean()) > EVERYTHING


def disagreement(mask: Mask, network: Mask) -> str:
    """A sentence saying that the network's mask of the same photo is another one; empty where they agree."""
    one, other = (_small(each.picture, LONG_SIDE) >= 0.5 for each in (mask, network))
    agreement = float((one & other).sum() / max(1, (one | other).sum()))
    if agreement >= LEAST_AGREEMENT:
        return ""
    return (
        f"the mask ({mask.source}) and the network's mask overlap by only {agreement:.0%}, so one of them is wrong: "
        "look at the mask, and give one (MaskKey) or name the subject (Labels) if it is wrong"
    )


def _small(picture: Image.Image, long_side: int) -> NDArray[np.float32]:
    scale = max(picture.size) / long_side
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
        f"the mask is in pieces: {needed} of its {len(largest_first)} are needed for {BULK:.0%} of its area"
    ]


def _not_in_boxes(
    inside: NDArray[np.bool_], boxes: Sequence[Box], beyond: bool, least_of_box: float
) -> list[str]:
    height, width = inside.shape
    in_boxes = np.zeros_like(inside)
    reasons = []
    for number, box in enumerate(boxes, 1):
        left, top, right, bottom = box.grown(SLACK).pixels((width, height))
        in_boxes[top:bottom, left:right] = True
        left, top, right, bottom = box.pixels((width, height))
        covered = float(inside[top:bottom, left:right].mean())
        if covered < least_of_box:
            what = f"“{box.name}”" if box.name else "the label"
            which = f" (box {number} of {len(boxes)})" if len(boxes) > 1 else ""
            reasons.append(f"the mask misses {what}{which}: it covers {covered:.0%} of its box")
    kept = float(inside[in_boxes].sum() / max(1, inside.sum()))
    if kept < LEAST_IN_BOXES and not beyond:
        reasons.append(f"only {kept:.0%} of the mask lies in the boxes of the chosen labels")
    return reasons
