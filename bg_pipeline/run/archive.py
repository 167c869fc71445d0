"""Moves photos whose results have all succeeded from the uploads to an archive; a photo exists at every moment.

It is copied, the copy is read back and compared with the photo that was processed, the new address is stored in the
batch's ledger, and only then the upload is deleted, unless it has changed. After a crash between any of these steps
the next run continues. Deleting an upload does not start a run. In another bucket a copy of the photo's labels is
stored beside it.
"""

import hashlib
import posixpath
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.rows import AGAIN_LATER, Status
from bg_pipeline.domain.stages import PICTURES
from bg_pipeline.errors import ImageError, NotDelivered, PreconditionFailed
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.storage.object_store import ObjectInfo, Store

PREFIX = s3_keys.ARCHIVE
"""This value of BG_ARCHIVE_TO means the prefix of the same name in the bucket of the photos."""
THREADS = 8
"""Photos that are moved at the same time; each is in memory as a whole while its copy is compared."""


@dataclass(frozen=True)
class _Copied:
    entry: Entry
    upload: ObjectInfo


class Archive:
    """Moves finished photos to ``to``: a bucket, or `PREFIX`; if it is empty, they stay.

    ``note`` is called with a line for the user for each photo or batch that could not be moved.
    """

    def __init__(self, store: Store, to: str, note: Callable[[str], None]) -> None:
        self._uploads = store
        self._to = store if to in ("", PREFIX) else store.in_bucket(to)
        self._enabled = bool(to)
        self._note = note

    def due(self, work: BatchWork) -> list[str]:
        """The photos of a batch that can be moved: those in its own folder whose results have all succeeded."""
        in_own_folder = (
            work.locations.data is self._uploads
            and work.locations.input_prefix == work.locations.batch.input_prefix
        )
        if not self._enabled or not in_own_folder or work.request is None:
            return []
        request = work.request
        return [
            image
            for image, upload in work.images.items()
            if upload is not None
            and upload.key not in work.locations.moved
            and not request.names(upload.key)
            and (entry := work.ledger.get(image)) is not None
            and _is_finished(entry, upload)
        ]

    def move(self, work: BatchWork) -> None:
        """Moves the photos that are `due`; a photo that cannot be moved stays. The batch's lease has to be held."""
        images = self.due(work)
        if not images:
            return
        copied: list[_Copied] = []
        try:
            with ThreadPoolExecutor(THREADS, "archive") as pool:
                copied += filter(None, pool.map(lambda image: self._copy(work, image), images))
                for each in copied:
                    work.ledger.put(each.entry)
                work.ledger.finish(work.writer)
                if work.lease is None or work.lease.held():
                    list(pool.map(self._remove, copied))
        except (ClientError, BotoCoreError, NotDelivered) as error:
            self._note(
                f"{work.locations.batch.path}: photos could not be moved to BG_ARCHIVE_TO ({error}); "
                "those photos are still where they were uploaded, and the next run tries again"
            )
        work.locations.moved.update({each.upload.key: each.entry.archived for each in copied})

    def _copy(self, work: BatchWork, image: str) -> _Copied | None:
        entry, upload = work.ledger.get(image), work.images[image]
        if entry is None or upload is None:
            return None
        try:
            for key in _archive_keys(work.locations.batch, entry):
                sha256 = self._sha256(key)
                if sha256 is None:
                    self._uploads.copy(upload.key, key, to=self._to, if_etag=upload.etag)
                    sha256 = self._sha256(key)
                if sha256 == entry.sha256:
                    self._copy_labels(work.locations.batch, image, key)
                    entry.archived = f"s3://{self._to.bucket}/{key}"
                    return _Copied(entry, upload)
            self._note(
                f"{upload.key} stays: its copy in the archive differs from the photo that was processed"
            )
        except PreconditionFailed:
            return None  # replaced by a new upload
        except ImageError as error:
            self._note(f"{upload.key} stays: {error}")
        return None

    def _copy_labels(self, batch: Batch, image: str, key: str) -> None:
        """Stores a copy of the labels beside a photo in another bucket, for programs that read both there."""
        elsewhere = self._to.bucket != self._uploads.bucket
        labels = self._uploads.read(batch.labels_key(image)) if elsewhere else None
        if labels is not None:
            self._to.write(f"{key}.json", labels.data, media_type="application/json")

    def _sha256(self, key: str) -> str | None:
        content = self._to.read(key)
        return None if content is None else hashlib.sha256(content.data).hexdigest()

    def _remove(self, copied: _Copied) -> None:
        with suppress(PreconditionFailed):  # replaced by a new upload, which the next run processes
            self._uploads.delete(copied.upload.key, if_etag=copied.upload.etag)


def _is_finished(entry: Entry, upload: ObjectInfo) -> bool:
    pictures = entry.stages.get(PICTURES)
    return (
        pictures is not None
        and pictures.status == Status.SUCCEEDED
        and entry.etag == upload.etag
        and bool(entry.sha256)
        and all(output["Status"] == Status.SUCCEEDED for output in entry.outputs)
        and all(record.final or record.status not in AGAIN_LATER for record in entry.stages.values())
    )


def _archive_keys(batch: Batch, entry: Entry) -> Sequence[str]:
    """The keys to try for a photo in the archive: its own name, then one with its digest if that name is taken."""
    stem, extension = posixpath.splitext(entry.image)
    return batch.archive_key(entry.image), batch.archive_key(f"{stem}~{entry.sha256[:12]}{extension}")
