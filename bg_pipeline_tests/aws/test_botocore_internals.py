"""The installed botocore has every undocumented name that the package uses; each test names what is missing."""

import inspect
import re
from functools import partial
from pathlib import Path

import boto3
import botocore
import pytest
from botocore import endpoint, handlers
from botocore.credentials import RefreshableCredentials

import bg_pipeline
from bg_pipeline.aws.base64_bodies import MIN_BYTES, OPERATIONS
from bg_pipeline.aws.botocore_internals import (
    INTERNALS,
    credentials_of,
    expiry_of,
    uses_default_cas,
)
from bg_pipeline.aws.clients import Aws
from bg_pipeline.labelers import rekognition
from bg_pipeline_tests.scripted_s3 import scripted_s3


def missing(name: str) -> str:
    return (
        f"botocore {botocore.__version__} no longer has {name!r}, which bg_pipeline/aws/botocore_internals.py uses "
        f"({INTERNALS[name]}); adapt that module, or pin an older botocore"
    )


def test_the_credentials_of_a_client() -> None:
    name = "client._request_signer._credentials"
    session = boto3.session.Session(
        aws_access_key_id="id", aws_secret_access_key="secret", region_name="us-east-1"
    )
    credentials = credentials_of(session.client("s3"))
    assert credentials is not None, missing(name)
    assert credentials.access_key == "id", missing(name)


def test_the_tls_verification_of_a_client() -> None:
    name = "client._endpoint.http_session._verify"
    for verify, default in ((True, True), (False, False), ("/etc/hosts", False)):
        client = boto3.client("s3", endpoint_url="https://127.0.0.1:9", verify=verify)
        assert uses_default_cas(client) is default, missing(name)


def test_the_end_of_session_credentials() -> None:
    end = "2030-01-01T00:00:00+00:00"
    credentials = RefreshableCredentials.create_from_metadata(
        {"access_key": "id", "secret_key": "secret", "token": "token", "expiry_time": end}, dict, "test"
    )
    found = expiry_of(credentials)
    assert found is not None, missing("RefreshableCredentials._expiry_time")
    assert found.isoformat() == end, missing("RefreshableCredentials._expiry_time")


def test_the_handler_that_turns_bodies_into_files() -> None:
    name = "handlers.convert_body_to_file_like_object"
    handler = getattr(handlers, "convert_body_to_file_like_object", None)
    assert handler is not None, missing(name)
    registered = [(entry[0], entry[1]) for entry in handlers.BUILTIN_HANDLERS]
    assert ("before-parameter-build.s3.PutObject", handler) in registered, missing(name)


def test_the_event_before_an_answer_is_parsed() -> None:
    name = "event before-parse"
    with scripted_s3() as scripted:
        scripted.answers = [(200, b"<ListBucketResult></ListBucketResult>")]

        def parse(**arguments: object) -> None:
            assert {"response_dict", "customized_response_dict"} <= arguments.keys(), missing(name)
            response, result = arguments["response_dict"], arguments["customized_response_dict"]
            assert isinstance(response, dict), missing(name)
            assert isinstance(result, dict), missing(name)
            assert {"body", "status_code"} <= response.keys(), missing(name)
            result["Contents"] = ["parsed here"]

        scripted.client.meta.events.register_first("before-parse.s3.ListObjectsV2", parse)
        page = scripted.client.list_objects_v2(Bucket="shop")
    assert page.get("Contents") == ["parsed here"], missing(name)
    assert "before-parse" in inspect.getsource(endpoint), missing(name)


@pytest.mark.parametrize("service", OPERATIONS)
def test_the_serialized_body_before_a_call(service: str) -> None:
    name = "event before-call params['body']"
    client = Aws(["us-east-1"]).client(service)
    bodies: list[object] = []

    class Stop(Exception):
        pass

    def look(params: dict[str, object], **_: object) -> None:
        bodies.append(params.get("body"))
        raise Stop

    client.meta.events.register_last("before-call", look)
    picture = bytes(MIN_BYTES)
    if service == "rekognition":
        send = partial(client.detect_labels, **rekognition.request(picture, 55))
    else:
        content = [{"image": {"format": "jpeg", "source": {"bytes": picture}}}]
        send = partial(client.converse, modelId="any", messages=[{"role": "user", "content": content}])
    with pytest.raises(Stop):
        send()
    assert isinstance(bodies[0], bytes), missing(name)
    assert b"A" * 1000 in bodies[0], missing(name)


def test_no_other_module_uses_an_undocumented_name() -> None:
    """Every entry of `INTERNALS` has a test here; a new name belongs into that constant."""
    private = re.compile(
        r"_request_signer|_endpoint\b.*http_session|_expiry_time|convert_body_to_file|before-parse"
    )
    root = Path(bg_pipeline.__file__).parent
    users = {path.name for path in root.rglob("*.py") if private.search(path.read_text(encoding="utf-8"))}
    assert users == {"botocore_internals.py"}
