"""Rekognition Custom Labels: starting, using, describing and stopping model versions."""

import time
from typing import Annotated, Any

from pydantic import Field

from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.protocol import AwsError, Call
from bg_pipeline_local_aws.rekognition import (
    ImageParameter,
    Percent,
    RequestBody,
    admit_image,
    analyze_image,
    bounding_box,
    check_dimensions,
    parse_request,
)
from bg_pipeline_local_aws.render_pool import RenderPool
from bg_pipeline_local_aws.rules import ModelVersion

MAX_BYTES = 4 * 1024 * 1024
MAX_RUNNING = 2
PROJECT_NUMBER = 1735689600000


class _VersionRequest(RequestBody):
    project_version_arn: str


class _StartRequest(_VersionRequest):
    min_inference_units: Annotated[int, Field(ge=1, le=5)]
    max_inference_units: Annotated[int, Field(ge=1, le=5)] | None = None


class _ProjectsRequest(RequestBody):
    project_names: tuple[str, ...] = ()
    next_token: str = ""
    max_results: Annotated[int, Field(ge=1, le=100)] = 100


class _DescribeRequest(RequestBody):
    project_arn: str
    version_names: tuple[str, ...] = ()
    next_token: str = ""
    max_results: Annotated[int, Field(ge=1, le=100)] = 100


class _DetectRequest(_VersionRequest):
    image: ImageParameter
    max_results: Annotated[int, Field(ge=0)] | None = None
    min_confidence: Percent = 50.0


async def start_project_version(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """Starts a version; on AWS it is billed by the hour from then on, used or not."""
    request = parse_request(_StartRequest, call)
    version = await _admitted_version(request, call, control)
    now = time.monotonic()
    if version.status(now) not in ("TRAINING_COMPLETED", "STOPPED", "FAILED"):
        raise AwsError("ResourceInUseException", f"The model is {version.status(now)}.")
    running = [
        other
        for arn, other in control.custom_models.items()
        if _region(arn) == call.region and other.status(now) in ("STARTING", "RUNNING")
    ]
    if len(running) >= MAX_RUNNING:
        raise AwsError("LimitExceededException", f"At most {MAX_RUNNING} models may run at a time.")
    version.start(now, request.min_inference_units)
    return {"Status": "STARTING"}


async def stop_project_version(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """Stops a running version."""
    version = await _admitted_version(parse_request(_VersionRequest, call), call, control)
    now = time.monotonic()
    if version.status(now) != "RUNNING":
        raise AwsError(
            "ResourceInUseException",
            f"The model is {version.status(now)}; only a RUNNING one can be stopped.",
        )
    version.stop(now)
    return {"Status": "STOPPING"}


async def describe_projects(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """The projects of all models, on one page; as on AWS, the number in a project's ARN differs from its models'."""
    request = parse_request(_ProjectsRequest, call)
    control.admit(call)
    projects = {arn.partition("/version/")[0] for arn in control.custom_models if _region(arn) == call.region}
    return {
        "ProjectDescriptions": [
            {"ProjectArn": f"{project}/{PROJECT_NUMBER}", "Status": "CREATED", "Feature": "CUSTOM_LABELS"}
            for project in sorted(projects)
            if not request.project_names or project.partition("/")[2] in request.project_names
        ]
    }


async def describe_project_versions(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """The versions of a project with their status, on one page."""
    request = parse_request(_DescribeRequest, call)
    call.model = request.project_arn
    control.admit(call)
    project = request.project_arn.rpartition("/")[0]
    versions = {
        arn: version
        for arn, version in control.custom_models.items()
        if arn.startswith(f"{project}/version/")
    }
    if not versions or _region(project) != call.region:
        raise AwsError("ResourceNotFoundException", "The project was not found.")
    now = time.monotonic()
    return {
        "ProjectVersionDescriptions": [
            {
                "ProjectVersionArn": arn,
                "Status": version.status(now),
                "StatusMessage": "The model failed to start." if version.status(now) == "FAILED" else "",
                "MinInferenceUnits": version.units,
                "Feature": "CUSTOM_LABELS",
            }
            for arn, version in versions.items()
            if not request.version_names or arn.split("/")[3] in request.version_names
        ]
    }


async def detect_custom_labels(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """The model's labels; ResourceNotReadyException unless the version is RUNNING."""
    request = parse_request(_DetectRequest, call)
    call.model = request.project_version_arn
    image = await admit_image(request.image, call, control, MAX_BYTES)
    version = _version(request, call, control)
    if version.status(time.monotonic()) != "RUNNING":
        raise AwsError("ResourceNotReadyException", "The model is not running.")
    check_dimensions(image, shortest=64, longest=4096, aspect=20)
    detected = (await analyze_image(image, control, pool))["labels"]
    subject = detected[0]["boxes"][:1] if detected else []
    custom: list[dict[str, Any]] = [
        {"name": name, "confidence": 90.0, "boxes": subject} for name in version.model.labels
    ]
    labels: list[dict[str, Any]] = []
    for label in custom or detected:
        if label["confidence"] >= request.min_confidence:
            common = {"Name": label["name"], "Confidence": label["confidence"]}
            labels += [
                {**common, "Geometry": {"BoundingBox": bounding_box(box)}} for box in label["boxes"]
            ] or [common]
    return {"CustomLabels": labels[: request.max_results]}


async def _admitted_version(request: _VersionRequest, call: Call, control: Control) -> ModelVersion:
    call.model = request.project_version_arn
    control.admit(call)
    return _version(request, call, control)


def _version(request: _VersionRequest, call: Call, control: Control) -> ModelVersion:
    version = control.custom_models.get(request.project_version_arn)
    if version is None or _region(request.project_version_arn) != call.region:
        raise AwsError("ResourceNotFoundException", "The project version was not found.")
    return version


def _region(arn: str) -> str:
    return arn.split(":")[3]
