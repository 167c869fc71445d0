"""Which batch writes under a prefix of its request's own choice: no other writes there, above it or below it."""

from collections.abc import Iterator
from typing import Any

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import PreconditionFailed, RequestError
from bg_pipeline.storage.object_store import Store

LONGEST = 900
"""Bytes of a prefix in small letters, in which some letters are longer."""


def claim(store: Store, batch: Batch, prefix: str, field: str) -> None:
    """Takes ``prefix`` for the batch, once and for all. Raises `RequestError` on ``field`` if it may not have it.

    Another batch's prefix is refused if it is the same, lies inside or around this one, or differs only in capitals:
    file systems to which results are copied take the two for one.
    """
    folded = prefix.casefold()
    if len(folded.encode()) > LONGEST:
        raise RequestError([(field, "is too long; name a shorter one")])
    key = s3_keys.claim_key(folded)
    document = {"Version": 1, "Batch": batch.path}
    try:
        # Not final until the prefixes around it were looked at: of two that come at once, each sees the other.
        store.write_json(key, {**document, "Pending": True}, if_absent=True)
    except PreconditionFailed:
        found = _claim_at(store, key)
        if found.get("Batch") != batch.path:
            raise _refused(field, prefix, prefix, found.get("Batch")) from None
        if not found.get("Pending"):
            return
    for taken in _around(prefix):
        owner = _claim_at(store, s3_keys.claim_key(taken)).get("Batch", batch.path)
        if owner != batch.path:
            store.delete(key)
            raise _refused(field, prefix, taken, owner)
    for inside in _inside(store, prefix):
        owner = _claim_at(store, inside).get("Batch", batch.path)
        if owner != batch.path:
            store.delete(key)
            raise _refused(field, prefix, s3_keys.parse_claim(inside), owner)
    store.write_json(key, document)


def _around(prefix: str) -> list[str]:
    """The prefixes that this one lies in; itself and them as they were claimed when capitals still counted too."""
    found = []
    for spelling in dict.fromkeys((prefix, prefix.casefold())):
        top, *folders = spelling.split("/")
        found += ["/".join((top, *folders[:depth])) for depth in range(1, len(folders))]
    return [*found, prefix] if prefix != prefix.casefold() else found


def _inside(store: Store, prefix: str) -> Iterator[str]:
    for spelling in dict.fromkeys((prefix, prefix.casefold())):
        for claimed in store.list(f"{s3_keys.claims_of(spelling)}/"):
            yield claimed.key


def _claim_at(store: Store, key: str) -> dict[str, Any]:
    found = store.read_json(key)
    return found if isinstance(found, dict) else {}


def _refused(field: str, prefix: str, taken: str, owner: object) -> RequestError:
    where = "" if taken == prefix else f" (as '{taken}')"
    return RequestError([(field, f"'{prefix}' is in use by batch {owner}{where}; name another")])
