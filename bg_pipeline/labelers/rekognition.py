"""Labels from Amazon Rekognition ``DetectLabels``: pure functions that build requests and parse responses."""

from collections.abc import Mapping
from typing import Any

from bg_pipeline.generators import Operation
from bg_pipeline.labelers import Label, Labels, Limits, instance

OPERATION = Operation("DETECT_LABELS", "", service="rekognition")
LIMITS = Limits(max_bytes=5_242_880, min_side=80, max_side=10_000)


def request(picture: bytes, min_confidence: float = 55.0, max_labels: int = 1000) -> dict[str, Any]:
    """The arguments of ``detect_labels`` for a JPEG or PNG within `LIMITS`.

    The picture must be upright and without EXIF orientation; otherwise the boxes do not refer to its pixels as sent.
    """
    return {"Image": {"Bytes": picture}, "MinConfidence": min_confidence, "MaxLabels": max_labels}


def document(response: Mapping[str, Any]) -> Labels:
    """The response as part of a labels document; labels and instances in the service's order."""
    version = response.get("LabelModelVersion", "")
    return {
        "Model": f"rekognition:DetectLabels {version}".strip(),
        "Labels": [_label(detected) for detected in response.get("Labels") or ()],
    }


def _label(detected: Mapping[str, Any]) -> Label:
    instances = (
        instance(i["BoundingBox"], i.get("Confidence", 0.0)) for i in detected.get("Instances") or ()
    )
    return {
        "Name": detected["Name"],
        "Confidence": round(detected.get("Confidence", 0.0), 3),
        "Instances": [each for each in instances if each],
        "Parents": [{"Name": parent["Name"]} for parent in detected.get("Parents") or ()],
    }
