"""Bedrock's control plane: models, their lifecycle and availability, and inference profiles."""

from collections.abc import Iterator
from datetime import date
from typing import Any

from bg_pipeline_local_aws.catalogue import MODELS, Model, base_model_id
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.protocol import ACCOUNT, AwsError, Call, validation_error
from bg_pipeline_local_aws.render_pool import RenderPool
from bg_pipeline_local_aws.rules import ModelState

_LAUNCHED = "2024-11-07T00:00:00Z"
_LEGACY_SINCE = "2025-12-30T00:00:00Z"


async def get_foundation_model(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """``modelDetails`` of a model id (not of a profile's id); a retired model is not found."""
    identity = call.model
    model, state = _admitted_model(call, control)
    if identity.partition(".")[0] in model.profiles or not model.offered_in(call.region):
        raise validation_error("The provided model identifier is invalid.")
    return {"modelDetails": _model_details(model, state, call.region)}


async def get_foundation_model_availability(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """Agreement, authorization, entitlement and Region availability of a model for this account."""
    model, state = _admitted_model(call, control)
    no_agreement = ("denied", "no-marketplace-rights", "payment")
    agreement = "NOT_AVAILABLE" if state.access in no_agreement else "AVAILABLE"
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


async def list_foundation_models(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """``modelSummaries`` of the Region, optionally filtered by provider, output modality or inference type."""
    control.admit(call)
    region = call.region
    summaries = [
        _model_details(model, state, region)
        for model in MODELS.values()
        if model.offered_in(region)
        and (state := control.model_state(model.id, region)).lifecycle != "RETIRED"
    ]
    filters = {
        "byProvider": "providerName",
        "byOutputModality": "outputModalities",
        "byInferenceType": "inferenceTypesSupported",
    }
    for parameter, name in filters.items():
        if value := call.query.get(parameter):
            summaries = [details for details in summaries if value in details[name]]
    return {"modelSummaries": summaries}


async def list_inference_profiles(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """``inferenceProfileSummaries`` of the Region, on one page; the account has no application profiles."""
    control.admit(call)
    if call.query.get("type") == "APPLICATION":
        return {"inferenceProfileSummaries": []}
    return {"inferenceProfileSummaries": list(_profiles(call, control))}


async def get_inference_profile(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """One inference profile of the Region, by its id or ARN."""
    profile_id = call.model.rpartition("/")[2]
    call.model = base_model_id(call.model)
    control.admit(call)
    for profile in _profiles(call, control):
        if profile["inferenceProfileId"] == profile_id:
            return profile
    raise AwsError("ResourceNotFoundException", f"Inference profile {profile_id} was not found.")


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
                "models": [{"modelArn": _model_arn(model, region)} for region in model.profiles[geography]],
                "status": "ACTIVE",
                "type": "SYSTEM_DEFINED",
            }


def _admitted_model(call: Call, control: Control) -> tuple[Model, ModelState]:
    call.model = base_model_id(call.model)
    control.admit(call)
    model = MODELS.get(call.model)
    if model is None:
        raise validation_error("The provided model identifier is invalid.")
    state = control.model_state(model.id, call.region)
    if state.lifecycle == "RETIRED":
        raise AwsError("ResourceNotFoundException", "Could not find the requested foundation model.")
    return model, state


def _model_arn(model: Model, region: str) -> str:
    return f"arn:aws:bedrock:{region}::foundation-model/{model.id}"


def _model_details(model: Model, state: ModelState, region: str) -> dict[str, Any]:
    lifecycle = {"status": state.lifecycle, "startOfLifeTime": _LAUNCHED}
    if state.lifecycle == "LEGACY":
        lifecycle["legacyTime"] = _midnight(state.legacy_since) if state.legacy_since else _LEGACY_SINCE
    if state.extended_access:
        lifecycle["publicExtendedAccessTime"] = _midnight(state.extended_access)
    if state.end_of_life:
        lifecycle["endOfLifeTime"] = _midnight(state.end_of_life)
    kinds = {"ON_DEMAND": region in model.regions, "INFERENCE_PROFILE": bool(model.profiles_in(region))}
    return {
        "modelArn": _model_arn(model, region),
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
