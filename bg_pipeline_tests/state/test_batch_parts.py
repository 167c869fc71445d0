"""Parts of a batch: one run divides it, several record what they did, and the next reader has all of it."""

from dataclasses import replace

import orjson
import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.errors import LeaseLost, NewerDocument, NotDelivered
from bg_pipeline.state.batch_parts import NAME, Parts, divided, part_lease_key
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import Leases
from bg_pipeline.state.ledger import WHOLE, Ledger
from bg_pipeline_tests.batches import DATE
from bg_pipeline_tests.state.trouble import Clock, Troubled

BATCH = Batch(DATE, "101530")
WRITER = LeasedWriter(None)
NAMES = [f"{number:02}.jpg" for number in range(7)]


def stored(store: Troubled) -> Ledger:
    return Ledger.read(store, BATCH, list(store.list(f"{BATCH.ledger_prefix}/")))


def entry(name: str, status: str = "Succeeded") -> Entry:
    made = Entry(name)
    made.stages["pictures"] = StageRecord("print", status)
    return made


def status(ledger: Ledger, name: str) -> str:
    found = ledger.get(name)
    return found.stages["pictures"].status if found else ""


@pytest.fixture
def owner(store: Troubled) -> Ledger:
    """The ledger of the run that divides the batch; 00.jpg failed in an earlier run."""
    before = Ledger(store, BATCH)
    before.put(entry("00.jpg", "Failed"))
    before.update_header(RequestETag="tag", Reported="today")
    before.finish(WRITER)
    ledger = stored(store)
    ledger.update_header(Reported="")
    ledger.checkpoint(WRITER, header=True)
    ledger.parts = Parts("owner", ledger.generation, "digest", *divided(NAMES, 3)).write(store, BATCH, WRITER)
    return ledger


def test_every_image_belongs_to_one_part_also_one_that_was_added_later() -> None:
    parts = Parts("owner", 1, "digest", *divided(NAMES[::-1], 3))
    assert parts.starts == ("00.jpg", "03.jpg", "06.jpg")
    assert [parts.number_of(name) for name in NAMES] == [0, 0, 0, 1, 1, 1, 2]
    assert [parts.number_of(name) for name in ("0", "035.jpg", "zebra.jpg")] == [0, 1, 2]


def test_a_division_is_read_as_it_was_written(store: Troubled, owner: Ledger) -> None:
    assert Parts.read(store, BATCH) == owner.parts
    assert stored(store).parts == owner.parts


def test_a_division_of_a_newer_version_is_not_touched(store: Troubled) -> None:
    store.write_json(BATCH.ledger_key(NAME), {"Version": 2})
    with pytest.raises(NewerDocument, match=r"parts of batch 2025/11/20/101530 .* newer bg_pipeline"):
        stored(store)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"Version": 1}', b'{"Version": 1, "Holder": 1}'])
def test_a_division_that_is_none_counts_as_absent(store: Troubled, data: bytes) -> None:
    store.write(BATCH.ledger_key(NAME), data, media_type="application/json")
    assert stored(store).parts is None


def test_what_was_recorded_in_parts_is_merged_with_the_owners_header(store: Troubled, owner: Ledger) -> None:
    for number, names in enumerate((NAMES[:3], NAMES[3:6])):
        part = owner.part(owner.parts, number, names)
        assert part.recorded == frozenset()
        for name in names:
            part.put(entry(name))
            part.checkpoint(WRITER)
    merged = stored(store)
    assert [status(merged, name) for name in NAMES] == ["Succeeded"] * 6 + [""]
    assert (merged.header["RequestETag"], merged.header["Reported"]) == ("tag", "")
    assert merged.header.keys() == {"RequestETag", "Reported", "Generation", "Version"}


def test_the_next_holder_of_a_part_has_what_the_last_one_recorded_and_goes_on(
    store: Troubled, owner: Ledger
) -> None:
    first = owner.part(owner.parts, 0, NAMES[:3])
    assert status(first, "00.jpg") == "Failed"
    first.put(entry("00.jpg"))
    first.checkpoint(WRITER)
    second = owner.part(owner.parts, 0, NAMES[:3])
    assert second.recorded == {"00.jpg"}
    assert status(second, "00.jpg") == "Succeeded"
    second.put(entry("01.jpg", "Blocked"))
    second.put(entry("00.jpg", "NeedsReview"))
    second.checkpoint(WRITER)
    # The first one was suspended and writes late.
    first.put(entry("00.jpg", "Failed"))
    first.checkpoint(WRITER)
    merged = stored(store)
    assert [status(merged, name) for name in NAMES[:2]] == ["NeedsReview", "Blocked"]


def test_an_image_whose_outcome_is_as_before_counts_as_tried(store: Troubled, owner: Ledger) -> None:
    part = owner.part(owner.parts, 0, NAMES[:3])
    part.put(entry("00.jpg", "Failed"))
    part.checkpoint(WRITER)
    assert owner.part(owner.parts, 0, NAMES[:3]).recorded == {"00.jpg"}


def test_after_the_batch_is_complete_late_writes_in_a_part_do_not_count(
    store: Troubled, owner: Ledger
) -> None:
    late = owner.part(owner.parts, 1, NAMES[3:6])
    late.put(entry("03.jpg"))
    late.checkpoint(WRITER)
    merged = stored(store)
    merged.finish(WRITER)
    assert [found.key for found in store.list(BATCH.ledger_prefix)] == [BATCH.ledger_key(WHOLE)]
    late.put(entry("04.jpg", "Failed"))
    late.checkpoint(WRITER)
    assert status(stored(store), "04.jpg") == ""
    assert stored(store).generation > merged.generation
    stored(store).finish(WRITER)
    assert [found.key for found in store.list(BATCH.ledger_prefix)] == [BATCH.ledger_key(WHOLE)]


def test_a_run_may_only_help_the_present_holder_of_the_batch(store: Troubled, clock: Clock) -> None:
    with Leases(store, "owner", clock=clock) as leases:
        lease = leases.acquire(BATCH.lease_key)
        assert lease
        writer = LeasedWriter(lease)
        parts = Parts(lease.token, 1, "digest", ("00.jpg",), ("",)).write(store, BATCH, writer)
        lease.renew()
        assert parts.is_open(store, BATCH)
        assert not replace(parts, holder="before").is_open(store, BATCH)
        assert not replace(parts, starts=("01.jpg",)).is_open(store, BATCH)
        closed = replace(parts, closed=True).write(store, BATCH, writer)
        assert not parts.is_open(store, BATCH)
        parts = replace(closed, closed=False).write(store, BATCH, writer)
        assert parts.is_open(store, BATCH)
    assert not parts.is_open(store, BATCH)
    with Leases(store, "next", clock=clock) as leases:
        assert leases.acquire(BATCH.lease_key)
        assert not parts.is_open(store, BATCH)


def test_a_run_that_lost_the_batch_does_not_divide_it(store: Troubled, clock: Clock) -> None:
    with Leases(store, "suspended", clock=clock) as first, Leases(store, "next", clock=clock) as second:
        lease = first.acquire(BATCH.lease_key)
        assert lease
        content = store.read(BATCH.lease_key)
        assert content
        clock.now += 100
        assert second.acquire(BATCH.lease_key, expired_etag=content.etag)
        parts = Parts(lease.token, 1, "digest", ("00.jpg",), ("",))
        with pytest.raises((LeaseLost, NotDelivered)):
            parts.write(store, BATCH, LeasedWriter(lease))
    assert Parts.read(store, BATCH) is None


def test_no_batch_has_the_lease_of_anothers_part() -> None:
    key = part_lease_key(BATCH, 3)
    assert key.rpartition("/")[0] == BATCH.lease_key.removesuffix(".json")
    with pytest.raises(ValueError, match="not the name of a batch"):
        Batch(DATE, f"{BATCH.name}/part-00003")


def test_a_part_segment_says_nothing_about_the_batch(store: Troubled, owner: Ledger) -> None:
    part = owner.part(owner.parts, 0, NAMES[:3])
    part.update_header(Reported="never", RequestETag="other")
    part.put(entry("00.jpg"))
    part.checkpoint(WRITER)
    assert stored(store).header["RequestETag"] == "tag"
    document = orjson.loads(store.read(BATCH.ledger_key(NAME)).data)
    assert document.keys() == {
        *("Version", "Holder", "Generation", "Digest", "Starts", "Contents", "LeftBehind", "Closed", "Token")
    }
