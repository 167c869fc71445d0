"""A batch: the folder of uploads of one date, and the keys of everything that belongs to it."""

import datetime
import re
import uuid
from dataclasses import dataclass

from bg_pipeline.domain.s3_keys import (
    APPROVAL,
    ARCHIVE,
    CAPTIONS,
    DRAFT,
    LABELS,
    MANIFEST,
    MASKS,
    MAX_PREFIX_BYTES,
    PAYLOADS,
    PUBLISHED,
    REPORTS,
    REQUEST,
    RESULTS,
    REVIEWS,
    STATE,
    UPLOADS,
    WAITING,
    UploadDate,
    date_path,
    within,
)
from bg_pipeline.domain.upload_kinds import Kind, kind_of

_DATED = re.compile(r"([0-9]{4})/([0-9]{2})/([0-9]{2})/([^/]+)(?:/(.*))?", re.DOTALL)

_ORDER = re.compile(r"api-[0-9]{6}-[0-9a-f]{16}")

_DATED_PREFIXES = (UPLOADS, LABELS, CAPTIONS, MASKS, RESULTS, REPORTS, PAYLOADS, REVIEWS, PUBLISHED, ARCHIVE)


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """One folder of uploads: the date and one path segment, which may hold any character but a slash.

    A ``ValueError`` where ``name`` is empty, holds a slash, or is longer than ``MAX_PREFIX_BYTES``.
    """

    date: UploadDate
    name: str

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or len(self.name.encode()) > MAX_PREFIX_BYTES:
            raise ValueError(f"not the name of a batch: {self.name[:100]!r}")

    @property
    def path(self) -> str:
        """``YYYY/MM/DD/<batch>``, the part that all its keys have in common."""
        return f"{date_path(self.date)}/{self.name}"

    @property
    def is_order(self) -> bool:
        """Whether it is a call of the one-image API: nobody asked for more than its picture."""
        return _ORDER.fullmatch(self.name) is not None

    @property
    def input_prefix(self) -> str:
        return f"{UPLOADS}/{self.path}"

    @property
    def output_prefix(self) -> str:
        """Where its results go unless its request says otherwise."""
        return f"{RESULTS}/{self.path}"

    @property
    def status_prefix(self) -> str:
        """Where its reports go unless its request says otherwise."""
        return f"{REPORTS}/{self.path}"

    @property
    def request_key(self) -> str:
        return within(self.input_prefix, REQUEST)

    @property
    def draft_key(self) -> str:
        return within(self.input_prefix, DRAFT)

    @property
    def approval_key(self) -> str:
        """What says that a person approved its sample; among the uploads, so that sensors see it come."""
        return within(self.input_prefix, APPROVAL)

    @property
    def manifest_key(self) -> str:
        return within(self.input_prefix, MANIFEST)

    def derived_id(self, bucket: str) -> str:
        """The ``Id`` of a batch whose request is absent or cannot be read: the same one every time."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"s3://{bucket}/{self.input_prefix}"))

    def upload_key(self, image: str) -> str:
        return within(self.input_prefix, image)

    def labels_key(self, image: str) -> str:
        return within(f"{LABELS}/{self.path}", f"{image}.json")

    def caption_key(self, image: str) -> str:
        return within(f"{CAPTIONS}/{self.path}", f"{image}.json")

    def mask_key(self, image: str) -> str:
        return within(f"{MASKS}/{self.path}", f"{image}.png")

    def archive_key(self, image: str) -> str:
        return within(f"{ARCHIVE}/{self.path}", image)

    def payload_key(self, image: str, call: str) -> str:
        """Where one model call's exact JSON is kept; ``call`` is one path segment without extension."""
        return within(f"{PAYLOADS}/{self.path}/{image}", f"{call}.json")

    @property
    def ledger_prefix(self) -> str:
        return f"{STATE}/ledger/{self.path}"

    def ledger_key(self, name: str) -> str:
        return within(self.ledger_prefix, name)

    @property
    def thumbnails_key(self) -> str:
        """The small pictures of all its photos and results together."""
        return within(f"{STATE}/thumbnails", f"{self.path}.jsonl")

    @property
    def published_list_key(self) -> str:
        """What was published of it."""
        return within(f"{STATE}/published", f"{self.path}.json")

    @property
    def lease_key(self) -> str:
        return within(f"{STATE}/leases", f"{self.path}.json")

    @property
    def spend_key(self) -> str:
        """What all runs of this batch spent together."""
        return within(f"{STATE}/spend/batches", f"{self.path}.json")

    @property
    def family_spend_key(self) -> str:
        """What this batch and all that is asked for again of it spent together, where it has a cap."""
        return within(f"{STATE}/spend/families", f"{self.path}.json")


@dataclass(frozen=True, slots=True)
class Upload:
    """One object under ``image-files/``: its batch, its name in the batch's folder, and what it is."""

    batch: Batch
    name: str
    kind: Kind


def parse_upload(key: str) -> Upload | None:
    """What an object under ``image-files/`` is, or None where no batch's folder holds it (a stray).

    ``parse_upload(batch.upload_key(name))`` gives back the batch and the name, whatever they hold.
    """
    top, _, rest = key.partition("/")
    if top != UPLOADS:
        return None
    batch, name = _split(rest)
    return None if batch is None or name is None else Upload(batch, name, kind_of(name))


def find_batch(key: str) -> Batch | None:
    """The batch that any of its documents' keys, any of its prefixes, or its bare ``YYYY/MM/DD/<batch>`` names.

    Keys under ``pipeline-state/`` and under prefixes of a request's own choice name none.
    """
    top, _, rest = key.partition("/")
    batch, _ = _split(rest if top in _DATED_PREFIXES else key)
    return batch


def _split(path: str) -> tuple[Batch | None, str | None]:
    match = _DATED.fullmatch(path)
    if not match:
        return None, None
    year, month, day, name, rest = match.groups()
    try:
        return Batch(datetime.date(int(year), int(month), int(day)), name), rest
    except ValueError:
        return None, None


def retried_key(batch: Batch) -> str:
    """Which batches ask again for what failed of ``batch``."""
    return within(f"{STATE}/retries/{batch.path}", "batch.json")


def redone_key(batch: Batch) -> str:
    """Which batches ask again for pictures of ``batch`` that a person did not like."""
    return within(f"{STATE}/redoes/{batch.path}", "batch.json")


def origin_key(batch: Batch) -> str:
    """Of which batch ``batch`` asks again for something."""
    return within(f"{STATE}/retries/{batch.path}", "origin.json")


def parse_waiting(key: str) -> UploadDate | None:
    """The date of such a mark."""
    batch = find_batch(f"{key.removeprefix(WAITING + '/').removesuffix('.json')}/any")
    return batch.date if batch else None
