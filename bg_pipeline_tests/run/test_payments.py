"""The bill is a sum of payments: the billed amount is between the rows' CostUSD and CostUSD + MaybeBilledUSD."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from bg_pipeline import pipeline
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.run.batch_completion import BatchCompletion
from bg_pipeline.run.outcome_recorder import OutcomeRecorder
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.pictures import photo

PRICES = {"InvokeModel": 0.012, "DetectLabels": 0.001, "DetectFaces": 0.001}
NO_CAPTIONS = ("labels", "generated_images", "status_report")
"""A caption's price depends on its tokens; without captions the billed sum is known exactly."""


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def billed(control: ControlClient) -> float:
    """The dollars that the local AWS server recorded as billed."""
    return sum(PRICES[call["operation"]] for call in control.paid())


def assert_bill_is_complete(bench: Bench, control: ControlClient, *batches: Batch) -> list[Row]:
    rows = [row for batch in batches for row in bench.rows(batch).values()]
    sure = sum(row.CostUSD for row in rows)
    most = sure + sum(row.MaybeBilledUSD for row in rows)
    assert sure - 1e-9 <= billed(control) <= most + 1e-9
    return rows


def refuse(monkeypatch: pytest.MonkeyPatch, method: str, refused: Callable[[str], bool], code: str) -> None:
    """From now on S3 refuses calls of this `Store` method for some keys, or closes the connection (``closed``)."""
    original = getattr(Store, method)

    def request(store: Store, key: str, *args: Any, **how: Any) -> Any:
        if refused(key) and code == "closed":
            raise ConnectionClosedError(endpoint_url="https://s3")
        if refused(key):
            answer: Any = {
                "Error": {"Code": code, "Message": "no"},
                "ResponseMetadata": {"HTTPStatusCode": 403},
            }
            raise ClientError(answer, method)
        return original(store, key, *args, **how)

    monkeypatch.setattr(Store, method, request)


def test_pictures_made_for_an_earlier_prompt_and_refreshes_stay_in_the_bill(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(2)
    bench.run(stages=NO_CAPTIONS)
    bench.submit(2, Prompt="snow")
    bench.run(stages=NO_CAPTIONS)
    day = bench.run(stages=NO_CAPTIONS, again=("generated_images",))
    rows = assert_bill_is_complete(bench, control, batch)
    assert sum(row.CostUSD for row in rows) == pytest.approx(billed(control)) == pytest.approx(0.074)
    assert day.spent.cost_usd == pytest.approx(0.024), "only what this run paid"
    assert day.total.cost_usd == pytest.approx(0.074)


def test_a_run_that_pays_nothing_reports_no_spend(bench: Bench, control: ControlClient) -> None:
    bench.submit(2)
    bench.run()
    day = bench.run(feather=3.0)
    assert day.made["generated_images"] == 2
    assert (day.spent.cost_usd, day.spent.maybe_usd) == (0.0, 0.0)


def test_calls_whose_answers_are_lost_count_as_maybe_billed(bench: Bench, control: ControlClient) -> None:
    control.fault(operation="InvokeModel", action="reset", after_work=True, times=3)
    batch = bench.submit(4)
    bench.run(stages=NO_CAPTIONS, max_concurrency=1)
    rows = assert_bill_is_complete(bench, control, batch)
    assert sum(row.MaybeBilledUSD for row in rows) == pytest.approx(0.036)
    assert sum(row.CostUSD for row in rows) + 0.036 == pytest.approx(billed(control))


def test_a_cut_out_that_was_lost_and_repeated_is_billed_with_its_model(
    bench: Bench, control: ControlClient
) -> None:
    control.fault(operation="InvokeModel", action="reset", after_work=True)
    batch = bench.submit({"cat.jpg": photo(1)}, Task="REMOVE", Prompt=None, Subject="SALIENT")
    bench.run(stages=NO_CAPTIONS, mask_sources="cut-out")
    (row,) = assert_bill_is_complete(bench, control, batch)
    assert (row.CostUSD, row.MaybeBilledUSD) == (0.013, 0.012)
    assert (row.Model, row.Region, row.Outputs[0].CostUSD) == ("titan-v2", "us-east-1", 0.012)
    provenance = bench.store.read_json(f"{row.Results[0]}.json")
    assert (provenance["Model"], provenance["Region"], provenance["CostUSD"]) == (
        "titan-v2",
        "us-east-1",
        0.012,
    )


def test_spend_of_a_killed_run_is_in_the_bill_of_the_next(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit(3)

    def die(recorder: OutcomeRecorder, *_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(OutcomeRecorder, "_record", die)
        patch.setattr(BatchCompletion, "report_early", lambda *_: None)
        with pytest.raises(SystemExit):
            bench.run(stages=NO_CAPTIONS)
    assert control.paid()
    bench.run(stages=NO_CAPTIONS)
    assert_bill_is_complete(bench, control, batch)


def test_refreshes_of_a_run_that_was_killed_are_in_the_bill_too(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit(2)
    bench.run(stages=NO_CAPTIONS)

    def die(recorder: OutcomeRecorder, *_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(OutcomeRecorder, "_record", die)
        patch.setattr(BatchCompletion, "report_early", lambda *_: None)
        with pytest.raises(SystemExit):
            bench.run(stages=NO_CAPTIONS, again=("generated_images",))
    bench.store.delete(batch.ledger_key("ledger.jsonl.gz"))
    bench.run(stages=NO_CAPTIONS, again=("generated_images",))
    rows = assert_bill_is_complete(bench, control, batch)
    assert sum(row.CostUSD for row in rows) == pytest.approx(0.002 + 4 * 0.012)


def test_spend_for_a_photo_that_was_removed_from_the_batch_is_told_beside_the_first_row(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit({"a.jpg": photo(1), "b.jpg": photo(2)}, requested=False)
    bench.run(stages=NO_CAPTIONS, default_prompt="a beach")
    bench.store.delete(batch.upload_key("b.jpg"))
    day = bench.run(stages=NO_CAPTIONS, default_prompt="a beach")
    rows = bench.rows(batch, batch.derived_id(bench.store.bucket))
    assert list(rows) == ["a.jpg"]
    assert day.total.cost_usd == pytest.approx(billed(control))
    assert day.total.maybe_usd == 0
    row = rows["a.jpg"]
    assert row.CostUSD + row.MaybeBilledUSD == pytest.approx(billed(control))
    assert "also billed for images that the request no longer has, USD: b.jpg: 0.0130" in row.Cause


def test_spend_for_a_photo_that_is_there_again_is_told_in_its_own_row(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit({"a.jpg": photo(1), "b.jpg": photo(2)}, requested=False)
    bench.run(stages=NO_CAPTIONS, default_prompt="a beach")
    bench.store.delete(batch.upload_key("b.jpg"))
    bench.run(stages=NO_CAPTIONS, default_prompt="a beach")
    bench.put(batch.upload_key("b.jpg"), photo(2))
    bench.run(stages=NO_CAPTIONS, default_prompt="a beach")
    rows = bench.rows(batch, batch.derived_id(bench.store.bucket))
    assert [(row.MaybeBilledUSD, row.Cause) for row in rows.values()] == [(0.0, ""), (0.0, "")]
    assert sum(row.CostUSD for row in rows.values()) == pytest.approx(billed(control))


def test_spend_of_a_run_that_could_not_write_the_ledger_is_told_even_if_its_request_was_taken_back(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit(2, Prompt="a beach")
    bench.run(stages=NO_CAPTIONS)
    bench.submit({}, Prompt="a forest")

    def paid_and_ledger(key: str) -> bool:
        return f"{batch.ledger_prefix}/" in key and len(control.paid(operation="InvokeModel")) > 2

    with monkeypatch.context() as patch:
        refuse(patch, "write", paid_and_ledger, "AccessDenied")
        bench.run(stages=NO_CAPTIONS)
    bench.submit({}, Prompt="a beach")
    bench.run(stages=NO_CAPTIONS)
    assert len(control.paid(operation="InvokeModel")) == 4
    assert_bill_is_complete(bench, control, batch)


@pytest.mark.parametrize("code", ["AccessDenied", "closed"])
def test_payloads_that_cannot_be_stored_lose_nothing_that_was_paid(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    refuse(monkeypatch, "write", lambda key: key.startswith("model-payloads/"), code)
    batch = bench.submit(5)
    day = bench.run(keep_payloads=True)
    assert day.counts == {Status.SUCCEEDED: 5}
    assert len(control.paid(operation="InvokeModel")) == 5
    assert any("BG_KEEP_PAYLOADS" in note for note in bench.notes)
    assert len(bench.rows(batch)) == 5


def test_an_answer_that_s3_did_not_store_counts_as_billed_and_the_same_process_does_not_wait_for_it(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = bench.submit(1)
    with monkeypatch.context() as patch:
        refuse(patch, "write", lambda key: "/answers/picture/" in key, "AccessDenied")
        day = bench.run(stages=NO_CAPTIONS)
    assert "S3" in day.stopped
    assert_bill_is_complete(bench, control, batch)
    assert bench.run(stages=NO_CAPTIONS).counts == {Status.SUCCEEDED: 1}
    (row,) = assert_bill_is_complete(bench, control, batch)
    assert row.CostUSD + row.MaybeBilledUSD == pytest.approx(0.001 + 2 * 0.012)


def test_overlapping_variants_of_two_batches_at_once_are_paid_for_once(
    bench: Bench, control: ControlClient
) -> None:
    control.latency({"operation": "InvokeModel", "seconds": 1.0})
    other = date(2026, 11, 19)
    bench.submit({"a.jpg": photo(1)}, Seed=5, Variants=2)
    bench.submit({"b.jpg": photo(1)}, day=other, Seed=6)
    with ThreadPoolExecutor(2) as pool:
        days = list(pool.map(bench.run, (DATE, other)))
    assert [day.counts for day in days] == [{Status.SUCCEEDED: 1}] * 2
    # Titan's two pictures are one call: whoever came first made one, and the other only what was missing.
    rows = [*bench.rows(Batch(DATE, "101530")).values(), *bench.rows(Batch(other, "101530")).values()]
    pictures = sum(output.CostUSD for row in rows for output in row.Outputs)
    assert pictures == pytest.approx(2 * 0.012)


@pytest.mark.parametrize(("occasions", "pictures"), [(("one", "one"), 6), (("one", "two"), 6), (("", ""), 6)])
def test_a_stopped_refresh_continues_on_any_later_request(
    bench: Bench, control: ControlClient, occasions: tuple[str, str], pictures: int
) -> None:
    bench.submit(6)
    bench.run()
    control.mark()

    def refresh(occasion: str, **overrides: Any) -> None:
        settings = bench.settings(max_concurrency=1, **overrides)
        pipeline.run(
            settings, [DATE], aws=aws(), store=bench.store, again=("generated_images",), occasion=occasion
        )

    refresh(occasions[0], max_cost_usd=0.05)
    refresh(occasions[1])
    assert len(control.paid(operation="InvokeModel")) == pictures


def test_a_refresh_is_paid_for_once_per_occasion(bench: Bench, control: ControlClient) -> None:
    bench.submit(2)
    bench.run()
    control.mark()
    for occasion in ("monday", "monday", "tuesday"):
        pipeline.run(
            bench.settings(), [DATE], aws=aws(), store=bench.store, again=("labels",), occasion=occasion
        )
    assert len(control.paid(operation="DetectLabels")) == 4
