"""Service Quotas: the quotas of models and of Rekognition's operations under AWS's names.

Quota codes are AWS's where public lists contain them; the others are invented.
"""

import zlib
from typing import Any

from bg_pipeline_local_aws.catalogue import MODELS
from bg_pipeline_local_aws.control import Control
from bg_pipeline_local_aws.protocol import AwsError, Call
from bg_pipeline_local_aws.render_pool import RenderPool

_CODES = {
    "On-demand model inference requests per minute for Amazon Titan Image Generator G1": "L-7DBB06FD",
    "Cross-region model inference requests per minute for Amazon Nova Pro": "L-ED46B8C5",
    "Cross-region model inference requests per minute for Amazon Nova Lite": "L-89F8391A",
    "Cross-region model inference tokens per minute for Amazon Nova Pro": "L-C0326783",
    "Cross-region model inference tokens per minute for Amazon Nova Lite": "L-7C42E72A",
    "On-demand model inference tokens per minute for Amazon Nova Pro": "L-CE33604C",
    "On-demand model inference tokens per minute for Amazon Nova Lite": "L-70423BF8",
    "Cross-Model Max Tokens Per Day": "L-E3F10727",
}

_TOKENS_A_DAY = 700_000_000

# Calls per second in the large Regions and in the others.
_LARGE = ("us-east-1", "us-west-2", "eu-west-1")
_REKOGNITION = {"DetectLabels": (50, 5), "DetectFaces": (100, 25), "DetectCustomLabels": (50, 50)}
_REKOGNITION_NAME = "Transactions per second per account for the Amazon Rekognition Image operation {}"


async def get_service_quota(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """``Quota`` of a service and a quota code."""
    code = call.json().get("QuotaCode")
    for quota in _quotas(call, control):
        if quota["QuotaCode"] == code:
            return {"Quota": quota}
    raise AwsError("NoSuchResourceException", "The specified quota does not exist.")


async def list_service_quotas(call: Call, control: Control, pool: RenderPool) -> dict[str, Any]:
    """``Quotas`` of a service, on one page."""
    return {"Quotas": _quotas(call, control)}


def _quotas(call: Call, control: Control) -> list[dict[str, Any]]:
    control.admit(call)

    def in_force(default: float, operation: str, model: str) -> float:
        """Calls per minute: the quota that a test set, else the documented default."""
        rules = [rule for rule in control.quotas if (rule.operation, rule.model) == (operation, model)]
        return min((rule.per_minute for rule in rules if rule.region in ("", call.region)), default=default)

    service = call.json().get("ServiceCode", "")
    if service == "bedrock":
        quotas = {
            name: in_force(default, "", model.id) if "requests per minute" in name else default
            for model in MODELS.values()
            for name, default in model.quotas.items()
        }
        quotas["Cross-Model Max Tokens Per Day"] = _TOKENS_A_DAY
    elif service == "rekognition":
        quotas = {
            _REKOGNITION_NAME.format(name): in_force(60 * rates[call.region not in _LARGE], name, "") / 60
            for name, rates in _REKOGNITION.items()
        }
    else:
        raise AwsError("NoSuchResourceException", "The specified service does not exist.")
    codes = {name: _CODES.get(name) or f"L-{zlib.crc32(name.encode()):08X}" for name in quotas}
    applied = {rule.quota: rule.value for rule in control.applied if rule.region in ("", call.region)}
    return [
        {
            "ServiceCode": service,
            "QuotaCode": codes[name],
            "QuotaName": name,
            "Value": applied.get(name, applied.get(codes[name], value)),
            "Unit": "None",
            "Adjustable": False,
        }
        for name, value in quotas.items()
    ]
