"""The review: what is approved by itself, what waits, what a person says, what is delivered, what is done again."""

import contextlib
import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline import review
from bg_pipeline.budget.remaining import CapUsedUp
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, redone_key
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.domain.payments import Payment
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.stages import PICTURES
from bg_pipeline.errors import PreconditionFailed, RequestError, UsageError
from bg_pipeline.review import (
    Item,
    Reviews,
    State,
    decide,
    find_items,
    is_sampled,
    items,
    publish,
    redo,
    redoing,
    review_queue,
)
from bg_pipeline.run import finishing
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.state.follow_ups import REDOES, FollowUps
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import submitting
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.dates

FAULT = "the background did not change"


@pytest.fixture
def bench(
    s3, bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch, in_process: None
) -> Bench:
    """Pictures of a prompt with "odd" in it do not pass; nothing is chosen at random."""

    def faults(fidelity: Any, prompt: str = "") -> tuple[str, ...]:
        return (FAULT,) if "odd" in prompt else ()

    control.switch(canned=True)
    monkeypatch.setattr(finishing, "failed_checks", faults)
    return Bench(Store(s3, bucket), {"max_regenerations": 0, "review_share": 0.0})


@pytest.fixture
def ran(bench: Bench) -> Batch:
    """A batch that was run: one picture passed and one was flagged."""
    made = bench.submit(
        {"good.jpg": photo(1), "odd.jpg": photo(2)},
        Images=[
            {"ImageName": "good.jpg", "Ref": "SKU-1"},
            {"ImageName": "odd.jpg", "Prompt": "an odd place"},
        ],
    )
    bench.run()
    return made


@pytest.fixture
def batch(bench: Bench) -> Batch:
    """As a run would have left it: one picture passed, one was flagged, and one photo is none."""
    images = [
        {"ImageName": "good.jpg", "Ref": "SKU-1"},
        {"ImageName": "odd.jpg"},
        {"ImageName": "broken.jpg"},
    ]
    made = bench.submit({"good.jpg": b"1", "odd.jpg": b"2", "broken.jpg": b"3"}, Images=images)
    finished(bench, made)
    return made


def paid(usd: float) -> dict[str, Payment]:
    return {"call": Payment("call", "TITAN_V2", usd)}


def finished(bench: Bench, batch: Batch, version: str = "first") -> None:
    """Stores results and the ledger that knows them."""
    ledger = Ledger(bench.store, batch)
    ledger.put(Entry("broken.jpg", stages={PICTURES: StageRecord("", Status.FAILED)}, payments=paid(0.03)))
    for name, status in (("good.jpg", Status.SUCCEEDED), ("odd.jpg", Status.NEEDS_REVIEW)):
        key = f"{batch.output_prefix}/{name}"
        etag = bench.store.write(key, f"{version} {name}".encode(), media_type="image/jpeg")
        output = {"Number": 1, "Key": key, "Status": status, "Error": "", "Final": True, "Model": "titan-v2"}
        output |= {
            "Cause": FAULT if status is Status.NEEDS_REVIEW else "",
            "Region": "",
            "Seed": 7,
            "CostUSD": 0.01,
        }
        record = StageRecord("", status)
        ledger.put(
            Entry(name, stages={PICTURES: record}, outputs=[output], files={key: etag}, payments=paid(0.01))
        )
    ledger.finish(LeasedWriter(None))


def opened(bench: Bench, batch: Batch) -> BatchWork:
    return open_batch(bench.store, bench.settings(), batch)


def looked(bench: Bench, batch: Batch, **settings: Any) -> dict[str, Item]:
    """The items by the name of their result."""
    work = opened(bench, batch)
    found = items(work, bench.settings(**settings))
    return {item.key.removeprefix(f"{work.locations.output_prefix}/"): item for item in found}


def say(bench: Bench, batch: Batch, name: str, state: State, reason: str = "", by: str = "ann") -> None:
    decide(bench.store, [looked(bench, batch)[name]], state, by=by, reason=reason)


def deliver(bench: Bench, batch: Batch) -> review.PublishResult:
    work = opened(bench, batch)
    return publish(work, items(work, bench.settings()))


# What waits


def test_what_passed_every_check_is_approved_by_itself_and_what_was_flagged_waits(
    bench: Bench, batch: Batch
) -> None:
    found = looked(bench, batch)
    assert found.keys() == {"good.jpg", "odd.jpg"}
    assert (found["good.jpg"].state, found["good.jpg"].ref) == (State.APPROVED, "SKU-1")
    assert (found["odd.jpg"].state, found["odd.jpg"].why) == (State.WAITING, FAULT)
    assert review_queue(found.values()) == [found["odd.jpg"]]


def test_nothing_is_approved_by_itself_where_that_is_switched_off(bench: Bench, batch: Batch) -> None:
    found = looked(bench, batch, auto_approve=False)
    assert [item.image for item in review_queue(found.values())] == ["odd.jpg", "good.jpg"]
    assert "BG_AUTO_APPROVE" in found["good.jpg"].why


def test_a_share_of_what_passed_waits_for_a_person_all_the_same(bench: Bench, batch: Batch) -> None:
    found = looked(bench, batch, review_share=1.0)
    assert found["good.jpg"].state is State.WAITING
    assert "BG_REVIEW_SHARE" in found["good.jpg"].why


@given(st.sets(st.text(min_size=1), min_size=1, max_size=50), st.floats(0, 1), st.floats(0, 1))
def test_the_share_is_chosen_by_the_key_and_grows_with_it(keys: set[str], one: float, two: float) -> None:
    small, large = sorted((one, two))
    assert {key for key in keys if is_sampled(key, small)} <= {key for key in keys if is_sampled(key, large)}
    assert not any(is_sampled(key, 0.0) for key in keys)
    assert all(is_sampled(key, 1.0) for key in keys)


def test_about_the_share_that_was_said_is_chosen() -> None:
    keys = [f"generated-image-files/2026/11/20/shop/photo-{number}.jpg" for number in range(10_000)]
    assert 400 < sum(is_sampled(key, 0.05) for key in keys) < 600


# What a person says


def test_the_share_that_a_person_sees_is_drawn_from_the_least_sure() -> None:
    keys = [f"key {number}" for number in range(10_000)]
    drawn = {sure: {key for key in keys if is_sampled(key, 0.05, sure)} for sure in (0.5, 0.7, 0.85, 0.95)}
    assert drawn[0.95] < drawn[0.85] < drawn[0.7] < drawn[0.5]
    assert len(drawn[0.5]) > 4 * len(drawn[0.85])
    assert all(is_sampled(key, 1.0, 0.99) for key in keys)
    assert not any(is_sampled(key, 0.0, 0.41) for key in keys)


def test_a_decision_is_kept_beside_the_result_with_who_when_and_why(bench: Bench, batch: Batch) -> None:
    say(bench, batch, "odd.jpg", State.APPROVED, "it is meant to be odd")
    key = f"reviews/{batch.path}/odd.jpg.json"
    stored = bench.store.read_json(key)
    assert stored is not None
    assert (stored["Decision"], stored["By"], stored["Reason"]) == (
        "approved",
        "ann",
        "it is meant to be odd",
    )
    assert stored["At"].startswith("20")
    item = looked(bench, batch)["odd.jpg"]
    assert (item.state, item.why) == (State.APPROVED, "approved by ann: it is meant to be odd")


def test_a_later_decision_counts_and_the_earlier_ones_are_kept(bench: Bench, batch: Batch) -> None:
    say(bench, batch, "good.jpg", State.REJECTED, "too dark")
    say(bench, batch, "good.jpg", State.APPROVED, by="bob")
    say(bench, batch, "good.jpg", State.REJECTED, by="eve")
    assert looked(bench, batch)["good.jpg"].why == "rejected by eve"
    stored = bench.store.read_json(f"reviews/{batch.path}/good.jpg.json")
    assert stored is not None
    assert [earlier["By"] for earlier in stored["Earlier"]] == ["bob", "ann"]


def test_two_who_decide_at_once_are_both_kept(
    bench: Bench, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = looked(bench, batch)["odd.jpg"]
    write, first = Store.write_json, [True]

    def overtaken(self: Store, key: str, document: Any, **how: Any) -> str:
        if first and first.pop():
            decide(bench.store, [item], State.REJECTED, by="bob")
        return write(self, key, document, **how)

    monkeypatch.setattr(Store, "write_json", overtaken)
    decide(bench.store, [item], State.APPROVED, by="ann")
    stored = bench.store.read_json(f"reviews/{batch.path}/odd.jpg.json")
    assert stored is not None
    assert (stored["By"], stored["Earlier"][0]["By"]) == ("ann", "bob")


def test_a_decision_is_about_the_bytes_that_were_seen(bench: Bench, batch: Batch) -> None:
    say(bench, batch, "odd.jpg", State.APPROVED)
    finished(bench, batch, "second")
    item = looked(bench, batch)["odd.jpg"]
    assert item.state is State.WAITING
    assert item.why == f"{FAULT}; an earlier version of it was approved by ann"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"Decision": "perhaps"}', b'{"Decision": "waiting"}', b"\xff"]
)
def test_what_is_no_decision_is_none_and_can_be_replaced(bench: Bench, batch: Batch, data: bytes) -> None:
    bench.put(f"reviews/{batch.path}/odd.jpg.json", data)
    assert looked(bench, batch)["odd.jpg"].state is State.WAITING
    say(bench, batch, "odd.jpg", State.APPROVED)
    assert looked(bench, batch)["odd.jpg"].state is State.APPROVED


def test_decisions_that_did_not_change_are_not_read_again(
    bench: Bench, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    say(bench, batch, "odd.jpg", State.APPROVED)
    kept = Reviews(bench.store)
    work = opened(bench, batch)
    first = items(work, bench.settings(), kept)
    monkeypatch.setattr(Store, "read_json", None)
    assert items(work, bench.settings(), kept) == first


@pytest.mark.parametrize(
    ("state", "by", "reason", "words"),
    [
        (State.WAITING, "ann", "", "approve or to reject"),
        (State.APPROVED, " ", "", "who decides"),
        (State.APPROVED, "ann", "x" * 1001, "1,001 characters"),
    ],
)
def test_what_is_no_decision_is_refused(
    bench: Bench, batch: Batch, state: State, by: str, reason: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        decide(bench.store, [looked(bench, batch)["odd.jpg"]], state, by=by, reason=reason)
    assert not bench.keys("reviews/")


def test_results_are_named_by_key_by_name_or_by_image(bench: Bench, batch: Batch) -> None:
    found = list(looked(bench, batch).values())
    prefix = batch.output_prefix
    (odd,) = find_items(found, ["odd.jpg"], prefix)
    assert find_items(found, [odd.key, "odd.jpg"], prefix) == [odd]
    with pytest.raises(UsageError, match=r"'broken\.jpg' is neither"):
        find_items(found, ["broken.jpg"], prefix)


def test_an_image_means_all_its_results(bench: Bench) -> None:
    made = bench.submit(1, Prompts=["a beach", "an odd place"])
    bench.run()
    found = list(looked(bench, made).values())
    assert [item.state for item in found] == [State.APPROVED, State.WAITING]
    assert find_items(found, ["photo-0.jpg"], made.output_prefix) == found


def test_an_approved_image_costs_its_share_of_everything_that_was_billed(bench: Bench, batch: Batch) -> None:
    results = review.Results(opened(bench, batch), bench.settings())
    before = results.summary(results.items())
    assert (before.images, before.approved_images, before.waiting) == (3, 1, 1)
    assert before.cost_usd is not None
    assert before.cost_per_image == before.cost_usd == 0.05
    say(bench, batch, "odd.jpg", State.APPROVED)
    after = results.summary(results.items())
    assert after.cost_per_image == before.cost_usd / 2
    say(bench, batch, "odd.jpg", State.REJECTED)
    say(bench, batch, "good.jpg", State.REJECTED)
    none = results.summary(results.items())
    assert (none.rejected, none.cost_per_image) == (2, None)


# As a table


def table(bench: Bench, batch: Batch) -> list[dict[str, str]]:
    data = review.as_csv(looked(bench, batch).values())
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


def filled(rows: list[dict[str, str]], delimiter: str = ",", start: str = "") -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return (start + out.getvalue()).encode()


@pytest.mark.parametrize(("delimiter", "start"), [(",", ""), (";", "\ufeff"), ("\t", "")])
def test_decisions_go_out_as_a_table_and_come_back(
    bench: Bench, batch: Batch, delimiter: str, start: str
) -> None:
    rows = table(bench, batch)
    for row in rows:
        row["Decision"], row["Reason"] = (
            ("Approve", "") if row["ImageName"] == "odd.jpg" else ("REJECTED", "'=2")
        )
    found = looked(bench, batch)
    wanted = review.read_csv(filled(rows, delimiter, start), found.values())
    assert wanted == {
        (State.REJECTED, "=2"): [found["good.jpg"]],
        (State.APPROVED, ""): [found["odd.jpg"]],
    }


def test_a_table_that_comes_back_unchanged_decides_nothing(bench: Bench, batch: Batch) -> None:
    say(bench, batch, "odd.jpg", State.REJECTED, "=dark, “blurred”\nand late")
    found = looked(bench, batch).values()
    assert review.read_csv(review.as_csv(found), found) == {}


def test_all_that_is_wrong_in_a_table_is_told_by_line_and_nothing_counts(bench: Bench, batch: Batch) -> None:
    good, odd = table(bench, batch)
    rows = [
        good | {"Decision": "approve"},
        good | {"Decision": "approve"},
        odd | {"Decision": "perhaps"},
        odd | {"Decision": "approve", "Result": "elsewhere.jpg"},
        odd | {"Decision": "approve", "ResultETag": "older"},
        odd | {"Decision": "reject", "Reason": "x" * 1001},
    ]
    with pytest.raises(UsageError) as refused:
        review.read_csv(filled(rows), looked(bench, batch).values())
    told = str(refused.value)
    for words in (
        "line 3: " + good["Result"] + " is already decided in line 2",
        "line 4: Decision 'perhaps'",
        "line 5: 'elsewhere.jpg' is not a result",
        "line 6: " + odd["Result"] + " was made again since",
        "line 7: the reason",
        "No decision was stored",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"\xff\xfeR", "UTF-8"), (b"", "no column Decision"), (b"Result;Reason\na;b\n", "no column Decision")],
)
def test_a_file_that_is_no_such_table_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        review.read_csv(data, [])


@given(st.sampled_from([b"", b"Result,Decision\n"]), st.binary(max_size=200))
def test_whatever_a_file_holds_it_is_read_or_refused(head: bytes, data: bytes) -> None:
    with contextlib.suppress(UsageError):
        assert review.read_csv(head + data, []) == {}


# Delivery


def delivered(bench: Bench) -> list[str]:
    return bench.keys("published/")


def test_only_what_is_approved_is_delivered(bench: Bench, batch: Batch) -> None:
    done = deliver(bench, batch)
    assert (done.copied, done.kept, done.removed, done.stale) == (1, 0, 0, ())
    assert delivered(bench) == [f"published/{batch.path}/good.jpg"]
    source = bench.store.read(f"{batch.output_prefix}/good.jpg")
    copy = bench.store.read(f"published/{batch.path}/good.jpg")
    assert source is not None
    assert copy is not None
    assert (copy.data, copy.media_type) == (source.data, source.media_type)


def test_delivering_again_copies_nothing(bench: Bench, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(bench, batch)
    monkeypatch.setattr(Store, "copy", None)
    monkeypatch.setattr(Store, "write", None)
    done = deliver(bench, batch)
    assert (done.copied, done.kept, done.removed) == (0, 1, 0)


def test_what_is_approved_no_more_is_taken_away_and_what_came_from_others_stays(
    bench: Bench, batch: Batch
) -> None:
    deliver(bench, batch)
    bench.put(f"published/{batch.path}/not-ours.jpg", b"theirs")
    say(bench, batch, "good.jpg", State.REJECTED)
    say(bench, batch, "odd.jpg", State.APPROVED)
    done = deliver(bench, batch)
    assert (done.copied, done.removed) == (1, 1)
    assert delivered(bench) == [f"published/{batch.path}/not-ours.jpg", f"published/{batch.path}/odd.jpg"]


def left_by_a_run(bench: Bench, batch: Batch, status: Status | None, *, version: str = "") -> None:
    """Stores what a later attempt at good.jpg left: no output, one without a file, or another version."""
    objects = list(bench.store.list(f"{batch.ledger_prefix}/"))
    ledger = Ledger.read(bench.store, batch, objects)
    entry = ledger.get("good.jpg")
    assert entry is not None
    entry.stages[PICTURES].status = status or Status.SKIPPED
    if version:
        key = entry.outputs[0]["Key"]
        entry.files = {key: bench.store.write(key, version.encode(), media_type="image/jpeg")}
    else:
        entry.outputs, entry.files = (entry.outputs if status else []), {}
    for output in entry.outputs:
        output |= {"Status": status, "Cause": FAULT, "Key": output["Key"] if version else ""}
    ledger.put(entry)
    ledger.finish(LeasedWriter(None))


@pytest.mark.parametrize("status", [None, Status.FAILED, Status.BLOCKED, Status.SKIPPED, Status.NEEDS_REVIEW])
@pytest.mark.parametrize("decided", [False, True])
def test_what_is_delivered_stays_when_a_later_attempt_failed(
    bench: Bench, batch: Batch, status: Status | None, decided: bool
) -> None:
    if decided:
        say(bench, batch, "good.jpg", State.APPROVED)
    deliver(bench, batch)
    left_by_a_run(bench, batch, status)
    assert deliver(bench, batch) == review.PublishResult()
    assert delivered(bench) == [f"published/{batch.path}/good.jpg"]
    finished(bench, batch)
    assert deliver(bench, batch).removed == 0


def test_what_is_delivered_stays_while_its_newer_version_waits_or_was_rejected(
    bench: Bench, batch: Batch
) -> None:
    deliver(bench, batch)
    left_by_a_run(bench, batch, Status.NEEDS_REVIEW, version="second")
    assert deliver(bench, batch).removed == 0
    say(bench, batch, "good.jpg", State.REJECTED)
    assert deliver(bench, batch).removed == 0
    say(bench, batch, "good.jpg", State.APPROVED)
    assert deliver(bench, batch).copied == 1
    copy = bench.store.read(f"published/{batch.path}/good.jpg")
    assert copy is not None
    assert copy.data == b"second"


def test_a_delivered_version_that_was_rejected_goes_whatever_came_of_the_photo_since(
    bench: Bench, batch: Batch
) -> None:
    deliver(bench, batch)
    say(bench, batch, "good.jpg", State.REJECTED)
    left_by_a_run(bench, batch, Status.NEEDS_REVIEW, version="second")
    say(bench, batch, "good.jpg", State.REJECTED, by="bob")
    left_by_a_run(bench, batch, Status.FAILED)
    assert deliver(bench, batch).removed == 1
    assert not delivered(bench)


def test_a_rejection_that_was_taken_back_takes_nothing_away(bench: Bench, batch: Batch) -> None:
    deliver(bench, batch)
    say(bench, batch, "good.jpg", State.REJECTED)
    say(bench, batch, "good.jpg", State.APPROVED)
    left_by_a_run(bench, batch, Status.FAILED)
    assert deliver(bench, batch).removed == 0
    assert delivered(bench)


def test_a_delivered_picture_goes_once_its_successor_under_another_name_is_delivered(bench: Bench) -> None:
    made = bench.submit(1, Variants=2)
    bench.run()
    assert deliver(bench, made).copied == 2
    replaced = {"Id": f"id-{made.name}", "Prompt": "an odd place"}
    bench.put(made.request_key, json.dumps(replaced).encode())
    bench.run()
    assert deliver(bench, made).removed == 0, "the new picture waits for a person"
    say(bench, made, "photo-0.jpg", State.APPROVED)
    done = deliver(bench, made)
    assert (done.copied, done.removed) == (1, 2)
    assert delivered(bench) == [f"published/{made.path}/photo-0.jpg"]


def test_of_several_pictures_only_those_with_a_successor_go(bench: Bench) -> None:
    made = bench.submit(1, Prompts=["a beach", "a lake"])
    bench.run()
    deliver(bench, made)
    entry = {"ImageName": "photo-0.jpg", "Prompts": ["a street", "an odd place"]}
    fields = {"Id": f"id-{made.name}", "Images": [entry], "Renditions": [{"Format": "png"}]}
    bench.put(made.request_key, json.dumps(fields).encode())
    bench.run()
    assert deliver(bench, made).removed == 1
    names = [key.rpartition("/")[2] for key in delivered(bench)]
    assert names == ["photo-0_1.jpg.png", "photo-0_2.jpg"]


def test_a_list_from_before_images_stood_in_it_is_read_and_completed(bench: Bench, batch: Batch) -> None:
    deliver(bench, batch)
    key = batch.published_list_key
    old = {
        target: {name: each[name] for name in ("ResultETag", "ETag")}
        for target, each in (bench.store.read_json(key) or {}).items()
    }
    bench.store.write_json(key, old)
    assert deliver(bench, batch) == review.PublishResult(kept=1)
    say(bench, batch, "odd.jpg", State.APPROVED)
    deliver(bench, batch)
    assert [each["Image"] for each in bench.store.read_json(key).values()] == ["good.jpg", "odd.jpg"]


def test_what_is_put_over_a_delivered_picture_while_it_is_taken_away_stays(
    bench: Bench, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(bench, batch)
    say(bench, batch, "good.jpg", State.REJECTED)
    delete = Store.delete

    def overtaken(self: Store, key: str, **how: Any) -> None:
        bench.put(key, b"theirs")
        delete(self, key, **how)

    monkeypatch.setattr(Store, "delete", overtaken)
    deliver(bench, batch)
    assert delivered(bench) == [f"published/{batch.path}/good.jpg"]


def test_what_somebody_put_over_a_delivered_picture_is_not_taken_away(bench: Bench, batch: Batch) -> None:
    deliver(bench, batch)
    bench.put(f"published/{batch.path}/good.jpg", b"theirs")
    say(bench, batch, "good.jpg", State.REJECTED)
    deliver(bench, batch)
    assert delivered(bench) == [f"published/{batch.path}/good.jpg"]


def test_a_delivered_picture_that_was_removed_or_made_anew_is_delivered_again(
    bench: Bench, batch: Batch
) -> None:
    deliver(bench, batch)
    bench.store.delete(f"published/{batch.path}/good.jpg")
    assert deliver(bench, batch).copied == 1
    finished(bench, batch, "second")
    assert deliver(bench, batch).copied == 1


def test_a_result_that_changed_since_it_was_approved_is_not_delivered(bench: Bench, batch: Batch) -> None:
    work = opened(bench, batch)
    found = items(work, bench.settings())
    bench.put(f"{batch.output_prefix}/good.jpg", b"another picture")
    done = publish(work, found)
    assert (done.copied, done.stale) == (0, (f"{batch.output_prefix}/good.jpg",))
    assert not delivered(bench)


def test_a_delivery_that_died_half_way_leaves_nothing_behind_that_nobody_knows(
    bench: Bench, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = Store.write_json, [1]

    def dies(self: Store, key: str, document: Any, **how: Any) -> str:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return write(self, key, document, **how)

    with monkeypatch.context() as broken:
        broken.setattr(Store, "write_json", dies)
        with pytest.raises(KeyboardInterrupt):
            deliver(bench, batch)
    assert delivered(bench)
    say(bench, batch, "good.jpg", State.REJECTED)
    assert deliver(bench, batch).removed == 1
    assert not delivered(bench)


def test_who_delivers_the_same_batch_at_the_same_moment_is_told_so(
    bench: Bench, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beaten(self: Store, key: str, document: Any, **how: Any) -> str:
        raise PreconditionFailed(key)

    monkeypatch.setattr(Store, "write_json", beaten)
    with pytest.raises(UsageError, match="somebody else is publishing"):
        deliver(bench, batch)


# Doing it again


def test_redo_asks_for_another_picture_of_the_same_photo_and_pays_for_nothing_else(
    bench: Bench, ran: Batch, control: ControlClient
) -> None:
    work = opened(bench, ran)
    control.mark()
    again = redo(
        bench.store,
        bench.settings(),
        work,
        [looked(bench, ran)["odd.jpg"]],
        by="ann",
        prompt="a quiet lake",
    )
    bench.run(again.date)
    assert [call["operation"] for call in control.paid()] == ["InvokeModel"]
    request = json.loads((bench.store.read(again.request_key) or pytest.fail("no request")).data)
    assert request["RetryOf"] == f"id-{ran.name}"
    rows = bench.rows(again, request["Id"])
    assert rows["odd.jpg"].Status is Status.SUCCEEDED
    assert rows.keys() == {"odd.jpg"}
    item = looked(bench, ran)["odd.jpg"]
    assert item.state is State.REJECTED
    assert item.decision is not None
    assert item.decision.redone_as == again.path


def ask_again(
    bench: Bench, batch: Batch, *names: str, prompt: str = "", seed: int | None = None, by: str = "ann"
) -> Batch:
    found = looked(bench, batch)
    chosen_items = [found[name] for name in names]
    work = opened(bench, batch)
    return redo(bench.store, bench.settings(), work, chosen_items, by=by, prompt=prompt, seed=seed)


def sent(bench: Bench) -> list[str]:
    return [key for key in bench.keys("image-files/") if key.endswith("/request.json")]


def test_a_picture_asked_for_again_three_times_is_paid_for_once(
    bench: Bench, ran: Batch, control: ControlClient
) -> None:
    control.mark()
    found = [looked(bench, ran)["odd.jpg"]]
    made = {
        redo(bench.store, bench.settings(), opened(bench, ran), found, by=by, prompt="a quiet lake")
        for by in ("ann", "bob", "ann")
    }
    assert len(made) == 1
    bench.run(made.pop().date)
    assert len(control.paid(operation="InvokeModel")) == 1


def test_two_who_ask_for_a_picture_again_at_once_make_one_batch(
    bench: Bench, ran: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, write = [looked(bench, ran)["odd.jpg"]], FollowUps.write
    made: list[Batch] = []

    def overtaken(self: FollowUps, store: Store, batches: Any) -> bool:
        if not made:
            monkeypatch.setattr(FollowUps, "write", write)
            made.append(redo(bench.store, bench.settings(), opened(bench, ran), found, by="bob"))
        return write(self, store, batches)

    monkeypatch.setattr(FollowUps, "write", overtaken)
    made.append(redo(bench.store, bench.settings(), opened(bench, ran), found, by="ann"))
    assert made[0] == made[1]
    assert len(sent(bench)) == 2


def test_a_picture_that_is_being_asked_for_again_is_not_asked_for_in_other_words(
    bench: Bench, ran: Batch
) -> None:
    first = ask_again(bench, ran, "odd.jpg", prompt="a quiet lake")
    for asked in ({"prompt": "a street"}, {"prompt": "a quiet lake", "seed": 5}):
        with pytest.raises(
            UsageError, match=rf"odd\.jpg is being asked for again already, as batch {first.path}"
        ):
            ask_again(bench, ran, "odd.jpg", **asked)
    with pytest.raises(UsageError, match="with other pictures"):
        ask_again(bench, ran, "odd.jpg", "good.jpg", prompt="a quiet lake")
    assert looked(bench, ran)["good.jpg"].state is State.APPROVED
    assert len(sent(bench)) == 2


def test_another_picture_can_be_asked_for_again_meanwhile(bench: Bench) -> None:
    made = bench.submit(1, Prompt="an odd place", Variants=2)
    bench.run()
    first, second = (ask_again(bench, made, f"photo-0_{number}.jpg") for number in (1, 2))
    assert first != second
    assert ask_again(bench, made, "photo-0_1.jpg") == first
    assert list(FollowUps.read(bench.store, REDOES(made)).batches) == [first, second]


def test_once_its_outcome_is_there_a_picture_may_be_asked_for_once_more(
    bench: Bench, ran: Batch, control: ControlClient
) -> None:
    first = ask_again(bench, ran, "odd.jpg", prompt="a quiet lake")
    bench.run(first.date)
    control.mark()
    second, again = (ask_again(bench, ran, "odd.jpg", prompt="a quiet lake") for _ in range(2))
    assert first != second == again
    bench.run(second.date)
    assert len(control.paid(operation="InvokeModel")) == 1
    item = looked(bench, ran)["odd.jpg"]
    assert item.decision is not None
    assert item.decision.redone_as == second.path


def test_who_ended_before_the_request_was_written_leaves_a_batch_that_the_next_writes(
    bench: Bench, ran: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> bool:
        raise OSError("gone")

    with monkeypatch.context() as broken:
        broken.setattr("bg_pipeline.review.redoing.hand_over", gone)
        with pytest.raises(OSError, match="gone"):
            ask_again(bench, ran, "odd.jpg", prompt="a street")
    (named_batch,) = FollowUps.read(bench.store, REDOES(ran)).batches
    assert looked(bench, ran)["odd.jpg"].state is State.WAITING
    assert ask_again(bench, ran, "odd.jpg", prompt="a quiet lake") == named_batch
    assert (bench.store.read_json(named_batch.request_key) or {})["Images"][0]["Prompts"] == ["a quiet lake"]


@pytest.mark.parametrize("prompt", ["a quiet lake", "a street"])
def test_who_was_suspended_before_the_request_was_written_does_not_replace_what_others_wrote(
    bench: Bench, ran: Batch, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    found, hand_over = [looked(bench, ran)["odd.jpg"]], submitting.hand_over
    others: list[Batch] = []

    def suspended(store: Store, batch: Batch, data: bytes, **how: Any) -> bool:
        monkeypatch.setattr(redoing, "hand_over", hand_over)
        work = opened(bench, ran)
        others.append(redo(store, bench.settings(), work, found, by="bob", prompt="a quiet lake"))
        if prompt == "a quiet lake":
            bench.run(batch.date)
        return hand_over(store, batch, data)

    monkeypatch.setattr(redoing, "hand_over", suspended)
    if prompt == "a quiet lake":
        assert ask_again(bench, ran, "odd.jpg", prompt=prompt) == others[0], "be it over by now"
    else:
        with pytest.raises(UsageError, match="is being asked for again already"):
            ask_again(bench, ran, "odd.jpg", prompt=prompt)
    assert len(sent(bench)) == 2


def test_a_redo_that_ended_before_it_rejected_rejects_when_it_is_asked_for_again(
    bench: Bench, ran: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError("gone")

    with monkeypatch.context() as broken:
        broken.setattr("bg_pipeline.review.redoing.decide", gone)
        with pytest.raises(OSError, match="gone"):
            ask_again(bench, ran, "odd.jpg")
    again = ask_again(bench, ran, "odd.jpg")
    item = looked(bench, ran)["odd.jpg"]
    assert item.decision is not None
    assert (item.state, item.decision.redone_as) == (State.REJECTED, again.path)
    assert len(sent(bench)) == 2


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"Batches": {"nowhere": []}, "Batch": "x"}'])
def test_a_mark_that_cannot_be_read_holds_up_no_redo(bench: Bench, ran: Batch, text: bytes) -> None:
    bench.put(redone_key(ran), text)
    first = ask_again(bench, ran, "odd.jpg")
    assert ask_again(bench, ran, "odd.jpg") == first


def test_a_redo_in_nobodys_name_is_refused_before_anything_is_sent(bench: Bench, ran: Batch) -> None:
    with pytest.raises(UsageError, match="who decides"):
        ask_again(bench, ran, "odd.jpg", by=" ")
    assert len(sent(bench)) == 1
    assert bench.store.head(redone_key(ran)) is None


def test_a_redo_has_what_is_left_of_the_cap_of_its_batch(bench: Bench, control: ControlClient) -> None:
    made = bench.submit({"odd.jpg": photo(2)}, Prompt="an odd place", MaxCostUSD=1.0)
    bench.run()
    document = {"SettledMicroUsd": 950_000, "ClaimedMicroUsd": {}}
    bench.store.write_json(made.spend_key, document)
    again = ask_again(bench, made, "odd.jpg", prompt="a lake")
    assert (bench.store.read_json(again.request_key) or {})["MaxCostUSD"] == 0.05
    bench.run(again.date)
    bench.store.write_json(again.spend_key, document)
    with pytest.raises(CapUsedUp, match="used up"):
        ask_again(bench, made, "odd.jpg", prompt="a street")
    assert len(sent(bench)) == 2


def test_another_seed_is_another_picture_of_the_same_prompt(bench: Bench, ran: Batch) -> None:
    work = opened(bench, ran)
    good = looked(bench, ran)["good.jpg"]
    request = review.redo_request(work, [good])
    (entry,) = request.Images or ()
    assert entry.Prompts == ("a sunny beach",)
    assert entry.Ref == "SKU-1"
    assert entry.Seed is not None
    assert entry.Seed != (review.redo_request(work, [good]).Images or ())[0].Seed
    assert (review.redo_request(work, [good], seed=7).Images or ())[0].Seed == 7


def test_only_the_pictures_that_were_named_are_asked_for_again(bench: Bench) -> None:
    made = bench.submit(2, Prompts=["a beach", "an odd place"], Variants=2)
    bench.run()
    found = looked(bench, made)
    some = [found["photo-0_3.jpg"], found["photo-0_4.jpg"], found["photo-1_1.jpg"]]
    request = review.redo_request(opened(bench, made), some)
    first, second = request.Images or ()
    assert (first.Prompts, first.Variants) == (("an odd place",), 2)
    assert (second.Prompts, second.Variants) == (("a beach",), 1)


def test_another_scene_is_asked_for_for_the_named_photo_alone(bench: Bench) -> None:
    made = bench.submit(2, Prompt=None, Scene="a table", Subject="SALIENT")
    bench.run(regions="us-west-2")
    item = looked(bench, made)["photo-1.jpg"]
    request = review.redo_request(opened(bench, made), [item], seed=7)
    (entry,) = request.Images or ()
    assert (entry.ImageName, entry.Scene, entry.Seed, entry.Prompts) == ("photo-1.jpg", "a table", 7, None)
    (other,) = review.redo_request(opened(bench, made), [item], prompt="a wall").Images or ()
    assert (other.Scene, other.Variants) == ("a wall", 1)


def test_what_no_model_paints_is_not_asked_for_again(bench: Bench) -> None:
    made = bench.submit(1, Prompt=None, Task="REMOVE")
    bench.run()
    (item,) = looked(bench, made).values()
    with pytest.raises(UsageError, match="the result would be the same"):
        review.redo_request(opened(bench, made), [item])


def test_a_redo_whose_prompt_does_not_do_is_refused_and_nothing_is_rejected(
    bench: Bench, batch: Batch
) -> None:
    odd = looked(bench, batch)["odd.jpg"]
    with pytest.raises(RequestError, match="Prompt"):
        redo(bench.store, bench.settings(), opened(bench, batch), [odd], by="ann", prompt="\x07")
    assert not bench.keys("reviews/")
    with pytest.raises(UsageError, match="name the results"):
        redo(bench.store, bench.settings(), opened(bench, batch), [], by="ann")


def test_an_image_that_was_flagged_before_it_had_a_picture_can_only_be_done_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.submit({"plain.jpg": photo(1, background="#808080")}, Subject="FACES")
    bench.run()
    (item,) = items(opened(bench, made), bench.settings())
    assert (item.key, item.status, item.state) == ("", Status.NEEDS_REVIEW, State.WAITING)
    with pytest.raises(UsageError, match="no result to decide about"):
        decide(bench.store, [item], State.APPROVED, by="ann")
    again = redo(bench.store, bench.settings(), opened(bench, made), [item], by="ann")
    assert bench.store.head(again.request_key) is not None


def test_results_in_a_place_of_the_requests_own_are_reviewed_and_delivered_there(bench: Bench) -> None:
    made = bench.submit(1, OutputS3Prefix="generated-image-files/spring")
    bench.run()
    work = opened(bench, made)
    found = items(work, bench.settings())
    decide(work.locations.data, found, State.APPROVED, by="ann")
    assert bench.keys("reviews/") == ["reviews/spring/photo-0.jpg.json"]
    assert publish(work, items(work, bench.settings())).copied == 1
    assert delivered(bench) == ["published/spring/photo-0.jpg"]
    assert s3_keys.published_key("generated-image-files/spring/photo-0.jpg") == "published/spring/photo-0.jpg"
