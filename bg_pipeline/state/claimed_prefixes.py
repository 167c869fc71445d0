"""Claims on result prefixes chosen in requests; no other batch may use the prefix or one above or below it."""

import unicodedata
from collections.abc import Iterator
from typing import Any

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import PreconditionFailed, RequestError
from bg_pipeline.storage.object_store import Store

MAX_BYTES = 900
"""Longest prefix, in bytes of UTF-8 after folding (which makes some letters longer)."""


def claim(store: Store, batch: Batch, prefix: str, field: str) -> None:
    """Claims ``prefix`` for the batch permanently; raises `RequestError` on ``field`` if another batch has it.

    The claim conflicts with another batch's prefix that is equal, inside this one or around it. Upper and lower case
    are equal, and so are the forms of Unicode of one text, because on many file systems, to which results may be
    copied, they are.
    """
    folded = _folded(prefix)
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
    for spelling in _spellings(prefix):
        claim = _claim_at(store, s3_keys.prefix_claim_key(spelling))
        if claim:
            return claim.get("Batch") == batch.path and not claim.get("Pending")
    return False


def _folded(prefix: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", prefix).casefold())


def _spellings(prefix: str) -> list[str]:
    """The folded prefix, and how earlier versions stored a claim on it: as it was given, or with its case folded."""
    folded = _folded(prefix)
    earlier = (prefix, prefix.casefold(), unicodedata.normalize("NFD", folded))
    # A longer one cannot have been claimed.
    return list(dict.fromkeys((folded, *(each for each in earlier if len(each.encode()) <= MAX_BYTES))))


def _outer_prefixes(prefix: str) -> list[str]:
    """The prefixes that contain this one, and this one as earlier versions stored a claim on it."""
    outer = []
    for spelling in _spellings(prefix):
        top, *folders = spelling.split("/")
        outer += ["/".join((top, *folders[:depth])) for depth in range(1, len(folders))]
    return list(dict.fromkeys([*outer, *_spellings(prefix)[1:]]))


def _inner_claims(store: Store, prefix: str) -> Iterator[str]:
    for spelling in _spellings(prefix):
        for claimed in store.list(f"{s3_keys.claims_of(spelling)}/"):
            yield claimed.key


def _claim_at(store: Store, key: str) -> dict[str, Any]:
    document = store.read_json(key)
    return document if isinstance(document, dict) else {}


def _refused(field: str, prefix: str, taken: str, owner: object) -> RequestError:
    where = "" if taken == prefix else f" (as '{taken}')"
    return RequestError([(field, f"'{prefix}' is in use by batch {owner}{where}; name another")])
