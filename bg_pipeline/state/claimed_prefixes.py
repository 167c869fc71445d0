"""Claims on result prefixes chosen in requests; no other batch may use the prefix or one above or below it."""

from collections.abc import Iterator
from typing import Any

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import PreconditionFailed, RequestError
from bg_pipeline.storage.object_store import Store

MAX_BYTES = 900
"""Longest prefix, in bytes of UTF-8 after case folding (which makes some letters longer)."""


def claim(store: Store, batch: Batch, prefix: str, field: str) -> None:
    """Claims ``prefix`` for the batch permanently; raises `RequestError` on ``field`` if another batch has it.

    The claim conflicts with another batch's prefix that is equal, inside this one or around it. Upper and lower case
    are equal, because on many file systems, to which results may be copied, they are.
    """
    folded = prefix.casefold()
    if len(folded.encode()) > MAX_BYTES:
        raise RequestError([(field, "is too long; name a shorter one")])
    key = s3_keys.prefix_claim_key(folded)
    document = {"Version": 1, "Batch": batch.path}
    try:
        # Pending until the overlapping prefixes are checked: two concurrent claims then see each other.
        store.write_json(key, {**document, "Pending": True}, if_absent=True)
    except PreconditionFailed:
        existing = _claim_at(store, key)
        if existing.get("Batch") != batch.path:
            raise _refused(field, prefix, prefix, existing.get("Batch")) from None
        if not existing.get("Pending"):
            return
    for outer in _outer_prefixes(prefix):
        owner = _claim_at(store, s3_keys.prefix_claim_key(outer)).get("Batch", batch.path)
        if owner != batch.path:
            store.delete(key)
            raise _refused(field, prefix, outer, owner)
    for inner in _inner_claims(store, prefix):
        owner = _claim_at(store, inner).get("Batch", batch.path)
        if owner != batch.path:
            store.delete(key)
            raise _refused(field, prefix, s3_keys.parse_claim(inner), owner)
    store.write_json(key, document)


def is_claimed_by(store: Store, batch: Batch, prefix: str) -> bool:
    """Whether the batch has claimed exactly this prefix, and no other batch one that overlaps."""
    claim = _claim_at(store, s3_keys.prefix_claim_key(prefix.casefold()))
    return claim.get("Batch") == batch.path and not claim.get("Pending")


def _outer_prefixes(prefix: str) -> list[str]:
    """The prefixes that contain this one, also with capitals: early claims were stored without case folding.

    Such a claim may also be on the prefix itself, so the prefix is included if it has capitals.
    """
    outer = []
    for spelling in dict.fromkeys((prefix, prefix.casefold())):
        top, *folders = spelling.split("/")
        outer += ["/".join((top, *folders[:depth])) for depth in range(1, len(folders))]
    return [*outer, prefix] if prefix != prefix.casefold() else outer


def _inner_claims(store: Store, prefix: str) -> Iterator[str]:
    for spelling in dict.fromkeys((prefix, prefix.casefold())):
        for claimed in store.list(f"{s3_keys.claims_of(spelling)}/"):
            yield claimed.key


def _claim_at(store: Store, key: str) -> dict[str, Any]:
    document = store.read_json(key)
    return document if isinstance(document, dict) else {}


def _refused(field: str, prefix: str, taken: str, owner: object) -> RequestError:
    where = "" if taken == prefix else f" (as '{taken}')"
    return RequestError([(field, f"'{prefix}' is in use by batch {owner}{where}; name another")])
