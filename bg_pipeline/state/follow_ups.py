"""The follow-up batches of a batch: retries of its failed images, and redoes of single results.

Each kind has one document for each original batch, changed only by compare-and-swap, that lists every follow-up batch
ever made. Two concurrent requests therefore create one batch, and all follow-ups share one cap
(`bg_pipeline.budget.remaining`).
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import orjson

from bg_pipeline.domain.batches import Batch, find_batch, origin_key, redone_key, retried_key
from bg_pipeline.storage.conditional_writes import compare_and_swap
from bg_pipeline.storage.object_store import Store

RETRIES: Final = retried_key
REDOES: Final = redone_key
"""The two kinds; each is the function that returns the key of a batch's document."""


@dataclass(frozen=True)
class FollowUps:
    """The follow-up batches of one kind, oldest first, each with the names of the pictures that it requests.

    The caller chooses these names. They are empty if the follow-up requests everything that failed, or if its result
    existed when a later follow-up was made. If the stored document cannot be parsed, ``readable`` is False and
    ``batches`` is empty.
    """

    key: str
    batches: Mapping[Batch, tuple[str, ...]]
    readable: bool = True
    etag: str | None = None

    @classmethod
    def read(cls, store: Store, key: str) -> Self:
        """Reads the stored document; an absent one has no batches."""
        content = store.read(key)
        if content is None:
            return cls(key, {})
        try:
            batches = _batches(orjson.loads(content.data))
        except (AttributeError, KeyError, TypeError, ValueError):
            return cls(key, {}, readable=False, etag=content.etag)
        return cls(key, batches, etag=content.etag)

    @property
    def newest(self) -> Batch | None:
        """The follow-up that was made last, if any."""
        return next(reversed(list(self.batches)), None)

    def write(self, store: Store, batches: Mapping[Batch, tuple[str, ...]]) -> bool:
        """Replaces the batches (newest last); False if another process changed the document since `read`."""
        token = str(uuid.uuid4())
        document = {
            "Version": 1,
            # Read by older versions of this program, which know one batch only.
            "Batch": list(batches)[-1].path,
            "Batches": {batch.path: pictures for batch, pictures in batches.items()},
            "Token": token,
        }
        data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return compare_and_swap(store, self.key, data, token=token, if_etag=self.etag) is not None


def _batches(document: dict[str, Any]) -> dict[Batch, tuple[str, ...]]:
    """The batches of a stored document; raises `ValueError`, `KeyError`, `TypeError` or `AttributeError` if
    malformed.
    """
    named = document.get("Batches", {document["Batch"]: ()})
    batches = {}
    for path, pictures in named.items():
        batch = find_batch(path)
        if batch is None:
            raise ValueError(path)
        batches[batch] = tuple(map(str, pictures))
    return batches


def remember_origin(store: Store, batch: Batch, of: Batch) -> None:
    """Stores that ``batch`` is a follow-up of the batch ``of``."""
    store.write_json(origin_key(batch), {"Version": 1, "Batch": of.path})


def origin(store: Store, batch: Batch) -> Batch | None:
    """The batch of which ``batch`` is a retry or redo; None if it is neither."""
    content = store.read(origin_key(batch))
    return parse_origin(content.data) if content else None


def parse_origin(data: bytes) -> Batch | None:
    """The batch in a document that `remember_origin` stored; None if it cannot be read."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    path = document.get("Batch") if isinstance(document, dict) else None
    return find_batch(path) if isinstance(path, str) else None


def original(store: Store, batch: Batch) -> Batch:
    """The batch in whose places the pictures of ``batch`` stand: ``batch`` itself unless it makes others' again."""
    known = {batch}
    while True:
        of = origin(store, batch)
        if of is None or of in known or batch not in FollowUps.read(store, REDOES(of)).batches:
            return batch
        batch = of
        known.add(batch)


def batch_and_follow_ups(store: Store, batch: Batch) -> Iterator[Batch]:
    """Yields ``batch`` and all its direct and indirect follow-ups.

    Raises `ValueError` with the key of a document that cannot be parsed, because batches may then be missing.
    """
    known, pending = {batch}, [batch]
    while pending:
        current = pending.pop()
        yield current
        for key in (RETRIES(current), REDOES(current)):
            follow_ups = FollowUps.read(store, key)
            if not follow_ups.readable:
                raise ValueError(key)
            pending += follow_ups.batches.keys() - known
            known |= follow_ups.batches.keys()
