"""A batch's ledger: the next process reads all entries, after a normal end and after a crash."""

from datetime import date

import pytest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.domain.payments import Payment
from bg_pipeline.state.compressed_rows import BLOCK_LINES
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.ledger import WHOLE, Ledger
from bg_pipeline.storage.object_store import Store

BATCH = Batch(date(2026, 11, 20), "101530")
WRITER = LeasedWriter(None)
MANY = 3 * BLOCK_LINES + 5


def entry(number: int, status: str = "Succeeded") -> Entry:
    made = Entry(f"photo-{number}.jpg", etag=f"tag-{number}", caption="a cup\n\u2028beside it")
    made.stages["pictures"] = StageRecord(f"print-{number}", status)
    made.payments[f"call-{number}"] = Payment(f"call-{number}", "TITAN_V2", 0.01)
    return made


def stored(store: Store) -> Ledger:
    return Ledger.read(store, BATCH, list(store.list(f"{BATCH.ledger_prefix}/")))


@pytest.fixture
def ledger(store: Store) -> Ledger:
    made = Ledger(store, BATCH)
    for number in range(MANY):
        made.put(entry(number))
    return made


def test_entries_are_read_back_in_order(ledger: Ledger, store: Store) -> None:
    ledger.update_header(Reported="today")
    ledger.finish(WRITER)
    again = stored(store)
    assert list(again.entries()) == [entry(number) for number in range(MANY)]
    assert again.header["Reported"] == "today"
    assert list(again.field_of_each("etag")) == [(f"photo-{n}.jpg", f"tag-{n}") for n in range(MANY)]


def test_after_a_crash_later_checkpoints_override_earlier_ones(ledger: Ledger, store: Store) -> None:
    ledger.finish(WRITER)
    for number in range(0, MANY, 2):
        ledger.put(entry(number, "Failed"))
    ledger.checkpoint(WRITER)
    ledger.put(entry(0, "Blocked"))
    ledger.put(entry(MANY))
    ledger.checkpoint(WRITER)
    assert ledger.unsaved == 0
    again = stored(store)
    wanted = ["Blocked", *("Succeeded" if number % 2 else "Failed" for number in range(1, MANY)), "Succeeded"]
    assert [each.stages["pictures"].status for each in again.entries()] == wanted
    again.finish(WRITER)
    assert [found.key for found in store.list(f"{BATCH.ledger_prefix}/")] == [BATCH.ledger_key(WHOLE)]
    assert [each.stages["pictures"].status for each in stored(store).entries()] == wanted


def test_a_torn_segment_is_ignored_as_a_whole(ledger: Ledger, store: Store) -> None:
    ledger.finish(WRITER)
    for number in range(MANY):
        ledger.put(entry(number, "Failed"))
    ledger.checkpoint(WRITER)
    key = BATCH.ledger_key("segment-000001-000000.jsonl.gz")
    content = store.read(key)
    assert content is not None
    store.write(key, content.data[: len(content.data) // 2], media_type="application/gzip")
    assert {each.stages["pictures"].status for each in stored(store).entries()} == {"Succeeded"}


def test_entries_of_images_no_longer_requested_are_removed(ledger: Ledger, store: Store) -> None:
    ledger.finish(WRITER)
    again = stored(store)
    again.keep_only(["photo-1.jpg", "photo-100.jpg"])
    again.finish(WRITER)
    assert [each.image for each in stored(store).entries()] == ["photo-1.jpg", "photo-100.jpg"]


def test_an_unchanged_entry_is_not_stored_again(ledger: Ledger, store: Store) -> None:
    ledger.finish(WRITER)
    again = stored(store)
    for number in range(MANY):
        again.put(entry(number))
    assert again.unsaved == 0
