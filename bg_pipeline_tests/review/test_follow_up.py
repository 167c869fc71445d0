"""What a person decides of a whole batch: its sample is approved, what failed is asked for again."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from bg_pipeline import review
from bg_pipeline.budget.limits import read_spending
from bg_pipeline.budget.remaining import CapUsedUp
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, retried_key
from bg_pipeline.domain.rows import Row, Status, complete_row
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.overview import images_to_retry, load_status
from bg_pipeline.run.batch_work import open_work
from bg_pipeline.state.follow_ups import RETRIES, FollowUps, batch_and_follow_ups, origin
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import listing
from bg_pipeline.uploads.listing import approval_signature
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.dates


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


def approve(bench: Bench, batch: Batch, by: str = "ann") -> bool:
    secret = bench.settings().approval_secret.get_secret_value()
    return review.approve_sample(
        bench.store, load_status(bench.store, bench.settings(), batch), by=by, secret=secret
    )


def retry(bench: Bench, batch: Batch) -> review.Retry | None:
    return review.prepare_retry(
        bench.store, bench.settings(), load_status(bench.store, bench.settings(), batch)
    )


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
    bench.put(batch.request_key, json.dumps(fields).encode())


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


OTHER = {"Id": "101530", "Prompt": "a dark forest", "Sample": 1}


def test_a_request_replaced_between_the_look_and_the_approval_is_not_approved(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(3, Sample=1)
    bench.run()
    seen = load_status(bench.store, bench.settings(), batch)
    replace_request(bench, batch, **OTHER)
    with pytest.raises(review.RequestReplaced, match="replaced since you looked"):
        review.approve_sample(bench.store, seen, by="ann")
    bench.run()
    now = load_status(bench.store, bench.settings(), batch)
    with pytest.raises(review.RequestReplaced, match="replaced since you looked"):
        review.approve_sample(bench.store, now, by="ann", seen=seen.request_etag)
    assert bench.store.head(batch.approval_key) is None
    bench.run()
    assert pictures(control) == 2, "one of each sample"


def test_a_request_whose_sample_was_not_made_yet_is_not_approved_by_a_look_at_the_earlier_ones(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(3, Sample=1)
    bench.run()
    replace_request(bench, batch, **OTHER)
    with pytest.raises(review.RequestReplaced, match="since its sample was made"):
        approve(bench, batch)
    bench.run()
    assert pictures(control) == 2
    assert approve(bench, batch)


def test_a_request_replaced_while_its_approval_is_written_is_not_approved(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, control: ControlClient
) -> None:
    batch = bench.submit(3, Sample=1)
    bench.run()
    write = Store.write_json

    def overtaken(self: Store, key: str, document: object, **how: object) -> str:
        if key == batch.approval_key:
            replace_request(bench, batch, **OTHER)
        return write(self, key, document, **how)  # type: ignore[arg-type]

    with monkeypatch.context() as broken:
        broken.setattr(Store, "write_json", overtaken)
        assert approve(bench, batch)
    bench.run()
    assert pictures(control) == 2, "one of each sample"


def approved_as(bench: Bench, batch: Batch, text: bytes) -> bool:
    bench.put(batch.approval_key, text)
    listed = listing.find(bench.store, batch)
    assert listed is not None
    return listed.approved


def test_with_a_secret_only_a_signed_approval_counts(bench: Bench, control: ControlClient) -> None:
    """Whoever uploads may write an approval beside the photos, but cannot sign it."""
    batch = bench.submit(3, Sample=1)
    other = bench.submit(3, batch="other", Prompt="a dark forest", Sample=1)
    bench.run()
    approve(bench, batch)
    unsigned = bench.store.read_json(batch.approval_key)
    bench.overrides["approval_secret"] = "known to the service only"
    assert bench.run().counts == {Status.SUCCEEDED: 2, Status.SKIPPED: 4}
    assert pictures(control) == 2, "the one from before the secret"
    assert approve(bench, batch), "so it can be given again"
    assert not approve(bench, batch)
    signed = bench.store.read_json(batch.approval_key)
    bench.store.write_json(batch.approval_key, {**signed, "By": "bob"})
    bench.run()
    assert pictures(control) == 2, "what it states is signed too"
    bench.store.write_json(batch.approval_key, signed)
    assert bench.run().counts == {Status.SUCCEEDED: 4, Status.SKIPPED: 2}
    (etag,) = (found.etag for found in bench.store.list(other.request_key))
    for forged in (
        {**unsigned, "Batch": other.path, "RequestETag": etag},
        {**unsigned, "RequestETag": etag, "Signature": ""},
        {**signed, "RequestETag": etag},
        {**signed, "RequestETag": etag, "Signature": None},
        {"RequestETag": etag, "Signature": approval_signature("guessed", other, etag, "None", "None")},
    ):
        bench.store.write_json(other.approval_key, forged)
        assert bench.run().counts == {Status.SUCCEEDED: 4, Status.SKIPPED: 2}


def test_a_signed_approval_is_enough_where_no_secret_is_set(bench: Bench, control: ControlClient) -> None:
    batch = bench.submit(2, Sample=1)
    bench.run()
    bench.overrides["approval_secret"] = "s"
    approve(bench, batch)
    del bench.overrides["approval_secret"]
    assert bench.run().counts == {Status.SUCCEEDED: 2}


def test_an_approval_from_before_it_named_its_request_counts_if_it_came_later(bench: Bench) -> None:
    batch = bench.submit(3, Sample=1)
    old = b'{"Batch": "2026/11/20/101530", "By": "ann", "At": "2026-11-20T10:00:00+00:00"}'
    assert approved_as(bench, batch, old)
    listed = listing.find(bench.store, batch)
    assert listed is not None
    assert listed.request is not None
    listed.request = replace(listed.request, modified=listed.request.modified + timedelta(minutes=1))
    assert not listed.approved


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"true", b'{"RequestETag": null}', b'{"RequestETag": "x"}']
)
def test_what_is_no_approval_of_this_request_approves_nothing_and_can_be_replaced(
    bench: Bench, text: bytes
) -> None:
    batch = bench.submit(3, Sample=1)
    assert not approved_as(bench, batch, text)
    assert approve(bench, batch)
    assert bench.run().counts == {Status.SUCCEEDED: 3}


def test_an_approval_is_no_photo_of_its_batch(bench: Bench) -> None:
    batch = bench.submit(1, Sample=1)
    approve(bench, batch)
    bench.run()
    assert list(bench.rows(batch)) == ["photo-0.jpg"]


@pytest.mark.parametrize(("fields", "why"), [({}, "no sample"), ({"Mode": "SOFT"}, "cannot be read")])
def test_what_has_no_sample_cannot_be_approved(bench: Bench, fields: dict[str, Any], why: str) -> None:
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


def test_whatever_stopped_the_run_a_retry_asks_for_no_more_than_the_sample(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(5, Sample=2)
    bench.run(max_cost_usd=0.0001)
    assert {row.Status for row in bench.rows(batch).values()} == {Status.SKIPPED}
    found = retry(bench, batch)
    assert found is not None
    assert (found.images, found.pictures, json.loads(found.data)["Sample"]) == (2, 2, 2)
    bench.run(found.submit(bench.store).date)
    assert pictures(control) == 2
    bench.run()
    assert pictures(control) == 2, "the batch's own sample is the same two"
    again = retry(bench, batch)
    assert again is None


def row(name: str, status: Status, error: str = "") -> Row:
    return complete_row(Row(Id="id", ImageName=name, Status=status, Error=error))


def test_a_retry_of_a_sample_takes_what_the_sample_lacks_whatever_the_rows_say() -> None:
    rows = [
        row("a", Status.FAILED, "Timeout"),
        row("b", Status.SUCCEEDED),
        row("c", Status.SKIPPED, "CapReached"),
        row("d", Status.SKIPPED, "NothingUsable"),
        row("e", Status.SKIPPED, "SampleWaits"),
    ]
    assert images_to_retry(rows, 2) == ["a"]
    assert images_to_retry(rows, 3) == ["a", "c"]
    assert images_to_retry(rows, 1) == []
    assert images_to_retry(rows, None) == ["a", "c", "d"]


def test_photos_that_were_approved_with_their_batch_need_no_approval_in_its_retry(
    bench: Bench, control: ControlClient
) -> None:
    batch = bench.submit(4, Sample=1)
    bench.run()
    approve(bench, batch)
    bench.run(max_cost_usd=0.0001)
    found = retry(bench, batch)
    assert found is not None
    assert found.images == 3
    assert "Sample" not in json.loads(found.data)
    assert bench.run(found.submit(bench.store).date).counts == {Status.SUCCEEDED: 3}
    assert pictures(control) == 4


def test_a_request_that_replaced_an_approved_one_is_retried_within_its_own_sample(bench: Bench) -> None:
    batch = bench.submit(4, Sample=1)
    bench.run()
    approve(bench, batch)
    bench.run(max_cost_usd=0.0001)
    replace_request(bench, batch, Id="id-101530", Prompt="a dark forest", Sample=2)
    found = retry(bench, batch)
    assert found is not None
    assert (found.images, json.loads(found.data)["Sample"]) == (1, 2)


def test_a_batch_and_all_its_retries_share_one_cap(bench: Bench, control: ControlClient) -> None:
    # The cap is enough for three of the images; without a shared cap a retry would pay for the other three.
    batch = bench.submit(6, MaxCostUSD=0.05)
    bench.run()
    one = batch
    for _ in range(2):
        for of in (one, batch):  # a chain of retries, and one after another of the first
            found = retry(bench, of)
            assert found is not None
            assert json.loads(found.data)["MaxCostUSD"] < 0.05
            one = found.submit(bench.store)
            bench.run(one.date)
    assert pictures(control) == 3
    spent = [
        read_spending(bench.store, each.spend_key)[0].total
        for each in batch_and_follow_ups(bench.store, batch)
    ]
    assert len(spent) == 5
    assert sum(spent) <= 50_000


def spent(bench: Bench, batch: Batch, micro_usd: int, claimed: int = 0) -> None:
    document = {"SettledMicroUsd": micro_usd, "ClaimedMicroUsd": {"a dead process": claimed}}
    bench.store.write_json(batch.spend_key, document)


def test_with_nothing_left_of_the_cap_a_retry_is_refused_until_the_cap_is_raised(bench: Bench) -> None:
    batch = bench.submit({"a.jpg": b"no photo", "b.jpg": photo(1)}, MaxCostUSD=1.0)
    bench.run()
    spent(bench, batch, 400_000, claimed=600_000)
    with pytest.raises(CapUsedUp, match=r"MaxCostUSD = 1\.00 USD, is used up.*higher MaxCostUSD"):
        retry(bench, batch)
    assert bench.store.head(retried_key(batch)) is None
    replace_request(bench, batch, Id="id-101530", Prompt="a sunny beach", MaxCostUSD=1.5)
    found = retry(bench, batch)
    assert found is not None
    assert json.loads(found.data)["MaxCostUSD"] == 0.5
    # As after a report that was written while nothing was left.
    bench.store.delete(s3_keys.retry_key(batch.status_prefix, "id-101530"))
    ready = retry(bench, batch)
    assert ready is not None
    assert json.loads(ready.data)["MaxCostUSD"] == 0.5
    assert ready.images == 1


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
        broken.setattr("bg_pipeline.review.follow_up.hand_over", _gone)
        with pytest.raises(OSError, match="gone"):
            first.submit(bench.store)
    second = retry(bench, batch)
    assert second is not None
    assert second.submit(bench.store) == first.batch
    assert bench.store.head(first.batch.request_key) is not None


def test_who_was_overtaken_writes_the_request_that_the_faster_one_did_not_come_to_write(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = failed(bench)
    first, second = retry(bench, batch), retry(bench, batch)
    assert first is not None
    assert second is not None
    with monkeypatch.context() as broken:
        broken.setattr("bg_pipeline.review.follow_up.hand_over", _gone)
        with pytest.raises(OSError, match="gone"):
            first.submit(bench.store)
    assert second.submit(bench.store) == first.batch
    assert bench.store.head(first.batch.request_key) is not None


def test_every_retry_of_a_batch_is_remembered_and_where_it_came_from(bench: Bench) -> None:
    batch, made = failed(bench), []
    for _ in range(3):
        found = retry(bench, batch)
        assert found is not None
        made.append(found.submit(bench.store))
        bench.run(made[-1].date)
    assert list(FollowUps.read(bench.store, RETRIES(batch)).batches) == made
    assert {origin(bench.store, one) for one in made} == {batch}


def test_the_mark_of_an_earlier_version_names_one_retry(bench: Bench) -> None:
    batch = failed(bench)
    earlier = Batch(batch.date, "earlier")
    document = {"Batch": earlier.path, "Token": earlier.path}
    bench.store.write_json(retried_key(batch), document)
    found = retry(bench, batch)
    assert found is not None
    assert found.batch == earlier, "its request was never written"


def _gone(*_: object, **__: object) -> None:
    raise OSError("gone")


@pytest.mark.parametrize("torn", [b"", b"{", b"[]", b'{"Batch": "nowhere"}'])
def test_a_torn_mark_holds_up_no_retry(bench: Bench, torn: bytes) -> None:
    batch = failed(bench)
    bench.put(retried_key(batch), torn)
    found = retry(bench, batch)
    assert found is not None
    assert found.submit(bench.store) == found.batch
    again = retry(bench, batch)
    assert again is not None
    assert again.submitted
