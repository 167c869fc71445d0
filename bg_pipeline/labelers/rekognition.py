"""Labels from Amazon Rekognition's ``DetectLabels``: pure functions over its request and its answer."""

from collections.abc import Mapping
from typing import Any

from bg_pipeline.generators import Operation
from bg_pipeline.labelers import Label, Labels, Limits, instance

OPERATION = Operation("DETECT_LABELS", "", service="rekognition")
LIMITS = Limits(max_bytes=5_242_880, min_side=80, max_side=10_000)


def request(picture: bytes, min_confidence: float = 55.0, max_labels: int = 1000) -> dict[str, Any]:
    """The arguments of ``detect_labels`` for a JPEG or PNG within `LIMITS`.

    The picture has to be upright without EXIF orientation: only then do boxes refer to what was sent.
    """
    return {"Image": {"Bytes": picture}, "MinConfidence": min_confidence, "MaxLabels": max_labels}


def document(response: Mapping[str, Any]) -> Labels:
    """The answer as part of a labels document, labels and places in the service's order."""
    version = response.get("LabelModelVersion", "")
    return {
        "Model": f"rekognition:DetectLabels {version}".strip(),
        "Labels": [_label(given) for given in response.get("Labels") or ()],
    }


def _label(given: Mapping[str, Any]) -> Label:
    places = (instance(i["BoundingBox"], i.get("Confidence", 0.0)) for i in given.get("Instances") or ())
    return {
        "Name": given["Name"],
        "Confidence": round(given.get("Confidence", 0.0), 3),
        "Instances": [place for place in places if place],
        "Parents": [{"Name": parent["Name"]} for parent in given.get("Parents") or ()],
    }
