"""What a person decides of a whole batch: its sample is approved, what failed is asked for again."""

import json

import pytest

from bg_pipeline import layout, review
from bg_pipeline.errors import UsageError
from bg_pipeline.flow.work import open_work
from bg_pipeline.layout import Batch
from bg_pipeline.local_aws.control_client import ControlClient
from bg_pipeline.reports.overview import look_up
from bg_pipeline.reports.report import Status
from bg_pipeline.store import Store
from bg_pipeline.uploads import listing
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.dates


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def approve(bench: Bench, batch: Batch, by: str = "ann") -> bool:
    return review.approve_sample(bench.store, look_up(bench.store, bench.settings(), batch), by=by)


def retry(bench: Bench, batch: Batch) -> review.Retry | None:
    return review.prepare_retry(bench.store, bench.settings(), look_up(bench.store, bench.settings(), batch))


def pictures(control: ControlClient) -> int:
    return len(control.paid(operation="InvokeModel"))


def test_a_sample_runs_first_and_the_rest_waits_for_approval(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(5, Sample=2)
    assert bench.run().counts == {Status.SUCCEEDED: 2, Status.SKIPPED: 3}
    assert bench.run().counts == {Status.SUCCEEDED: 2, Status.SKIPPED: 3}
    assert pictures(control) == 2
    assert approve(bench, batch)
    assert bench.run().counts == {Status.SUCCEEDED: 5}
    assert pictures(control) == 5
    assert not approve(bench, batch)


def test_who_approved_is_kept_and_nobody_is_refused(bench: Bench) -> None:
    batch = bench.submit(2, Sample=1)
    with pytest.raises(UsageError, match="who approves"):
        approve(bench, batch, by=" ")
    approve(bench, batch, by="ann")
    kept = bench.store.read_json(batch.approval_key)
    assert (kept["By"], kept["Batch"]) == ("ann", batch.path)


def replace_request(bench: Bench, batch: Batch, **fields: object) -> None:
    """Writes another request until S3, which tells times to the second, dates it later than the approval."""
    approved = bench.store.head(batch.approval_key)
    assert approved is not None
    while True:
        bench.put(batch.request_key, json.dumps(fields).encode())
        replaced = bench.store.head(batch.request_key)
        assert replaced is not None
        if replaced.modified > approved.modified:
            return


def test_a_request_that_replaces_an_approved_one_has_a_sample_of_its_own(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(5, Sample=2)
    bench.run()
    approve(bench, batch)
    replace_request(bench, batch, Id="other", Prompt="a dark forest", Sample=1)
    bench.run()
    rows = bench.rows(batch, "other").values()
    assert sorted(row.Status for row in rows) == [Status.SKIPPED] * 4 + [Status.SUCCEEDED]
    assert pictures(control) == 3
    assert approve(bench, batch)
    bench.run()
    assert {row.Status for row in bench.rows(batch, "other").values()} == {Status.SUCCEEDED}


def test_an_approval_is_not_taken_for_one_of_a_request_that_came_after_the_listing(bench: Bench) -> None:
    batch = bench.submit(3, Sample=1)
    approve(bench, batch)
    listed = listing.find(bench.store, batch)
    assert listed is not None
    assert listed.approved
    replace_request(bench, batch, Id="other", Prompt="a dark forest", Sample=1)
    work = open_work(bench.store, bench.settings(), listed, [])
    assert work.request is not None
    assert work.request.Id == "other"
    assert not work.uploaded.approved


def test_an_approval_is_no_photo_of_its_batch(bench: Bench) -> None:
    batch = bench.submit(1, Sample=1)
    approve(bench, batch)
    bench.run()
    assert list(bench.rows(batch)) == ["photo-0.jpg"]


@pytest.mark.parametrize(("fields", "why"), [({}, "no sample"), ({"Mode": "SOFT"}, "cannot be read")])
def test_what_has_no_sample_cannot_be_approved(bench: Bench, fields: dict[str, str], why: str) -> None:
    batch = bench.submit(1, **fields)
    with pytest.raises(UsageError, match=why):
        approve(bench, batch)
    assert bench.store.head(batch.approval_key) is None


def test_a_retry_is_no_way_round_the_approval_of_a_sample(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit({"a.jpg": b"no photo", "b.jpg": photo(1), "c.jpg": photo(2)}, Sample=2)
    bench.run()
    assert {name: row.Status for name, row in bench.rows(batch).items()} == {
        "a.jpg": Status.FAILED,
        "b.jpg": Status.SUCCEEDED,
        "c.jpg": Status.SKIPPED,
    }
    found = retry(bench, batch)
    assert found is not None
    assert (found.images, found.pictures) == (1, 1)
    bench.put(batch.upload_key("a.jpg"), photo(3))
    found.submit(bench.store)
    bench.run(found.batch.date)
    assert list(bench.rows(found.batch, found.id)) == ["a.jpg"]
    assert pictures(control) == 2


def test_what_only_waits_for_approval_is_not_retried(bench: Bench) -> None:
    batch = bench.submit(3, Sample=1)
    bench.run()
    assert retry(bench, batch) is None


def test_there_is_no_retry_before_there_is_a_report(bench: Bench) -> None:
    with pytest.raises(UsageError, match="no report yet"):
        retry(bench, bench.submit(1))


def failed(bench: Bench) -> Batch:
    """A batch with one photo that failed."""
    batch = bench.submit({"a.jpg": b"no photo", "b.jpg": photo(1)})
    bench.run()
    return batch


def test_what_is_asked_for_again_twice_is_one_batch(bench: Bench) -> None:
    batch = failed(bench)
    first, second = retry(bench, batch), retry(bench, batch)
    assert first is not None
    assert second is not None
    asks = first.submit(bench.store)
    assert second.submit(bench.store) == asks, "both were prepared before either was submitted"
    assert bench.store.head(second.batch.request_key) is None
    third = retry(bench, batch)
    assert third is not None
    assert (third.batch, third.images, third.submitted) == (asks, 1, True)
    assert third.submit(bench.store) == asks


def test_what_failed_once_more_may_be_asked_for_once_more(bench: Bench) -> None:
    batch = failed(bench)
    first = retry(bench, batch)
    assert first is not None
    bench.run(first.submit(bench.store).date)
    second, third = retry(bench, batch), retry(bench, batch)
    assert second is not None
    assert third is not None
    assert second.batch != first.batch
    assert second.submit(bench.store) == third.submit(bench.store) == second.batch


def test_a_retry_that_ended_before_its_request_was_written_is_written_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = failed(bench)
    first = retry(bench, batch)
    assert first is not None
    with monkeypatch.context() as broken:
        broken.setattr("bg_pipeline.review.follow_up.submit", _gone)
        with pytest.raises(OSError, match="gone"):
            first.submit(bench.store)
    second = retry(bench, batch)
    assert second is not None
    assert second.submit(bench.store) == first.batch
    assert bench.store.head(first.batch.request_key) is not None


def _gone(*_: object) -> None:
    raise OSError("gone")


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"Batch": "nowhere"}'])
def test_a_torn_mark_holds_up_no_retry(bench: Bench, torn: bytes) -> None:
    batch = failed(bench)
    bench.put(layout.retried_key(batch), torn)
    found = retry(bench, batch)
    assert found is not None
    assert found.submit(bench.store) == found.batch
    again = retry(bench, batch)
    assert again is not None
    assert again.submitted
