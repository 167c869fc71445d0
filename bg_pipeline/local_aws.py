"""Points this process to the stand-in for AWS; the only module that imports `bg_pipeline_local_aws`."""

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

_REMOTE_SETTINGS = (
    *("ALLOWED_BUCKETS", "ARCHIVE_TO", "CUSTOM_LABELS_ARN", "QUEUE_URL", "REGIONS"),
    *("SAM_ENDPOINT", "SNS_TOPIC_ARN", "WEBHOOK_URL"),
)
"""Settings that name resources outside the stand-in; they are ignored while it is used."""


class LocalAwsNotStarted(BgPipelineError):
    """The stand-in cannot be started; the message says why and what to do."""


@contextmanager
def use_local_aws(folder: Path, *, shared: bool = True, **settings: str) -> Iterator["ControlClient"]:
    """Points this process to the stand-in of a state folder, with its bucket and ``settings`` (``BUCKET="x"``).

    If ``shared``, a stand-in that another command already runs on the folder is used, and ends with that command.
    Until the context ends, boto3's own chain leads to the stand-in in this process and its children, never to an
    account. Yields a client that knows which models were called. Raises `LocalAwsNotStarted` if it cannot be started.
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
            already_running = running(folder / LOCAL_AWS) if shared else None
            endpoints = already_running or stack.enter_context(local_aws(folder / LOCAL_AWS))
        except LocalAwsError as error:
            raise LocalAwsNotStarted(str(error)) from error
        ignored = {f"BG_{name}" for name in _REMOTE_SETTINGS}
        kept = {name: value for name, value in os.environ.items() if name not in ignored}
        settings = {"BUCKET": BUCKET, "STATE_DIR": str(folder.absolute()), **settings}
        original = dict(os.environ)
        _set_environment(
            endpoints.environment(kept) | {f"BG_{name}": value for name, value in settings.items()}
        )
        try:
            _make_bucket()
            yield ControlClient(endpoints.models)
        finally:
            _set_environment(original)


def _set_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _make_bucket() -> None:
    client = boto3.session.Session().client("s3")
    try:
        client.head_bucket(Bucket=BUCKET)
    except ClientError:
        client.create_bucket(Bucket=BUCKET)
