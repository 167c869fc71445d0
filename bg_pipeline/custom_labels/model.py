"""A Rekognition Custom Labels model version: the state it is in, started and stopped.

It is billed by the hour from its start to its stop, used or not. Whoever starts it has to see to its stop:
`bg_pipeline.custom_labels.window` does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.errors import BgPipelineError, ModelUnavailable
from bg_pipeline.labelers import custom_labels
from bg_pipeline.rate_limits.calls import classify

ON = frozenset({"STARTING", "RUNNING"})
"""The states that cost money."""


class NotStarted(BgPipelineError):
    """The model does not run; the text says why and what to do."""


class InUse(BgPipelineError):
    """What was asked is not possible in the state that the model is in."""


@dataclass(frozen=True)
class State:
    """Rekognition's word for the model's state, and its sentence about it, if it has one."""

    status: str
    message: str = ""

    @property
    def on(self) -> bool:
        return self.status in ON


class CustomModel:
    """One model version, by its ARN.

    What is asked of AWS may fail with a `Transient` error (the outcome is then not known), `ModelUnavailable` or
    another `CallError`, or `RunStopped` if there are no credentials.
    """

    def __init__(self, aws: Aws, arn: str) -> None:
        self.arn = arn
        self.region = custom_labels.region(arn)
        self._client = aws.client("rekognition", self.region)
        _, self._project, _, self._version, _ = arn.split("/")
        self._project_arn = ""

    def state(self) -> State:
        """The state it is in now."""
        if not self._project_arn:
            self._project_arn = self._find_project()
        answer = self._ask(
            "DescribeProjectVersions",
            lambda: self._client.describe_project_versions(
                ProjectArn=self._project_arn, VersionNames=[self._version]
            ),
        )
        for found in answer.get("ProjectVersionDescriptions", ()):
            if found["ProjectVersionArn"] == self.arn:
                return State(found["Status"], found.get("StatusMessage", ""))
        raise self._unknown("version")

    def start(self, units: int) -> None:
        """Has it started; raises `ModelInUse` if somebody else did, and `NotStarted` at the account's limit."""
        self._ask(
            "StartProjectVersion",
            lambda: self._client.start_project_version(ProjectVersionArn=self.arn, MinInferenceUnits=units),
        )

    def stop(self) -> None:
        """Has it stopped; raises `ModelInUse` while it is starting, and when it does not run."""
        self._ask("StopProjectVersion", lambda: self._client.stop_project_version(ProjectVersionArn=self.arn))

    def _find_project(self) -> str:
        # A project's ARN ends in a number of its own, which its versions' ARNs do not tell.
        answer = self._ask(
            "DescribeProjects", lambda: self._client.describe_projects(ProjectNames=[self._project])
        )
        for found in answer.get("ProjectDescriptions", ()):
            arn: str = found["ProjectArn"]
            if arn.rpartition("/")[0] == self.arn.partition("/version/")[0]:
                return arn
        raise self._unknown("project")

    def _unknown(self, what: str) -> ModelUnavailable:
        return ModelUnavailable(
            "ResourceNotFoundException",
            f"this account has no Custom Labels {what} of {self.arn} in {self.region}; check BG_CUSTOM_LABELS_ARN",
        )

    def _ask(self, operation: str, send: Callable[[], Any]) -> Any:
        try:
            return send()
        except ClientError as error:
            told = error.response.get("Error", {})
            code, message = str(told.get("Code", "")), str(told.get("Message", ""))
            if code == "ResourceInUseException":
                raise InUse(f"{operation}: {message}") from error
            if code == "LimitExceededException":
                raise NotStarted(
                    f"{self.arn} was not started: the account's quota of running Custom Labels models, or of their "
                    f"inference units, in {self.region} is used up ({message}). Stop another model, lower "
                    "BG_CUSTOM_LABELS_UNITS, or ask AWS for a higher quota"
                ) from error
            raise classify(error, operation) from error
        except BotoCoreError as error:
            raise classify(error, operation) from error
