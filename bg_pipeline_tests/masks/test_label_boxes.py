"""Boxes of chosen labels, and the parts of a mask in boxes."""

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from bg_pipeline.masks import Mask
from bg_pipeline.masks.boxes import Box
from bg_pipeline.masks.label_boxes import chosen_boxes, parts, usable_labels
from bg_pipeline_tests.masks.scenes import outline, overlap


def label(name: str, *lefts: float, parents: list[Any] | None = None) -> dict[str, Any]:
    instances = [
        {"BoundingBox": {"Left": left, "Top": 0.1, "Width": 0.1, "Height": 0.2}, "Confidence": 90.0}
        for left in lefts
    ]
    return {"Name": name, "Confidence": 95.0, "Instances": instances, "Parents": parents or []}


DOCUMENT = {
    "Labels": [
        label("City"),
        label("Bus", 0.1, 0.3, parents=[{"Name": "Vehicle"}, {"Name": "Transportation"}]),
        label("Person", 0.5),
        label("Car", 0.7, parents=["Vehicle"]),
    ]
}


def test_only_labels_with_boxes_are_usable() -> None:
    assert usable_labels(DOCUMENT) == ["Bus", "Person", "Car"]
    assert usable_labels({}) == []


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["Bus"], ["Bus", "Bus"]),
        (["buses", "PEOPLE"], ["Bus", "Bus", "Person"]),
        (["vehicles"], ["Bus", "Bus", "Car"]),
        (["Bus", "vehicle"], ["Bus", "Bus", "Car"]),
        (["City"], []),
        (["Dog"], []),
        ([], []),
    ],
)
def test_names_choose_boxes_whatever_their_case_and_number(names: list[str], found: list[str]) -> None:
    assert [box.name for box in chosen_boxes(DOCUMENT, names)] == found


# Two things side by side: a disc on the left, a triangle on the right.
SIZE = (900, 600)
DISC, TRIANGLE = Box(0.1, 0.25, 0.45, 0.75, "Disc"), Box(0.57, 0.15, 0.9, 0.8, "Triangle")


@pytest.fixture(name="cut")
def _cut() -> Mask:
    return Mask(outline("two", SIZE).filter(ImageFilter.GaussianBlur(2)), "cut-out", 0.9, ("a note",))


def left_half(picture: Image.Image) -> Image.Image:
    half = picture.copy()
    half.paste(0, (450, 0, 900, 600))
    return half


def test_the_part_in_the_box_is_kept_with_its_own_edge(cut: Mask) -> None:
    chosen = parts(cut, [DISC])
    assert chosen is not None
    difference = ImageChops.difference(chosen.picture, left_half(cut.picture))
    # The last gray level of a soft edge may go.
    assert max(difference.tobytes()) <= 2
    assert (chosen.source, chosen.confidence, chosen.notes) == ("labels", 0.9, ("a note",))


def test_all_boxes_keep_everything(cut: Mask) -> None:
    chosen = parts(cut, [DISC, TRIANGLE])
    assert chosen is not None
    assert chosen.picture.tobytes() == cut.picture.tobytes()


def test_a_box_that_cuts_its_subject_short_still_means_all_of_it(cut: Mask) -> None:
    chosen = parts(cut, [Box(0.14, 0.3, 0.42, 0.7)])
    assert chosen is not None
    assert overlap(chosen.picture, left_half(cut.picture)) == 1


def test_nothing_in_the_boxes_is_none(cut: Mask) -> None:
    assert parts(cut, [Box(0.46, 0, 0.56, 0.2)]) is None
    assert parts(Mask(Image.new("L", SIZE), "cut-out"), [DISC]) is None


def test_a_neighbour_reaching_into_the_box_is_left_out(cut: Mask) -> None:
    chosen = parts(cut, [Box(0.1, 0.25, 0.62, 0.78)])
    assert chosen is not None
    assert overlap(chosen.picture, left_half(cut.picture)) > 0.99


def test_joined_things_are_parted_at_the_box() -> None:
    joined = outline("two", SIZE)
    ImageDraw.Draw(joined).rectangle((200, 290, 700, 310), fill=255)
    chosen = parts(Mask(joined, "cut-out"), [DISC])
    assert chosen is not None
    pixels = np.asarray(chosen.picture)
    assert pixels[:, 480:].max() == 0
    assert overlap(chosen.picture, left_half(joined)) > 0.95


def test_a_face_means_the_whole_person() -> None:
    bust = outline("bust", SIZE)
    chosen = parts(Mask(bust, "cut-out"), [Box(0.42, 0.15, 0.58, 0.5)], source="faces", whole=True)
    assert chosen is not None
    assert (chosen.source, chosen.picture.tobytes()) == ("faces", bust.tobytes())


def test_parts_of_a_large_cut_out_keep_its_detail() -> None:
    hair = outline("hair", (2000, 1500))
    speck = Image.new("L", hair.size, 0)
    speck.paste(255, (50, 50, 250, 250))
    chosen = parts(Mask(ImageChops.lighter(hair, speck), "cut-out"), [Box(0.2, 0.1, 0.8, 0.9)])
    assert chosen is not None
    assert overlap(chosen.picture, hair) > 0.97
