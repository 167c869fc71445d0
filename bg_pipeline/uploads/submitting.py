"""Submits a batch: photos first and the request last, so that a batch is either complete or not run.

Used by the command line, the web page and the HTTP API. Files, names and the request are checked before anything is
uploaded.
"""

import io
import mimetypes
import os
import posixpath
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import orjson
from boto3.s3.transfer import TransferConfig

from bg_pipeline.domain import requests
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import BatchRequest, image_settings
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import command
from bg_pipeline.domain.upload_kinds import Kind, kind_of, live_photo_videos
from bg_pipeline.errors import PreconditionFailed, RequestError, UsageError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline.uploads.closing_drafts import Submission, discarded, take_back_request
from bg_pipeline.uploads.submission import write_submission

HAND_OVER_ATTEMPTS = 3
THREADS = 8
"""Files that are uploaded at the same time; each has at most one part of 8 MB in memory."""

_PICTURE_ENDINGS = frozenset(f".{ending}" for endings in EXTENSIONS.values() for ending in endings)


class Upload(Protocol):
    """Something to upload under a name, which may contain folders."""

    @property
    def name(self) -> str:
        """Its name in the batch."""

    def open(self) -> AbstractContextManager[BinaryIO]:
        """A stream of its bytes, which is read during the upload."""


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine and the name it gets in its batch."""

    path: Path
    name: str

    def open(self) -> AbstractContextManager[BinaryIO]:
        return self.path.open("rb")

    @property
    def looks_like_a_picture(self) -> bool:
        """Whether its name has a picture's extension and it is not empty; the content is not read."""
        return posixpath.splitext(self.name)[1].lower() in _PICTURE_ENDINGS and self.path.stat().st_size > 0


@dataclass(frozen=True)
class StoredFile:
    """An S3 object and the name it gets in its batch; it is copied inside S3."""

    store: Store
    stored: ObjectInfo
    name: str

    def open(self) -> AbstractContextManager[BinaryIO]:
        content = self.store.read(self.stored.key)
        if content is None or content.etag != self.stored.etag:
            raise self._changed()
        return io.BytesIO(content.data)

    def copy(self, store: Store, key: str) -> None:
        """Copies it to ``key``. Raises `UsageError` if the object has changed since it was found."""
        try:
            self.store.copy(self.stored.key, key, to=store, if_etag=self.stored.etag)
        except PreconditionFailed:
            raise self._changed() from None

    @property
    def looks_like_a_picture(self) -> bool:
        """Whether its name has a picture's extension and it is not empty; the content is not read."""
        return posixpath.splitext(self.name)[1].lower() in _PICTURE_ENDINGS and self.stored.size > 0

    def _changed(self) -> UsageError:
        return UsageError(
            f"s3://{self.store.bucket}/{self.stored.key} was changed or removed while it was being submitted; "
            "the batch is not complete and is not run: submit it again"
        )


def find_photos(paths: Sequence[Path], left_out: list[str] | None = None) -> list[LocalFile]:
    """The photos in ``paths``, sorted by their names in the batch; a folder stands for all files in and below it.

    A file gets its own name, a file of a folder its path inside the folder. If there are several folders, each
    folder's name is put in front, so that equal names do not collide. Dot-files and JSON files in folders are left
    out. Sidecars (files that cameras, programs and systems store with photos) are left out too, and their names are
    added to ``left_out``. Raises `UsageError`, naming the file, if one is missing, unreadable, not possible as an
    image of a batch, or would get the name of another one.
    """
    folders = [path for path in paths if path.is_dir()]
    found: dict[Path, LocalFile] = {}
    for path in paths:
        if path.is_dir():
            top = path.resolve()
            start = top.parent if len(folders) > 1 else top
            for file in _files_below(top):
                found.setdefault(
                    file.resolve(), LocalFile(file, as_s3_name(file.relative_to(start).as_posix()))
                )
        elif path.is_file():
            found.setdefault(path.resolve(), LocalFile(path, as_s3_name(path.name)))
        else:
            raise UsageError(f"'{path}' is neither a file nor a folder; nothing was uploaded")
    photos = sorted(found.values(), key=lambda photo: photo.name)
    films = live_photo_videos(photo.name for photo in photos)
    sidecars = [photo for photo in photos if kind_of(photo.name) is Kind.SIDECAR or photo.name in films]
    if left_out is not None:
        left_out += [photo.name for photo in sidecars]
    photos = [photo for photo in photos if photo not in sidecars] if sidecars else photos
    _check(photos, paths)
    return photos


def _files_below(folder: Path) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if kind_of(name) in (Kind.IMAGE, Kind.SIDECAR)]
    return [file for file in found if file.is_file()]


def as_s3_name(name: str) -> str:
    """The name as valid UTF-8, as S3 needs it; bytes of the file system that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def _check(photos: Sequence[LocalFile], paths: Sequence[Path]) -> None:
    if not photos:
        raise UsageError(f"there are no photos in {', '.join(map(str, paths)) or 'the given paths'}")
    by_name: dict[str, LocalFile] = {}
    for photo in photos:
        if kind_of(photo.name) is not Kind.IMAGE:
            raise UsageError(
                f"'{photo.path}' cannot be an image of a batch: names that begin with a dot or end in .json mean "
                "something else there; rename it"
            )
        other = by_name.setdefault(photo.name, photo)
        if other is not photo:
            raise UsageError(
                f"'{other.path}' and '{photo.path}' would both be named '{photo.name}'; "
                "submit them as two batches, or submit their folders"
            )
        if not os.access(photo.path, os.R_OK):
            raise UsageError(f"'{photo.path}' cannot be read: permission denied")


def new_batch(date: UploadDate | None = None) -> Batch:
    """A batch with a new, unique name on ``date`` (default: today in UTC)."""
    now = datetime.now(UTC)
    return Batch(date or now.date(), f"{now:%H%M%S}-{uuid.uuid4().hex[:8]}")


def reserve_name(store: Store, batch: Batch) -> None:
    """Creates the draft of a batch whose name a person chose, so that no other submission gets the name.

    Raises `UsageError` if the batch exists, also as a draft or with all its photos archived.
    """
    taken = UsageError(
        f"there is a batch {batch.path} already; choose another name, or delete it first if it is a draft: "
        f"{command('discard', batch.path)}"
    )
    if any(True for prefix in (batch.input_prefix, batch.ledger_prefix) for _ in store.list(f"{prefix}/")):
        raise taken
    try:
        etag = store.write(batch.draft_key, b"{}", media_type="application/json", if_absent=True)
    except PreconditionFailed:
        raise taken from None
    if store.head(batch.request_key) is not None:
        # Another submission of this name began and ended between the listing and the draft.
        with suppress(PreconditionFailed):
            store.delete(batch.draft_key, if_etag=etag)
        raise taken


def compose_request(
    settings: Settings, batch: Batch, names: Sequence[str], fields: Mapping[str, Any]
) -> tuple[bytes, BatchRequest]:
    """The request JSON of a new batch, and the request as it is read from it.

    ``fields`` are request fields. ``Labels`` among them are the labels of every image in ``names``; empty ones mean
    everything that stands out. Raises `RequestError` by field.
    """
    document = {
        "Id": str(uuid.uuid4()),
        **{name: value for name, value in fields.items() if value not in (None, ())},
    }
    labels = document.pop("Labels", None)
    if labels is not None:
        document["Images"] = [{"ImageName": name, "Labels": labels} for name in names]
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return data, check_submission(settings, batch, data)


def check_submission(settings: Settings, batch: Batch, data: bytes) -> BatchRequest:
    """The new request in ``data`` as it is read for ``batch``.

    Raises `RequestError` by field, also for placeholders that need captions if captions are switched off.
    """
    request = check_request(settings, batch, data)
    if not settings.caption_models:
        problems = [
            (f"{place}{field}", "uses {caption}, and captions are switched off (BG_CAPTION_MODELS is empty)")
            for place, level in [
                ("", request),
                *((f"Images[{number}].", entry) for number, entry in enumerate(request.Images or ())),
            ]
            for field, texts in (("Prompt", (level.Prompt or "",)), ("Prompts", level.Prompts or ()))
            if any("caption" in requests.placeholders(text) for text in texts)
        ]
        if problems:
            raise RequestError(problems[: requests.MAX_PROBLEMS])
    return request


def check_request(settings: Settings, batch: Batch, data: bytes) -> BatchRequest:
    """The request in ``data`` as it is read for ``batch``. Raises `RequestError` by field."""
    return requests.read(
        data,
        bucket=settings.bucket,
        batch=batch,
        allowed_buckets=settings.allowed_buckets,
        presets=PRESET_REQUESTS,
    )


def paid_pictures(request: BatchRequest, names: Sequence[str]) -> int:
    """The number of pictures that models paint for ``names`` if every first attempt succeeds."""
    if request.Images is None:
        asked = image_settings(request, "", PRESET_REQUESTS)
        per_image = len(asked.outputs) if asked.needs_prompt else 0
        return per_image * min(len(names), request.Sample or len(names))
    settings = [image_settings(request, name, PRESET_REQUESTS) for name in names]
    counts = Counter({asked.image: len(asked.outputs) for asked in settings if asked.needs_prompt})
    return sum(count for _, count in counts.most_common(request.Sample))


def submit(
    store: Store,
    batch: Batch,
    photos: Sequence[Upload],
    request: bytes,
    *,
    others: Mapping[str, Upload] | None = None,
    done: Callable[[str], None] = lambda name: None,
) -> None:
    """Uploads ``photos`` and ``others`` (by key) and then the request, which completes the batch.

    ``done`` is called with each uploaded name. During the upload a draft keeps the batch from being run. If this
    raises or is interrupted, the draft stays, so the incomplete batch is never run.
    """
    store.write(batch.draft_key, request, media_type="application/json")
    store_files(
        store, {batch.upload_key(photo.name): photo for photo in photos} | dict(others or {}), done=done
    )
    if not hand_over(store, batch, request, draft=True):
        raise UsageError(f"batch {batch.path} was submitted with another request meanwhile")


def store_files(
    store: Store, files: Mapping[str, Upload], *, done: Callable[[str], None] = lambda name: None
) -> None:
    """Stores ``files`` by key, several at a time; raises the first error and starts no further upload after it."""
    with ThreadPoolExecutor(THREADS, "upload") as pool:
        try:
            futures = [pool.submit(_upload, store, key, file, done) for key, file in files.items()]
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def hand_over(
    store: Store,
    batch: Batch,
    request: bytes,
    *,
    closed_with: Mapping[str, str] | None = None,
    draft: bool = False,
) -> bool:
    """Writes the request of a batch whose photos are stored, and deletes its draft.

    With ``draft`` the batch has had one: raises `NoSuchBatch` if it was discarded, and nothing is submitted.

    With ``closed_with``, the ETags in its input folder by name, the batch is closed: what is uploaded or replaced
    there later is not paid for (`uploads.submission`).

    Returns False if the batch has another request already, which is never replaced: of two concurrent callers with
    different requests one gets False.
    """
    submission = Submission(store, batch)
    if not submission.begin() and draft and store.head(batch.request_key) is None:
        raise discarded(batch)
    # A repeated submission must not record what was uploaded after the first one.
    if closed_with is not None and store.head(batch.request_key) is None:
        write_submission(store, batch, request, closed_with)
    for _ in range(HAND_OVER_ATTEMPTS):
        try:
            store.write(batch.request_key, request, media_type="application/json", if_absent=True)
            break
        except PreconditionFailed:
            # The request is another caller's, or our own if S3's response was lost. If there is none, S3 refused
            # because of a concurrent write (409): try again.
            earlier = store.read(batch.request_key)
            if earlier is not None and earlier.data != request:
                return False
            if earlier is not None:
                break
    else:
        raise UsageError(f"S3 did not store the request of batch {batch.path}; submit it again")
    if not submission.finish():
        take_back_request(store, batch)
        raise discarded(batch)
    return True


_IN_THIS_THREAD = TransferConfig(use_threads=False)


def _upload(store: Store, key: str, photo: Upload, done: Callable[[str], None]) -> None:
    if isinstance(photo, StoredFile):
        photo.copy(store, key)
        done(photo.name)
        return
    with photo.open() as data:
        upload(store, key, photo.name, data)
    done(photo.name)


def upload(store: Store, key: str, name: str, data: BinaryIO) -> None:
    """Uploads one stream, with the media type that matches the extension of ``name``."""
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    store.client.upload_fileobj(
        data, store.bucket, key, ExtraArgs={"ContentType": media_type}, Config=_IN_THIS_THREAD
    )
