"""Pictures encoded by pybase64 are sent exactly as botocore would send them."""

import functools
from collections.abc import Mapping
from typing import Any

import boto3
import pybase64
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline.aws.base64_bodies import MIN_BYTES
from bg_pipeline.aws.clients import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.labelers import custom_labels, faces, rekognition

ARN = "arn:aws:rekognition:us-east-1:111122223333:project/p/version/v/1"


@functools.cache
def client(service: Any, *, encoded: bool) -> tuple[Any, list[tuple[bytes, str]]]:
    """A client whose requests are recorded instead of sent, and the recorded bodies and content types."""
    bodies: list[tuple[bytes, str]] = []

    def take(request: Any, **_: object) -> AWSResponse:
        bodies.append((request.body, request.headers["Content-Type"]))
        return AWSResponse(request.url, 200, HTTPHeaders(), Answer())

    made = Aws(["us-east-1"]).client(service) if encoded else boto3.client(service)
    made.meta.events.register("before-send", take)
    return made, bodies


def sent(service: str, method: str, request: Mapping[str, Any], *, encoded: bool) -> tuple[bytes, str]:
    made, bodies = client(service, encoded=encoded)
    getattr(made, method)(**request)
    return bodies.pop()


class Answer:
    """An empty JSON object, as a urllib3 response."""

    def stream(self) -> list[bytes]:
        return [b"{}"]


@pytest.mark.parametrize("size", [1, MIN_BYTES - 1, MIN_BYTES, MIN_BYTES + 1, 300_001])
@pytest.mark.parametrize(
    ("service", "method", "request_for"),
    [
        ("rekognition", "detect_labels", lambda data: rekognition.request(data, 55)),
        ("rekognition", "detect_faces", faces.request),
        ("rekognition", "detect_custom_labels", lambda data: custom_labels.request(ARN, data, 50)),
        (
            "bedrock-runtime",
            "converse",
            lambda data: nova.request("us.amazon.nova-pro-v1:0", data, "What?", 125),
        ),
    ],
)
def test_the_same_bytes_are_sent_as_by_botocore(
    service: str, method: str, request_for: Any, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encodings: list[bytes] = []
    encode = pybase64.b64encode
    monkeypatch.setattr(pybase64, "b64encode", lambda data: encodings.append(data) or encode(data))
    request = request_for(bytes(number * 7 % 256 for number in range(size)))
    assert sent(service, method, request, encoded=True) == sent(service, method, request, encoded=False)
    assert len(encodings) == (size >= MIN_BYTES)


def test_the_callers_own_request_is_not_changed() -> None:
    picture = b"\xff" * MIN_BYTES
    request = rekognition.request(picture, 55)
    sent("rekognition", "detect_labels", request, encoded=True)
    assert request["Image"]["Bytes"] is picture


def test_several_pictures_in_one_request_are_left_to_botocore() -> None:
    request = nova.request("us.amazon.nova-pro-v1:0", b"\xff" * MIN_BYTES)
    request["messages"][0]["content"].insert(0, request["messages"][0]["content"][0])
    both = [sent("bedrock-runtime", "converse", request, encoded=encoded) for encoded in (True, False)]
    assert both[0] == both[1]


@given(st.text(max_size=200))
def test_no_prompt_is_mistaken_for_the_placeholder(prompt: str) -> None:
    request = nova.request("us.amazon.nova-pro-v1:0", bytes(MIN_BYTES), prompt or "?")
    both = [sent("bedrock-runtime", "converse", request, encoded=encoded) for encoded in (True, False)]
    assert both[0] == both[1]
