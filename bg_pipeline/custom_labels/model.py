"""State, start and stop of a Rekognition Custom Labels model version.

A model is billed by the hour from its start to its stop, used or not. Whoever starts it must ensure that it is
stopped; `bg_pipeline.custom_labels.window` does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.errors import BgPipelineError, ModelUnavailable
from bg_pipeline.labelers import custom_labels
from bg_pipeline.rate_limits.calls import classify

BILLED = frozenset({"STARTING", "RUNNING"})
"""The states in which the model costs money."""


class NotStarted(BgPipelineError):
    """The model did not start; the text gives the reason and what to do."""


class WrongState(BgPipelineError):
    """The model cannot be started or stopped in its current state (``ResourceInUseException``)."""


@dataclass(frozen=True)
class State:
    """The model's ``Status`` and ``StatusMessage`` as Rekognition returns them."""

    status: str
    message: str = ""

    @property
    def is_billed(self) -> bool:
        """Whether the model costs money in this state."""
        return self.status in BILLED


class CustomModel:
    """A model version, identified by its ARN.

    Each method may raise a `Transient` error (the outcome is then unknown), `ModelUnavailable` or another
    `CallError`, or `RunStopped` if there are no credentials.
    """

    def __init__(self, aws: Aws, arn: str) -> None:
        self.arn = arn
        self.region = custom_labels.region(arn)
        self._client = aws.client("rekognition", self.region)
        _, self._project, _, self._version, _ = arn.split("/")
        self._project_arn = ""

    def state(self) -> State:
        """The current state."""
        if not self._project_arn:
            self._project_arn = self._find_project()
        answer = self._call(
            "DescribeProjectVersions",
            lambda: self._client.describe_project_versions(
                ProjectArn=self._project_arn, VersionNames=[self._version]
            ),
        )
        for version in answer.get("ProjectVersionDescriptions", ()):
            if version["ProjectVersionArn"] == self.arn:
                return State(version["Status"], version.get("StatusMessage", ""))
        raise self._not_found("version")

    def start(self, units: int) -> None:
        """Orders its start; raises `WrongState` if it is on already, `NotStarted` if the quota is used up."""
        self._call(
            "StartProjectVersion",
            lambda: self._client.start_project_version(ProjectVersionArn=self.arn, MinInferenceUnits=units),
        )

    def stop(self) -> None:
        """Orders its stop; raises `WrongState` while it is starting, or if it is not running."""
        self._call(
            "StopProjectVersion", lambda: self._client.stop_project_version(ProjectVersionArn=self.arn)
        )

    def _find_project(self) -> str:
        # A project's ARN ends in a number that is not in the ARNs of its versions.
        answer = self._call(
            "DescribeProjects", lambda: self._client.describe_projects(ProjectNames=[self._project])
        )
        for project in answer.get("ProjectDescriptions", ()):
            arn: str = project["ProjectArn"]
            if arn.rpartition("/")[0] == self.arn.partition("/version/")[0]:
                return arn
        raise self._not_found("project")

    def _not_found(self, kind: str) -> ModelUnavailable:
        return ModelUnavailable(
            "ResourceNotFoundException",
            f"this account has no Custom Labels {kind} of {self.arn} in {self.region}; check BG_CUSTOM_LABELS_ARN",
        )

    def _call(self, operation: str, send: Callable[[], Any]) -> Any:
        try:
            return send()
        except ClientError as error:
            details = error.response.get("Error", {})
            code, message = str(details.get("Code", "")), str(details.get("Message", ""))
            if code == "ResourceInUseException":
                raise WrongState(f"{operation}: {message}") from error
            if code == "LimitExceededException":
                raise NotStarted(
                    f"{self.arn} was not started: the account's quota of running Custom Labels models, or of their "
                    f"inference units, in {self.region} is used up ({message}). Stop another model, lower "
                    "BG_CUSTOM_LABELS_UNITS, or ask AWS for a higher quota"
                ) from error
            raise classify(error, operation) from error
        except BotoCoreError as error:
            raise classify(error, operation) from error
