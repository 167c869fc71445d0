"""Settings that change between two runs: affected results are made again, from stored answers if possible."""

import hashlib
from typing import Any

import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench


@pytest.fixture
def bench(s3: Any, bucket: str, control: ControlClient) -> Bench:
    return Bench(Store(s3, bucket))


def pixels(bench: Bench, batch: Batch) -> str:
    (row,) = bench.rows(batch).values()
    assert row.Status == Status.SUCCEEDED, row.Cause
    content = bench.store.read(row.Results[0])
    assert content is not None
    return hashlib.sha256(content.data).hexdigest()


def test_another_feather_makes_another_result_from_the_same_paid_answer(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run(feather=0)
    sharp, paid = pixels(bench, batch), len(control.paid())
    bench.run(feather=6)
    assert pixels(bench, batch) != sharp
    assert len(control.paid()) == paid


@pytest.mark.parametrize(
    "chosen",
    [
        {"page_address": "https://photos.example.com"},
        {"custom_labels_confidence": 10},
        {"sam_form": '{"masks": "other"}'},
        {"max_cost_usd": 20, "image_models": "titan-v2"},
    ],
    ids=str,
)
def test_a_setting_that_affects_no_result_makes_nothing_due(bench: Bench, chosen: dict[str, Any]) -> None:
    batch = bench.submit(1)
    bench.run()
    before = pixels(bench, batch)
    assert bench.run(**chosen).due == 0
    assert pixels(bench, batch) == before


def test_another_label_confidence_pays_for_labels_again_and_for_no_picture(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(1)
    bench.run()
    pictures = len(control.paid(operation="TITAN_V2"))
    calls = len(control.paid())
    bench.run(label_confidence=60)
    assert pixels(bench, batch)
    assert len(control.paid(operation="TITAN_V2")) == pictures
    assert len(control.paid()) == calls + 1
