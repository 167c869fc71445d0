"""Runs this process against the stand-in for AWS; the only module that imports `bg_pipeline_local_aws`."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import ClientError

from bg_pipeline.errors import BgPipelineError

if TYPE_CHECKING:
    from bg_pipeline_local_aws.control_client import ControlClient

BUCKET = "bg-pipeline-demo"
"""The bucket in the stand-in."""

LOCAL_AWS = "local_aws"

_ELSEWHERE = (
    *("ALLOWED_BUCKETS", "ARCHIVE_TO", "CUSTOM_LABELS_ARN", "QUEUE_URL", "REGIONS"),
    *("SAM_ENDPOINT", "SNS_TOPIC_ARN", "WEBHOOK_URL"),
)
"""Settings that name places outside the stand-in, where a demo has no business."""


class LocalAwsNotStarted(BgPipelineError):
    """The stand-in cannot be started; the text says why and what to do."""


@contextmanager
def use_local_aws(folder: Path, *, shared: bool = True, **settings: str) -> Iterator["ControlClient"]:
    """This process led to the stand-in of a state folder, with its bucket and these settings (``BUCKET="x"``).

    One that another command keeps running on the folder is used, if ``shared``, for as long as it runs. Until
    the context ends, nothing that this process or its children do with boto3's own chain can reach an account.
    What is given tells which models were called. Raises `LocalAwsNotStarted` if it cannot be started.
    """
    try:
        # Installed with the extra `local` only.
        from bg_pipeline_local_aws.control_client import ControlClient
        from bg_pipeline_local_aws.launcher import LocalAwsError, local_aws, running
    except ImportError as error:
        raise LocalAwsNotStarted(
            "The stand-in for AWS is not installed: pip install 'bg-pipeline[local]'"
        ) from error
    with ExitStack() as stack:
        try:
            found = running(folder / LOCAL_AWS) if shared else None
            started = found or stack.enter_context(local_aws(folder / LOCAL_AWS))
        except LocalAwsError as error:
            raise LocalAwsNotStarted(str(error)) from error
        dropped = {f"BG_{name}" for name in _ELSEWHERE}
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        settings = {"BUCKET": BUCKET, "STATE_DIR": str(folder.absolute()), **settings}
        before = dict(os.environ)
        _become(started.environment(kept) | {f"BG_{name}": value for name, value in settings.items()})
        try:
            _make_bucket()
            yield ControlClient(started.models)
        finally:
            _become(before)


def _become(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _make_bucket() -> None:
    client = boto3.session.Session().client("s3")
    try:
        client.head_bucket(Bucket=BUCKET)
    except ClientError:
        client.create_bucket(Bucket=BUCKET)
