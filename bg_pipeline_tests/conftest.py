"""What all tests share: no test reaches a real account, and one stand-in for AWS serves the whole session.

A test that names ``stand_in``, ``control``, ``bucket`` or a client gets AWS by boto3's own environment variables;
``boto3.client("sqs")`` and any other client made in such a test lead there as well.
"""

import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_local_aws.launcher import LocalAws, local_aws

if TYPE_CHECKING:
    from types_boto3_bedrock_runtime import BedrockRuntimeClient
    from types_boto3_rekognition import RekognitionClient
    from types_boto3_s3 import S3Client

NOWHERE = "http://127.0.0.1:9"


def _enter(stand_in: LocalAws) -> None:
    environment = stand_in.environment()
    os.environ.clear()
    os.environ.update(environment)


def pytest_configure() -> None:
    """Ctrl-C works in all processes that tests start: a shell ignores it in what it runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_real_aws() -> Iterator[None]:
    """Until the stand-in runs, AWS is nowhere."""
    before = dict(os.environ)
    _enter(LocalAws(NOWHERE, NOWHERE, "us-east-1"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def stand_in(_no_real_aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """The stand-in for AWS, empty, for the whole session."""
    with local_aws(tmp_path_factory.mktemp("local-aws")) as running:
        _enter(running)
        yield running


@pytest.fixture
def control(stand_in: LocalAws) -> Iterator[ControlClient]:
    """The stand-in's control route; its rules and books are as at the start, before and after the test."""
    client = ControlClient(stand_in.models)
    client.reset()
    client.mark()
    yield client
    client.reset()


@pytest.fixture(scope="session")
def s3(stand_in: LocalAws) -> "S3Client":
    """An S3 client of the stand-in."""
    return boto3.client("s3")


@pytest.fixture(scope="session")
def bedrock_runtime(stand_in: LocalAws) -> "BedrockRuntimeClient":
    """A Bedrock runtime client of the stand-in, for us-east-1."""
    return boto3.client("bedrock-runtime")


@pytest.fixture
def invoke(bedrock_runtime: "BedrockRuntimeClient") -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """InvokeModel with a JSON body: ``invoke(model, body)``."""

    def call(model: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = bedrock_runtime.invoke_model(modelId=model, body=json.dumps(body))
        found: dict[str, Any] = json.loads(answer["body"].read())
        return found

    return call


@pytest.fixture(scope="session")
def rekognition(stand_in: LocalAws) -> "RekognitionClient":
    """A Rekognition client of the stand-in, for us-east-1."""
    return boto3.client("rekognition")


@pytest.fixture
def bucket(s3: "S3Client") -> str:
    """The name of a new, empty bucket."""
    name = f"test-{uuid.uuid4().hex}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def moto_s3() -> Iterator[str]:
    """The address of moto's server, an S3 by other authors, for ``endpoint_url=``."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
