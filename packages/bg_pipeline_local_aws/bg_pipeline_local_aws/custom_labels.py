"""Rekognition Custom Labels: a model version that is started, used while it runs, and stopped."""

import time
from typing import Annotated, Any

from pydantic import Field

from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.rekognition import (
    Body,
    Percent,
    Picture,
    box,
    check,
    looked_at,
    parsed,
    received,
)
from bg_pipeline_local_aws.rules import Window
from bg_pipeline_local_aws.studio import Studio
from bg_pipeline_local_aws.wire import AwsError, Call

MOST_BYTES = 4 * 1024 * 1024
MOST_RUNNING = 2
PROJECT_NUMBER = 1735689600000


class _Version(Body):
    project_version_arn: str


class _Start(_Version):
    min_inference_units: Annotated[int, Field(ge=1, le=5)]
    max_inference_units: Annotated[int, Field(ge=1, le=5)] | None = None


class _Projects(Body):
    project_names: tuple[str, ...] = ()
    next_token: str = ""
    max_results: Annotated[int, Field(ge=1, le=100)] = 100


class _Describe(Body):
    project_arn: str
    version_names: tuple[str, ...] = ()
    next_token: str = ""
    max_results: Annotated[int, Field(ge=1, le=100)] = 100


class _Detect(_Version):
    image: Picture
    max_results: Annotated[int, Field(ge=0)] | None = None
    min_confidence: Percent = 50.0


async def start_project_version(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """STARTING; from then on it is billed by the hour, used or not."""
    request = parsed(_Start, call)
    window = await _window(request, call, control)
    now = time.monotonic()
    if window.status(now) not in ("TRAINING_COMPLETED", "STOPPED", "FAILED"):
        raise AwsError("ResourceInUseException", f"The model is {window.status(now)}.")
    running = [
        other
        for arn, other in control.windows.items()
        if _region(arn) == call.region and other.status(now) in ("STARTING", "RUNNING")
    ]
    if len(running) >= MOST_RUNNING:
        raise AwsError("LimitExceededException", f"At most {MOST_RUNNING} models may run at a time.")
    window.start(now, request.min_inference_units)
    return {"Status": "STARTING"}


async def stop_project_version(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """STOPPING."""
    window = await _window(parsed(_Version, call), call, control)
    now = time.monotonic()
    if window.status(now) != "RUNNING":
        raise AwsError(
            "ResourceInUseException", f"The model is {window.status(now)}; only a RUNNING one can be stopped."
        )
    window.stop(now)
    return {"Status": "STOPPING"}


async def describe_projects(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """The projects that the models belong to, on one page; as on AWS, their numbers are not their models'."""
    request = parsed(_Projects, call)
    control.admit(call)
    projects = {arn.partition("/version/")[0] for arn in control.windows if _region(arn) == call.region}
    return {
        "ProjectDescriptions": [
            {"ProjectArn": f"{project}/{PROJECT_NUMBER}", "Status": "CREATED", "Feature": "CUSTOM_LABELS"}
            for project in sorted(projects)
            if not request.project_names or project.partition("/")[2] in request.project_names
        ]
    }


async def describe_project_versions(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """The versions of a project with their states, on one page."""
    request = parsed(_Describe, call)
    call.model = request.project_arn
    control.admit(call)
    project = request.project_arn.rpartition("/")[0]
    found = {arn: window for arn, window in control.windows.items() if arn.startswith(f"{project}/version/")}
    if not found or _region(project) != call.region:
        raise AwsError("ResourceNotFoundException", "The project was not found.")
    now = time.monotonic()
    return {
        "ProjectVersionDescriptions": [
            {
                "ProjectVersionArn": arn,
                "Status": window.status(now),
                "StatusMessage": "The model failed to start." if window.status(now) == "FAILED" else "",
                "MinInferenceUnits": window.units,
                "Feature": "CUSTOM_LABELS",
            }
            for arn, window in found.items()
            if not request.version_names or arn.split("/")[3] in request.version_names
        ]
    }


async def detect_custom_labels(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """The model's labels, while it runs."""
    request = parsed(_Detect, call)
    call.model = request.project_version_arn
    image = await received(request.image, call, control, MOST_BYTES)
    window = _known(request, call, control)
    if window.status(time.monotonic()) != "RUNNING":
        raise AwsError("ResourceNotReadyException", "The model is not running.")
    check(image, shortest=64, longest=4096, aspect=20)
    seen = await looked_at(image, control, studio)
    subject = seen["labels"][0]["boxes"][:1] if seen["labels"] else []
    own: list[dict[str, Any]] = [
        {"name": name, "confidence": 90.0, "boxes": subject} for name in window.model.labels
    ]
    found: list[dict[str, Any]] = []
    for label in own or seen["labels"]:
        if label["confidence"] >= request.min_confidence:
            named = {"Name": label["name"], "Confidence": label["confidence"]}
            found += [{**named, "Geometry": {"BoundingBox": box(place)}} for place in label["boxes"]] or [
                named
            ]
    return {"CustomLabels": found[: request.max_results]}


async def _window(request: _Version, call: Call, control: Control) -> Window:
    call.model = request.project_version_arn
    control.admit(call)
    return _known(request, call, control)


def _known(request: _Version, call: Call, control: Control) -> Window:
    window = control.windows.get(request.project_version_arn)
    if window is None or _region(request.project_version_arn) != call.region:
        raise AwsError("ResourceNotFoundException", "The project version was not found.")
    return window


def _region(arn: str) -> str:
    return arn.split(":")[3]
