"""Captions by Amazon Nova and Claude, through InvokeModel (messages format) and Converse."""

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from bg_pipeline_local_aws import image_operations
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.image_files import decode_base64, read_header, sha256
from bg_pipeline_local_aws.protocol import Call, schema_error, validation_error
from bg_pipeline_local_aws.render_pool import RenderPool, or_validation_error

MAX_IMAGE_BYTES = 3_750_000
MAX_IMAGES = 20
MAX_SIDE = 8000
WORDS_PER_TOKEN = 0.75


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class _Source(_Body):
    bytes: str


class _Image(_Body):
    format: Literal["png", "jpeg", "gif", "webp"]
    source: _Source


class _Content(_Body):
    text: str | None = None
    image: _Image | None = None


class _Message(_Body):
    role: Literal["user", "assistant"]
    content: Annotated[list[_Content], Field(min_length=1)]


class _System(_Body):
    text: str


class _Inference(_Body):
    max_tokens: Annotated[int, Field(ge=1, le=65_536)] = 5000
    temperature: Annotated[float, Field(ge=0.00001, le=1)] = 0.7
    top_p: Annotated[float, Field(ge=0, le=1)] = 0.9
    stop_sequences: list[str] = []


class _InvokeInference(_Inference):
    top_k: Annotated[int, Field(ge=0, le=128)] = 0


class InvokeRequest(_Body):
    """InvokeModel's body; unlike Converse it takes ``topK`` in its inference config."""

    schema_version: Literal["messages-v1"] = "messages-v1"
    system: list[_System] = []
    messages: Annotated[list[_Message], Field(min_length=1)]
    inference_config: _InvokeInference = _InvokeInference()


class _Tier(_Body):
    type: Literal["default", "flex", "priority", "reserved"]


class ConverseRequest(_Body):
    """Converse's body; it takes ``topK`` in ``additionalModelRequestFields``."""

    system: list[_System] = []
    messages: Annotated[list[_Message], Field(min_length=1)]
    inference_config: _Inference = _Inference()
    additional_model_request_fields: dict[str, Any] = {}
    service_tier: _Tier = _Tier(type="default")


async def invoke(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """InvokeModel's answer: ``output``, ``stopReason``, ``usage``."""
    return await _respond(call, InvokeRequest, control, pool)


async def converse(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """Converse's answer: that of InvokeModel, plus ``metrics`` and ``serviceTier``."""
    started = time.monotonic()
    answer = await _respond(call, ConverseRequest, control, pool)
    tier = call.json().get("serviceTier", {"type": "default"})
    return {
        **answer,
        "metrics": {"latencyMs": round(1000 * (time.monotonic() - started))},
        "serviceTier": tier,
    }


async def _respond(
    call: Call, kind: type[InvokeRequest | ConverseRequest], control: Control, pool: RenderPool
) -> dict[str, Any]:
    try:
        request = kind.model_validate(call.json())
    except ValidationError as error:
        raise schema_error(error) from error
    contents = [content for message in request.messages for content in message.content]
    texts = [system.text for system in request.system] + [part.text for part in contents if part.text]
    images = [
        (part.image.format, decode_base64(part.image.source.bytes, "bytes"))
        for part in contents
        if part.image
    ]
    call.prompt = " ".join(texts)
    call.image = sha256(images[0][1]) if images else ""
    control.admit(call)
    if "claude" in call.model:
        _check_claude_rules(request)
    if request.messages[0].role != "user":
        raise validation_error("A conversation must start with a user message.")
    if (
        request.inference_config.max_tokens > 5000
        and "nova-2" not in call.model
        and "claude" not in call.model
    ):
        raise validation_error("The maximum tokens you requested exceeds the model limit of 5000.")
    sizes = [_image_size(declared, data) for declared, data in images]
    if len(images) > MAX_IMAGES:
        raise validation_error(f"At most {MAX_IMAGES} images may be sent.")
    input_tokens = sum(_image_tokens(call.model, size) for size in sizes)
    input_tokens += sum(len(text) // 4 + 1 for text in texts)
    if call.block:
        call.outcome = "blocked"
        return _response("", "content_filtered", input_tokens)
    if control.switches.canned:
        caption = "The image shows an object in front of a plain background."
    elif images:
        caption = (await or_validation_error(pool.run(image_operations.analyze_image, images[0][1])))[
            "caption"
        ]
        if "'Alt text:'" in call.prompt:
            # The only formatting instruction it follows: a short alt text line, then the description.
            caption = f"Alt text: {caption.partition('. ')[0]}.\nDescription: {caption}"
    else:
        caption = "There is no image to describe."
    words, limit = caption.split(" "), max(1, round(request.inference_config.max_tokens * WORDS_PER_TOKEN))
    return _response(
        " ".join(words[:limit]), "max_tokens" if len(words) > limit else "end_turn", input_tokens
    )


def _response(text: str, reason: str, input_tokens: int) -> dict[str, Any]:
    output_tokens = round(len(text.split()) / WORDS_PER_TOKEN)
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": text}] if text else []}},
        "stopReason": reason,
        "usage": {
            "inputTokens": input_tokens,
            "outputTokens": output_tokens,
            "totalTokens": input_tokens + output_tokens,
        },
    }


def _check_claude_rules(request: InvokeRequest | ConverseRequest) -> None:
    """Refuses what Claude does not take: both temperature and topP, Nova's extra fields, a service tier."""
    if {"temperature", "top_p"} <= request.inference_config.model_fields_set:
        raise validation_error(
            "The model returned the following errors: `temperature` and `top_p` cannot both be specified for this "
            "model. Please use only one."
        )
    if isinstance(request, ConverseRequest):
        for name in request.additional_model_request_fields:
            raise validation_error(
                f"The model returned the following errors: {name}: Extra inputs are not permitted"
            )
        if request.service_tier.type != "default":
            raise validation_error(
                "The provided service tier is not supported for the model that you provided."
            )


def _image_size(declared: str, data: bytes) -> tuple[int, int]:
    header = read_header(data)
    if header is None:
        raise validation_error("The provided image could not be decoded.")
    if header.format != declared:
        raise validation_error(f"The image was given as image/{declared}, but it is image/{header.format}.")
    if len(data) > MAX_IMAGE_BYTES:
        raise validation_error(f"The image is larger than {MAX_IMAGE_BYTES} bytes.")
    if max(header.width, header.height) > MAX_SIDE:
        raise validation_error(
            f"The image is {header.width} x {header.height}; no side may exceed {MAX_SIDE} pixels."
        )
    return header.width, header.height


def _image_tokens(model: str, size: tuple[int, int]) -> int:
    """Input tokens of a picture: 230 in Nova 2, pixels / 750 in Claude, pixels of a resized copy / 650 in Nova 1."""
    if "nova-2" in model:
        return 230
    if "claude" in model:
        return round(size[0] * size[1] / 750)
    return round(min(max(size[0] * size[1], 520_000), 1300 * 1300) / 650)
