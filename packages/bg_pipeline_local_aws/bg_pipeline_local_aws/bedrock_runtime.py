"""Bedrock's runtime: dispatches InvokeModel and Converse to the requested model."""

from typing import Any

from bg_pipeline_local_aws import nova, stability, titan
from bg_pipeline_local_aws.catalogue import Model, base_model_id, resolve_model
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.protocol import AwsError, Call, validation_error
from bg_pipeline_local_aws.render_pool import RenderPool

MAX_BODY_BYTES = 25_000_000
"""Maximum bytes of a request body and of an answer's images."""


async def invoke_model(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """InvokeModel's answer in the model's own format."""
    model = _resolve(call, control)
    if model.id in titan.FAMILIES:
        answer = await titan.invoke(call, control, pool)
    elif model.output == "TEXT":
        answer = await nova.invoke(call, control, pool)
    else:
        answer = await stability.invoke(call, control, pool)
    if sum(len(image) for image in answer.get("images") or ()) > MAX_BODY_BYTES:
        # The model did its work, which is billed, but the answer cannot be sent.
        call.outcome = "lost"
        raise AwsError("InternalServerException", f"The response body is larger than {MAX_BODY_BYTES} bytes.")
    return answer


async def converse(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """Converse's answer; ValidationException for image models."""
    if _resolve(call, control).output != "TEXT":
        raise validation_error(
            "This action doesn't support the model that you provided. Try again with a supported text or chat model."
        )
    return await nova.converse(call, control, pool)


def _resolve(call: Call, control: Control) -> Model:
    identity, call.model = call.model, base_model_id(call.model)
    model = resolve_model(identity, call.region, control)
    if len(call.body) > MAX_BODY_BYTES:
        raise validation_error(f"The request body is larger than {MAX_BODY_BYTES} bytes.")
    return model
