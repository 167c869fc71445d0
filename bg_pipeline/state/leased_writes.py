"""Writes of a batch's documents that succeed only while the batch's lease is held.

Each write is conditional on the version of the object that it replaces. If the holder was suspended and another run
took over its lease, its late write fails because the object's version has changed.
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
"""Attempts to write an object that something without the lease keeps changing."""


class LeasedWriter:
    """Writes and deletes objects under one lease; thread-safe. ``lease`` is None where no other process can write."""

    def __init__(self, lease: Lease | None, batch: str = "") -> None:
        self._lease = lease
        self._batch = batch
        self._lock = threading.Lock()
        self._etags: dict[tuple[str, str], str] = {}

    def check(self) -> None:
        """Raises `LeaseLost` if another run may be working on the batch."""
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
        known_etag: str | None = None,
    ) -> str:
        """Replaces the object, or creates it, while the lease is held; returns the new ETag.

        ``known_etag`` is the ETag of the stored version, if the caller knows it. Raises `LeaseLost` if the lease is
        lost, `NotDelivered` if S3 fails or something else keeps changing the object.
        """
        location = store.bucket, key
        if_etag = self._etags.get(location, known_etag)
        try:
            for _ in range(ATTEMPTS):
                self.check()
                try:
                    etag = store.write(
                        key,
                        data,
                        media_type=media_type,
                        metadata=metadata,
                        if_absent=if_etag is None,
                        if_etag=if_etag,
                    )
                except PreconditionFailed:
                    # The stored version is unknown to us. Its ETag is read before the lease is checked again;
                    # otherwise a version of the next holder could be mistaken for an old one.
                    stored = store.head(key)
                    if_etag = stored.etag if stored else None
                    continue
                with self._lock:
                    self._etags[location] = etag
                return etag
        except (ClientError, BotoCoreError) as error:
            raise NotDelivered(
                "NotStored", f"s3://{store.bucket}/{key} could not be written: {error}"
            ) from error
        raise NotDelivered(
            "NotStored", f"s3://{store.bucket}/{key} could not be written: something else keeps changing it"
        )

    def write_json(self, store: Store, key: str, document: Any) -> str:
        """Stores a document as indented JSON; errors as `write`."""
        data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return self.write(store, key, data, media_type="application/json")

    def delete(self, store: Store, key: str, etag: str | None = None) -> None:
        """Deletes the object if it still has this ETag; raises `LeaseLost` if the lease is lost, and errors of S3."""
        self.check()
        try:
            store.delete(key, if_etag=etag)
        except PreconditionFailed:
            return
        with self._lock:
            self._etags.pop((store.bucket, key), None)
