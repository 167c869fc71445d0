"""Lists uploads: the batches of a date, each with its objects by kind, and drafts."""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from typing import Any, Final

import orjson

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, Upload, parse_upload
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.upload_kinds import Kind, is_misspelt_request, kind_of, live_photo_videos
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.storage.object_store import ObjectContent, ObjectInfo, Store
from bg_pipeline.uploads.closing_drafts import (
    begin_discarding,
    is_being_discarded,
    take_back_request,
    without_mark,
)

DELETE_THREADS: Final = 16
"""Objects of a draft that are deleted at the same time."""

DISCARD_ROUNDS: Final = 3
"""Listings of a draft that is discarded: photos may arrive until it is gone."""


def approval_signature(secret: str, batch: Batch, request_etag: str, by: str, at: str) -> str:
    """The signature of an approval: HMAC-SHA256 of everything that it states, with ``BG_APPROVAL_SECRET``."""
    statement = orjson.dumps([batch.path, request_etag, by, at])
    return hmac.new(secret.encode(), statement, hashlib.sha256).hexdigest()


class Approval:
    """A person's approval of a batch's sample; its document is read when it is first needed."""

    def __init__(self, store: Store, info: ObjectInfo) -> None:
        self._store = store
        self._info = info

    def is_of(self, batch: Batch, request: ObjectInfo, secret: str = "") -> bool:
        """Whether the approval is for this version of the request, not for an earlier one.

        With ``secret``, only an approval that was signed with it counts.

        The document names the ETag of its request. A document without an ETag (of an older version) approves a
        request that was stored before it. A document that is not a JSON object approves nothing.
        """
        content = self._content
        if content is None:
            return False
        try:
            document = orjson.loads(content.data)
        except orjson.JSONDecodeError:
            return False
        if not isinstance(document, dict):
            return False
        if secret and not _is_signed(document, batch, secret):
            return False
        if "RequestETag" in document:
            return bool(document["RequestETag"] == request.etag)
        # Both times are from listings, which are more precise than the header of a read object.
        return self._info.modified >= request.modified

    @cached_property
    def _content(self) -> ObjectContent | None:
        return self._store.read(self._info.key)


def _is_signed(document: Mapping[str, Any], batch: Batch, secret: str) -> bool:
    request_etag, by, at = (str(document.get(name)) for name in ("RequestETag", "By", "At"))
    expected = approval_signature(secret, batch, request_etag, by, at)
    return hmac.compare_digest(str(document.get("Signature")).encode(), expected.encode())


@dataclass(slots=True)
class Uploaded:
    """One folder of uploads: its objects by name, and its request, draft and approval if they exist.

    ``emptied`` means that nothing is left in it because everything was moved to the archive. With
    ``approval_secret``, only signed approvals count.
    """

    batch: Batch
    images: dict[str, ObjectInfo] = field(default_factory=dict)
    others: dict[str, ObjectInfo] = field(default_factory=dict)
    request: ObjectInfo | None = None
    draft: ObjectInfo | None = None
    approval: ObjectInfo | None = None
    emptied: bool = False
    approval_text: Approval | None = field(default=None, repr=False, compare=False)
    approval_secret: str = field(default="", repr=False, compare=False)

    @property
    def newest(self) -> datetime:
        """When its newest object, other than the draft, was stored, by S3's clock."""
        objects = [*self.images.values(), *self.others.values(), self.request, self.approval]
        return max((info.modified for info in objects if info), default=datetime.min.replace(tzinfo=UTC))

    @property
    def last_change(self) -> datetime:
        """When its newest object, including the draft, was stored."""
        return max(self.newest, self.draft.modified) if self.draft else self.newest

    def complete(self, settle_seconds: int, now: datetime) -> bool:
        """Whether it may be run.

        It needs a request, or images and no draft and no new upload for ``settle_seconds`` before ``now``.
        """
        if self.request is not None or self.emptied:
            return True
        if self.draft or not self.images:
            return False
        return now - self.newest >= timedelta(seconds=settle_seconds)

    @property
    def approved(self) -> bool:
        """Whether a person approved the sample of the present request; reads the approval from S3 once."""
        if self.approval is None or self.approval_text is None:
            return False
        if self.request is None:
            return True
        return self.approval_text.is_of(self.batch, self.request, self.approval_secret)

    @property
    def objects(self) -> Mapping[str, ObjectInfo]:
        """All objects in the folder that a request may name: images, masks, backdrops."""
        return {**self.others, **self.images}


def remarks(uploaded: Uploaded) -> Iterator[str]:
    """Sentences about objects in the folder that are ignored: a misspelt request, and sidecars."""
    path, others = uploaded.batch.path, uploaded.others
    misspelt = [name for name in others if is_misspelt_request(name)]
    if misspelt and uploaded.request is None:
        yield f"batch {path}: '{misspelt[0]}' is ignored; if it is the request, rename it to {s3_keys.REQUEST}"
    films = live_photo_videos([*uploaded.images, *others])
    sidecars = [name for name in others if kind_of(name) is Kind.SIDECAR or name in films]
    if sidecars:
        names = ", ".join(sorted(sidecars)[:3]) + (", …" if len(sidecars) > 3 else "")
        yield f"batch {path}: sidecar files of photos are ignored ({len(sidecars)}: {names})"


def batches(store: Store, date: UploadDate) -> Iterator[Uploaded]:
    """The batches of a date in key order; one S3 request per 1,000 objects, one batch in memory at a time."""
    return _folders(store, store.list(f"{s3_keys.uploads_of(date)}/"))


def find(store: Store, batch: Batch) -> Uploaded | None:
    """The uploads of one batch, or None if its folder is empty."""
    return next(_folders(store, store.list(f"{batch.input_prefix}/")), None)


def _folders(store: Store, objects: Iterable[ObjectInfo]) -> Iterator[Uploaded]:
    def batch_of(pair: tuple[Upload, ObjectInfo]) -> Batch:
        return pair[0].batch

    parsed = ((parse_upload(info.key), info) for info in objects)
    in_batches = ((upload, info) for upload, info in parsed if upload is not None)
    # The listing is sorted, so all objects of one folder follow each other.
    for batch, pairs in groupby(in_batches, key=batch_of):
        uploaded = Uploaded(batch)
        for upload, info in pairs:
            match upload.kind:
                case Kind.IMAGE:
                    uploaded.images[upload.name] = info
                case Kind.REQUEST:
                    uploaded.request = info
                case Kind.DRAFT:
                    uploaded.draft = info
                case Kind.APPROVAL:
                    uploaded.approval, uploaded.approval_text = info, Approval(store, info)
                case Kind.DOT_FILE | Kind.OTHER_JSON | Kind.SIDECAR:
                    uploaded.others[upload.name] = info
                case Kind.FOLDER:
                    pass
        for film in live_photo_videos(uploaded.images):
            uploaded.others[film] = uploaded.images.pop(film)
        yield uploaded


# Drafts


def find_draft(store: Store, batch: Batch) -> Uploaded:
    """The draft named ``batch``. Raises `UsageError` if it does not exist or was submitted already."""
    found = find(store, batch)
    if found is None or (found.draft is None and found.request is None):
        raise UsageError(f"there is no draft {batch.path} in bucket {store.bucket}")
    if found.request is not None:
        raise _submitted(batch)
    return found


def old_drafts(store: Store, dates: Iterable[UploadDate], before: datetime) -> Iterator[Uploaded]:
    """The drafts of the dates that were last changed before a time, by S3's clock."""
    for date in dates:
        for uploaded in batches(store, date):
            if uploaded.draft and uploaded.request is None and uploaded.last_change < before:
                yield uploaded


def move_draft(store: Store, batch: Batch, to: Batch, document: Callable[[bytes], bytes]) -> int:
    """Copies all that was uploaded for a draft to the draft ``to``, then deletes it; returns how many photos.

    ``to`` is empty and reserved for the caller (`submitting.reserve_name`). ``document`` makes its document from that
    of the draft. Raises `UsageError` as `find_draft`, if the draft is being submitted or discarded, or if a photo
    changed meanwhile; then the draft stays as it was, and nothing is left of ``to``.
    """
    changed = UsageError(f"the photos of draft {batch.path} changed meanwhile; name it again")
    prefix = f"{batch.input_prefix}/"
    copied = False
    try:
        found = find_draft(store, batch)
        draft = store.read(batch.draft_key)
        if draft is None or is_being_discarded(draft.data):
            raise UsageError(f"the draft {batch.path} was discarded, with its photos; upload them again")
        store.write(to.draft_key, document(without_mark(draft.data)), media_type="application/json")
        with ThreadPoolExecutor(DELETE_THREADS, "move") as pool:
            copies = {to.upload_key(each.key.removeprefix(prefix)): each for each in found.objects.values()}
            list(pool.map(lambda key: store.copy(copies[key].key, key, if_etag=copies[key].etag), copies))
        if _etags(find_draft(store, batch)) != _etags(found):
            raise changed
        copied = True
    except PreconditionFailed:
        raise changed from None
    finally:
        if not copied:
            discard_draft(store, to)
    try:
        return discard_draft(store, batch)
    except UsageError:
        # Nothing of the draft was deleted. After any other error some of it may be in its new place only.
        discard_draft(store, to)
        raise


def _etags(uploaded: Uploaded) -> dict[str, str]:
    return {name: info.etag for name, info in uploaded.objects.items()}


def discard_draft(store: Store, batch: Batch) -> int:
    """Deletes a draft and everything that was uploaded for it; returns the number of photos.

    Raises `UsageError` as `find_draft` does, and if the draft is being submitted; then nothing is deleted.
    """
    found: Uploaded | None = find_draft(store, batch)
    begin_discarding(store, batch)
    if store.head(batch.request_key) is not None:
        # A submission that broke off just after its request.
        store.delete(batch.draft_key)
        raise _submitted(batch)
    photos: set[str] = set()
    for _ in range(DISCARD_ROUNDS):
        if found is None or not found.objects:
            break
        photos |= found.images.keys()
        with ThreadPoolExecutor(DELETE_THREADS, "discard") as pool:
            list(pool.map(lambda each: store.delete(each.key), found.objects.values()))
        found = find(store, batch)
    # Of a submission that was suspended for minutes; it finds out by itself, too.
    take_back_request(store, batch)
    # Deleted last: a folder with photos but with neither request nor draft may be run as a batch.
    store.delete(batch.draft_key)
    return len(photos)


def _submitted(batch: Batch) -> UsageError:
    return UsageError(f"batch {batch.path} was submitted and is not a draft any more")
