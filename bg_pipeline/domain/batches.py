"""A batch is one folder of uploads of one date; here are its name and the keys of everything that belongs to it."""

import datetime
import re
import unicodedata
import uuid
from dataclasses import dataclass

from bg_pipeline.domain.file_names import path_problem
from bg_pipeline.domain.s3_keys import (
    APPROVAL,
    ARCHIVE,
    CAPTIONS,
    DRAFT,
    LABELS,
    MANIFEST,
    MASKS,
    MAX_PREFIX_BYTES,
    OWNERS,
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

_MENDED = ".mended-"

LONGEST_NAME = 100
"""Bytes of a name that a person gives a batch; keys also contain the names of its images."""


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """One folder of uploads: a date and a name, which is one path segment with any character except a slash.

    Raises ``ValueError`` if ``name`` is empty, contains a slash or is longer than `MAX_PREFIX_BYTES`.
    """

    date: UploadDate
    name: str

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or len(self.name.encode()) > MAX_PREFIX_BYTES:
            raise ValueError(f"not the name of a batch: {self.name[:100]!r}")

    @property
    def path(self) -> str:
        """``YYYY/MM/DD/<name>``, which all keys of the batch contain."""
        return f"{date_path(self.date)}/{self.name}"

    @property
    def is_order(self) -> bool:
        """Whether the batch was made by a call of the one-image API, so that only its picture is needed."""
        return _ORDER.fullmatch(self.name) is not None

    @property
    def input_prefix(self) -> str:
        return f"{UPLOADS}/{self.path}"

    @property
    def output_prefix(self) -> str:
        """The default prefix of its results; the request may name another one."""
        return f"{RESULTS}/{self.path}"

    @property
    def status_prefix(self) -> str:
        """The default prefix of its reports; the request may name another one."""
        return f"{REPORTS}/{self.path}"

    @property
    def request_key(self) -> str:
        return within(self.input_prefix, REQUEST)

    @property
    def draft_key(self) -> str:
        return within(self.input_prefix, DRAFT)

    @property
    def approval_key(self) -> str:
        """The document with which a person approves the sample; in the upload folder, so that sensors notice it."""
        return within(self.input_prefix, APPROVAL)

    @property
    def manifest_key(self) -> str:
        return within(self.input_prefix, MANIFEST)

    def derived_id(self, bucket: str) -> str:
        """The ``Id`` of a batch whose request is missing or unreadable; the same for the same bucket and batch."""
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
        """The key of one model call's exact JSON; ``call`` is one path segment without extension."""
        return within(f"{PAYLOADS}/{self.path}/{image}", f"{call}.json")

    def doubt_key(self, image: str) -> str:
        """The key of a small picture that is white where the image's mask is doubtful; absent without a doubt."""
        return within(f"{STATE}/doubts/{self.path}", f"{image}.png")

    def mended_mask_key(self, digest: str) -> str:
        """The key of a mask that a person mended, by a digest of its file; a dot-file is not taken for an image."""
        return within(self.input_prefix, f"{_MENDED}{digest}.png")

    @property
    def ledger_prefix(self) -> str:
        return f"{STATE}/ledger/{self.path}"

    def ledger_key(self, name: str) -> str:
        return within(self.ledger_prefix, name)

    @property
    def thumbnails_key(self) -> str:
        """The key of the thumbnails of all its photos and results."""
        return within(f"{STATE}/thumbnails", f"{self.path}.jsonl")

    @property
    def published_list_key(self) -> str:
        """The key of the list of its published results."""
        return within(f"{STATE}/published", f"{self.path}.json")

    @property
    def owner_key(self) -> str:
        """The key of the document that names who prepared it; written once."""
        return within(OWNERS, f"{self.path}.json")

    @property
    def lease_key(self) -> str:
        return within(f"{STATE}/leases", f"{self.path}.json")

    @property
    def spend_key(self) -> str:
        """The key of the sum that all runs of this batch spent."""
        return within(f"{STATE}/spend/batches", f"{self.path}.json")

    @property
    def family_spend_key(self) -> str:
        """The key of the sum that this batch, its retries and its redone images spent; used if it has a cap."""
        return within(f"{STATE}/spend/families", f"{self.path}.json")


@dataclass(frozen=True, slots=True)
class Upload:
    """One object under ``image-files/``: its batch, its name in the batch's folder, and its kind."""

    batch: Batch
    name: str
    kind: Kind


def name_problem(name: str) -> str | None:
    """Why a person should not give a batch this name, as the end of a sentence, or None.

    Stricter than `Batch`, which has to take any folder that programs made.
    """
    if not name or name != name.strip():
        return "is empty, or begins or ends with a space"
    if "/" in name:
        return "contains a slash"
    if name.startswith("."):
        return "begins with a dot"
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        return "contains a control character"
    if _ORDER.fullmatch(name):
        return "has the form of a call of the one-image API"
    if len(name.encode()) > LONGEST_NAME:
        return f"is longer than {LONGEST_NAME} bytes"
    return path_problem(name)


def parse_upload(key: str) -> Upload | None:
    """The upload with this key, or None if the key is not in the folder of a batch under ``image-files/``.

    ``parse_upload(batch.upload_key(name))`` returns this batch and name for every batch and name.
    """
    top, _, rest = key.partition("/")
    if top != UPLOADS:
        return None
    batch, name = _split(rest)
    return None if batch is None or name is None else Upload(batch, name, kind_of(name))


def find_batch(key: str) -> Batch | None:
    """The batch of a key, prefix or bare ``YYYY/MM/DD/<batch>``; None if there is none in it.

    Keys under ``pipeline-state/`` and under a prefix that a request chose itself give None.
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
    """The key of the list of batches that retry failed images of ``batch``."""
    return within(f"{STATE}/retries/{batch.path}", "batch.json")


def redone_key(batch: Batch) -> str:
    """The key of the list of batches that redo pictures of ``batch`` which a person rejected."""
    return within(f"{STATE}/redoes/{batch.path}", "batch.json")


def mending_key(mask_key: str) -> str | None:
    """The key of the record of how a mask was mended; None if ``mask_key`` is not `Batch.mended_mask_key`."""
    upload = parse_upload(mask_key)
    if upload is None or not re.fullmatch(re.escape(_MENDED) + r"[0-9a-f]+\.png", upload.name):
        return None
    name = upload.name.removeprefix(_MENDED).removesuffix(".png")
    return within(f"{STATE}/redoes/{upload.batch.path}", f"mended-{name}.json")


def origin_key(batch: Batch) -> str:
    """The key of the document that names the batch of which ``batch`` is a retry or a redo."""
    return within(f"{STATE}/retries/{batch.path}", "origin.json")


def parse_waiting(key: str) -> UploadDate | None:
    """The date of a marker with `waiting_key`; None if ``key`` is not one."""
    batch = find_batch(f"{key.removeprefix(WAITING + '/').removesuffix('.json')}/any")
    return batch.date if batch else None
