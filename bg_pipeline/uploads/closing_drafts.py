"""Closes a draft by a submission or by a discard; of two at the same moment one wins.

Both mark the draft's document first, by compare-and-swap, and change nothing before. A draft that is being discarded
is not submitted. A draft that is being submitted is discarded only if its submission ended half-way, which is assumed
after `STUCK_SECONDS`; if that submission goes on after all, it takes its request back.
"""

import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.upload_kinds import NAMEABLE, kind_of
from bg_pipeline.errors import NoSuchBatch, PreconditionFailed, UsageError
from bg_pipeline.storage.conditional_writes import compare_and_swap
from bg_pipeline.storage.object_store import ObjectContent, Store

STUCK_SECONDS: Final = 120.0
"""A submission takes less time from its mark to the end of the draft, unless it was killed or suspended."""

ATTEMPTS: Final = 10
"""Versions of a draft's document that are tried: the page rewrites it while somebody types."""

_MARK: Final = "Closing"
_SUBMITTING: Final = "Submitting"
_DISCARDING: Final = "Discarding"


def draft_document(data: bytes) -> dict[str, Any]:
    """A draft's document; empty if it is not a JSON object, as other programs may write."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def is_being_discarded(data: bytes) -> bool:
    """Whether a discard of the draft with this document has begun; it never becomes a batch."""
    return draft_document(data).get(_MARK) == _DISCARDING


def without_mark(data: bytes) -> bytes:
    """The document for a new draft that takes the place of the draft with this one."""
    return orjson.dumps({name: value for name, value in draft_document(data).items() if name != _MARK})


class Submission:
    """A submission of a batch that may have a draft: `begin`, write the request, `finish`."""

    def __init__(self, store: Store, batch: Batch) -> None:
        self._store = store
        self._batch = batch
        self._since = datetime.now(UTC)

    def begin(self) -> bool:
        """Marks the draft; False if there is none. Raises `NoSuchBatch` if it is being discarded."""
        for _ in range(ATTEMPTS):
            self._since = datetime.now(UTC)
            stored = self._store.read(self._batch.draft_key)
            if stored is None:
                return False
            if is_being_discarded(stored.data):
                raise discarded(self._batch)
            if _mark(self._store, self._batch, stored, _SUBMITTING):
                return True
        raise _busy(self._batch)

    def finish(self) -> bool:
        """Deletes the draft; False if the draft was discarded since `begin`, and the request must be taken back."""
        for _ in range(ATTEMPTS):
            stored = self._store.read(self._batch.draft_key)
            if stored is None:
                # Another submission of the same request deleted it, or, after a long pause of this one, a discard.
                paused = datetime.now(UTC) - self._since >= timedelta(seconds=STUCK_SECONDS)
                return not paused or self._has_photos()
            if is_being_discarded(stored.data):
                return False
            with suppress(PreconditionFailed):
                self._store.delete(self._batch.draft_key, if_etag=stored.etag)
                return True
        raise _busy(self._batch)

    def _has_photos(self) -> bool:
        prefix = f"{self._batch.input_prefix}/"
        return any(kind_of(info.key.removeprefix(prefix)) in NAMEABLE for info in self._store.list(prefix))


def begin_discarding(store: Store, batch: Batch) -> None:
    """Marks the draft as one that nobody can submit any more.

    Raises `UsageError` if there is no draft, or if it is being submitted at the moment.
    """
    for _ in range(ATTEMPTS):
        stored = store.read(batch.draft_key)
        if stored is None:
            raise UsageError(f"there is no draft {batch.path} in bucket {store.bucket}")
        submitting = draft_document(stored.data).get(_MARK) == _SUBMITTING
        if submitting and datetime.now(UTC) - stored.modified < timedelta(seconds=STUCK_SECONDS):
            raise UsageError(
                f"batch {batch.path} is being submitted at the moment; if its submission broke off, discard it in "
                f"{STUCK_SECONDS / 60:g} minutes"
            )
        if _mark(store, batch, stored, _DISCARDING):
            return
    raise _busy(batch)


def take_back_request(store: Store, batch: Batch) -> None:
    """Deletes the request of a batch whose photos were discarded."""
    info = store.head(batch.request_key)
    if info is not None:
        with suppress(PreconditionFailed):
            store.delete(batch.request_key, if_etag=info.etag)


def discarded(batch: Batch) -> NoSuchBatch:
    """The error of a submission that came after a discard."""
    return NoSuchBatch(f"the draft {batch.path} was discarded, with its photos; upload them as a new batch")


def _mark(store: Store, batch: Batch, stored: ObjectContent, closing: str) -> bool:
    token = str(uuid.uuid4())
    document = {**draft_document(stored.data), _MARK: closing, "Token": token}
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return compare_and_swap(store, batch.draft_key, data, token=token, if_etag=stored.etag) is not None


def _busy(batch: Batch) -> UsageError:
    return UsageError(f"the draft {batch.path} is being changed by others at the moment; try again")
