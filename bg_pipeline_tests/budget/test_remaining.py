"""What is left of a cap that a batch shares with all that was asked for again of it."""

from datetime import date

import pytest

from bg_pipeline.budget.remaining import CapUsedUp, cap_left, check_cap, limit_of
from bg_pipeline.domain.batches import Batch, origin_key
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.errors import RunStopped
from bg_pipeline.state.follow_ups import REDOES, RETRIES, FollowUps, remember_origin
from bg_pipeline.storage.object_store import Store

DAY = date(2026, 11, 20)
FIRST, RETRY, SECOND, REDO = (Batch(DAY, name) for name in ("first", "retry", "second", "redo"))


@pytest.fixture
def store(s3, bucket: str) -> Store:
    return Store(s3, bucket)


def asks(batch: Batch, cap: float | None) -> BatchRequest:
    return BatchRequest(Id=batch.name, Prompt="a beach", MaxCostUSD=cap)


def made_from(store: Store, batch: Batch, of: Batch, key: str) -> None:
    earlier = FollowUps.read(store, key)
    assert earlier.write(store, {**earlier.batches, batch: ()})
    remember_origin(store, batch, of)


def spend(store: Store, batch: Batch, usd: float, claimed: float = 0.0) -> None:
    claims = {"a process": round(claimed * 1_000_000)} if claimed else {}
    document = {"SettledMicroUsd": round(usd * 1_000_000), "ClaimedMicroUsd": claims}
    store.write_json(batch.spend_key, document)


@pytest.fixture
def family(store: Store) -> Store:
    """A batch with a cap of 1 USD, its retry, the retry of that and a redo: 0.1, 0.2, 0.3 and 0.15 USD were spent."""
    store.write_json(FIRST.request_key, {"Id": "first", "Prompt": "a beach", "MaxCostUSD": 1})
    made_from(store, RETRY, FIRST, RETRIES(FIRST))
    made_from(store, SECOND, RETRY, RETRIES(RETRY))
    made_from(store, REDO, FIRST, REDOES(FIRST))
    spend(store, FIRST, 0.1)
    spend(store, RETRY, 0.05, claimed=0.15)
    spend(store, SECOND, 0.3)
    spend(store, REDO, 0.15)
    return store


def test_without_a_cap_nothing_is_limited(store: Store) -> None:
    assert cap_left(store, FIRST, asks(FIRST, None)) is None
    assert limit_of(store, FIRST, asks(FIRST, None)) is None


def test_a_cap_of_which_nothing_was_spent_is_left_whole(store: Store) -> None:
    assert cap_left(store, FIRST, asks(FIRST, 0.07)) == 0.07


@pytest.mark.parametrize("batch", [FIRST, RETRY, SECOND, REDO])
def test_whichever_is_asked_for_again_all_that_was_spent_or_claimed_counts(
    family: Store, batch: Batch
) -> None:
    own = 1.0 if batch == FIRST else None
    assert cap_left(family, batch, asks(batch, own)) == pytest.approx(0.25)
    assert check_cap(family, batch, asks(batch, own)) == pytest.approx(0.25)


def test_the_cap_of_a_retry_counts_for_what_is_asked_for_again_of_it(family: Store) -> None:
    assert cap_left(family, RETRY, asks(RETRY, 0.6)) == pytest.approx(0.1)
    assert cap_left(family, RETRY, asks(RETRY, 0.4)) == 0.0


def test_who_is_refused_is_told_whose_cap_is_used_up(family: Store) -> None:
    with pytest.raises(CapUsedUp, match=r"batch 2026/11/20/retry, MaxCostUSD = 0\.40 USD.*0\.5000 USD"):
        check_cap(family, RETRY, asks(RETRY, 0.4))
    spend(family, SECOND, 2.0)
    with pytest.raises(CapUsedUp, match=r"batch 2026/11/20/first, MaxCostUSD = 1\.00 USD.*2\.4500 USD"):
        check_cap(family, REDO, asks(REDO, None))


def test_what_came_of_a_batch_is_taken_off_what_its_own_runs_may_spend(family: Store) -> None:
    assert limit_of(family, FIRST, asks(FIRST, 1.0)) == pytest.approx(0.35)
    assert limit_of(family, SECOND, asks(SECOND, None)) == pytest.approx(0.55)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"Batch": "nowhere"}', b'{"Batches": ["x"]}'])
def test_where_it_cannot_be_read_what_was_asked_for_again_nobody_knows_what_is_left(
    family: Store, text: bytes
) -> None:
    family.write(REDOES(RETRY), text, media_type="application/json")
    with pytest.raises(RunStopped, match="pipeline-state/redoes/2026/11/20/retry"):
        cap_left(family, FIRST, asks(FIRST, 1.0))
    assert cap_left(family, FIRST, asks(FIRST, None)) is None, "without a cap it does not matter"


def test_where_a_record_of_spending_cannot_be_read_nobody_knows_what_is_left(family: Store) -> None:
    family.write(SECOND.spend_key, b"{", media_type="application/json")
    with pytest.raises(RunStopped, match="not a record of spending"):
        cap_left(family, FIRST, asks(FIRST, 1.0))


def test_batches_that_name_each_other_are_each_counted_once(family: Store) -> None:
    made_from(family, FIRST, SECOND, RETRIES(SECOND))
    assert cap_left(family, SECOND, asks(SECOND, 1.0)) == pytest.approx(0.25)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"Batch": 7}', b'{"Batch": "nowhere"}'])
def test_a_batch_of_which_nobody_knows_where_it_came_from_has_its_own_cap(family: Store, text: bytes) -> None:
    family.write(origin_key(SECOND), text, media_type="application/json")
    assert cap_left(family, SECOND, asks(SECOND, 0.5)) == pytest.approx(0.2)


@pytest.mark.parametrize("cap", [None, True, "1", -1, [1]])
def test_a_request_whose_cap_is_none_sets_none(family: Store, cap: object) -> None:
    family.write_json(FIRST.request_key, {"Id": "first", "MaxCostUSD": cap})
    assert cap_left(family, RETRY, asks(RETRY, None)) is None
