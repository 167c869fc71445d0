"""Boxes of the chosen labels, and the parts of a mask that lie in boxes."""

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

# Components are found at this longer side; their edges come from the mask itself, at full size.
LONG_SIDE = 512
# Rekognition's boxes may cut a hand or a wheel short by this share of their side.
SLACK = 0.06
# A component with this share of its area in the boxes belongs to them; with less it is a neighbour that reaches in.
MOST_OF_COMPONENT = 0.6
# A component that fills this share of a box belongs to the box, too, and is cut at the box.
LEAST_OF_BOX = 0.15


def usable_labels(document: Mapping[str, Any]) -> list[str]:
    """The names in a labels document that have at least one box, in its order: the default subject words.

    A label without a box (a scene, a mood, a colour) cannot be cut out of a picture.
    """
    return [label["Name"] for label in document.get("Labels", ()) if label.get("Instances")]


def chosen_boxes(document: Mapping[str, Any], names: Iterable[str]) -> list[Box]:
    """The boxes of the labels that ``names`` mean, in the document's order, equal boxes once.

    A name means a label if they are equal except for case and plural ("buses" is ``Bus``), or if it is one of the
    label's parents ("vehicle" means the boxes of ``Car``, too). Without a match the list is empty.
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
    """The parts of ``cut`` that belong to ``boxes``, with the mask's own soft edge; None if there are none.

    A connected component is kept whole if most of it lies in the boxes. One that fills a box and continues outside is
    cut softly at the box, or kept whole with ``whole`` (boxes of faces, which mean the person). Memory: two bytes for
    each pixel of the mask.
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
    belongs = np.bincount(numbers[in_boxes], minlength=count) >= MOST_OF_COMPONENT * np.maximum(counts, 1)
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
    """A mask of ``size``, white where ``kept`` is nearer than ``dropped``, with a soft border."""

    def spread(where: NDArray[np.bool_]) -> NDArray[np.int16]:
        blurred = Image.fromarray(where.astype(np.uint8) * 255).filter(ImageFilter.BoxBlur(3))
        return np.asarray(blurred, np.int16)

    # Without dropped components nothing has to be separated, and hair far from its head stays.
    if not dropped.any():
        return Image.new("L", size, 255)
    nearer = 128 + 64 * (spread(kept) - spread(dropped))
    nearer[(spread(kept) == 0) & (spread(dropped) == 0)] = 0
    gate = Image.fromarray(np.clip(nearer, 0, 255).astype(np.uint8))
    return gate.resize(size, Image.Resampling.BILINEAR)
