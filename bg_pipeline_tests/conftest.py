"""Fixtures of all tests: no test can reach a real account, and the session shares one stand-in for AWS.

The fixtures ``stand_in``, ``control``, ``bucket`` and the clients direct boto3 to the stand-in by environment
variables, so every other client that such a test makes, e.g. ``boto3.client("sqs")``, uses it too.
"""

import gc
import json
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import hypothesis
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from bg_pipeline.imaging.workers import InProcess, substituted
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_local_aws.launcher import LocalAws, local_aws
from bg_pipeline_tests.buckets import new_bucket

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from types_boto3_bedrock_runtime import BedrockRuntimeClient
    from types_boto3_rekognition import RekognitionClient
    from types_boto3_s3 import S3Client

NOWHERE = "http://127.0.0.1:9"
"""An address that refuses connections."""

# On a loaded machine an example or the generation of data can take any time; pytest-timeout limits the whole test.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


def _use(stand_in: LocalAws) -> None:
    environment = stand_in.environment()
    os.environ.clear()
    os.environ.update(environment)


def pytest_configure() -> None:
    """Enables SIGINT in the processes that tests start; a shell ignores it in its background jobs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Takes modules and tests out of what the garbage collector goes through: 0.3 s for half a million objects."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _no_real_aws() -> Iterator[None]:
    """Directs all AWS calls to `NOWHERE` until the stand-in runs."""
    before = dict(os.environ)
    _use(LocalAws(NOWHERE, NOWHERE, "us-east-1"))
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def _migrations_read_once() -> Iterator[None]:
    """Each Dagster instance that a test makes would read the files of Dagster's migrations anew: 0.1 s."""
    from_config = ScriptDirectory.from_config
    scripts: dict[str | None, ScriptDirectory] = {}

    def read(config: Config) -> ScriptDirectory:
        folder = config.get_main_option("script_location")
        if folder not in scripts:
            scripts[folder] = from_config(config)
        return scripts[folder]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", read)
        yield


@pytest.fixture
def in_process() -> Iterator[None]:
    """Pictures are processed in this process and not in workers, so that a test can patch the functions."""
    with substituted(InProcess()):
        yield


@pytest.fixture(scope="session")
def stand_in(_no_real_aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """The stand-in for AWS, shared by all tests of the session and empty at its start."""
    with local_aws(tmp_path_factory.mktemp("local-aws")) as running:
        _use(running)
        yield running


@pytest.fixture
def control(stand_in: LocalAws) -> Iterator[ControlClient]:
    """A client of the stand-in's control routes; rules and call log are reset before and after the test."""
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
        fields: dict[str, Any] = json.loads(answer["body"].read())
        return fields

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
    """The ``endpoint_url`` of moto's server, another implementation of S3."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["moto", "ministack"])
def new_store(request: pytest.FixtureRequest) -> Callable[[], Store]:
    """Each call returns a new client, as of another process, of one new bucket; on each of two S3 servers."""
    if request.param == "moto":
        return new_bucket(request.getfixturevalue("moto_s3"))
    return new_bucket(request.getfixturevalue("stand_in").storage)


# Of a module: no other event loop can run in the thread while it is open.
@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Headless Chromium."""
    from playwright.sync_api import sync_playwright

    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("chromium is not installed; .ci/run installs it")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()
