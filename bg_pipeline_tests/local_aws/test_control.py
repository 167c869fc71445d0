"""The control routes: faults, quotas, latencies, canned pictures, and the call log."""

import hashlib
import json
import time
from typing import Any

import boto3
import pytest
import urllib3
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError

from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_local_aws.launcher import LocalAws
from bg_pipeline_local_aws.rules import Quota, QuotaMeter
from bg_pipeline_tests.local_aws.pictures import b64, ball, opened, refusal

V2 = "amazon.titan-image-generator-v2:0"
REMOVE = "stability.stable-image-remove-background-v1:0"


@pytest.fixture
def canned(control: ControlClient) -> ControlClient:
    """The control client, with canned pictures switched on."""
    control.switch(canned=True)
    return control


def once(service: Any, region: str = "us-east-1") -> Any:
    """A client without retries."""
    return boto3.client(service, region_name=region, config=Config(retries={"total_max_attempts": 1}))


def remove(region: str = "us-east-1", picture: bytes | None = None) -> dict[str, Any]:
    """Calls Remove Background, without retries."""
    body = json.dumps({"image": b64(picture or ball())})
    answer = once("bedrock-runtime", region).invoke_model(modelId=f"us.{REMOVE}", body=body)
    body_fields: dict[str, Any] = json.loads(answer["body"].read())
    return body_fields


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ThrottlingException", 429),
        ("ServiceUnavailableException", 503),
        ("InternalServerException", 500),
        ("ModelTimeoutException", 408),
        ("ModelErrorException", 424),
        ("ModelNotReadyException", 429),
        ("AccessDeniedException", 403),
        ("ServiceQuotaExceededException", 400),
    ],
)
def test_a_fault_has_the_code_and_status_of_the_service(
    canned: ControlClient, code: str, status: int
) -> None:
    canned.fault(model=REMOVE, code=code, message="Not now.")
    assert refusal(remove) == (code, "Not now.", status)
    assert remove()["finish_reasons"] == [None]
    assert [call["outcome"] for call in canned.calls()] == [code, "ok"]


def test_a_fault_of_rekognition_uses_its_protocol(canned: ControlClient) -> None:
    canned.fault(operation="DetectLabels", code="ThrottlingException", message="Slow down.")
    assert refusal(lambda: once("rekognition").detect_labels(Image={"Bytes": ball()})) == (
        "ThrottlingException",
        "Slow down.",
        400,
    )


def test_a_fault_affects_matching_calls_the_given_number_of_times(canned: ControlClient) -> None:
    other = ball((400, 400))
    canned.fault(
        image=hashlib.sha256(other).hexdigest(),
        region="us-west-2",
        times=2,
        skip=1,
        code="ModelErrorException",
    )
    remove("us-west-2")
    remove("us-east-1", other)
    remove("us-west-2", other)
    for _ in range(2):
        assert refusal(lambda: remove("us-west-2", other))[0] == "ModelErrorException"
    remove("us-west-2", other)


def test_a_fault_can_match_a_text_of_the_request(canned: ControlClient) -> None:
    canned.fault(match="london", code="ModelErrorException", times=0)
    bedrock = once("bedrock-runtime")

    def converse(text: str) -> None:
        bedrock.converse(
            modelId="us.amazon.nova-pro-v1:0", messages=[{"role": "user", "content": [{"text": text}]}]
        )

    converse("paris")
    assert refusal(lambda: converse("london"))[0] == "ModelErrorException"


@pytest.mark.parametrize(("after_work", "outcome"), [(True, "lost"), (False, "reset")])
def test_a_connection_can_be_cut_before_or_after_the_work(
    canned: ControlClient, after_work: bool, outcome: str
) -> None:
    canned.fault(action="reset", after_work=after_work)
    with pytest.raises(ConnectionClosedError):
        remove()
    (call,) = canned.calls()
    assert (call["outcome"], call["billed"]) == (outcome, after_work)
    remove()


def test_an_answer_can_be_delayed(canned: ControlClient) -> None:
    canned.fault(action="delay", seconds=0.3)
    started = time.monotonic()
    remove()
    assert time.monotonic() - started >= 0.3


def test_a_fault_can_block_by_content_policy(canned: ControlClient) -> None:
    canned.fault(action="block", where="image")
    assert remove()["finish_reasons"] == ["Filter reason: input image"]
    assert canned.paid() == []


def test_latencies_are_distributed_around_their_median(canned: ControlClient) -> None:
    canned.latency({"model": REMOVE, "seconds": 0.05, "sigma": 0.5})
    for _ in range(7):
        remove()
    seconds = sorted(call["seconds"] for call in canned.calls())
    assert seconds[0] != seconds[-1]
    assert 0.02 < seconds[3] < 0.2


def test_a_quota_applies_to_each_region_separately(canned: ControlClient) -> None:
    canned.quota({"model": REMOVE, "per_minute": 1})
    for region in ("us-east-1", "us-west-2"):
        remove(region)
        code, message, status = refusal(lambda region=region: remove(region))  # type: ignore[misc]
        assert (code, status) == ("ThrottlingException", 429)
        assert message == "Too many requests, please wait before trying again."
    assert len(canned.paid()) == 2


def test_rekognition_throttles_with_its_own_error(canned: ControlClient) -> None:
    canned.quota({"operation": "DetectLabels", "per_minute": 1})
    client = once("rekognition")
    client.detect_labels(Image={"Bytes": ball()})
    assert refusal(lambda: client.detect_labels(Image={"Bytes": ball()})) == (
        "ProvisionedThroughputExceededException", "Provisioned rate exceeded", 400,
    )  # fmt: skip


def test_the_error_of_a_daily_quota_mentions_the_day(canned: ControlClient) -> None:
    canned.quota({"per_minute": 6000, "depth": 100, "per_day": 1})
    remove()
    assert "per day" in refusal(remove)[1]


def admitted(quota: Quota, every: float, seconds: float) -> list[int]:
    """The times (seconds, rounded down) at which calls in intervals of ``every`` seconds are admitted."""
    meter = QuotaMeter(quota, 0.0)
    times = []
    for number in range(round(seconds / every)):
        now = number * every
        if not meter.exceeded(now):
            meter.take(now)
            times.append(int(now))
    return times


def test_a_bucket_of_depth_one_admits_evenly() -> None:
    assert admitted(Quota(per_minute=60), every=0.1, seconds=5) == [0, 1, 2, 3, 4]


def test_a_deep_bucket_admits_its_depth_at_once_and_then_evenly() -> None:
    times = admitted(Quota(per_minute=60, depth=30), every=0.01, seconds=5)
    assert times.count(0) == 30
    assert times.count(3) == 1


def test_a_fixed_window_resets_and_a_rolling_one_forgets_old_calls() -> None:
    fixed = QuotaMeter(Quota(per_minute=3, shape="fixed"), 0.0)
    rolling = QuotaMeter(Quota(per_minute=3, shape="rolling"), 0.0)
    for meter in (fixed, rolling):
        for now in (50.0, 51.0, 52.0):
            assert not meter.exceeded(now)
            meter.take(now)
        assert meter.exceeded(53.0) == "minute"
    assert (fixed.exceeded(60.0), rolling.exceeded(60.0), rolling.exceeded(110.1)) == ("", "minute", "")


def test_the_call_log_has_all_calls_and_what_was_billed(canned: ControlClient) -> None:
    remove("us-west-2")
    canned.fault(model=REMOVE)
    refusal(remove)
    fields = {"operation": "InvokeModel", "model": REMOVE, "image": hashlib.sha256(ball()).hexdigest()}
    assert [{name: call[name] for name in fields} for call in canned.calls()] == [fields, fields]
    assert [call["region"] for call in canned.paid()] == ["us-west-2"]
    assert {(total["outcome"], total["count"]) for total in canned.totals()} == {
        ("ok", 1),
        ("ThrottlingException", 1),
    }
    canned.mark()
    boto3.client("bedrock").list_foundation_models()
    assert len(canned.calls()) == 1
    assert canned.paid() == []


def test_canned_pictures_have_the_requested_dimensions_and_file_size(control: ControlClient) -> None:
    control.switch(canned=True, canned_bytes=500_000)
    (image,) = remove(picture=ball((300, 200)))["images"]
    assert len(image) == pytest.approx(500_000 * 4 / 3, abs=10)
    picture = opened(image)
    picture.load()
    assert (picture.size, picture.mode) == ((300, 200), "RGBA")


def test_the_visible_note_can_be_switched_off(control: ControlClient) -> None:
    body = {
        "taskType": "OUTPAINTING",
        "outPaintingParams": {"text": "a beach", "image": b64(ball()), "maskPrompt": "Ball"},
        "imageGenerationConfig": {"width": 384, "height": 576},
    }
    client = once("bedrock-runtime")

    def paint() -> str:
        answer = json.loads(client.invoke_model(modelId=V2, body=json.dumps(body))["body"].read())
        return str(answer["images"][0])

    noted = paint()
    control.switch(note=False)
    assert paint() != noted


def test_unsigned_calls_are_refused(stand_in: LocalAws) -> None:
    answer = urllib3.request("POST", f"{stand_in.models}/model/{V2}/invoke", body=b"{}")
    assert answer.status == 403
    assert answer.headers["x-amzn-ErrorType"] == "MissingAuthenticationTokenException"


def test_calls_signed_for_another_service_are_refused(stand_in: LocalAws) -> None:
    scope = "local-aws/20261121/us-east-1/s3/aws4_request"
    headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"}
    answer = urllib3.request("GET", f"{stand_in.models}/foundation-models", headers=headers)
    assert (answer.status, answer.headers["x-amzn-ErrorType"]) == (403, "InvalidSignatureException")


def test_unknown_rule_fields_are_refused(control: ControlClient) -> None:
    with pytest.raises(OSError, match="400"):
        control.fault(colour="red")
