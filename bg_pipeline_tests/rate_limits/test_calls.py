"""What happens between the gate and the service: a call is sent only while it may be."""

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
    """A lease that is lost at its n-th look."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def held(self) -> bool:
        self.looks -= 1
        return self.looks > 0


def test_a_call_that_waited_at_the_gate_is_not_sent_once_another_run_has_the_batch(
    s3, bucket, control: ControlClient
) -> None:
    purse = RunBudget(Store(s3, bucket))
    calls = ModelCalls(Aws(("us-east-1",)), settings(quota_detect_labels_tps=50), threading.Event())
    body = rekognition.request(photo(1), 50)

    def label(lease: Lease) -> None:
        budget = ImageBudget(purse, Batch(DATE, "101530"), "a.jpg", lease=lease)  # type: ignore[arg-type]
        with budget.pay("DETECT_LABELS", 0.001) as payment:
            calls.make(
                rekognition.OPERATION,
                lambda client, _: client.detect_labels(**body),
                regions=("us-east-1",),
                before=budget.check,
            )
            payment.settle(0.001)

    label(Lease(looks=3))
    assert len(control.paid(operation="DetectLabels")) == 1
    with pytest.raises(LeaseLost, match="taken over by another run"):
        label(Lease(looks=2))
    assert len(control.paid(operation="DetectLabels")) == 1
    assert purse.totals()["DETECT_LABELS"].calls == 1
    lane = calls.states()["DETECT_LABELS"]["us-east-1"]
    assert (lane.admitted, lane.served) == (1, 1)


@pytest.mark.parametrize("where", ["send", "used_tokens"])
def test_an_answer_that_cannot_be_read_is_told_to_the_gate_as_none(
    where: str, control: ControlClient
) -> None:
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
    lane = calls.states()["DETECT_LABELS"]["us-east-1"]
    assert (lane.admitted, lane.served, lane.failed) == (1, 0, 1)


# Access that is being set up

CUT_OUT = Stability.removes


def cut_out(calls: ModelCalls, regions: tuple[str, ...] = ("us-east-1",)) -> str:
    """Has a subject cut out and returns the Region that did it."""
    body = json.dumps(stability.removal(photo(1), (240, 180)))

    def send(client: Any, model: str) -> bytes:
        with client.invoke_model(modelId=model, body=body)["body"] as stream:
            return bytes(stream.read())

    return calls.make(CUT_OUT, send, regions=regions).region


def calls_of_cut_outs(stop: threading.Event, notes: list[str], *regions: str) -> ModelCalls:
    chosen = settings(quota_stability_remove_background_rpm=6_000, attempts=1)
    return ModelCalls(Aws(regions or ("us-east-1",)), chosen, stop, note=notes.append)


def test_a_refusal_that_passes_is_no_attempt_and_is_told_once_and_when_it_is_over(
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


def test_a_region_that_comes_later_has_a_lane_of_its_own(control: ControlClient) -> None:
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


def test_a_new_account_without_tokens_a_day_is_told_whom_to_ask() -> None:
    told = {
        "Code": "ThrottlingException",
        "Message": "Too many tokens per day, please wait before trying again.",
    }
    meaning = classify(ClientError({"Error": told}, "Converse"), "CAPTION")
    assert isinstance(meaning, DayQuotaExhausted)
    assert "AWS Support" in str(meaning)
    assert "waiting does not help" in str(meaning)
