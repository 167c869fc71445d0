"""Paid calls between the rate limiter and the service."""

import json
import threading
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.image_budget import ImageBudget
from bg_pipeline.budget.run_budget import RunBudget
from bg_pipeline.captioners import nova
from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import LeaseLost, ModelUnavailable, RunStopped
from bg_pipeline.generators import stability
from bg_pipeline.generators.stability import Stability
from bg_pipeline.labelers import rekognition
from bg_pipeline.rate_limits.calls import DayQuotaExhausted, ModelCalls, classify
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE
from bg_pipeline_tests.pictures import photo


class Lease:
    """A lease that is lost at the n-th check."""

    def __init__(self, checks: int) -> None:
        self.checks = checks

    def held(self) -> bool:
        self.checks -= 1
        return self.checks > 0


def test_a_call_that_waited_is_not_sent_after_another_run_took_over_the_batch(
    s3, bucket, control: ControlClient
) -> None:
    run_budget = RunBudget(Store(s3, bucket))
    calls = ModelCalls(Aws(("us-east-1",)), settings(quota_detect_labels_tps=50), threading.Event())
    body = rekognition.request(photo(1), 50)

    def label(lease: Lease) -> None:
        budget = ImageBudget(run_budget, Batch(DATE, "101530"), "a.jpg", lease=lease)  # type: ignore[arg-type]
        with budget.pay("DETECT_LABELS", 0.001) as payment:
            calls.make(
                rekognition.OPERATION,
                lambda client, _: client.detect_labels(**body),
                regions=("us-east-1",),
                before=budget.check,
            )
            payment.settle(0.001)

    label(Lease(checks=3))
    assert len(control.paid(operation="DetectLabels")) == 1
    with pytest.raises(LeaseLost, match="taken over by another run"):
        label(Lease(checks=2))
    assert len(control.paid(operation="DetectLabels")) == 1
    assert run_budget.totals()["DETECT_LABELS"].calls == 1
    region = calls.states()["DETECT_LABELS"]["us-east-1"]
    assert (region.admitted, region.served) == (1, 1)


@pytest.mark.parametrize("where", ["send", "used_tokens"])
def test_an_unreadable_answer_counts_as_a_failed_call(where: str, control: ControlClient) -> None:
    calls = ModelCalls(Aws(("us-east-1",)), settings(quota_detect_labels_tps=50), threading.Event())

    def unreadable(*_: object) -> float:
        raise ValueError("no answer of the service's")

    def fine(*_: object) -> float:
        return 1.0

    with pytest.raises(ValueError, match="no answer"):
        calls.make(
            rekognition.OPERATION,
            unreadable if where == "send" else fine,
            regions=("us-east-1",),
            used_tokens=unreadable,
        )
    region = calls.states()["DETECT_LABELS"]["us-east-1"]
    assert (region.admitted, region.served, region.failed) == (1, 0, 1)


# Access that is being set up

CUT_OUT = Stability.removes


def cut_out(calls: ModelCalls, regions: tuple[str, ...] = ("us-east-1",)) -> str:
    """Cuts out a subject and returns the Region that did it."""
    body = json.dumps(stability.removal(photo(1), (240, 180)))

    def send(client: Any, model: str) -> bytes:
        with client.invoke_model(modelId=model, body=body)["body"] as stream:
            return bytes(stream.read())

    return calls.make(CUT_OUT, send, regions=regions).region


def calls_of_cut_outs(stop: threading.Event, notes: list[str], *regions: str) -> ModelCalls:
    chosen = settings(quota_stability_remove_background_rpm=6_000, attempts=1)
    return ModelCalls(Aws(regions or ("us-east-1",)), chosen, stop, note=notes.append)


def test_a_temporary_refusal_is_not_an_attempt_and_is_noted_at_its_beginning_and_end(
    control: ControlClient,
) -> None:
    control.switch(canned=True)
    control.model(CUT_OUT.model_id, access="unsubscribed", seconds=1.0)
    notes: list[str] = []
    calls = calls_of_cut_outs(threading.Event(), notes)
    assert cut_out(calls) == "us-east-1"
    assert len(control.paid()) == 1
    waited, over = notes
    assert "cannot be called yet" in waited
    assert "up to 15 minutes" in waited
    assert "can be called now" in over


def test_a_stopped_run_does_not_wait_for_access(control: ControlClient) -> None:
    control.model(CUT_OUT.model_id, access="pending")
    stop = threading.Event()
    calls = calls_of_cut_outs(stop, [])
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    with pytest.raises(RunStopped, match="stopped"):
        cut_out(calls)
    timer.join()


def test_another_region_is_used_meanwhile(control: ControlClient) -> None:
    control.switch(canned=True)
    control.model(CUT_OUT.model_id, access="pending", region="us-east-1")
    calls = calls_of_cut_outs(threading.Event(), [], "us-east-1", "us-west-2")
    assert [cut_out(calls, ("us-east-1", "us-west-2")) for _ in range(3)] == ["us-west-2"] * 3


def test_a_region_added_later_is_limited_separately(control: ControlClient) -> None:
    control.switch(canned=True)
    calls = calls_of_cut_outs(threading.Event(), [])
    assert cut_out(calls, ("us-east-1",)) == "us-east-1"
    control.model(CUT_OUT.model_id, access="payment", region="us-east-1")
    with pytest.raises(ModelUnavailable, match="payment method"):
        cut_out(calls, ("us-east-1",))
    assert cut_out(calls, ("us-west-2",)) == "us-west-2"


def test_tokens_a_minute_are_the_accounts_own(control: ControlClient) -> None:
    control.applied_quota({"quota": "L-C0326783", "value": 600}, {"quota": "L-ED46B8C5", "value": 60_000})
    calls = ModelCalls(Aws(("us-east-1",)), settings(), threading.Event())
    caption = nova.operation("us.amazon.nova-pro-v1:0")

    def ask(client: object, model: str) -> None:
        return None

    started = time.monotonic()
    for _ in range(3):
        calls.make(caption, ask, regions=("us-east-1",), tokens=5)
    # Ten tokens a second: the third call waits for the second's five to be paid off.
    assert time.monotonic() - started >= 0.9


def test_the_error_for_a_daily_token_quota_says_what_to_do() -> None:
    error: Any = {
        "Code": "ThrottlingException",
        "Message": "Too many tokens per day, please wait before trying again.",
    }
    meaning = classify(ClientError({"Error": error}, "Converse"), "CAPTION")
    assert isinstance(meaning, DayQuotaExhausted)
    assert "AWS Support" in str(meaning)
    assert "waiting does not help" in str(meaning)
