"""The stand-in's Custom Labels: a model version is started, used and stopped."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_local_aws.rules import CustomModel, ModelVersion
from bg_pipeline_tests.local_aws.pictures import ball, refusal

if TYPE_CHECKING:
    from types_boto3_rekognition import RekognitionClient

PROJECT = "arn:aws:rekognition:us-east-1:000000000000:project/shop/1700000000000"


def version(name: str) -> str:
    """The ARN of a model version of the project."""
    return f"arn:aws:rekognition:us-east-1:000000000000:project/shop/version/{name}/1700000000001"


def status(rekognition: "RekognitionClient", name: str) -> str:
    """The status that DescribeProjectVersions returns for a version."""
    found = rekognition.describe_project_versions(ProjectArn=PROJECT, VersionNames=[name])
    return found["ProjectVersionDescriptions"][0]["Status"]


def wait_until(condition: Callable[[], bool]) -> None:
    """Polls a condition for at most 10 seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_model_is_started_used_and_stopped(
    rekognition: "RekognitionClient", control: ControlClient
) -> None:
    control.custom_model(version("v1"), start_seconds=0.2, stop_seconds=0.2, labels=["Mug", "Cup"])
    arn = version("v1")
    assert status(rekognition, "v1") == "TRAINING_COMPLETED"
    not_ready = refusal(
        lambda: rekognition.detect_custom_labels(ProjectVersionArn=arn, Image={"Bytes": ball()})
    )
    assert not_ready[0] == "ResourceNotReadyException"

    assert (
        rekognition.start_project_version(ProjectVersionArn=arn, MinInferenceUnits=1)["Status"] == "STARTING"
    )
    wait_until(lambda: status(rekognition, "v1") == "RUNNING")
    again = refusal(lambda: rekognition.start_project_version(ProjectVersionArn=arn, MinInferenceUnits=1))
    assert again[0] == "ResourceInUseException"
    found = rekognition.detect_custom_labels(ProjectVersionArn=arn, Image={"Bytes": ball()}, MinConfidence=70)
    assert [label["Name"] for label in found["CustomLabels"]] == ["Mug", "Cup"]

    assert rekognition.stop_project_version(ProjectVersionArn=arn)["Status"] == "STOPPING"
    wait_until(lambda: status(rekognition, "v1") == "STOPPED")
    assert (
        rekognition.start_project_version(ProjectVersionArn=arn, MinInferenceUnits=1)["Status"] == "STARTING"
    )


def test_only_two_models_run_at_a_time(rekognition: "RekognitionClient", control: ControlClient) -> None:
    for name in ("a", "b", "c"):
        control.custom_model(version(name))
    for name in ("a", "b"):
        rekognition.start_project_version(ProjectVersionArn=version(name), MinInferenceUnits=1)
    third = refusal(
        lambda: rekognition.start_project_version(ProjectVersionArn=version("c"), MinInferenceUnits=1)
    )
    assert third[0] == "LimitExceededException"


def test_a_start_can_fail(rekognition: "RekognitionClient", control: ControlClient) -> None:
    control.custom_model(version("bad"), fails=True)
    rekognition.start_project_version(ProjectVersionArn=version("bad"), MinInferenceUnits=1)
    assert status(rekognition, "bad") == "FAILED"


@pytest.mark.usefixtures("control")
def test_an_unknown_version_is_not_found(rekognition: "RekognitionClient") -> None:
    calls = (
        lambda: rekognition.start_project_version(ProjectVersionArn=version("no"), MinInferenceUnits=1),
        lambda: rekognition.stop_project_version(ProjectVersionArn=version("no")),
        lambda: rekognition.describe_project_versions(ProjectArn=PROJECT),
        lambda: rekognition.detect_custom_labels(ProjectVersionArn=version("no"), Image={"Bytes": ball()}),
    )
    assert {refusal(call)[0] for call in calls} == {"ResourceNotFoundException"}


def test_the_status_changes_with_time() -> None:
    version_state = ModelVersion(CustomModel(arn="", start_seconds=600, stop_seconds=60))
    version_state.start(1000, 1)
    assert [version_state.status(now) for now in (1000, 1599, 1600)] == ["STARTING", "STARTING", "RUNNING"]
    version_state.stop(2000)
    assert [version_state.status(now) for now in (2000, 2059, 2060)] == ["STOPPING", "STOPPING", "STOPPED"]
