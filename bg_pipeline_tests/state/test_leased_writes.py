"""Documents of a batch are written under its lease: a former holder changes nothing."""

from collections.abc import Callable, Iterator

import pytest
from botocore.exceptions import ClientError

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.errors import LeaseLost, NotDelivered
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import Leases
from bg_pipeline.state.ledger import WHOLE, Ledger
from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.batches import DATE
from bg_pipeline_tests.state.trouble import Clock, Troubled

BATCH = Batch(DATE, "101530")
KEY = f"{BATCH.output_prefix}/cat.jpg"


@pytest.fixture
def leases(store: Troubled, clock: Clock) -> Iterator[Leases]:
    with Leases(store, "ours", ttl=60, clock=clock) as made:
        yield made


@pytest.fixture
def writers(
    leases: Leases, store: Troubled, new_store: Callable[[], Store], clock: Clock
) -> Iterator[tuple[LeasedWriter, LeasedWriter]]:
    """A former holder, suspended until its lease was taken over, and the present holder."""
    ours = leases.acquire(BATCH.lease_key)
    assert ours is not None
    clock.now += 600
    seen = store.read(BATCH.lease_key)
    assert seen is not None
    with Leases(new_store(), "theirs", ttl=60, clock=Clock()) as theirs:
        taken = theirs.acquire(BATCH.lease_key, expired_etag=seen.etag)
        assert taken is not None
        yield LeasedWriter(ours, BATCH.path), LeasedWriter(taken, BATCH.path)


def put(writer: LeasedWriter, store: Store, data: bytes) -> str:
    return writer.write(store, KEY, data, media_type="image/jpeg")


def test_a_former_holder_neither_writes_nor_deletes(
    writers: tuple[LeasedWriter, LeasedWriter], store: Troubled
) -> None:
    ours, theirs = writers
    put(theirs, store, b"theirs")
    with pytest.raises(LeaseLost):
        put(ours, store, b"ours")
    with pytest.raises(LeaseLost):
        ours.delete(store, KEY)
    found = store.read(KEY)
    assert found is not None
    assert found.data == b"theirs"


def test_a_write_in_progress_when_the_lease_is_lost_does_not_succeed(
    leases: Leases, store: Troubled, clock: Clock
) -> None:
    lease = leases.acquire(BATCH.lease_key)
    writer = LeasedWriter(lease, BATCH.path)
    put(writer, store, b"before")
    write = store.write
    suspended: list[str] = []

    def suspend(key: str, data: bytes, **how: object) -> str:
        if key == KEY and not suspended:
            suspended.append(key)
            clock.now += 600
            Store.write(store, KEY, b"theirs", media_type="image/jpeg")
            Store.write(store, BATCH.lease_key, b"{}", media_type="application/json")
        return write(key, data, **how)

    store.write = suspend  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        put(writer, store, b"after")
    found = store.read(KEY)
    assert found is not None
    assert found.data == b"theirs"


def test_an_object_changed_without_the_lease_is_overwritten(leases: Leases, store: Troubled) -> None:
    writer = LeasedWriter(leases.acquire(BATCH.lease_key), BATCH.path)
    put(writer, store, b"first")
    store.write(KEY, b"foreign", media_type="image/jpeg")
    put(writer, store, b"second")
    store.delete(KEY)
    put(writer, store, b"third")
    found = store.read(KEY)
    assert found is not None
    assert found.data == b"third"


def test_a_write_whose_response_was_lost_is_not_an_error(store: Troubled) -> None:
    store.lost_answers = 1
    put(LeasedWriter(None), store, b"made")
    found = store.read(KEY)
    assert found is not None
    assert found.data == b"made"


def test_the_error_for_a_refused_write_names_the_object(store: Troubled) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    store.write = refuse  # type: ignore[method-assign]
    with pytest.raises(NotDelivered, match=KEY):
        put(LeasedWriter(None), store, b"made")


def stored(store: Store) -> Ledger:
    return Ledger.read(store, BATCH, list(store.list(f"{BATCH.ledger_prefix}/")))


def test_a_segment_of_a_former_holder_is_ignored_after_the_next_holder_has_finished(store: Troubled) -> None:
    writer = LeasedWriter(None)
    late, ours = stored(store), stored(store)
    ours = stored(store)
    late.put(Entry("cat.jpg", caption="late"))
    late.checkpoint(writer)
    ours = stored(store)
    ours.put(Entry("cat.jpg", caption="ours"))
    ours.finish(writer)
    late.put(Entry("cat.jpg", caption="too late"))
    late.checkpoint(LeasedWriter(None))
    entry = stored(store).get("cat.jpg")
    assert entry is not None
    assert entry.caption == "ours"


def test_a_former_holder_does_not_overwrite_the_merged_ledger(
    writers: tuple[LeasedWriter, LeasedWriter], store: Troubled
) -> None:
    suspended, holder = writers
    late, ours = stored(store), stored(store)
    ours.put(Entry("cat.jpg", caption="ours"))
    ours.finish(holder)
    late.put(Entry("cat.jpg", caption="late"))
    with pytest.raises(LeaseLost):
        late.finish(suspended)
    entry = stored(store).get("cat.jpg")
    assert entry is not None
    assert entry.caption == "ours"
    assert [found.key for found in store.list(f"{BATCH.ledger_prefix}/")] == [BATCH.ledger_key(WHOLE)]
