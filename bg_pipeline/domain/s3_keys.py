"""All S3 keys that do not belong to one batch, and the names and prefixes of all; `batches` has a batch's own keys.

A prefix never ends with a slash; ``within`` adds a name to it. Names are used unchanged (spaces, ``+``, ``%``,
quotes, emoji, ``..``, sub-folders): S3 has no folders and resolves nothing, so a key is prefix, slash and name. Only
names of files on this machine are mapped (`bg_pipeline.domain.file_names.local_path`).

No two documents share a key. Labels, captions, masks, ledger and payloads append to the image's whole name under
their own top-level prefix. A result's provenance is stored as ``<result name>.json`` in the result's folder; because
images and results never end in ``.json``, it cannot collide with one.
"""

import datetime
from typing import Final

from bg_pipeline.errors import ImageError

UploadDate = datetime.date
"""The date in a key: the day of the upload in UTC, which is also the Dagster partition."""

UPLOADS: Final = "image-files"
LABELS: Final = "image-labels"
CAPTIONS: Final = "image-captions"
MASKS: Final = "image-masks"
RESULTS: Final = "generated-image-files"
REPORTS: Final = "status-report-files"
STATE: Final = "pipeline-state"
HEARTBEATS: Final = f"{STATE}/heartbeats"
OWNERS: Final = f"{STATE}/owners"
SIGN_INS: Final = f"{STATE}/sign-ins"
PAYLOADS: Final = "model-payloads"
REVIEWS: Final = "reviews"
PUBLISHED: Final = "published"
ARCHIVE: Final = "archive"
ASSETS: Final = "assets"
AUDIT: Final = "audit"
OUTPUTS: Final = "outputs"
PHOTOS: Final = "photo"
DOCUMENTS: Final = "docs"

REQUEST: Final = "request.json"
DRAFT: Final = "draft.json"
APPROVAL: Final = "approved.json"
MANIFEST: Final = ".manifest.csv"
"""The manifest with which a batch was submitted, if any; a dot-file is not taken for an image."""

MAX_KEY_BYTES: Final = 1024
"""Maximum length of a key in bytes of UTF-8 (Amazon S3 user guide, "Naming Amazon S3 objects")."""

MAX_PREFIX_BYTES: Final = 800
"""Maximum length of a batch name or prefix, so that all batch documents, except those of images, have valid keys."""


def within(prefix: str, name: str) -> str:
    """The key of ``name`` under ``prefix``. Raises `ImageError` if it is longer than `MAX_KEY_BYTES`."""
    key = f"{prefix}/{name}"
    excess = len(key.encode()) - MAX_KEY_BYTES
    if excess > 0:
        raise ImageError(
            "KeyTooLong",
            f"'{name}' makes a key under '{prefix}' that is {excess} bytes longer than the {MAX_KEY_BYTES} "
            "that S3 allows; give the image or its folders a shorter name",
        )
    return key


def date_path(date: UploadDate) -> str:
    """``YYYY/MM/DD``."""
    return f"{date.year:04}/{date.month:02}/{date.day:02}"


def uploads_of(date: UploadDate) -> str:
    """The prefix that holds all batches of a date."""
    return f"{UPLOADS}/{date_path(date)}"


def owners_of(date: UploadDate) -> str:
    """The prefix of the documents that name the owners of a date's batches."""
    return f"{OWNERS}/{date_path(date)}"


def retries_of(date: UploadDate) -> str:
    """The prefix of the documents about retries and redoes of, and among, a date's batches."""
    return f"{STATE}/retries/{date_path(date)}"


def result_key(output_prefix: str, result: str) -> str:
    return within(output_prefix, result)


def provenance_key(result: str) -> str:
    """The key of the provenance document of the result with key ``result``."""
    prefix, _, name = result.rpartition("/")
    return within(prefix, f"{name}.json")


def review_key(result: str) -> str:
    """The key of people's decisions on the result with key ``result``."""
    return within(REVIEWS, f"{result.removeprefix(RESULTS + '/')}.json")


def reviews_of(output_prefix: str) -> str:
    """The prefix of all reviews of the results under ``output_prefix``."""
    return within(REVIEWS, f"{output_prefix.removeprefix(RESULTS + '/')}/")


def published_key(result: str) -> str:
    """The key of the delivered copy of the result with key ``result``."""
    return within(PUBLISHED, result.removeprefix(f"{RESULTS}/"))


def result_of_published(key: str) -> str:
    """The key of the result whose delivered copy is ``key``: the inverse of `published_key`."""
    return within(RESULTS, key.removeprefix(f"{PUBLISHED}/"))


def report_key(status_prefix: str, batch_id: str, extension: str = "json") -> str:
    """The key of a batch's report; ``extension`` is ``json``, ``csv`` or ``html``."""
    return within(status_prefix, f"status_report_{batch_id}.{extension}")


def is_report(key: str) -> bool:
    """Whether ``key`` is a report in JSON, the form that is written last."""
    name = key.rpartition("/")[2]
    return name.startswith("status_report_") and name.endswith(".json")


def retry_key(status_prefix: str, batch_id: str) -> str:
    """The key of the prepared request that asks again for the failed images."""
    return within(status_prefix, f"retry_{batch_id}.json")


def manifest_report_key(status_prefix: str, batch_id: str) -> str:
    """The key of the batch's manifest with the outcome of each row."""
    return within(status_prefix, f"manifest_{batch_id}.csv")


def sign_in_key(name: str) -> str:
    """The key of the last use and the end of a sign-in to the web page."""
    return within(SIGN_INS, f"{name}.json")


def claims_of(prefix: str) -> str:
    """The prefix of the claims on all prefixes inside ``prefix``."""
    return within(f"{STATE}/claims", prefix)


def prefix_claim_key(prefix: str) -> str:
    """The key of the object that names the only batch that may write under an output or status prefix."""
    return within(f"{STATE}/claims", f"{prefix}.json")


def parse_claim(key: str) -> str:
    """The prefix that the object ``key`` claims: the inverse of `claim_key`."""
    return key.removeprefix(f"{STATE}/claims/").removesuffix(".json")


def call_claim_key(identity: str) -> str:
    """The key of the document that records the start of a paid call, by the identity of its answer."""
    return within(f"{STATE}/calls/{identity[:2]}", f"{identity}.json")


def answer_key(kind: str, identity: str) -> str:
    """The key of a paid answer, stored unchanged; ``identity`` is the hexadecimal SHA-256 of the call's input."""
    return within(f"{STATE}/answers/{kind}/{identity[:2]}", identity)


def run_spend_key(group: str) -> str:
    """The key of the sum that the runs of a group spent, which share one cap."""
    return within(f"{STATE}/spend/runs", f"{group}.json")


def spend_key(day: datetime.date) -> str:
    """The key of the sum that all runs spent on a calendar day (UTC)."""
    return within(f"{STATE}/spend/days", f"{date_path(day)}.json")


WINDOWS: Final = f"{STATE}/window"
"""Prefix of the documents about windows, the times during which a Custom Labels model runs."""

WAITING: Final = f"{WINDOWS}/waiting"


def window_key(model: str, name: str) -> str:
    """The key of a document about the Custom Labels model with ARN ``model``: its lease, start or attempts."""
    return within(f"{WINDOWS}/models/{model}", f"{name}.json")


def window_run_key(run: str) -> str:
    """The key of the lease that a running window run holds."""
    return within(f"{WINDOWS}/runs", f"{run}.json")


def window_report_key(opened: datetime.datetime, run: str) -> str:
    """The key of the report of one window, by its opening time (UTC) and the run that opened it."""
    return within(f"{WINDOWS}/reports/{date_path(opened.date())}", f"{opened:%H%M%S}-{run}.json")


def waiting_key(date: UploadDate) -> str:
    """The key of the marker that photos of a date wait for a window."""
    return within(WAITING, f"{date_path(date)}.json")


NOTICES: Final = f"{STATE}/notices"
"""Prefix of the markers of sent notifications; those about a date's reports are under its ``YYYY/MM/DD``."""


def notice_key(report: str, sender: str) -> str:
    """The key of the marker that a sender has sent a notification about the report with key ``report``."""
    return within(NOTICES, f"{report.removeprefix(f'{REPORTS}/')}.{sender}.json")


def run_notice_key(run_id: str, date: UploadDate, sender: str) -> str:
    """The key of the marker that a sender has sent a notification about a run that left batches unreported."""
    return within(f"{NOTICES}/runs", f"{run_id}.{date}.{sender}.json")


def poison_key(message_id: str) -> str:
    """The key of a queue message that is not an S3 event, kept because there is no dead-letter queue."""
    return within(f"{STATE}/poison", f"{message_id}.txt")


def idempotency_key(digest: str) -> str:
    """The key of the outcome of an HTTP API call with an idempotency key; ``digest`` is of the caller and the key."""
    return within(f"{STATE}/idempotency/{digest[:2]}", f"{digest}.json")


def audit_of(via: str) -> str:
    """The prefix of the audit lines of one kind of program; only programs of that kind need to write there."""
    return f"{AUDIT}/{via}"


def audit_key(via: str, at: datetime.datetime, line_id: str, *, outcome: bool = False) -> str:
    """The key of an audit line, by its time (UTC) and id; with ``outcome``, of the line that says how it ended."""
    name = f"{at:%H%M%S.%f}-{line_id}{'.outcome' if outcome else ''}.json"
    return within(f"{audit_of(via)}/{date_path(at.date())}", name)


def output_key(name: str) -> str:
    """The key of a result of the one-image API."""
    return within(OUTPUTS, name)


def document_key(name: str) -> str:
    """The key of a file that is not a photo, of the photo-booth API."""
    return within(DOCUMENTS, name)


def photo_key(name: str) -> str:
    """The key of a photo, or of a picture made from it, of the photo-booth API."""
    return within(PHOTOS, name)
