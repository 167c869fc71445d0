"""The stand-in's captions by Nova."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.local_aws.pictures import b64, ball, refusal

if TYPE_CHECKING:
    from types_boto3_bedrock_runtime import BedrockRuntimeClient

PRO = "us.amazon.nova-pro-v1:0"

pytestmark = pytest.mark.usefixtures("control")


def message(data: bytes, media: str = "jpeg", text: str = "Describe it.") -> Any:
    """A user message with a picture."""
    return {
        "role": "user",
        "content": [{"image": {"format": media, "source": {"bytes": data}}}, {"text": text}],
    }


def test_converse_describes_the_picture(bedrock_runtime: "BedrockRuntimeClient") -> None:
    answer = bedrock_runtime.converse(
        modelId=PRO,
        messages=[message(ball(media="JPEG"))],
        inferenceConfig={"maxTokens": 200, "temperature": 0.2, "topP": 0.9},
        additionalModelRequestFields={"inferenceConfig": {"topK": 20}},
    )
    caption = answer["output"]["message"]["content"][0]["text"]
    assert all(word in caption for word in ("384", "576", "light grey"))
    assert answer["stopReason"] == "end_turn"
    usage = answer["usage"]
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"] > 800
    assert "latencyMs" in answer["metrics"]


def test_invoke_model_takes_the_messages_format(
    invoke: Callable[[str, dict[str, Any]], dict[str, Any]],
) -> None:
    turn = message(ball(), "png")
    turn["content"][0]["image"]["source"]["bytes"] = b64(ball())
    body = {
        "schemaVersion": "messages-v1",
        "system": [{"text": "You describe photos."}],
        "messages": [turn],
        "inferenceConfig": {"maxTokens": 200, "topK": 20},
    }
    answer = invoke(PRO, body)
    assert "576" in answer["output"]["message"]["content"][0]["text"]
    assert answer["usage"]["outputTokens"] > 5


def test_a_caption_is_cut_at_max_tokens(
    bedrock_runtime: "BedrockRuntimeClient",
) -> None:
    answer = bedrock_runtime.converse(
        modelId=PRO, messages=[message(ball(media="JPEG"))], inferenceConfig={"maxTokens": 8}
    )
    assert answer["stopReason"] == "max_tokens"
    assert answer["usage"]["outputTokens"] <= 8


def test_nova_2_counts_230_tokens_for_a_picture(bedrock_runtime: "BedrockRuntimeClient") -> None:
    answer = bedrock_runtime.converse(
        modelId="us.amazon.nova-2-lite-v1:0", messages=[message(ball(media="JPEG"), text="Hi")]
    )
    assert answer["usage"]["inputTokens"] == 231


def test_a_filtered_caption_is_a_success_without_text(
    bedrock_runtime: "BedrockRuntimeClient", control: ControlClient
) -> None:
    answer = bedrock_runtime.converse(modelId=PRO, messages=[message(ball(media="JPEG"), text="blockme")])
    assert answer["stopReason"] == "content_filtered"
    assert control.paid() == []


@pytest.mark.parametrize(
    ("turn", "message_part"),
    [
        (message(ball(), "jpeg"), "given as image/jpeg, but it is image/png"),
        (message(b"nothing", "png"), "could not be decoded"),
        (message(ball((8001, 300)), "png"), "no side may exceed 8000"),
        ({"role": "assistant", "content": [{"text": "Hello"}]}, "must start with a user message"),
    ],
)
def test_converse_refuses_invalid_messages(
    bedrock_runtime: "BedrockRuntimeClient", turn: Any, message_part: str
) -> None:
    code, text, _ = refusal(lambda: bedrock_runtime.converse(modelId=PRO, messages=[turn]))
    assert code == "ValidationException"
    assert message_part in text


def test_the_format_jpg_is_refused(invoke: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
    turn = {"role": "user", "content": [{"image": {"format": "jpg", "source": {"bytes": b64(ball())}}}]}
    assert "format" in refusal(lambda: invoke(PRO, {"messages": [turn]}))[1]


def test_image_models_do_not_converse(bedrock_runtime: "BedrockRuntimeClient") -> None:
    with pytest.raises(ClientError, match="supported text or chat model"):
        bedrock_runtime.converse(modelId="amazon.nova-canvas-v1:0", messages=[message(ball(), "png")])


def test_a_body_that_is_not_json_is_refused(bedrock_runtime: "BedrockRuntimeClient") -> None:
    assert refusal(lambda: bedrock_runtime.invoke_model(modelId=PRO, body=b"{"))[0] == "ValidationException"
