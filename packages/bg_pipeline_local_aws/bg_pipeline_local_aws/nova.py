"""Captions of the models that see, Amazon Nova and Claude: InvokeModel's messages form and Converse."""

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from bg_pipeline_local_aws import work
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.pictures import from_base64, header, sha256
from bg_pipeline_local_aws.studio import Studio, decoded
from bg_pipeline_local_aws.wire import Call, invalid, malformed

MOST_IMAGE_BYTES = 3_750_000
MOST_IMAGES = 20
LONGEST_SIDE = 8000
WORDS_A_TOKEN = 0.75


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
    """InvokeModel's body; ``topK`` is one of its inference settings."""

    schema_version: Literal["messages-v1"] = "messages-v1"
    system: list[_System] = []
    messages: Annotated[list[_Message], Field(min_length=1)]
    inference_config: _InvokeInference = _InvokeInference()


class _Tier(_Body):
    type: Literal["default", "flex", "priority", "reserved"]


class ConverseRequest(_Body):
    """Converse's body; ``topK`` goes into ``additionalModelRequestFields``."""

    system: list[_System] = []
    messages: Annotated[list[_Message], Field(min_length=1)]
    inference_config: _Inference = _Inference()
    additional_model_request_fields: dict[str, Any] = {}
    service_tier: _Tier = _Tier(type="default")


async def invoke(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """InvokeModel's answer: ``output``, ``stopReason``, ``usage``."""
    return await _described(call, InvokeRequest, control, studio)


async def converse(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """Converse's answer: InvokeModel's and ``metrics``."""
    started = time.monotonic()
    described = await _described(call, ConverseRequest, control, studio)
    tier = call.json().get("serviceTier", {"type": "default"})
    return {
        **described,
        "metrics": {"latencyMs": round(1000 * (time.monotonic() - started))},
        "serviceTier": tier,
    }


async def _described(
    call: Call, kind: type[InvokeRequest | ConverseRequest], control: Control, studio: Studio
) -> dict[str, Any]:
    try:
        request = kind.model_validate(call.json())
    except ValidationError as error:
        raise malformed(error) from error
    contents = [content for message in request.messages for content in message.content]
    texts = [system.text for system in request.system] + [part.text for part in contents if part.text]
    images = [
        (part.image.format, from_base64(part.image.source.bytes, "bytes")) for part in contents if part.image
    ]
    call.prompt = " ".join(texts)
    call.image = sha256(images[0][1]) if images else ""
    control.admit(call)
    if "claude" in call.model:
        _claudes_own(request)
    if request.messages[0].role != "user":
        raise invalid("A conversation must start with a user message.")
    if (
        request.inference_config.max_tokens > 5000
        and "nova-2" not in call.model
        and "claude" not in call.model
    ):
        raise invalid("The maximum tokens you requested exceeds the model limit of 5000.")
    sizes = [_size(named, data) for named, data in images]
    if len(images) > MOST_IMAGES:
        raise invalid(f"At most {MOST_IMAGES} images may be sent.")
    asked = sum(_image_tokens(call.model, size) for size in sizes) + sum(len(text) // 4 + 1 for text in texts)
    if call.block:
        call.outcome = "blocked"
        return _answer("", "content_filtered", asked)
    if control.switches.canned:
        caption = "The image shows an object in front of a plain background."
    elif images:
        caption = (await decoded(studio.do(work.look, images[0][1])))["caption"]
        if "'Alt text:'" in call.prompt:
            # The one order about its form that it follows: a short line first, then the description.
            caption = f"Alt text: {caption.partition('. ')[0]}.\nDescription: {caption}"
    else:
        caption = "There is no image to describe."
    words, most = caption.split(" "), max(1, round(request.inference_config.max_tokens * WORDS_A_TOKEN))
    return _answer(" ".join(words[:most]), "max_tokens" if len(words) > most else "end_turn", asked)


def _answer(text: str, reason: str, asked: int) -> dict[str, Any]:
    said = round(len(text.split()) / WORDS_A_TOKEN)
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": text}] if text else []}},
        "stopReason": reason,
        "usage": {"inputTokens": asked, "outputTokens": said, "totalTokens": asked + said},
    }


def _claudes_own(request: InvokeRequest | ConverseRequest) -> None:
    """Claude takes one of temperature and topP, no fields of Nova's, and no tier of its own."""
    if {"temperature", "top_p"} <= request.inference_config.model_fields_set:
        raise invalid(
            "The model returned the following errors: `temperature` and `top_p` cannot both be specified for this "
            "model. Please use only one."
        )
    if isinstance(request, ConverseRequest):
        for name in request.additional_model_request_fields:
            raise invalid(f"The model returned the following errors: {name}: Extra inputs are not permitted")
        if request.service_tier.type != "default":
            raise invalid("The provided service tier is not supported for the model that you provided.")


def _size(kind: str, data: bytes) -> tuple[int, int]:
    found = header(data)
    if found is None:
        raise invalid("The provided image could not be decoded.")
    if found.format != kind:
        raise invalid(f"The image was given as image/{kind}, but it is image/{found.format}.")
    if len(data) > MOST_IMAGE_BYTES:
        raise invalid(f"The image is larger than {MOST_IMAGE_BYTES} bytes.")
    if max(found.width, found.height) > LONGEST_SIDE:
        raise invalid(
            f"The image is {found.width} x {found.height}; no side may exceed {LONGEST_SIDE} pixels."
        )
    return found.width, found.height


def _image_tokens(model: str, size: tuple[int, int]) -> int:
    """What a picture costs: Nova 2 counts a flat 230 tokens, Nova 1 about one for 650 pixels of its resized copy."""
    if "nova-2" in model:
        return 230
    if "claude" in model:
        return round(size[0] * size[1] / 750)
    return round(min(max(size[0] * size[1], 520_000), 1300 * 1300) / 650)
