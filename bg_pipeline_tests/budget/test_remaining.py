"""The remaining amount of a cap that a batch shares with its follow-ups."""

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


def test_an_unspent_cap_is_left_in_full(store: Store) -> None:
    assert cap_left(store, FIRST, asks(FIRST, 0.07)) == 0.07


@pytest.mark.parametrize("batch", [FIRST, RETRY, SECOND, REDO])
def test_all_spending_and_claims_of_the_family_count_for_any_follow_up(family: Store, batch: Batch) -> None:
    own = 1.0 if batch == FIRST else None
    assert cap_left(family, batch, asks(batch, own)) == pytest.approx(0.25)
    assert check_cap(family, batch, asks(batch, own)) == pytest.approx(0.25)


def test_the_cap_of_a_retry_applies_to_its_own_follow_ups(family: Store) -> None:
    assert cap_left(family, RETRY, asks(RETRY, 0.6)) == pytest.approx(0.1)
    assert cap_left(family, RETRY, asks(RETRY, 0.4)) == 0.0


def test_the_refusal_names_the_batch_whose_cap_is_used_up(family: Store) -> None:
    with pytest.raises(CapUsedUp, match=r"batch 2026/11/20/retry, MaxCostUSD = 0\.40 USD.*0\.5000 USD"):
        check_cap(family, RETRY, asks(RETRY, 0.4))
    spend(family, SECOND, 2.0)
    with pytest.raises(CapUsedUp, match=r"batch 2026/11/20/first, MaxCostUSD = 1\.00 USD.*2\.4500 USD"):
        check_cap(family, REDO, asks(REDO, None))


def test_the_spending_of_follow_ups_reduces_the_limit_of_the_batch(family: Store) -> None:
    assert limit_of(family, FIRST, asks(FIRST, 1.0)) == pytest.approx(0.35)
    assert limit_of(family, SECOND, asks(SECOND, None)) == pytest.approx(0.55)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"Batch": "nowhere"}', b'{"Batches": ["x"]}'])
def test_an_unreadable_list_of_follow_ups_is_an_error(family: Store, text: bytes) -> None:
    family.write(REDOES(RETRY), text, media_type="application/json")
    with pytest.raises(RunStopped, match="pipeline-state/redoes/2026/11/20/retry"):
        cap_left(family, FIRST, asks(FIRST, 1.0))
    assert cap_left(family, FIRST, asks(FIRST, None)) is None, "without a cap it does not matter"


def test_an_unreadable_spending_document_is_an_error(family: Store) -> None:
    family.write(SECOND.spend_key, b"{", media_type="application/json")
    with pytest.raises(RunStopped, match="not a record of spending"):
        cap_left(family, FIRST, asks(FIRST, 1.0))


def test_batches_that_refer_to_each_other_are_counted_once(family: Store) -> None:
    made_from(family, FIRST, SECOND, RETRIES(SECOND))
    assert cap_left(family, SECOND, asks(SECOND, 1.0)) == pytest.approx(0.25)


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"Batch": 7}', b'{"Batch": "nowhere"}'])
def test_a_batch_with_unknown_origin_has_its_own_cap(family: Store, text: bytes) -> None:
    family.write(origin_key(SECOND), text, media_type="application/json")
    assert cap_left(family, SECOND, asks(SECOND, 0.5)) == pytest.approx(0.2)


@pytest.mark.parametrize("cap", [None, True, "1", -1, [1]])
def test_an_invalid_cap_in_a_request_is_ignored(family: Store, cap: object) -> None:
    family.write_json(FIRST.request_key, {"Id": "first", "MaxCostUSD": cap})
    assert cap_left(family, RETRY, asks(RETRY, None)) is None
