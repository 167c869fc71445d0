"""Faces from Amazon Rekognition ``DetectFaces``, and glasses from the labels of the same photo."""

from collections.abc import Mapping, Sequence
from typing import Any

from bg_pipeline.generators import Operation
from bg_pipeline.labelers import BoundingBox, Instance, Label, Limits, instance

OPERATION = Operation("DETECT_FACES", "", service="rekognition")
LIMITS = Limits(max_bytes=5_242_880, min_side=80, max_side=10_000)
GLASSES = ("Glasses", "Sunglasses")
GLASSES_CONFIDENCE = 70.0


def request(picture: bytes) -> dict[str, Any]:
    """The arguments of ``detect_faces`` for an upright JPEG or PNG within `LIMITS`."""
    return {"Image": {"Bytes": picture}, "Attributes": ["DEFAULT"]}


def face_boxes(response: Mapping[str, Any]) -> list[Instance]:
    """All faces in the response (the service returns the 100 largest), in its order."""
    boxes = (
        instance(face["BoundingBox"], face.get("Confidence", 0.0))
        for face in response.get("FaceDetails") or ()
    )
    return [box for box in boxes if box]


def glasses(labels: Sequence[Label]) -> list[BoundingBox]:
    """The boxes of glasses and sunglasses in ``labels`` with at least 70 percent confidence."""
    return [
        found["BoundingBox"]
        for label in labels
        if label["Name"] in GLASSES
        for found in label["Instances"]
        if found["Confidence"] >= GLASSES_CONFIDENCE
    ]
