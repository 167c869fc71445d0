"""From the names a person chose to boxes, and from boxes to the parts of a cut-out that lie in them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from bg_pipeline.masks import Mask, Source
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.caption_subject import singular
from bg_pipeline.masks.connected_components import components

# Parts are told apart at this longer side; their edges come from the cut-out itself, at full size.
LONG_SIDE = 512
# Rekognition's boxes may cut a hand or a wheel short by this share of their side.
SLACK = 0.06
# A piece with this share of its area in the boxes belongs to them; less is a neighbour that reaches in.
MOST_OF_PIECE = 0.6
# A piece that fills this share of a box is (also) what the box is about, and is cut at the box.
LEAST_OF_BOX = 0.15


def usable_labels(document: Mapping[str, Any]) -> list[str]:
    """The names in a labels document that have at least one box, in its order: the default subject words.

    A label without a box (a scene, a mood, a colour) cannot be cut out of a picture.
    """
    return [label["Name"] for label in document.get("Labels", ()) if label.get("Instances")]


def chosen_boxes(document: Mapping[str, Any], names: Iterable[str]) -> list[Box]:
    """The boxes of the labels that ``names`` mean, in the document's order, equal boxes once.

    A name means a label if they are equal but for case and a plural ending ("buses" is ``Bus``), or if it
    is one of the label's parents ("vehicle" means the boxes of ``Car`` too). No match is an empty list.
    """
    wanted = {singular(name) for name in names}
    boxes: dict[tuple[float, float, float, float], Box] = {}
    for label in document.get("Labels", ()):
        if wanted.isdisjoint(map(singular, [label["Name"], *_parents(label)])):
            continue
        for instance in label.get("Instances", ()):
            box = Box.read(instance["BoundingBox"], label["Name"])
            boxes.setdefault((box.left, box.top, box.right, box.bottom), box)
    return list(boxes.values())


def parts(cut: Mask, boxes: Sequence[Box], *, source: Source = "labels", whole: bool = False) -> Mask | None:
    """The parts of ``cut`` that ``boxes`` are about, with the cut-out's own soft edge; None if there are none.

    A connected piece is kept whole if most of it lies in the boxes; a piece that fills a box and goes
    on outside it is cut at the box, softly, or kept whole too if ``whole`` (boxes of faces, which mean the
    person). Memory: two bytes for each pixel of the cut-out.
    """
    picture = cut.picture
    scale = min(1.0, LONG_SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    inside = np.asarray(picture.resize(size, Image.Resampling.BOX, reducing_gap=2.0)) >= 128
    numbers, counts = components(inside)
    count = len(counts)

    in_boxes = np.zeros_like(inside)
    reaches = np.zeros(count, bool)
    for box in boxes:
        left, top, right, bottom = box.grown(SLACK).pixels(size)
        in_boxes[top:bottom, left:right] = True
        left, top, right, bottom = box.pixels(size)
        in_box = np.bincount(numbers[top:bottom, left:right].ravel(), minlength=count)
        reaches |= in_box >= LEAST_OF_BOX * (right - left) * (bottom - top)
    belongs = np.bincount(numbers[in_boxes], minlength=count) >= MOST_OF_PIECE * np.maximum(counts, 1)
    if whole:
        belongs |= reaches
    belongs[0] = reaches[0] = False
    kept = belongs[numbers] | (reaches[numbers] & in_boxes)
    if not kept.any():
        return None
    gate = _near(kept, inside & ~kept, picture.size)
    return replace(
        cut,
        picture=ImageChops.multiply(picture, gate),
        source=source,
        computed_from=cut.computed_from and f"{cut.computed_from} {_digits(boxes)} {whole}",
    )


def _parents(label: Mapping[str, Any]) -> Iterable[str]:
    """The parents' names, in Rekognition's form ({"Name": …}) or as plain names."""
    for parent in label.get("Parents", ()):
        yield parent["Name"] if isinstance(parent, Mapping) else parent


def _digits(boxes: Sequence[Box]) -> list[tuple[float, ...]]:
    return [tuple(round(side, 3) for side in (box.left, box.top, box.right, box.bottom)) for box in boxes]


def _near(kept: NDArray[np.bool_], dropped: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """White where a soft edge is nearer to ``kept`` than to ``dropped``, at ``size``, with a soft border."""

    def spread(where: NDArray[np.bool_]) -> NDArray[np.int16]:
        blurred = Image.fromarray(where.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(3))
        return np.asarray(blurred, np.int16)

    # Without neighbours nothing needs separating, and hair far from its head stays.
    if not dropped.any():
        return Image.new("L", size, 255)
    nearer = 128 + 64 * (spread(kept) - spread(dropped))
    nearer[(spread(kept) == 0) & (spread(dropped) == 0)] = 0
    gate = Image.fromarray(np.clip(nearer, 0, 255).astype(np.uint8))
    return gate.resize(size, Image.Resampling.BILINEAR)
