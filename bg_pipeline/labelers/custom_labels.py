"""Labels from the user's own Rekognition Custom Labels model: ``DetectCustomLabels``.

The model must be running (otherwise ``ResourceNotReadyException``), and is billed by the hour while it runs.
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
    """The Region of the model, from its ARN."""
    return project_version_arn.split(":")[3]


def document(response: Mapping[str, Any], project_version_arn: str) -> Labels:
    """The response as part of a labels document: one label for each name, with all its instances.

    ``Confidence`` of a label is the highest of its instances. Image-level models return labels without instances.
    """
    labels: dict[str, Label] = {}
    for detected in response.get("CustomLabels") or ():
        confidence = round(detected.get("Confidence", 0.0), 3)
        label = labels.setdefault(
            detected["Name"],
            {"Name": detected["Name"], "Confidence": confidence, "Instances": [], "Parents": []},
        )
        label["Confidence"] = max(label["Confidence"], confidence)
        geometry = detected.get("Geometry") or {}
        found = instance(geometry["BoundingBox"], confidence) if "BoundingBox" in geometry else None
        if found:
            label["Instances"].append(found)
    return {
        "Model": f"rekognition:DetectCustomLabels {project_version_arn}",
        "Labels": list(labels.values()),
    }
