"""What people uploaded: the batches of a date, as one listing of its prefix shows them."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from typing import Final

import orjson

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, Upload, parse_upload
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.upload_kinds import Kind, films_of_photos, is_misspelt_request, kind_of
from bg_pipeline.errors import UsageError
from bg_pipeline.storage.object_store import ObjectContent, ObjectInfo, Store

DELETE_THREADS: Final = 16
"""Objects of a draft that are deleted at the same time."""


class Approval:
    """A person's approval of a batch's sample; the document is read when it is first needed."""

    def __init__(self, store: Store, listed: ObjectInfo) -> None:
        self._store = store
        self._listed = listed

    def is_of(self, request: ObjectInfo) -> bool:
        """Whether it is about this request, and not about one that this request has replaced.

        The document names the tag of its request. One without a tag, from before there was one in it, counts if it
        came later than the request. What is no JSON object approves nothing.
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
        if "RequestETag" in document:
            return bool(document["RequestETag"] == request.etag)
        # Both by the listing, which tells times more exactly than the reading of an object.
        return self._listed.modified >= request.modified

    @cached_property
    def _content(self) -> ObjectContent | None:
        return self._store.read(self._listed.key)


@dataclass(slots=True)
class Uploaded:
    """One folder of uploads: its objects by name, its request if that has come, or what says that it will.

    ``emptied`` says that nothing is left of it because all of it was moved to the archive.
    """

    batch: Batch
    images: dict[str, ObjectInfo] = field(default_factory=dict)
    others: dict[str, ObjectInfo] = field(default_factory=dict)
    request: ObjectInfo | None = None
    draft: ObjectInfo | None = None
    approval: ObjectInfo | None = None
    emptied: bool = False
    approval_text: Approval | None = field(default=None, repr=False, compare=False)

    @property
    def newest(self) -> datetime:
        """When its latest object came, by S3's clock."""
        found = [*self.images.values(), *self.others.values(), self.request, self.approval]
        return max((each.modified for each in found if each), default=datetime.min.replace(tzinfo=UTC))

    @property
    def last_change(self) -> datetime:
        """When somebody was last at work on it, as a draft that may be without photos."""
        return max(self.newest, self.draft.modified) if self.draft else self.newest

    def complete(self, settle_seconds: int, now: datetime) -> bool:
        """Whether it may be worked on: its request has come, or it has neither request nor draft and is quiet."""
        if self.request is not None or self.emptied:
            return True
        if self.draft or not self.images:
            return False
        return now - self.newest >= timedelta(seconds=settle_seconds)

    @property
    def approved(self) -> bool:
        """Whether a person approved the sample of this request, and not of one that it has replaced.

        Where there is an approval it is read from S3, once.
        """
        if self.approval is None or self.approval_text is None:
            return False
        return self.request is None or self.approval_text.is_of(self.request)

    @property
    def objects(self) -> Mapping[str, ObjectInfo]:
        """Everything in the folder that a request may name: images, masks, backdrops."""
        return {**self.others, **self.images}


def remarks(uploaded: Uploaded) -> Iterator[str]:
    """What a person would want to know of objects in the folder that are neither images nor its request, in lines."""
    path, others = uploaded.batch.path, uploaded.others
    misspelt = [name for name in others if is_misspelt_request(name)]
    if misspelt and uploaded.request is None:
        yield f"batch {path}: '{misspelt[0]}' is not read; is it meant as {s3_keys.REQUEST}? Then name it so"
    films = films_of_photos([*uploaded.images, *others])
    beside = [name for name in others if kind_of(name) is Kind.SIDECAR or name in films]
    if beside:
        shown = ", ".join(sorted(beside)[:3]) + (", …" if len(beside) > 3 else "")
        yield f"batch {path}: files that go with photos and are none are left out ({len(beside)}: {shown})"


def batches(store: Store, date: UploadDate) -> Iterator[Uploaded]:
    """The batches of a date in key order; one request per 1,000 objects, one batch in memory at a time."""
    return _folders(store, store.list(f"{s3_keys.uploads_of(date)}/"))


def find(store: Store, batch: Batch) -> Uploaded | None:
    """One batch, or None if there is nothing in its folder."""
    return next(_folders(store, store.list(f"{batch.input_prefix}/")), None)


def _folders(store: Store, objects: Iterable[ObjectInfo]) -> Iterator[Uploaded]:
    def batch_of(pair: tuple[Upload, ObjectInfo]) -> Batch:
        return pair[0].batch

    found = ((parse_upload(each.key), each) for each in objects)
    inside = ((upload, each) for upload, each in found if upload is not None)
    # All keys of one folder share its prefix, so a sorted listing holds them together.
    for batch, pairs in groupby(inside, key=batch_of):
        uploaded = Uploaded(batch)
        for upload, each in pairs:
            match upload.kind:
                case Kind.IMAGE:
                    uploaded.images[upload.name] = each
                case Kind.REQUEST:
                    uploaded.request = each
                case Kind.DRAFT:
                    uploaded.draft = each
                case Kind.APPROVAL:
                    uploaded.approval, uploaded.approval_text = each, Approval(store, each)
                case Kind.DOT_FILE | Kind.OTHER_JSON | Kind.SIDECAR:
                    uploaded.others[upload.name] = each
                case Kind.FOLDER:
                    pass
        for film in films_of_photos(uploaded.images):
            uploaded.others[film] = uploaded.images.pop(film)
        yield uploaded


# Drafts


def find_draft(store: Store, batch: Batch) -> Uploaded:
    """The draft named ``batch``. Raises `UsageError` if it does not exist or was submitted already."""
    found = find(store, batch)
    if found is None or (found.draft is None and found.request is None):
        raise UsageError(f"there is no draft {batch.path} in bucket {store.bucket}")
    if found.request is not None:
        raise UsageError(f"batch {batch.path} was submitted and is not a draft any more")
    return found


def discard_draft(store: Store, batch: Batch) -> int:
    """Deletes a draft and everything that was uploaded for it; returns the number of photos.

    Raises `UsageError` as `find_draft` does; then nothing is deleted.
    """
    found = find_draft(store, batch)
    with ThreadPoolExecutor(DELETE_THREADS, "discard") as pool:
        list(pool.map(lambda each: store.delete(each.key, if_etag=each.etag), found.objects.values()))
    # Deleted last: a folder with photos but with neither request nor draft may be run as a batch.
    store.delete(batch.draft_key)
    return len(found.images)
