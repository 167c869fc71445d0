from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.labelers import box, custom_labels, faces, rekognition
from bg_pipeline_tests.golden import golden

MODEL = "arn:aws:rekognition:us-east-1:111122223333:project/mugs/version/1/1700000000000"


def test_labels_are_requested_with_the_minimum_confidence():
    assert rekognition.request(b"jpeg", min_confidence=70) == {
        "Image": {"Bytes": b"jpeg"},
        "MinConfidence": 70,
        "MaxLabels": 1000,
    }


def test_an_answer_becomes_labels_with_boxes_clipped_to_the_photo():
    document = rekognition.document(golden("labels/detect_labels.answer"))
    assert document["Model"] == "rekognition:DetectLabels 3.0"
    bus, person, city, _ = document["Labels"]
    assert bus == {
        "Name": "Bus",
        "Confidence": 99.81,
        "Instances": [
            {"BoundingBox": {"Left": 0.102346, "Top": 0.25, "Width": 0.5, "Height": 0.6}, "Confidence": 98.52}
        ],
        "Parents": [{"Name": "Transportation"}, {"Name": "Vehicle"}],
    }
    assert [place["BoundingBox"] for place in person["Instances"]] == [
        {"Left": 0.0, "Top": 0.4, "Width": 0.19, "Height": 0.6},
        {"Left": 0.95, "Top": 0.1, "Width": 0.05, "Height": 0.3},
    ]
    assert city["Instances"] == []


def test_an_answer_without_labels_is_an_empty_document():
    document: Any = rekognition.document({})
    assert document == {"Model": "rekognition:DetectLabels", "Labels": []}


@given(*[st.floats(-2, 2, allow_nan=False)] * 2, *[st.floats(0, 3, allow_nan=False)] * 2)
def test_a_box_never_leaves_the_photo(left, top, width, height):
    inside = box({"Left": left, "Top": top, "Width": width, "Height": height})
    if inside is not None:
        assert 0 <= inside["Left"] <= 1
        assert 0 <= inside["Top"] <= 1
        assert inside["Left"] + inside["Width"] <= 1 + 2e-6
        assert inside["Top"] + inside["Height"] <= 1 + 2e-6


@pytest.mark.parametrize("left", [-0.5, 1.0, 1.5])
def test_a_box_outside_the_photo_is_none(left):
    assert box({"Left": left, "Top": 0.1, "Width": 0.2, "Height": 0.2}) is None


def test_all_faces_are_read_and_clipped_to_the_photo():
    assert faces.request(b"jpeg") == {"Image": {"Bytes": b"jpeg"}, "Attributes": ["DEFAULT"]}
    places = faces.face_boxes(golden("labels/detect_faces.answer"))
    assert [place["BoundingBox"] for place in places] == [
        {"Left": 0.4, "Top": 0.1, "Width": 0.2, "Height": 0.3},
        {"Left": 0.9, "Top": 0.0, "Width": 0.1, "Height": 0.15},
    ]
    assert faces.face_boxes({}) == []


def test_glasses_with_enough_confidence_are_found_among_the_labels():
    document = rekognition.document(golden("labels/detect_labels.answer"))
    assert faces.glasses(document["Labels"]) == [{"Left": 0.03, "Top": 0.42, "Width": 0.05, "Height": 0.03}]


def test_custom_labels_are_requested_with_seventy_percent_confidence():
    assert custom_labels.request(MODEL, b"jpeg") == {
        "ProjectVersionArn": MODEL,
        "Image": {"Bytes": b"jpeg"},
        "MinConfidence": 70.0,
    }


def test_custom_labels_become_one_label_per_name_with_all_instances():
    document = custom_labels.document(golden("labels/detect_custom_labels.answer"), MODEL)
    assert document["Model"] == f"rekognition:DetectCustomLabels {MODEL}"
    mug, in_stock = document["Labels"]
    assert (mug["Name"], mug["Confidence"], len(mug["Instances"])) == ("mug", 91.5, 2)
    assert (in_stock["Name"], in_stock["Instances"]) == ("in-stock", [])
    assert custom_labels.document({}, MODEL)["Labels"] == []
