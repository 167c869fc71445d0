"""Nothing is paid for twice: concurrent runs, killed runs, lost answers."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest
from botocore.exceptions import ClientError

from bg_pipeline.domain.rows import Status
from bg_pipeline.run.engine import Engine
from bg_pipeline.run.outcome_recorder import OutcomeRecorder
from bg_pipeline.state.leases import Lease, Leases
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.pictures import photo


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def images_paid(control: ControlClient, operation: str = "InvokeModel") -> list[str]:
    return [call["image"] for call in control.paid(operation=operation)]


def test_two_runs_of_one_date_at_once_pay_once_and_report_the_same(
    bench: Bench, control: ControlClient
) -> None:
    control.latency({"operation": "InvokeModel", "seconds": 0.2})
    batch = bench.submit(6)
    with ThreadPoolExecutor(2) as pool:
        days = list(pool.map(lambda _: bench.run(), range(2)))
    assert [day.counts for day in days] == [{Status.SUCCEEDED: 6}] * 2
    assert len(images_paid(control)) == 6
    assert len(images_paid(control, "Converse")) == 6
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}


@pytest.mark.parametrize("variants", [1, 3])
def test_the_same_photo_in_two_dates_run_at_once_is_paid_for_once(
    bench: Bench, control: ControlClient, variants: int
) -> None:
    # The second run waits `POLL_SECONDS` for the labels, so it starts its picture while the first call is under way.
    latencies = {"DetectLabels": 0.5, "Converse": 0.2, "InvokeModel": 4.0}
    control.latency(*({"operation": name, "seconds": seconds} for name, seconds in latencies.items()))
    other = date(2026, 11, 19)
    bench.submit({"a.jpg": photo(1)}, Seed=3, Variants=variants)
    bench.submit({"b.jpg": photo(1)}, day=other, Seed=3, Variants=variants)
    with ThreadPoolExecutor(2) as pool:
        days = list(pool.map(bench.run, (DATE, other)))
    assert [day.counts for day in days] == [{Status.SUCCEEDED: 1}] * 2
    assert sorted(call["operation"] for call in control.paid()) == ["Converse", "DetectLabels", "InvokeModel"]


def test_a_batch_that_another_run_finished_before_it_was_leased_is_not_processed_again(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire = Leases.acquire
    runs: list[Any] = []

    def run_before(leases: Leases, key: str) -> Lease | None:
        if not runs:
            runs.append(None)
            runs[0] = bench.run()
        return acquire(leases, key)

    bench.submit(2)
    monkeypatch.setattr(Leases, "acquire", run_before)
    second = bench.run()
    assert [result.counts for result in (*runs, second)] == [{Status.SUCCEEDED: 2}] * 2
    assert (second.due, len(images_paid(control))) == (0, 2)


def test_every_picture_of_a_call_is_claimed_before_the_call(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, claimed, kept = Store.write, [], []

    def watch(store: Store, key: str, *args: Any, **request: Any) -> str:
        kind, _, name = key.removeprefix("pipeline-state/").partition("/")
        if kind == "calls":
            claimed.append(name.rpartition("/")[2].removesuffix(".json"))
        elif name.startswith("picture/"):
            kept.append(name.rpartition("/")[2])
        return write(store, key, *args, **request)

    monkeypatch.setattr(Store, "write", watch)
    bench.submit(1, Variants=3)
    assert bench.run().counts == {Status.SUCCEEDED: 1}
    assert len(kept) == 3
    assert sorted(claimed[-3:]) == sorted(kept)


def test_answers_whose_claims_were_deleted_are_used_for_images_in_the_ledger(
    bench: Bench, control: ControlClient
) -> None:
    bench.submit(2)
    bench.run()
    for key in bench.keys("pipeline-state/calls"):
        bench.store.delete(key)
    control.mark()
    for key in bench.keys("generated-image-files"):
        bench.store.delete(key)
    # Documents and results are made again from stored answers.
    day = bench.run(alt_text_length=80)
    assert (day.counts, day.made["captions"], day.made["generated_images"]) == ({Status.SUCCEEDED: 2}, 2, 2)
    assert control.paid() == []


def test_what_was_paid_before_a_crash_is_not_paid_again(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(3)
    bench.run()
    for key in [*bench.keys("pipeline-state/ledger"), *bench.keys("generated-image-files")]:
        bench.store.delete(key)
    control.mark()
    assert bench.run().counts == {Status.SUCCEEDED: 3}
    assert control.paid() == []
    assert {row.CostUSD > 0 for row in bench.rows(batch).values()} == {True}


@pytest.mark.parametrize(
    ("owner", "method"),
    [(Engine, "_next_finished"), (OutcomeRecorder, "accept"), (Engine, "_report_progress")],
)
def test_a_run_interrupted_anywhere_ends_and_loses_nothing_that_was_paid(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    original = getattr(owner, method)
    interrupted: list[object] = []

    def interrupt(self: object, *args: object, **kwargs: object) -> object:
        result = original(self, *args, **kwargs)
        if (result is not None or method != "_next_finished") and not interrupted:
            interrupted.append(result)
            raise KeyboardInterrupt
        return result

    batch = bench.submit(3)
    monkeypatch.setattr(owner, method, interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    monkeypatch.undo()
    assert bench.run().counts == {Status.SUCCEEDED: 3}
    assert len(images_paid(control)) == 3
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SUCCEEDED}


RUN = f"""
    import sys
    from datetime import date
    from bg_pipeline import pipeline
    from bg_pipeline.settings import settings

    chosen = settings(bucket=sys.argv[1], settle_seconds=0, max_concurrency=4, quota_titan_v2_rpm=600)
    print("started", flush=True)
    pipeline.run(chosen, [date.fromisoformat("{DATE}")])
"""


def as_bench(bench: Bench) -> dict[str, str]:
    """The environment of processes that find masks as `Bench` does."""
    return os.environ | {"BG_MASK_SOURCES": ",".join(bench.settings().mask_sources)}


@pytest.mark.slow
def test_a_killed_run_loses_at_most_the_calls_in_flight(bench: Bench, control: ControlClient) -> None:
    control.latency({"operation": "InvokeModel", "seconds": 0.3})
    images, kills = 40, 4
    batch = bench.submit(images)
    for kill in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN), bench.store.bucket],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=as_bench(bench),
        )
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 60
        while len(images_paid(control)) < 5 * (kill + 1) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert bench.run().counts == {Status.SUCCEEDED: images}
    paid = images_paid(control)
    assert len(set(paid)) == images
    assert len(paid) <= images + 4 * kills
    assert len(bench.rows(batch)) == images


@pytest.mark.slow
def test_four_runs_in_separate_processes_share_one_date_and_pay_once(
    bench: Bench, control: ControlClient
) -> None:
    control.latency({"operation": "InvokeModel", "seconds": 0.1})
    for number in range(4):
        bench.submit(
            {f"{number}-{each}.jpg": photo(10 * number + each) for each in range(5)}, batch=f"b{number}"
        )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN), bench.store.bucket], env=as_bench(bench)
        )
        for _ in range(4)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0] * 4
    assert len(images_paid(control)) == 20
    assert bench.run().counts == {Status.SUCCEEDED: 20}


@pytest.mark.slow
def test_the_same_photos_in_two_batches_are_paid_for_once_by_two_processes(
    bench: Bench, control: ControlClient
) -> None:
    photos = {f"{number}.jpg": photo(number) for number in range(20)}
    for name in ("sent", "sent-again"):
        bench.submit(photos, batch=name, Seed=1)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RUN), bench.store.bucket], env=as_bench(bench)
        )
        for _ in range(2)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0] * 2
    for operation in ("DetectLabels", "Converse", "InvokeModel"):
        assert len(images_paid(control, operation)) == 20
    assert bench.run().counts == {Status.SUCCEEDED: 40}


def test_a_bucket_that_refuses_answers_stops_the_run_but_not_its_report(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(12)
    write = Store.write
    stored = []

    def refuse(store: Store, key: str, *args: Any, **request: Any) -> str:
        if "answers/picture" in key:
            stored.append(key)
            if len(stored) > 3:
                raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")
        return write(store, key, *args, **request)

    monkeypatch.setattr(Store, "write", refuse)
    day = bench.run(max_concurrency=2)
    assert "S3" in day.stopped
    assert len(images_paid(control)) <= 3 + 2
    assert day.counts[Status.SUCCEEDED] == 3
    assert day.counts[Status.SKIPPED] == 9
