"""A request is handed over once, whoever writes it and whatever S3 answers."""

from typing import Any

import pytest

from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.submitting import hand_over, new_batch


@pytest.fixture
def store(s3, bucket: str) -> Store:
    return Store(s3, bucket)


def test_the_first_request_stays_and_the_same_one_again_is_no_other(store: Store) -> None:
    batch = new_batch()
    store.write_json(batch.draft_key, {})
    assert hand_over(store, batch, b"one")
    assert hand_over(store, batch, b"one")
    assert not hand_over(store, batch, b"two")
    content = store.read(batch.request_key)
    assert content is not None
    assert content.data == b"one"
    assert store.head(batch.draft_key) is None


def busy(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """S3 refuses the next writes although nothing is there, as it does while another write is under way (409)."""
    write, left = Store.write, [None] * times

    def refusing(self: Store, key: str, data: bytes, **how: Any) -> str:
        if left:
            left.pop()
            raise PreconditionFailed(key)
        return write(self, key, data, **how)

    monkeypatch.setattr(Store, "write", refusing)


def test_what_s3_refuses_although_nothing_is_there_is_written_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = new_batch()
    busy(monkeypatch, 2)
    assert hand_over(store, batch, b"one")
    assert store.head(batch.request_key) is not None


def test_what_s3_never_takes_is_told_and_not_taken_for_somebody_elses(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(monkeypatch, 9)
    with pytest.raises(UsageError, match="S3 did not store"):
        hand_over(store, new_batch(), b"one")
