"""Writes of documents that belong to a batch, which land only while the batch's lease is held.

Each write names the version of the object that it replaces. A holder that was suspended, and whose lease another
run took meanwhile, so meets the other's version and changes nothing.
"""

import threading
from collections.abc import Mapping
from typing import IO, Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.errors import LeaseLost, NotDelivered, PreconditionFailed
from bg_pipeline.state.leases import Lease
from bg_pipeline.storage.object_store import Store

ATTEMPTS = 4
"""Writes of one object that somebody without a lease keeps changing, before it is given up."""


class LeasedWriter:
    """Writes and deletes under one lease; without a lease nobody else can be at work. Safe for threads."""

    def __init__(self, lease: Lease | None, batch: str = "") -> None:
        self._lease = lease
        self._batch = batch
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], str] = {}

    def check(self) -> None:
        """Raises `LeaseLost` if another run may be at work on the batch."""
        if self._lease is not None and not self._lease.held():
            raise LeaseLost(f"batch {self._batch} was taken over by another run, which goes on with it")

    def write(
        self,
        store: Store,
        key: str,
        data: bytes | IO[bytes],
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        known: str | None = None,
    ) -> str:
        """Stores the object over the version that is there while the lease is held; returns its tag.

        ``known`` is the tag of that version, if the caller knows it. Raises `LeaseLost` if the lease is lost,
        `NotDelivered` if S3 does not take the object.
        """
        place = store.bucket, key
        over = self._known.get(place, known)
        try:
            for _ in range(ATTEMPTS):
                self.check()
                try:
                    etag = store.write(
                        key,
                        data,
                        media_type=media_type,
                        metadata=metadata,
                        if_absent=over is None,
                        if_etag=over,
                    )
                except PreconditionFailed:
                    # There is an object that we did not know: looked at first, then the lease asked for, so that a
                    # version of the next holder's is never taken for an old one.
                    found = store.head(key)
                    over = found.etag if found else None
                    continue
                with self._lock:
                    self._known[place] = etag
                return etag
        except (ClientError, BotoCoreError) as error:
            raise NotDelivered(
                "NotStored", f"s3://{store.bucket}/{key} could not be written: {error}"
            ) from error
        raise NotDelivered(
            "NotStored", f"s3://{store.bucket}/{key} could not be written: something else keeps changing it"
        )

    def write_json(self, store: Store, key: str, document: Any) -> str:
        """Stores a document as JSON a person can read; errors as `write`."""
        data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return self.write(store, key, data, media_type="application/json")

    def delete(self, store: Store, key: str, etag: str | None = None) -> None:
        """Removes the object while the lease is held, if it still has this tag; errors of S3 are raised."""
        self.check()
        try:
            store.delete(key, if_etag=etag)
        except PreconditionFailed:
            return
        with self._lock:
            self._known.pop((store.bucket, key), None)
