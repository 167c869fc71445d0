"""Calls that the tests of the stand-in share."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types_boto3_bedrock_runtime import BedrockRuntimeClient


@pytest.fixture
def invoke(bedrock_runtime: "BedrockRuntimeClient") -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """InvokeModel with a JSON body."""

    def call(model: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = bedrock_runtime.invoke_model(modelId=model, body=json.dumps(body))
        found: dict[str, Any] = json.loads(answer["body"].read())
        return found

    return call
