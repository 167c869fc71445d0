"""The stand-in's Rekognition."""

from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.local_aws.pictures import ball, refusal

if TYPE_CHECKING:
    from types_boto3_rekognition import RekognitionClient
    from types_boto3_s3 import S3Client

pytestmark = pytest.mark.usefixtures("control")


def test_labels_have_rekognitions_structure(rekognition: "RekognitionClient") -> None:
    answer = rekognition.detect_labels(Image={"Bytes": ball((640, 480), "JPEG")}, MinConfidence=0)
    assert answer["LabelModelVersion"] == "3.0"
    for label in answer["Labels"]:
        assert 0 <= label["Confidence"] <= 100
        for instance in label["Instances"]:
            assert set(instance["BoundingBox"]) == {"Left", "Top", "Width", "Height"}
    confidences = [label["Confidence"] for label in answer["Labels"]]
    assert confidences == sorted(confidences, reverse=True)


def test_labels_are_limited_by_number_confidence_and_name(
    rekognition: "RekognitionClient", control: ControlClient
) -> None:
    control.switch(canned=True)
    image: Any = {"Bytes": ball()}
    assert [label["Name"] for label in rekognition.detect_labels(Image=image)["Labels"]] == ["Object"]
    assert rekognition.detect_labels(Image=image, MinConfidence=99)["Labels"] == []
    assert rekognition.detect_labels(Image=image, MaxLabels=0)["Labels"] == []
    for name, found in (("LabelInclusionFilters", 0), ("LabelExclusionFilters", 1)):
        settings: Any = {"GeneralLabels": {name: ["Cat"]}}
        assert len(rekognition.detect_labels(Image=image, Settings=settings)["Labels"]) == found


def test_a_picture_without_faces_has_none(rekognition: "RekognitionClient") -> None:
    assert rekognition.detect_faces(Image={"Bytes": ball()}, Attributes=["ALL"])["FaceDetails"] == []


def test_a_picture_can_be_read_from_s3(
    rekognition: "RekognitionClient", s3: "S3Client", bucket: str, control: ControlClient
) -> None:
    s3.put_object(Bucket=bucket, Key="a ball.png", Body=ball())
    by_key = rekognition.detect_labels(Image={"S3Object": {"Bucket": bucket, "Name": "a ball.png"}})
    by_bytes = rekognition.detect_labels(Image={"Bytes": ball()})
    assert by_key["Labels"] == by_bytes["Labels"]
    assert len({call["image"] for call in control.calls()}) == 1


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ({"Bytes": ball(media="WEBP")}, "InvalidImageFormatException"),
        ({"Bytes": b"<html>"}, "InvalidImageFormatException"),
        ({"Bytes": ball()[:300]}, "InvalidImageFormatException"),
        ({"Bytes": ball((400, 79))}, "InvalidParameterException"),
        ({"Bytes": ball((10_001, 100))}, "ImageTooLargeException"),
        ({"Bytes": ball() + bytes(5_242_880)}, "ImageTooLargeException"),
        ({"S3Object": {"Bucket": "no-such-bucket", "Name": "x"}}, "InvalidS3ObjectException"),
        ({}, "InvalidParameterException"),
    ],
)
def test_pictures_outside_of_rekognitions_limits_are_refused(
    rekognition: "RekognitionClient", image: Any, code: str
) -> None:
    for call in (rekognition.detect_labels, rekognition.detect_faces):
        found, _, status = refusal(lambda call=call: call(Image=image))  # type: ignore[misc]
        assert (found, status) == (code, 400)


@pytest.mark.parametrize(
    "settings",
    [
        {"MinConfidence": 101},
        {"Features": ["COLOURS"]},
        {"Settings": {"ImageProperties": {"MaxDominantColors": 5}}},
    ],
)
def test_unknown_settings_are_refused(settings: Any) -> None:
    unchecked = boto3.client("rekognition", config=Config(parameter_validation=False))
    assert (
        refusal(lambda: unchecked.detect_labels(Image={"Bytes": ball()}, **settings))[0]
        == "InvalidParameterException"
    )
