"""Finds photos that have settled in a folder and submits each once, also after a rename, a copy or a restart.

A photo is known by its content. Before anything is uploaded, a line in the folder's journal says which photos will be
in which batch; a second line follows when the batch has its request. After a crash the journal shows what was begun:
if the batch has its request, it was submitted; if not, its uploads are deleted and its photos are found again.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import orjson

from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.s3_keys import MAX_KEY_BYTES
from bg_pipeline.domain.upload_kinds import Kind, kind_of, live_photo_videos
from bg_pipeline.errors import UsageError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.submitting import (
    LocalFile,
    Upload,
    as_s3_name,
    store_files,
)

JOURNAL: Final = ".bg-pipeline-watch.jsonl"
MAX_PHOTOS: Final = 1000
"""Photos of one batch; the next batch has the others."""
MAX_WAIT: Final = 10
"""A settled photo waits for others that are still written at most this many times as long as it took to settle."""
BLOCK: Final = 1 << 20
LONGEST_NAME: Final = MAX_KEY_BYTES - 200
"""Bytes of a photo's name; its keys also have the batch and more."""
_UNFINISHED: Final = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".filepart", ".!ut")
"""Endings that programs give files which they have not finished."""

_Signature = tuple[int, int, int, int]
"""Device, inode, size and modification time of a file."""


class PhotoChanged(UsageError):
    """A photo was changed, moved or deleted while it was being submitted; nothing was submitted."""


@dataclass(frozen=True)
class SettledPhoto:
    """A photo with the SHA-256 of its content, from the time when it had settled."""

    path: Path
    name: str
    digest: str
    signature: _Signature

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A stream of its bytes. Raises `PhotoChanged` if it is not as it was when it had settled."""
        try:
            with self.path.open("rb") as file:
                self._check(os.fstat(file.fileno()))
                # Whether it changes while it is read is checked after all uploads: boto3 closes the file.
                yield file
        except FileNotFoundError:
            raise self._changed() from None

    def check(self) -> None:
        """Raises `PhotoChanged` if it is not as it was when it had settled."""
        try:
            self._check(self.path.stat())
        except FileNotFoundError:
            raise self._changed() from None

    def _check(self, stat: os.stat_result) -> None:
        if _signature(stat) != self.signature:
            raise self._changed()

    def _changed(self) -> PhotoChanged:
        return PhotoChanged(f"'{self.path}' was changed or moved while it was being submitted")


@dataclass
class _Seen:
    """A file as it was last seen, since when it has not changed, and its digest once it had settled."""

    signature: _Signature
    since: float
    digest: str = ""


@dataclass
class Journal:
    """What was submitted from a folder to one bucket; one process at a time has it open."""

    descriptor: int
    bucket: str
    submitted: dict[str, str] = field(default_factory=dict)
    """The batch of each photo, by the photo's digest."""
    begun: dict[Batch, list[str]] = field(default_factory=dict)
    """The digests of batches that were begun and neither submitted nor dropped."""

    @classmethod
    @contextmanager
    def opened(cls, file: Path, bucket: str) -> "Iterator[Journal]":
        """Opens or creates a journal; raises `UsageError` if another process has it open."""
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another `watch` has '{file}' open") from None
            data = b""
            while block := os.read(descriptor, BLOCK):
                data += block
            if data and not data.endswith(b"\n"):
                # The process was killed while it wrote the last line.
                os.write(descriptor, b"\n")
            journal = cls(descriptor, bucket)
            for line in data.splitlines():
                journal._read(line)
            yield journal
        finally:
            os.close(descriptor)

    def _read(self, line: bytes) -> None:
        try:
            fields = orjson.loads(line)
            batch = find_batch(str(fields["Batch"]))
            event, photos = str(fields["Event"]), [str(digest) for digest in fields["Photos"]]
            if fields["Bucket"] != self.bucket or batch is None:
                return
        except (ValueError, KeyError, TypeError):
            return
        self._apply(event, batch, photos)

    def _apply(self, event: str, batch: Batch, photos: Sequence[str]) -> None:
        if event == "begun":
            self.begun[batch] = list(photos)
            return
        self.begun.pop(batch, None)
        if event == "submitted":
            self.submitted |= dict.fromkeys(photos, batch.path)

    def write(self, event: str, batch: Batch, photos: Sequence[str]) -> None:
        """Adds a line, which is on disk when this returns; ``event`` is begun, submitted or dropped."""
        line = {"Version": 1, "Event": event, "Bucket": self.bucket, "Batch": batch.path, "Photos": photos}
        os.write(self.descriptor, orjson.dumps(line) + b"\n")
        os.fsync(self.descriptor)
        self._apply(event, batch, photos)


class FolderWatch:
    """Looks for settled photos in ``folder`` and below it that are not in the journal.

    A photo has settled after ``settle_seconds`` without a change, by this process's own clock: the files' times may
    be wrong. ``note`` gets one sentence for each file that is left out.
    """

    def __init__(
        self,
        folder: Path,
        journal: Journal,
        *,
        settle_seconds: float,
        clock: Callable[[], float],
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._folder = folder
        self._journal = journal
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._note = note
        self._seen: dict[str, _Seen] = {}
        self._noted: set[tuple[str, _Signature]] = set()
        self.unsettled = 0
        """The new files that had not settled at the last look."""

    def look(self) -> list[SettledPhoto]:
        """The photos to submit now, sorted by name; empty while others are still written, for a limited time."""
        now = self._clock()
        files = dict(self._files())
        self._seen = {
            name: self._seen[name]
            if name in self._seen and self._seen[name].signature == signature
            else _Seen(signature, now)
            for name, (_, signature) in files.items()
        }
        self.unsettled = 0
        settled: list[SettledPhoto] = []
        longest_wait = 0.0
        for name, seen in sorted(self._seen.items()):
            waited = now - seen.since
            if waited < self._settle_seconds:
                self.unsettled += 1
                continue
            path = files[name][0]
            if not seen.digest and not self._read(path, seen):
                continue
            if earlier := self._journal.submitted.get(seen.digest):
                self._note_once(name, seen, f"'{path}' was submitted already, in batch {earlier}")
                continue
            longest_wait = max(longest_wait, waited)
            settled.append(SettledPhoto(path, name, seen.digest, seen.signature))
        if self.unsettled and longest_wait < self._settle_seconds * MAX_WAIT:
            return []
        return settled[:MAX_PHOTOS]

    def _files(self) -> Iterator[tuple[str, tuple[Path, _Signature]]]:
        """Every file that may be a photo, by its name in a batch."""
        found: dict[str, Path] = {}
        for parent, folders, names in os.walk(self._folder):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(parent, name)
                key = as_s3_name(path.relative_to(self._folder).as_posix())
                if kind_of(key) is Kind.IMAGE and not name.lower().endswith(_UNFINISHED):
                    found.setdefault(key, path)
        films = live_photo_videos(found)
        for key, path in found.items():
            try:
                stat = path.stat()
                # Looks at the size: an empty file has not been written yet.
                if path.is_file() and stat.st_size and key not in films:
                    signature = _signature(stat)
                    if not LocalFile(path, key).looks_like_a_picture:
                        self._note_once(key, _Seen(signature, 0), f"'{path}' has no picture's extension")
                    elif len(key.encode()) > LONGEST_NAME:
                        self._note_once(key, _Seen(signature, 0), f"'{path}' has too long a path for S3")
                    else:
                        yield key, (path, signature)
            except OSError:
                # It was moved or deleted just now.
                continue

    def _read(self, path: Path, seen: _Seen) -> bool:
        """Sets the digest; False if the file cannot be read or changed meanwhile."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                unchanged = _signature(os.fstat(file.fileno())) == seen.signature
        except OSError as error:
            self._note_once(str(path), seen, f"'{path}' cannot be read: {error.strerror}")
            return False
        seen.digest = digest if unchanged else ""
        return unchanged

    def _note_once(self, name: str, seen: _Seen, reason: str) -> None:
        if (name, seen.signature) not in self._noted:
            self._noted.add((name, seen.signature))
            self._note(f"{reason}; it is left out.")


def submit_photos(
    store: Store,
    journal: Journal,
    batch: Batch,
    photos: Sequence[SettledPhoto],
    request: bytes,
    *,
    hand_over: Callable[[], object],
    discard: Callable[[Batch], object],
    others: Mapping[str, Upload] | None = None,
    done: Callable[[str], None] = lambda name: None,
) -> None:
    """Uploads settled photos as the draft of a new batch, which ``hand_over`` then submits; records both.

    Raises `PhotoChanged` if a photo changed meanwhile; the draft is then deleted by ``discard``. If this ends in any
    other way, `settle_begun` finds out what was submitted.
    """
    digests = [photo.digest for photo in photos]
    journal.write("begun", batch, digests)
    try:
        store.write(batch.draft_key, request, media_type="application/json")
        files: dict[str, Upload] = {batch.upload_key(photo.name): photo for photo in photos}
        store_files(store, files | dict(others or {}), done=done)
        for photo in photos:
            photo.check()
    except PhotoChanged:
        _drop(store, journal, batch, discard)
        raise
    hand_over()
    journal.write("submitted", batch, digests)


def settle_begun(store: Store, journal: Journal, discard: Callable[[Batch], object]) -> None:
    """Records what became of batches that were begun: submitted, or dropped, with drafts deleted by ``discard``."""
    for batch, digests in list(journal.begun.items()):
        if store.head(batch.request_key) is not None:
            journal.write("submitted", batch, digests)
        else:
            _drop(store, journal, batch, discard)


def _drop(store: Store, journal: Journal, batch: Batch, discard: Callable[[Batch], object]) -> None:
    if store.head(batch.draft_key) is not None:
        discard(batch)
    journal.write("dropped", batch, journal.begun[batch])


def _signature(stat: os.stat_result) -> _Signature:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
