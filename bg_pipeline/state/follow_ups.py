"""Which batches ask again for something of another one: retries of what failed, redoes of single pictures.

Each kind has one document for each batch, changed only by compare-and-swap, which names every batch that was ever
made from it: two who ask at once make one batch, and all of them share one cap (`bg_pipeline.budget.remaining`).
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
"""The kinds, as the keys of their documents by batch."""


@dataclass(frozen=True)
class FollowUps:
    """The batches that ask again for something of another, the oldest first, each with the pictures that it asks for.

    The pictures are names of the caller's choice; none where the batch asks for all that failed, or where its outcome
    was there when a later one was made. A document that cannot be read is not ``readable`` and names no batch.
    """

    key: str
    batches: Mapping[Batch, tuple[str, ...]]
    readable: bool = True
    etag: str | None = None

    @classmethod
    def read(cls, store: Store, key: str) -> Self:
        """The document as it is stored now."""
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
        """The batch that was made last."""
        return next(reversed(list(self.batches)), None)

    def write(self, store: Store, batches: Mapping[Batch, tuple[str, ...]]) -> bool:
        """Replaces the batches, of which the last is the newest; False if somebody else changed them since `read`."""
        token = str(uuid.uuid4())
        document = {
            "Version": 1,
            # For programs that know of one batch only.
            "Batch": list(batches)[-1].path,
            "Batches": {batch.path: pictures for batch, pictures in batches.items()},
            "Token": token,
        }
        data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return compare_and_swap(store, self.key, data, token=token, over=self.etag) is not None


def _batches(document: dict[str, Any]) -> dict[Batch, tuple[str, ...]]:
    """The batches in a stored document; raises `ValueError`, `KeyError` and the like where it is none."""
    named = document.get("Batches", {document["Batch"]: ()})
    found = {}
    for path, pictures in named.items():
        batch = find_batch(path)
        if batch is None:
            raise ValueError(path)
        found[batch] = tuple(map(str, pictures))
    return found


def remember_origin(store: Store, batch: Batch, of: Batch) -> None:
    """Stores of which batch ``batch`` asks again for something."""
    store.write_json(origin_key(batch), {"Version": 1, "Batch": of.path})


def origin(store: Store, batch: Batch) -> Batch | None:
    """The batch that ``batch`` was made from by a retry or a redo; None if it was not."""
    document = store.read_json(origin_key(batch))
    path = document.get("Batch") if isinstance(document, dict) else None
    return find_batch(path) if isinstance(path, str) else None


def all_from(store: Store, batch: Batch) -> Iterator[Batch]:
    """``batch``, every batch made from it, every one made from those, and so on.

    Raises `ValueError` with the key of a document that cannot be read, since some may then be missing.
    """
    known, left = {batch}, [batch]
    while left:
        one = left.pop()
        yield one
        for key in (RETRIES(one), REDOES(one)):
            found = FollowUps.read(store, key)
            if not found.readable:
                raise ValueError(key)
            left += found.batches.keys() - known
            known |= found.batches.keys()
