"""The stand-in's Bedrock control plane, model catalogue and Service Quotas."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import boto3
import pytest
from botocore.config import Config

from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.local_aws.pictures import b64, ball, refusal

if TYPE_CHECKING:
    from types_boto3_bedrock import BedrockClient

V2 = "amazon.titan-image-generator-v2:0"
REMOVE = "stability.stable-image-remove-background-v1:0"
PRO = "amazon.nova-pro-v1:0"


@pytest.fixture
def bedrock(control: ControlClient) -> "BedrockClient":
    """A client of Bedrock's control plane, with the stand-in reset."""
    return boto3.client("bedrock")


def invoke_once(model: str, region: str = "us-east-1") -> Any:
    """Calls a model with the body of Remove Background, without retries."""
    once = Config(retries={"total_max_attempts": 1})
    client = boto3.client("bedrock-runtime", region_name=region, config=once)
    return client.invoke_model(modelId=model, body=json.dumps({"image": b64(ball())}))


def test_every_model_is_active_and_granted_initially(bedrock: "BedrockClient") -> None:
    models = bedrock.list_foundation_models()["modelSummaries"]
    assert {V2, REMOVE, PRO} <= {model["modelId"] for model in models}
    for model in models:
        details = bedrock.get_foundation_model(modelIdentifier=model["modelId"])["modelDetails"]
        assert details["modelLifecycle"]["status"] == "ACTIVE"
        available = bedrock.get_foundation_model_availability(modelId=model["modelId"])
        assert available["agreementAvailability"]["status"] == "AVAILABLE"
        assert available["authorizationStatus"] == "AUTHORIZED"


def test_models_are_filtered_by_output_provider_and_inference_type(bedrock: "BedrockClient") -> None:
    def names(**filters: Any) -> set[str]:
        return {model["modelId"] for model in bedrock.list_foundation_models(**filters)["modelSummaries"]}

    assert PRO not in names(byOutputModality="IMAGE")
    assert names(byProvider="Stability AI") == {REMOVE, "stability.stable-image-inpaint-v1:0"}
    assert REMOVE not in names(byInferenceType="ON_DEMAND")


def test_profiles_are_those_of_the_region(bedrock: "BedrockClient") -> None:
    def profiles(client: "BedrockClient") -> set[str]:
        return {
            profile["inferenceProfileId"]
            for profile in client.list_inference_profiles()["inferenceProfileSummaries"]
        }

    assert {f"us.{REMOVE}", f"us.{PRO}"} <= profiles(bedrock)
    assert f"eu.{PRO}" in profiles(boto3.client("bedrock", region_name="eu-west-1"))
    assert f"us.{REMOVE}" not in profiles(boto3.client("bedrock", region_name="eu-west-1"))


def test_a_legacy_model_has_an_end_of_life(bedrock: "BedrockClient", control: ControlClient) -> None:
    control.model(V2, lifecycle="LEGACY", end_of_life="2027-01-31")
    lifecycle = bedrock.get_foundation_model(modelIdentifier=V2)["modelDetails"]["modelLifecycle"]
    assert lifecycle["status"] == "LEGACY"
    assert lifecycle["endOfLifeTime"] == datetime(2027, 1, 31, tzinfo=UTC)


def test_a_retired_model_is_not_found(bedrock: "BedrockClient", control: ControlClient) -> None:
    control.model(V2, lifecycle="RETIRED", region="us-east-1")
    assert refusal(lambda: bedrock.get_foundation_model(modelIdentifier=V2))[0] == "ResourceNotFoundException"
    code, message, status = refusal(lambda: invoke_once(V2))
    assert (code, status) == ("ResourceNotFoundException", 404)
    assert message.startswith("This model version has reached the end of its life.")
    # Other Regions still have it: there the error is about the body.
    assert refusal(lambda: invoke_once(V2, "us-west-2"))[0] == "ValidationException"


@pytest.mark.parametrize(
    ("access", "code", "message_part", "agreement"),
    [
        ("denied", "AccessDeniedException", "don't have access", "NOT_AVAILABLE"),
        ("pending", "AccessDeniedException", "Your AWS Marketplace subscription", "PENDING"),
        ("unused-legacy", "ResourceNotFoundException", "marked by provider as Legacy", "AVAILABLE"),
    ],
)
def test_both_planes_report_missing_access(
    bedrock: "BedrockClient",
    control: ControlClient,
    access: str,
    code: str,
    message_part: str,
    agreement: str,
) -> None:
    control.model(REMOVE, access=access)
    found, message, status = refusal(lambda: invoke_once(f"us.{REMOVE}"))
    assert (found, status) == (code, 403 if code == "AccessDeniedException" else 404)
    assert message_part in message
    available = bedrock.get_foundation_model_availability(modelId=REMOVE)
    assert available["agreementAvailability"]["status"] == agreement


def test_the_first_call_subscribes_and_calls_are_refused_until_that_is_done(
    bedrock: "BedrockClient", control: ControlClient
) -> None:
    def agreement() -> str:
        return bedrock.get_foundation_model_availability(modelId=REMOVE)["agreementAvailability"]["status"]

    control.switch(canned=True)
    control.model(REMOVE, access="unsubscribed", seconds=600, first_call_passes=True)
    assert agreement() == "NOT_AVAILABLE"
    invoke_once(f"us.{REMOVE}")
    assert agreement() == "PENDING"
    assert "try again after 15 minutes" in refusal(lambda: invoke_once(f"us.{REMOVE}"))[1]
    control.model(REMOVE, access="unsubscribed")
    assert agreement() == "NOT_AVAILABLE"
    invoke_once(f"us.{REMOVE}")
    assert agreement() == "AVAILABLE"


@pytest.mark.parametrize(
    ("access", "code", "message_part"),
    [
        ("payment", "AccessDeniedException", "INVALID_PAYMENT_INSTRUMENT"),
        ("no-marketplace-rights", "AccessDeniedException", "aws-marketplace:Subscribe"),
        ("scp-denied", "AccessDeniedException", "bedrock:us-east-2::foundation-model"),
        ("unverified", "ValidationException", "Operation not allowed"),
    ],
)
def test_access_errors_have_the_messages_of_aws(
    control: ControlClient, access: str, code: str, message_part: str
) -> None:
    control.model(REMOVE, access=access)
    found, message, _ = refusal(lambda: invoke_once(f"us.{REMOVE}"))
    assert found == code
    assert message_part in message


def test_a_profile_is_found_only_in_its_regions(bedrock: "BedrockClient", control: ControlClient) -> None:
    found = bedrock.get_inference_profile(inferenceProfileIdentifier=f"us.{REMOVE}")
    assert found["inferenceProfileId"] == f"us.{REMOVE}"
    assert [model["modelArn"].split(":")[3] for model in found["models"]] == [
        "us-east-1",
        "us-east-2",
        "us-west-2",
    ]
    elsewhere = boto3.client("bedrock", region_name="eu-west-1")
    code, _, _ = refusal(lambda: elsewhere.get_inference_profile(inferenceProfileIdentifier=f"us.{REMOVE}"))
    assert code == "ResourceNotFoundException"


def test_an_answer_that_is_too_large_is_billed_and_lost(control: ControlClient) -> None:
    control.switch(canned=True, canned_bytes=19_000_000)
    assert refusal(lambda: invoke_once(f"us.{REMOVE}"))[0] == "InternalServerException"
    assert [call["outcome"] for call in control.paid(operation="InvokeModel")] == ["lost"]


def test_claude_takes_one_of_temperature_and_top_p(control: ControlClient) -> None:
    control.switch(canned=True)
    client = boto3.client("bedrock-runtime")
    message: Any = {"role": "user", "content": [{"text": "Hello"}]}

    def converse(**config: Any) -> Any:
        model = "us.anthropic.claude-haiku-4-5-20251001-v1:0"
        return client.converse(modelId=model, messages=[message], inferenceConfig=cast(Any, config))

    converse(temperature=0.3)
    assert "cannot both be specified" in refusal(lambda: converse(temperature=0.3, topP=0.1))[1]


def test_a_fault_can_deny_the_control_plane(bedrock: "BedrockClient", control: ControlClient) -> None:
    control.fault(operation="GetFoundationModel", code="AccessDeniedException", message="No.", times=0)
    for _ in range(2):
        assert refusal(lambda: bedrock.get_foundation_model(modelIdentifier=V2))[0] == "AccessDeniedException"


@pytest.mark.parametrize(
    ("model", "region", "message_part"),
    [
        (REMOVE, "us-east-1", "on-demand throughput isn’t supported"),
        (f"us.{REMOVE}", "eu-west-1", "model identifier is invalid"),
        (V2, "eu-west-1", "model identifier is invalid"),
        (f"us.{V2}", "us-east-1", "model identifier is invalid"),
        ("amazon.titan-image-generator-v3:0", "us-east-1", "model identifier is invalid"),
    ],
)
@pytest.mark.usefixtures("control")
def test_a_model_is_refused_under_a_wrong_id_or_region(model: str, region: str, message_part: str) -> None:
    code, message, _ = refusal(lambda: invoke_once(model, region))
    assert code == "ValidationException"
    assert message_part in message


def test_a_model_can_be_called_by_arn(control: ControlClient) -> None:
    control.switch(canned=True)
    invoke_once(f"arn:aws:bedrock:us-east-1:000000000000:inference-profile/us.{REMOVE}")
    assert [call["model"] for call in control.paid()] == [REMOVE]


def test_service_quotas_returns_documented_or_enforced_values(control: ControlClient) -> None:
    client = boto3.client("service-quotas")

    def value(service: str, part: str) -> float:
        (found,) = (
            q
            for q in client.list_service_quotas(ServiceCode=service)["Quotas"]
            if q["QuotaName"].endswith(part)
        )
        assert client.get_service_quota(ServiceCode=service, QuotaCode=found["QuotaCode"])["Quota"] == found
        return found["Value"]

    assert value("bedrock", "Stable Image Remove Background") == 20
    assert value("rekognition", "DetectLabels") == 50
    control.quota({"model": REMOVE, "per_minute": 6}, {"operation": "DetectLabels", "per_minute": 120})
    assert value("bedrock", "Stable Image Remove Background") == 6
    assert value("rekognition", "DetectLabels") == 2
    unknown = refusal(lambda: client.get_service_quota(ServiceCode="bedrock", QuotaCode="L-0"))
    assert unknown[0] == "NoSuchResourceException"
