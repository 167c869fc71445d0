"""`bg-pipeline doctor --live`: what it asks, calls, waits for, compares and writes."""

import json
import re
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from bg_pipeline.aws.clients import Aws
from bg_pipeline.cli.main import main
from bg_pipeline.doctor import trials
from bg_pipeline.doctor.exchanges import ExchangeRecorder
from bg_pipeline.doctor.expectations import (
    compare_caption,
    compare_faces,
    compare_image_answer,
    compare_labels,
)
from bg_pipeline.doctor.findings import Level
from bg_pipeline.doctor.redaction import redact
from bg_pipeline.labelers import rekognition
from bg_pipeline.rate_limits.calls import ACCESS_SECONDS
from bg_pipeline.settings import settings
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.golden.live import LIVE_FILES, replay

INPAINT = "stability.stable-image-inpaint-v1:0"
REMOVE = "stability.stable-image-remove-background-v1:0"


@pytest.fixture
def account(
    bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> ControlClient:
    """An account whose only image model is Stability's, and a working folder for the file."""
    control.switch(canned=True)
    monkeypatch.setenv("BG_BUCKET", bucket)
    monkeypatch.setenv("BG_IMAGE_MODELS", "stability")
    monkeypatch.setenv("BG_CAPTION_MODELS", "us.amazon.nova-pro-v1:0")
    monkeypatch.chdir(tmp_path)
    return control


def doctor(*options: str, input: str | None = None) -> Any:
    return CliRunner().invoke(main, ["doctor", "--live", *options], input=input)


def written() -> dict[str, Any]:
    (file,) = Path().glob("doctor-live-*.json")
    document: dict[str, Any] = json.loads(file.read_text())
    return document


def test_what_came_back_is_compared_and_written_without_anything_private(
    account: ControlClient, bucket: str
) -> None:
    account.switch()
    result = doctor("--yes")
    assert result.exit_code == 0, result.output
    assert len(account.paid()) == 6
    document = written()
    calls = {call["Subject"]: call for call in document["Calls"]}
    assert {call["Result"] for call in calls.values()} == {"OK"}
    inpaint = calls["stability new background"]
    assert (inpaint["Status"], inpaint["Region"], inpaint["Size"]) == (200, "us-east-1", [512, 512])
    assert inpaint["Seconds"] > 0
    assert inpaint["Headers"]["content-type"] == "application/json"
    assert inpaint["Answer"]["images"][0]["Picture"]["Width"] == 512
    assert inpaint["Answer"]["finish_reasons"] == [None]
    compared = {each["Field"]: each for each in inpaint["Comparisons"]}
    assert {"images[0]", "seeds", "finish_reasons", "HTTP status", "seconds"} <= compared.keys()
    assert all(each["Matches"] for each in compared.values())
    scene = calls["stable-image-ultra scene"]
    assert scene["Region"] == "us-west-2"
    assert all(each["Matches"] for each in scene["Comparisons"])
    caption = calls["CAPTION us.amazon.nova-pro-v1:0"]
    assert caption["Answer"]["usage"]["inputTokens"] > 0
    text = json.dumps(document)
    assert bucket not in text
    assert not re.search(r"(?<!\d)\d{12}(?!\d)", text)
    assert not re.search(r"[A-Za-z0-9+/]{200}", text)
    for private in ("X-Amz-", "local-aws", "arn:aws:sts", "arn:aws:iam"):
        assert private not in text


def test_the_price_is_printed_and_calls_beyond_the_limit_are_not_made(account: ControlClient) -> None:
    result = doctor("--yes", "--max-cost-usd", "0.05")
    assert result.exit_code == 2
    assert "--max-cost-usd 0.05" in result.stderr
    result = doctor(input="n\n")
    assert re.search(r"6 calls, at most 0\.2\d\d USD in all; they stop at 1\.00 USD", result.stderr)
    assert account.paid() == []


def test_it_says_what_it_subscribes_to_and_asks_first(account: ControlClient) -> None:
    for model in (INPAINT, REMOVE):
        account.model(model, access="unsubscribed", seconds=1)
    refused = doctor(input="n\n")
    assert refused.exit_code == 2
    assert f"subscribes this account in the AWS Marketplace to {INPAINT}, {REMOVE}" in refused.stderr
    assert "Subscribe and make the calls?" in refused.stderr
    assert account.calls(operation="InvokeModel") == []
    agreed = doctor("--yes")
    assert agreed.exit_code == 0, agreed.output
    assert len(account.paid(operation="InvokeModel")) == 3
    calls = {call["Subject"]: call for call in written()["Calls"]}
    assert calls["stability cut-out"]["Agreement"] == "NOT_AVAILABLE"
    (refusal,) = calls["stability cut-out"]["Refusals"]
    assert (refusal["Status"], refusal["Code"]) == (403, "AccessDeniedException")


class FastClock:
    """Seconds that pass many times faster than real ones."""

    def __init__(self, factor: float) -> None:
        self._factor, self._start = factor, time.monotonic()

    def __call__(self) -> float:
        return (time.monotonic() - self._start) * self._factor


def test_a_subscription_that_takes_too_long_is_given_up_after_15_minutes_with_progress_lines(
    account: ControlClient,
) -> None:
    account.model(INPAINT, access="pending")
    chosen = settings()
    lines: list[str] = []
    clock = FastClock(200)
    context = trials.open_context(chosen, Aws(chosen.regions), lines.append, clock=clock)
    try:
        (trial,) = (each for each in trials.trials(context) if each.operation.model_id == INPAINT)
        assert trial.agreement == "PENDING"
        result = trials.live(context, trial, ExchangeRecorder())
    finally:
        context.close()
    assert result.finding.level is Level.FAILED
    assert "still refused after 15 minutes" in result.finding.words
    assert clock() >= ACCESS_SECONDS
    progress = [line for line in lines if "still no access after" in line]
    assert len(progress) > 5
    assert "of at most 15 minutes" in progress[-1]


def test_an_answer_of_another_form_is_reported_field_by_field(
    account: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings()
    context = trials.open_context(chosen, Aws(chosen.regions), lambda line: None)
    invoke = context.invoke

    def smaller(*args: Any) -> Any:
        send = invoke(*args)

        def call(operation: Any, body: Any) -> Any:
            answer = dict(send(operation, body))
            budget = args[1]
            answer |= {"seeds": ["7"], "credits": 3}
            budget.payloads[-1] = (budget.payloads[-1][0], json.dumps(answer).encode())
            return answer

        return call

    monkeypatch.setattr(context, "invoke", smaller)
    try:
        (trial,) = (each for each in trials.trials(context) if each.operation.model_id == INPAINT)
        result = trials.live(context, trial, ExchangeRecorder())
    finally:
        context.close()
    assert result.finding.level is Level.ATTENTION
    assert "seeds is ['7'], expected a list of one whole number" in result.finding.words
    assert "credits is 3, expected no such field" in result.finding.words


def test_a_call_without_a_price_is_not_made(account: ControlClient) -> None:
    chosen = settings(caption_models=("us.acme.sees-v1:0",))
    context = trials.open_context(chosen, Aws(chosen.regions), lambda line: None)
    try:
        trial = trials.ModelTrial("a model", rekognition.OPERATION, (), "x", "x", None, lambda _: None)
        result = trials.live(context, trial, ExchangeRecorder())
    finally:
        context.close()
    assert result.finding.level is Level.ATTENTION
    assert "price is unknown" in result.finding.words


def test_a_caption_with_other_tokens_and_reasons_is_seen() -> None:
    answer = {
        "output": {"message": {"role": "assistant", "content": [{"text": "A ball."}]}},
        "stopReason": "malformed_model_output",
        "usage": {"inputTokens": 90_000, "outputTokens": 3, "totalTokens": 5},
        "metrics": {"latencyMs": 10},
    }
    different = {each.field for each in compare_caption(answer, (2_000, 300), 125) if not each.matches}
    assert different == {"text", "stopReason", "usage.inputTokens", "usage.totalTokens"}


def test_labels_faces_and_pictures_of_other_forms_are_seen() -> None:
    labels = {"Labels": [{"Name": "Ball", "Confidence": 12.0, "Instances": []}]}
    assert {each.field for each in compare_labels(labels, 55) if not each.matches} == {
        "LabelModelVersion",
        "Labels[0].Confidence",
    }
    assert [each.matches for each in compare_faces({"FaceDetails": []})] == [True]
    answer = {"images": ["no picture"], "seeds": [1], "finish_reasons": [None]}
    (bad,) = (e for e in compare_image_answer(INPAINT, answer, {}, (64, 64)) if not e.matches)
    assert bad.field == "images[0]"


def test_private_things_are_removed_from_any_text() -> None:
    out = BytesIO()
    Image.new("RGB", (3, 2)).save(out, "PNG")
    text = (
        "User: arn:aws:sts::123456789012:assumed-role/Admin/jo is not authorized on "
        "arn:aws:bedrock:us-east-1::foundation-model/m in account 123456789012, see "
        "https://b.s3.amazonaws.com/k?X-Amz-Signature=1 and s3://photos/jo.jpg, jo@example.com, AKIAABCDEFGHIJKLMNOP"
    )
    found = redact({"a": [text, out.getvalue()], "b": "the bucket photos"}, {"photos": "<bucket>"})
    assert found["a"][0] == (
        "User: <ARN of sts> is not authorized on arn:aws:bedrock:us-east-1::foundation-model/m in account <account>, "
        "see <link> and <S3 address>, <e-mail address>, <access key>"
    )
    assert found["a"][1]["Picture"] == {
        "Format": "png",
        "Width": 3,
        "Height": 2,
        "Mode": "RGB",
        "Bytes": len(out.getvalue()),
    }
    assert found["b"] == "the bucket <bucket>"


@pytest.mark.parametrize("file", LIVE_FILES, ids=lambda file: file.stem)
def test_the_adapters_read_what_a_live_run_recorded(file: Path) -> None:
    calls = json.loads(file.read_text())["Calls"]
    assert calls
    for call in calls:
        if call["Answer"]:
            assert replay(call), call["Subject"]


MODEL = "arn:aws:rekognition:us-east-1:123456789012:project/shop/version/v1/1767225600000"


def test_a_custom_labels_model_that_runs_is_tried_and_one_that_does_not_is_not_started(
    account: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_CUSTOM_LABELS_ARN", MODEL)
    account.custom_model(MODEL, start_seconds=0, stop_seconds=0, labels=["Mug"])
    result = doctor("--yes")
    assert "the model is not running" in result.output
    assert "attention live DETECT_CUSTOM_LABELS" in result.output
    assert {call["operation"] for call in account.calls()}.isdisjoint({"StartProjectVersion"})
    for file in Path().glob("doctor-live-*.json"):
        file.unlink()
    Aws(("us-east-1",)).client("rekognition").start_project_version(
        ProjectVersionArn=MODEL, MinInferenceUnits=1
    )
    deadline = time.monotonic() + 20
    while "attention live DETECT_CUSTOM_LABELS" in (result := doctor("--yes")).output:
        assert time.monotonic() < deadline
    assert "OK        live DETECT_CUSTOM_LABELS" in result.output, result.output
    assert "shop" not in json.dumps(written()["Calls"])


def test_a_sam_endpoint_is_tried(account: ControlClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BG_SAM_ENDPOINT", "my-endpoint")
    account.switch()
    result = doctor("--yes")
    assert "OK        live SAM endpoint" in result.output, result.output
    assert "my-endpoint" not in json.dumps(written()["Calls"])


def test_a_sam_endpoint_that_answers_in_another_form_is_a_failure(
    account: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BG_SAM_ENDPOINT", "my-endpoint")
    monkeypatch.setenv("BG_SAM_FORM", '{"masks": "nowhere"}')
    result = doctor("--yes")
    assert result.exit_code == 1
    assert "failed    live SAM endpoint" in result.output
