"""Bedrock's runtime: InvokeModel and Converse, handed to the model that the request names."""

from typing import Any

from bg_pipeline.local_aws import nova, stability, titan
from bg_pipeline.local_aws.catalogue import Model, bare_id, callable_model
from bg_pipeline.local_aws.control import Control
from bg_pipeline.local_aws.studio import Studio
from bg_pipeline.local_aws.wire import Call, invalid

MOST_BODY = 25_000_000


async def invoke_model(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """InvokeModel's answer in the model's own shape."""
    model = _model(call, control)
    if model.id in titan.FAMILIES:
        return await titan.invoke(call, control, studio)
    if model.output == "TEXT":
        return await nova.invoke(call, control, studio)
    return await stability.invoke(call, control, studio)


async def converse(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """Converse's answer; only models that speak have one."""
    if _model(call, control).output != "TEXT":
        raise invalid(
            "This action doesn't support the model that you provided. Try again with a supported text or chat model."
        )
    return await nova.converse(call, control, studio)


def _model(call: Call, control: Control) -> Model:
    identity, call.model = call.model, bare_id(call.model)
    model = callable_model(identity, call.region, control)
    if len(call.body) > MOST_BODY:
        raise invalid(f"The request body is larger than {MOST_BODY} bytes.")
    return model
