"""What happens between the gate and the service: a call is sent only while it may be."""

import threading

import pytest

from bg_pipeline.aws import Aws
from bg_pipeline.errors import LeaseLost
from bg_pipeline.labelers import rekognition
from bg_pipeline.layout import Batch
from bg_pipeline.local_aws.control_client import ControlClient
from bg_pipeline.quotas.calls import Calls
from bg_pipeline.settings import settings
from bg_pipeline.spending.image_budget import ImageBudget
from bg_pipeline.spending.purse import Purse
from bg_pipeline.store import Store
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
    purse = Purse(Store(s3, bucket))
    calls = Calls(Aws(("us-east-1",)), settings(quota_detect_labels_tps=50), threading.Event())
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
    calls = Calls(Aws(("us-east-1",)), settings(quota_detect_labels_tps=50), threading.Event())

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
