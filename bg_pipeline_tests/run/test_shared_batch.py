"""A large batch on which several runs work at once: every image is done and paid for once, and reported once."""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.run.shared_batch import has_names_of_its_own
from bg_pipeline.state.batch_parts import NAME
from bg_pipeline.state.leases import holder_of
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench

ROOT = Path(__file__).parents[2]
SHARED = {"runs_per_date": 3, "part_images": 3, "html_report_images": 0, "max_concurrency": 2}


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket), overrides=dict(SHARED))


def left_over(bench: Bench, batch: Batch) -> list[str]:
    """Leases, divisions and segments that are still there."""
    ledger = [key for key in bench.keys(f"{batch.ledger_prefix}/") if not key.endswith("ledger.jsonl.gz")]
    return [*ledger, *bench.keys("pipeline-state/leases/")]


def paid(control: ControlClient, operation: str = "InvokeModel") -> int:
    return len(control.paid(operation=operation))


def test_one_run_alone_does_all_parts(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(8)
    day = bench.run()
    assert (day.counts, day.due, len(day.reports)) == ({Status.SUCCEEDED: 8}, 8, 1)
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}
    assert paid(control) == 8
    assert left_over(bench, batch) == []
    assert any("8 images in 3 parts" in note for note in bench.notes)
    control.mark()
    again = bench.run()
    assert (again.due, again.reports, control.calls()) == (0, [], [])


def test_runs_share_a_batch_and_one_of_them_reports_it(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(18)
    control.latency({"operation": "InvokeModel", "seconds": 0.3})
    with ThreadPoolExecutor(3) as pool:
        days = [each.result() for each in [pool.submit(bench.run) for _ in range(3)]]
    assert [day.counts for day in days] == [{Status.SUCCEEDED: 18}] * 3
    assert sum(day.due for day in days) == 18
    assert sum(day.due > 0 for day in days) >= 2, "nobody helped"
    assert sorted(len(day.reports) for day in days) == [0, 0, 1]
    assert paid(control) == paid(control, "Converse") == paid(control, "DetectLabels") == 18
    rows = bench.rows(batch).values()
    assert sum(day.spent.cost_usd or 0.0 for day in days) == pytest.approx(
        sum(row.CostUSD for row in rows), abs=0.0001
    )
    assert sum(row.MaybeBilledUSD for row in rows) == 0
    assert left_over(bench, batch) == []


def test_the_same_bytes_in_two_parts_are_paid_for_once(bench: Bench, control: ControlClient) -> None:
    first = bench.submit(1).upload_key("photo-0.jpg")
    data = bench.store.read(first).data
    bench.submit({f"same-{number:02}.jpg": data for number in range(9)}, Seed=7)
    bench.store.delete(first)
    with ThreadPoolExecutor(2) as pool:
        days = [each.result() for each in [pool.submit(bench.run) for _ in range(2)]]
    assert days[0].counts == {Status.SUCCEEDED: 9}
    assert paid(control) == 1


def test_the_cap_of_a_batch_holds_over_all_parts(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(18, MaxCostUSD=0.1)
    control.latency({"operation": "InvokeModel", "seconds": 0.2})
    with ThreadPoolExecutor(3) as pool:
        for each in [pool.submit(bench.run) for _ in range(3)]:
            each.result()
    rows = bench.rows(batch).values()
    spent = sum(row.CostUSD + row.MaybeBilledUSD for row in rows)
    assert 0.05 < spent <= 0.1
    assert {row.Status for row in rows} == {Status.SUCCEEDED, Status.SKIPPED}
    assert {row.Error for row in rows if row.Status == Status.SKIPPED} == {"CapReached"}
    assert left_over(bench, batch) == []


def test_runs_of_a_group_share_the_cap_of_one_run(bench: Bench, control: ControlClient) -> None:
    from bg_pipeline import pipeline
    from bg_pipeline_tests.batches import aws

    bench.submit(18)
    chosen = bench.settings(max_cost_usd=0.1)

    def run() -> Any:
        return pipeline.run(
            chosen, [DATE], aws=aws(*chosen.regions), store=bench.store, cap_group="2025-11-20:x:1"
        )

    with ThreadPoolExecutor(3) as pool:
        days = [each.result()[DATE] for each in [pool.submit(run) for _ in range(3)]]
    assert 0.05 < sum(day.spent.cost_usd or 0.0 for day in days) <= 0.1


def test_a_refresh_is_the_work_of_one_run_and_is_paid_once(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(6)
    bench.run()
    control.mark()
    with ThreadPoolExecutor(2) as pool:
        refresh = pool.submit(bench.run, again=("generated_images",))
        time.sleep(0.3)
        other = pool.submit(bench.run)
        refresh.result()
        other.result()
    assert paid(control) == 6
    assert left_over(bench, batch) == []


def test_a_run_that_is_to_refresh_does_not_help_but_waits(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(9)
    control.latency({"operation": "InvokeModel", "seconds": 0.5})
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bench.run)
        wait_for(lambda: bool(paid(control)))
        refresh = pool.submit(bench.run, again=("generated_images",))
        days = first.result(), refresh.result()
    assert [day.due for day in days] == [9, 9]
    assert paid(control) == 18
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}
    assert left_over(bench, batch) == []


@pytest.mark.parametrize(
    ("request_fields", "overrides"),
    [
        ({"Renditions": [{"Format": "jpeg", "FileName": "{ref}-{n}.jpg"}]}, {}),
        ({"Images": [{"ImageName": f"photo-{n}.jpg", "Variants": 1 + n % 2} for n in range(8)]}, {}),
        ({"Sample": 2}, {}),
        ({}, {"html_report_images": 8}),
        ({}, {"runs_per_date": 1}),
        ({}, {"part_images": 8}),
    ],
    ids=["own file names", "different numbers", "sample", "thumbnails", "one run", "one part"],
)
def test_what_one_run_must_know_as_a_whole_is_not_divided(
    bench: Bench, request_fields: dict[str, Any], overrides: dict[str, Any]
) -> None:
    bench.submit(8, **request_fields)
    bench.run(**overrides)
    assert not any("parts" in note for note in bench.notes)


def test_names_that_a_run_may_have_to_change_are_not_divided(bench: Bench) -> None:
    batch = bench.submit({"cat.jpg": b"1", "cat.jpg~1.jpg": b"2"})
    assert not has_names_of_its_own(open_work(bench, batch))


def open_work(bench: Bench, batch: Batch) -> Any:
    from bg_pipeline.run.discovery import find_work

    (work,) = find_work(bench.store, bench.settings(), [DATE], [batch])
    return work


def test_a_run_with_other_settings_does_not_help(bench: Bench, control: ControlClient) -> None:
    bench.submit(12)
    control.latency({"operation": "InvokeModel", "seconds": 0.5})
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bench.run)
        wait_for(lambda: bool(paid(control)))
        other = pool.submit(bench.run, feather=3.0)
        days = first.result(), other.result()
    assert days[0].due == 12
    assert days[1].due == 12  # afterwards, from the stored answers
    assert paid(control) == 12


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_small_batches_are_stored_as_by_one_run_with_no_more_calls(s3: Any, control: ControlClient) -> None:
    control.switch(canned=True)
    stored, calls = [], []
    for runs in (1, 3):
        bench = Bench(
            Store(s3, f"small-{runs}-{uuid.uuid4().hex}"),
            {**SHARED, "part_images": 500, "s3_client": "boto3"},
        )
        s3.create_bucket(Bucket=bench.store.bucket)
        batch = bench.submit(3)
        counted = Counted(bench.store)
        try:
            bench.run(runs_per_date=runs)
            counted.take()
            bench.run(runs_per_date=runs)
            calls.append(counted.take())
        finally:
            counted.end()
        stored.append([key for key in bench.keys("") if "/calls/" not in key and "audit/" not in key])
        header = open_batch(bench.store, bench.settings(), batch).ledger.header
        stored[-1] += sorted(header)
    assert stored[0] == stored[1]
    assert calls[0] == calls[1] <= 4 + 3 + 1


class Counted:
    """Counts the requests of a store's boto3 client."""

    def __init__(self, store: Store) -> None:
        self._client = store.client
        self._number = 0
        self._client.meta.events.register("before-send.s3", self._count, unique_id="counted")

    def _count(self, **_: object) -> None:
        self._number += 1

    def take(self) -> int:
        number, self._number = self._number, 0
        return number

    def end(self) -> None:
        self._client.meta.events.unregister("before-send.s3", unique_id="counted")


# Runs in processes of their own, which are killed

RUN = """
import json, sys
from datetime import date
from bg_pipeline import pipeline
from bg_pipeline.settings import settings
days = pipeline.run(settings(), [date.fromisoformat(sys.argv[1])])
print(json.dumps({f"{day}": [each.due, dict(each.counts), len(each.reports)] for day, each in days.items()}))
"""


def start(bench: Bench, **overrides: Any) -> "subprocess.Popen[str]":
    import os

    chosen = {
        **bench.settings(**overrides).model_dump(include={"max_concurrency", "settle_seconds", "bucket"}),
        **{name: SHARED[name] for name in ("runs_per_date", "part_images", "html_report_images")},
        **dict.fromkeys(("quota_titan_v2_rpm", "quota_caption_rpm"), 60000),
        "quota_detect_labels_tps": 1000,
        "mask_sources": "alpha",
        **overrides,
    }
    variables = {f"BG_{name.upper()}": f"{value}" for name, value in chosen.items()}
    return subprocess.Popen(
        [sys.executable, "-c", RUN, f"{DATE}"],
        env={**os.environ, **variables, "PYTHONPATH": f"{ROOT}:{ROOT}/packages/bg_pipeline_local_aws"},
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def result(process: "subprocess.Popen[str]") -> list[Any]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    (day,) = json.loads(output).values()
    return list(day)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["owner", "helper"])
def test_a_killed_run_of_several_loses_nothing_and_pays_at_most_what_was_in_flight_twice(
    bench: Bench, control: ControlClient, victim: str
) -> None:
    batch = bench.submit(24)
    control.latency({"operation": "InvokeModel", "seconds": 1.0})
    owner = start(bench)
    wait_for(lambda: any(key.endswith(NAME) for key in bench.keys(f"{batch.ledger_prefix}/")), 60)
    helper = start(bench)
    helps = f"{helper.pid}."
    wait_for(
        lambda: any(holds(bench, key, helps) for key in bench.keys(f"pipeline-state/leases/{batch.path}/")),
        60,
    )
    killed, other = (owner, helper) if victim == "owner" else (helper, owner)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    _, counts, reports = result(other)
    assert (counts, reports) == ({"Succeeded": 24}, 1)
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}
    assert 24 <= paid(control) <= 24 + 2  # at most what the killed run had in flight
    assert left_over(bench, batch) == []


def holds(bench: Bench, key: str, process: str) -> bool:
    holder = holder_of(bench.store, key)
    return holder is not None and process in holder.process
