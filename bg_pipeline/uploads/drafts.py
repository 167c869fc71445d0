"""Uploads that were never submitted: they cost storage and nothing else until somebody goes on or discards them."""

from concurrent.futures import ThreadPoolExecutor

from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import UsageError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import Uploaded, find

THREADS = 16
"""Objects deleted at a time."""


def find_draft(store: Store, batch: Batch) -> Uploaded:
    """The draft of this name; raises `UsageError` if there is none, or if it was submitted."""
    found = find(store, batch)
    if found is None or (found.draft is None and found.request is None):
        raise UsageError(f"there is no draft {batch.path} in bucket {store.bucket}")
    if found.request is not None:
        raise UsageError(f"batch {batch.path} was submitted and is no draft any more")
    return found


def discard(store: Store, batch: Batch) -> int:
    """Deletes a draft with everything that was uploaded for it; says how many photos there were.

    Raises `UsageError` as `find_draft` does; then nothing is deleted.
    """
    found = find_draft(store, batch)
    with ThreadPoolExecutor(THREADS, "discard") as pool:
        list(pool.map(lambda each: store.delete(each.key, if_etag=each.etag), found.objects.values()))
    # Last: a folder with photos and neither request nor draft is a batch that may be run.
    store.delete(batch.draft_key)
    return len(found.images)
