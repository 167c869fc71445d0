"""Compare-and-swap for JSON documents with one owner at a time: leases, call claims, lists of follow-ups."""

import orjson

from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.storage.object_store import Store

ATTEMPTS = 3
"""Writes of one version when S3 refuses them although the stored document is already ours."""


def compare_and_swap(store: Store, key: str, data: bytes, *, token: str, if_etag: str | None) -> str | None:
    """Writes a JSON document over the version ``if_etag`` (None: only if the key does not exist).

    Returns the new ETag, or None if another writer was first. ``token`` is the document's own ``Token``, which no
    other writer uses.
    """
    for _ in range(ATTEMPTS):
        try:
            return store.write(
                key, data, media_type="application/json", if_absent=if_etag is None, if_etag=if_etag
            )
        except PreconditionFailed:
            # The refusal may be our own doing: if the answer to the first request was lost, boto3 repeats the
            # write, and the repeated one meets the version that the first one stored.
            stored = store.read(key)
            if stored is None or _token(stored.data) != token:
                return None
            if_etag = stored.etag
    return None


def _token(data: bytes) -> str | None:
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document.get("Token") if isinstance(document, dict) else None
