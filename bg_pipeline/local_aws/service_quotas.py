"""Service Quotas: the quota in force for each model and for Rekognition's operations, by AWS's names for them.

The codes are AWS's where they were found in public lists; the others are made up here.
"""

import zlib
from typing import Any

from bg_pipeline.local_aws.catalogue import MODELS
from bg_pipeline.local_aws.control import Control
from bg_pipeline.local_aws.studio import Studio
from bg_pipeline.local_aws.wire import ACCOUNT, AwsError, Call

_BIG_REGIONS = ("us-east-1", "us-west-2", "eu-west-1")
_CODES = {
    "On-demand model inference requests per minute for Amazon Titan Image Generator G1": "L-7DBB06FD",
    "Cross-region model inference requests per minute for Amazon Nova Pro": "L-ED46B8C5",
    "Cross-region model inference requests per minute for Amazon Nova Lite": "L-89F8391A",
}
_PER_SECOND = {"DetectLabels": (50, 5), "DetectFaces": (100, 25), "DetectCustomLabels": (50, 50)}


async def get_service_quota(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """``Quota`` of a service and a code."""
    body = call.json()
    for quota in await _quotas(call, control):
        if quota["QuotaCode"] == body.get("QuotaCode"):
            return {"Quota": quota}
    raise AwsError(
        "NoSuchResourceException", "The request failed because the specified quota does not exist."
    )


async def list_service_quotas(call: Call, control: Control, studio: Studio) -> dict[str, Any]:
    """``Quotas`` of a service, on one page."""
    return {"Quotas": await _quotas(call, control)}


async def _quotas(call: Call, control: Control) -> list[dict[str, Any]]:
    control.admit(call)
    service = call.json().get("ServiceCode")
    if service == "bedrock":
        return [
            _quota(
                service,
                call.region,
                name,
                _in_force(control, call.region, per_minute, model=model.id),
                "MINUTE",
            )
            for model in MODELS.values()
            for name, per_minute in model.quotas.items()
        ]
    if service == "rekognition":
        big = call.region in _BIG_REGIONS
        return [
            _quota(
                service,
                call.region,
                f"Transactions per second per account for the Amazon Rekognition Image operation {operation}",
                _in_force(control, call.region, 60 * (most if big else least), operation=operation) / 60,
                "SECOND",
            )
            for operation, (most, least) in _PER_SECOND.items()
        ]
    raise AwsError(
        "NoSuchResourceException", "The request failed because the specified service does not exist."
    )


def _in_force(
    control: Control, region: str, default: float, *, operation: str = "", model: str = ""
) -> float:
    named = [
        quota.per_minute
        for quota in control.quotas
        if (quota.model, quota.operation) == (model, operation) and quota.region in ("", region)
    ]
    return min(named, default=default)


def _quota(service: str, region: str, name: str, value: float, period: str) -> dict[str, Any]:
    code = _CODES.get(name) or f"L-{zlib.crc32(name.encode()):08X}"
    return {
        "ServiceCode": service,
        "ServiceName": "Amazon Bedrock" if service == "bedrock" else "Amazon Rekognition",
        "QuotaArn": f"arn:aws:servicequotas:{region}:{ACCOUNT}:{service}/{code}",
        "QuotaCode": code,
        "QuotaName": name,
        "Value": value,
        "Unit": "None",
        "Adjustable": False,
        "GlobalQuota": False,
        "Period": {"PeriodValue": 1, "PeriodUnit": period},
        "QuotaAppliedAtLevel": "ACCOUNT",
    }
