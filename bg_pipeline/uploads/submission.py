"""What a batch consisted of when it was submitted, so that uploads that arrive later are noticed and not paid for.

The HTTP API and the page issue upload forms that stay valid for a while after the submission. Before the request they
store a record with the ETag of every object in the batch's folder. The forms cannot write the record, because they
are issued for names of images only. A batch without a record (uploaded with S3 itself) stays open: a photo that is
replaced there is done again. A record belongs to one request: whoever may replace that opens the batch again. A retry
or a redo gets a record of its own, of the folder whose photos it uses, if that folder was closed.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

import orjson

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.upload_kinds import NAMEABLE, kind_of
from bg_pipeline.errors import ImageError
from bg_pipeline.storage.object_store import ObjectInfo, Store

_PREFIX: Final = ".submission-"
_SUFFIX: Final = ".json"
MAX_NAMES: Final = 3
"""Objects that a sentence about late uploads names."""


def write_submission(store: Store, batch: Batch, request: bytes, etags: Mapping[str, str]) -> None:
    """Stores the record for ``request``, which is submitted next; ``etags`` are those of its input folder by name."""
    document = {"Version": 1, "Batch": batch.path, "ETags": dict(etags)}
    store.write_json(batch.upload_key(_name(request)), document)


def etags_of(objects: Mapping[str, ObjectInfo]) -> dict[str, str]:
    """The ETags, by name, of the objects of a folder that upload forms can write or a request can name."""
    return {name: info.etag for name, info in objects.items() if kind_of(name) in NAMEABLE}


def closed_folder(store: Store, prefix: str) -> dict[str, str] | None:
    """The present ETags of a folder by name if a batch in it was closed; None for a folder that is open."""
    objects = {info.key.removeprefix(f"{prefix}/"): info for info in store.list(f"{prefix}/")}
    return etags_of(objects) if any(map(_is_record, objects)) else None


@dataclass(frozen=True)
class Submission:
    """The state of a submitted batch's input folder: the recorded ETags, and the present ones that differ, by key.

    ``etags`` is None if the batch has no record. Then nothing counts as changed.
    """

    etags: Mapping[str, str] | None = None
    changed: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        store: Store,
        request: bytes,
        own: Mapping[str, ObjectInfo],
        objects: Mapping[str, ObjectInfo],
        input_prefix: str,
    ) -> Self:
        """The submission of ``request``, whose record is among the objects of its ``own`` folder, if there is one.

        ``objects`` are those that are in its input folder now. Both are by name.
        """
        record = own.get(_name(request))
        recorded = _recorded_etags(store, record) if record else None
        if recorded is None:
            return cls()
        changed = {
            info.key: info.etag
            for name, info in objects.items()
            if kind_of(name) in NAMEABLE and recorded.get(name) != info.etag
        }
        return cls({f"{input_prefix}/{name}": etag for name, etag in recorded.items()}, changed)

    def as_submitted(self, objects: Mapping[str, ObjectInfo]) -> dict[str, ObjectInfo]:
        """The objects with their recorded ETags, so that a later replacement makes nothing due."""
        if not self.changed:
            return dict(objects)
        return {name: replace(info, etag=self.etag(info.key, info.etag)) for name, info in objects.items()}

    def etag(self, key: str, present: str) -> str:
        """The recorded ETag of an object that has changed since; else ``present``."""
        return (self.etags or {}).get(key, present) if key in self.changed else present

    def refusal(self, keys: Collection[str]) -> ImageError | None:
        """Why an image that needs these objects is not paid for; None if they are as submitted."""
        late = [key for key in keys if key in self.changed]
        return late_upload(late[0], new=late[0] not in (self.etags or {})) if late else None

    def remarks(self, path: str) -> list[str]:
        """A sentence for the log about what was uploaded after the submission; none if nothing was."""
        if not self.changed:
            return []
        names = ", ".join(key.rpartition("/")[2] for key in sorted(self.changed)[:MAX_NAMES])
        more = ", …" if len(self.changed) > MAX_NAMES else ""
        return [
            f"batch {path}: {len(self.changed)} objects were uploaded or replaced after the batch was submitted, and "
            f"are not paid for ({names}{more}); submit them as a new batch"
        ]


def late_upload(key: str, *, new: bool = False) -> ImageError:
    """The error of an image that is not as it was submitted."""
    what = "was uploaded" if new else "was replaced"
    return ImageError(
        "ChangedAfterSubmission",
        f"'{key}' {what} after the batch was submitted, so nothing is paid for it; submit it as a new batch",
    )


def _name(request: bytes) -> str:
    return f"{_PREFIX}{hashlib.sha256(request).hexdigest()[:32]}{_SUFFIX}"


def _is_record(name: str) -> bool:
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _recorded_etags(store: Store, record: ObjectInfo) -> dict[str, str] | None:
    content = store.read(record.key)
    try:
        document = orjson.loads(content.data) if content else None
    except orjson.JSONDecodeError:
        return None
    etags = document.get("ETags") if isinstance(document, dict) else None
    return {str(name): str(etag) for name, etag in etags.items()} if isinstance(etags, dict) else None
