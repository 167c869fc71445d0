"""Labels from a model of one's own in Rekognition Custom Labels: ``DetectCustomLabels``.

The model has to run (`ResourceNotReadyException` otherwise) and is billed by the hour while it does.
"""

from collections.abc import Mapping
from typing import Any

from bg_pipeline.generators import Operation
from bg_pipeline.labelers import Label, Labels, Limits, instance

OPERATION = Operation("DETECT_CUSTOM_LABELS", "", service="rekognition")
LIMITS = Limits(max_bytes=4_000_000, min_side=64, max_side=4096)
MIN_CONFIDENCE = 70.0
NOT_RUNNING = "ResourceNotReadyException"


def request(
    project_version_arn: str, picture: bytes, min_confidence: float = MIN_CONFIDENCE
) -> dict[str, Any]:
    """The arguments of ``detect_custom_labels`` for an upright JPEG or PNG within `LIMITS`."""
    return {
        "ProjectVersionArn": project_version_arn,
        "Image": {"Bytes": picture},
        "MinConfidence": min_confidence,
    }


def region(project_version_arn: str) -> str:
    """The Region in which the model lives."""
    return project_version_arn.split(":")[3]


def document(response: Mapping[str, Any], project_version_arn: str) -> Labels:
    """The answer as part of a labels document: one label a name, with the places where it was seen.

    ``Confidence`` of a label is its surest place's. A model of whole images gives labels without places.
    """
    labels: dict[str, Label] = {}
    for given in response.get("CustomLabels") or ():
        confidence = round(given.get("Confidence", 0.0), 3)
        label = labels.setdefault(
            given["Name"], {"Name": given["Name"], "Confidence": confidence, "Instances": [], "Parents": []}
        )
        label["Confidence"] = max(label["Confidence"], confidence)
        geometry = given.get("Geometry") or {}
        place = instance(geometry["BoundingBox"], confidence) if "BoundingBox" in geometry else None
        if place:
            label["Instances"].append(place)
    return {
        "Model": f"rekognition:DetectCustomLabels {project_version_arn}",
        "Labels": list(labels.values()),
    }
