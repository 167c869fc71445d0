"""Bedrock's runtime: InvokeModel and Converse, handed to the model that the request names."""

from typing import Any

from bg_pipeline_local_aws import nova, stability, titan
from bg_pipeline_local_aws.catalogue import Model, bare_id, callable_model
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.studio import Studio
from bg_pipeline_local_aws.wire import AwsError, Call, invalid

MOST_BODY = 25_000_000
"""Bytes of a request and of an answer alike."""


async def invoke_model(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """InvokeModel's answer in the model's own shape."""
    model = _model(call, control)
    if model.id in titan.FAMILIES:
        made = await titan.invoke(call, control, studio)
    elif model.output == "TEXT":
        made = await nova.invoke(call, control, studio)
    else:
        made = await stability.invoke(call, control, studio)
    if sum(len(image) for image in made.get("images") or ()) > MOST_BODY:
        # The model did its work, which is billed; its answer cannot be carried.
        call.outcome = "lost"
        raise AwsError("InternalServerException", f"The response body is larger than {MOST_BODY} bytes.")
    return made


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
