"""Moves photos whose results have all succeeded out of the uploads; at every moment the photo exists somewhere.

It is copied, the copy is read back and compared with what was worked on, the batch's ledger says where it is, and
only then the upload is removed, if it still is what was copied. After a crash anywhere in between, the next run
goes on from there. A removal from the uploads starts no run.
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
"""In BG_ARCHIVE_TO: the prefix of this name in the bucket of the photos."""
MOVERS = 8
"""Photos that are moved at a time; each is held in memory whole while its copy is compared."""


@dataclass(frozen=True)
class _Copied:
    entry: Entry
    upload: ObjectInfo


class Archive:
    """Where finished photos go; empty ``to`` means that they stay. ``note`` is called with a line for a person."""

    def __init__(self, store: Store, to: str, note: Callable[[str], None]) -> None:
        self._uploads = store
        self._to = store if to in ("", PREFIX) else store.in_bucket(to)
        self._on = bool(to)
        self._note = note

    def due(self, work: BatchWork) -> list[str]:
        """The photos of a batch that can be moved: in its own folder, and every result of theirs succeeded."""
        own = (
            work.locations.data is self._uploads
            and work.locations.input_prefix == work.locations.batch.input_prefix
        )
        if not self._on or not own or work.request is None:
            return []
        named = work.request.named_keys
        return [
            image
            for image, found in work.images.items()
            if found is not None
            and found.key not in work.locations.moved
            and found.key not in named
            and (entry := work.ledger.get(image)) is not None
            and _finished(entry, found)
        ]

    def move(self, work: BatchWork) -> None:
        """Moves what is `due`; the batch's lease has to be held. What cannot be moved stays, and is told."""
        images = self.due(work)
        if not images:
            return
        copied: list[_Copied] = []
        try:
            with ThreadPoolExecutor(MOVERS, "archive") as pool:
                copied += filter(None, pool.map(lambda image: self._copy(work, image), images))
                for each in copied:
                    work.ledger.put(each.entry)
                work.ledger.finish(work.writer)
                if work.lease is None or work.lease.held():
                    list(pool.map(self._remove, copied))
        except (ClientError, BotoCoreError, NotDelivered) as error:
            self._note(
                f"{work.locations.batch.path}: photos could not be moved to BG_ARCHIVE_TO ({error}); "
                "those that were not are where they were uploaded, and the next run goes on"
            )
        work.locations.moved.update({each.upload.key: each.entry.archived for each in copied})

    def _copy(self, work: BatchWork, image: str) -> _Copied | None:
        entry, upload = work.ledger.get(image), work.images[image]
        if entry is None or upload is None:
            return None
        try:
            for key in _keys(work.locations.batch, entry):
                sha256 = self._sha256(key)
                if sha256 is None:
                    self._uploads.copy(upload.key, key, to=self._to, if_etag=upload.etag)
                    sha256 = self._sha256(key)
                if sha256 == entry.sha256:
                    entry.archived = f"s3://{self._to.bucket}/{key}"
                    return _Copied(entry, upload)
            self._note(f"{upload.key} stays: its copy in the archive is not the photo that was worked on")
        except PreconditionFailed:
            return None  # uploaded anew since
        except ImageError as error:
            self._note(f"{upload.key} stays: {error}")
        return None

    def _sha256(self, key: str) -> str | None:
        content = self._to.read(key)
        return None if content is None else hashlib.sha256(content.data).hexdigest()

    def _remove(self, copied: _Copied) -> None:
        with suppress(PreconditionFailed):  # uploaded anew since: the next run works on that
            self._uploads.delete(copied.upload.key, if_etag=copied.upload.etag)


def _finished(entry: Entry, found: ObjectInfo) -> bool:
    pictures = entry.stages.get(PICTURES)
    return (
        pictures is not None
        and pictures.status == Status.SUCCEEDED
        and entry.etag == found.etag
        and bool(entry.sha256)
        and all(output["Status"] == Status.SUCCEEDED for output in entry.outputs)
        and all(record.final or record.status not in AGAIN_LATER for record in entry.stages.values())
    )


def _keys(batch: Batch, entry: Entry) -> Sequence[str]:
    """Where a photo goes: under its own name, or beside an earlier photo of that name."""
    stem, extension = posixpath.splitext(entry.image)
    return batch.archive_key(entry.image), batch.archive_key(f"{stem}~{entry.sha256[:12]}{extension}")
