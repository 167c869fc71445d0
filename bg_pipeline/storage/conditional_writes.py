"""Conditional writes of documents with one owner until another takes over: leases, claims, the mark of a retry."""

import orjson

from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.storage.object_store import Store

ATTEMPTS = 3
"""Writes of one version, if S3 refuses them although the document is still ours."""


def compare_and_swap(store: Store, key: str, data: bytes, *, token: str, over: str | None) -> str | None:
    """Writes a JSON document over the version ``over`` (None: where none is); its tag, or None if another was first.

    ``token`` is the document's ``Token``, which no other writer uses.
    """
    for _ in range(ATTEMPTS):
        try:
            return store.write(key, data, media_type="application/json", if_absent=over is None, if_etag=over)
        except PreconditionFailed:
            # Not always somebody else: when an answer is lost, boto3 sends the write again, and what
            # refuses the second is the first.
            there = store.read(key)
            if there is None or _token(there.data) != token:
                return None
            over = there.etag
    return None


def _token(data: bytes) -> str | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document.get("Token") if isinstance(document, dict) else None
