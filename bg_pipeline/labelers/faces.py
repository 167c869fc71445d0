"""Faces from Amazon Rekognition's ``DetectFaces``, and glasses from the labels of the same photo."""

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
    """Every face found (the service gives the 100 largest), in its order."""
    found = (
        instance(face["BoundingBox"], face.get("Confidence", 0.0))
        for face in response.get("FaceDetails") or ()
    )
    return [place for place in found if place]


def glasses(labels: Sequence[Label]) -> list[BoundingBox]:
    """Boxes of glasses and sunglasses among labels, seen with at least 70 percent confidence."""
    return [
        place["BoundingBox"]
        for label in labels
        if label["Name"] in GLASSES
        for place in label["Instances"]
        if place["Confidence"] >= GLASSES_CONFIDENCE
    ]
