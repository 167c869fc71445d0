"""Bedrock's control plane: what models there are, whether they live, and whether this account may use them."""

from collections.abc import Iterator
from datetime import date
from typing import Any

from bg_pipeline_local_aws.catalogue import MODELS, Model, bare_id
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.rules import ModelState
from bg_pipeline_local_aws.studio import Studio
from bg_pipeline_local_aws.wire import ACCOUNT, AwsError, Call, invalid

_LAUNCHED = "2024-11-07T00:00:00Z"
_LEGACY_SINCE = "2025-12-30T00:00:00Z"


async def get_foundation_model(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """``modelDetails`` of a model's own id; one past its end of life is no longer known."""
    identity = call.model
    model, state = _known(call, control)
    if identity.partition(".")[0] in model.profiles or not model.offered_in(call.region):
        raise invalid("The provided model identifier is invalid.")
    return {"modelDetails": _details(model, state, call.region)}


async def get_foundation_model_availability(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """Agreement, authorization, entitlement and Region of a model for this account."""
    model, state = _known(call, control)
    without = ("denied", "no-marketplace-rights", "payment")
    agreement = "NOT_AVAILABLE" if state.access in without else "AVAILABLE"
    if state.access == "pending":
        agreement = "PENDING"
    elif state.access == "unsubscribed":
        agreement = control.subscription(state)
    granted = state.access == "granted" or (state.access == "unsubscribed" and agreement == "AVAILABLE")
    usable = "AVAILABLE" if granted else "NOT_AVAILABLE"
    authorized = state.access != "denied" if state.authorized is None else state.authorized
    return {
        "modelId": model.id,
        "agreementAvailability": {"status": agreement},
        "authorizationStatus": "AUTHORIZED" if authorized else "NOT_AUTHORIZED",
        "entitlementAvailability": usable,
        "regionAvailability": "AVAILABLE" if model.offered_in(call.region) else "NOT_AVAILABLE",
    }


async def list_foundation_models(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """``modelSummaries`` of the Region, by provider, output or inference type where asked for."""
    control.admit(call)
    region = call.region
    found = [
        _details(model, state, region)
        for model in MODELS.values()
        if model.offered_in(region)
        and (state := control.model_state(model.id, region)).lifecycle != "RETIRED"
    ]
    asked = {
        "byProvider": "providerName",
        "byOutputModality": "outputModalities",
        "byInferenceType": "inferenceTypesSupported",
    }
    for parameter, name in asked.items():
        if wanted := call.query.get(parameter):
            found = [details for details in found if wanted in details[name]]
    return {"modelSummaries": found}


async def list_inference_profiles(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """``inferenceProfileSummaries`` of the Region, on one page; there are none of the account's own."""
    control.admit(call)
    if call.query.get("type") == "APPLICATION":
        return {"inferenceProfileSummaries": []}
    return {"inferenceProfileSummaries": list(_profiles(call, control))}


async def get_inference_profile(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """One of them, by its id or ARN."""
    wanted = call.model.rpartition("/")[2]
    call.model = bare_id(call.model)
    control.admit(call)
    for profile in _profiles(call, control):
        if profile["inferenceProfileId"] == wanted:
            return profile
    raise AwsError("ResourceNotFoundException", f"Inference profile {wanted} was not found.")


def _profiles(call: Call, control: Control) -> Iterator[dict[str, Any]]:
    for model in MODELS.values():
        if control.model_state(model.id, call.region).lifecycle == "RETIRED":
            continue
        for profile in model.profiles_in(call.region):
            geography = profile.partition(".")[0]
            yield {
                "inferenceProfileId": profile,
                "inferenceProfileName": f"{geography.upper()} {model.name}",
                "inferenceProfileArn": f"arn:aws:bedrock:{call.region}:{ACCOUNT}:inference-profile/{profile}",
                "models": [{"modelArn": _arn(model, region)} for region in model.profiles[geography]],
                "status": "ACTIVE",
                "type": "SYSTEM_DEFINED",
            }


def _known(call: Call, control: Control) -> tuple[Model, ModelState]:
    call.model = bare_id(call.model)
    control.admit(call)
    model = MODELS.get(call.model)
    if model is None:
        raise invalid("The provided model identifier is invalid.")
    state = control.model_state(model.id, call.region)
    if state.lifecycle == "RETIRED":
        raise AwsError("ResourceNotFoundException", "Could not find the requested foundation model.")
    return model, state


def _arn(model: Model, region: str) -> str:
    return f"arn:aws:bedrock:{region}::foundation-model/{model.id}"


def _details(model: Model, state: ModelState, region: str) -> dict[str, Any]:
    lifecycle = {"status": state.lifecycle, "startOfLifeTime": _LAUNCHED}
    if state.lifecycle == "LEGACY":
        lifecycle["legacyTime"] = _midnight(state.legacy_since) if state.legacy_since else _LEGACY_SINCE
    if state.extended_access:
        lifecycle["publicExtendedAccessTime"] = _midnight(state.extended_access)
    if state.end_of_life:
        lifecycle["endOfLifeTime"] = _midnight(state.end_of_life)
    kinds = {"ON_DEMAND": region in model.regions, "INFERENCE_PROFILE": bool(model.profiles_in(region))}
    return {
        "modelArn": _arn(model, region),
        "modelId": model.id,
        "modelName": model.name,
        "providerName": model.provider,
        "inputModalities": ["TEXT", "IMAGE"],
        "outputModalities": [model.output],
        "inferenceTypesSupported": [kind for kind, offered in kinds.items() if offered],
        "modelLifecycle": lifecycle,
    }


def _midnight(day: date) -> str:
    return f"{day.isoformat()}T00:00:00Z"
