"""Every S3 key and every result's name, made and parsed here and nowhere else.

A prefix never ends with a slash; ``within`` puts a name under it. Names are taken as they come (spaces,
``+``, ``%``, quotes, emoji, ``..``, sub-folders): S3 knows no folders and resolves nothing, so a key is its
prefix, a slash and the name, unchanged. Only what is written on this machine is mapped, by ``local_path``.

No two documents share a key. Labels, captions, masks, ledger and payloads append to the image's whole name
inside their own top-level prefix. Provenance lies beside its result as ``<result name>.json``, and nothing
that ends in ``.json`` is an image or a result, so that no provenance is ever a result's key.
"""

import datetime
from typing import Final

from bg_pipeline.errors import ImageError

UploadDate = datetime.date
"""The date in a key: the day of the upload in UTC, and the partition."""

UPLOADS: Final = "image-files"
LABELS: Final = "image-labels"
CAPTIONS: Final = "image-captions"
MASKS: Final = "image-masks"
RESULTS: Final = "generated-image-files"
REPORTS: Final = "status-report-files"
STATE: Final = "pipeline-state"
HEARTBEATS: Final = f"{STATE}/heartbeats"
PAYLOADS: Final = "model-payloads"
REVIEWS: Final = "reviews"
PUBLISHED: Final = "published"
ARCHIVE: Final = "archive"
ASSETS: Final = "assets"
OUTPUTS: Final = "outputs"
PHOTOS: Final = "photo"

REQUEST: Final = "request.json"
DRAFT: Final = "draft.json"
APPROVAL: Final = "approved.json"
MANIFEST: Final = ".manifest.csv"
"""The table that a batch was asked for with, if it was; a dot-file, so that it is no image."""

MAX_KEY_BYTES: Final = 1024
"""What S3 takes, in bytes of UTF-8 (Amazon S3 user guide, "Naming Amazon S3 objects")."""

MAX_PREFIX_BYTES: Final = 800
"""The longest batch name or prefix: with it every document of a batch but an image's own has a valid key."""


def within(prefix: str, name: str) -> str:
    """The key of ``name`` under ``prefix``; an ``ImageError`` where it is longer than S3 takes."""
    key = f"{prefix}/{name}"
    excess = len(key.encode()) - MAX_KEY_BYTES
    if excess > 0:
        raise ImageError(
            "KeyTooLong",
            f"'{name}' makes a key under '{prefix}' that is {excess} bytes longer than the {MAX_KEY_BYTES} "
            "that S3 takes; give the image or its folders a shorter name",
        )
    return key


def date_path(date: UploadDate) -> str:
    """``YYYY/MM/DD``."""
    return f"{date.year:04}/{date.month:02}/{date.day:02}"


def uploads_of(date: UploadDate) -> str:
    """The prefix that holds all batches of a date."""
    return f"{UPLOADS}/{date_path(date)}"


def result_key(output_prefix: str, result: str) -> str:
    return within(output_prefix, result)


def provenance_key(result: str) -> str:
    """The provenance lies beside its result, whose key is ``result``."""
    prefix, _, name = result.rpartition("/")
    return within(prefix, f"{name}.json")


def review_key(result: str) -> str:
    """What people said of the result whose key is ``result``."""
    return within(REVIEWS, f"{result.removeprefix(RESULTS + '/')}.json")


def reviews_of(output_prefix: str) -> str:
    """The prefix of all reviews of the results under ``output_prefix``."""
    return within(REVIEWS, f"{output_prefix.removeprefix(RESULTS + '/')}/")


def published_key(result: str) -> str:
    """Where the result whose key is ``result`` is delivered once it is approved."""
    return within(PUBLISHED, result.removeprefix(f"{RESULTS}/"))


def result_of_published(key: str) -> str:
    """The result that was delivered as ``key``: the other way round than `published_key`."""
    return within(RESULTS, key.removeprefix(f"{PUBLISHED}/"))


def report_key(status_prefix: str, batch_id: str, extension: str = "json") -> str:
    """``extension`` is ``json``, ``csv`` or ``html``."""
    return within(status_prefix, f"status_report_{batch_id}.{extension}")


def is_report(key: str) -> bool:
    """Whether the object is a report as JSON, which is written last of all its forms."""
    name = key.rpartition("/")[2]
    return name.startswith("status_report_") and name.endswith(".json")


def retry_key(status_prefix: str, batch_id: str) -> str:
    """The ready-made request that asks again for what failed."""
    return within(status_prefix, f"retry_{batch_id}.json")


def manifest_report_key(status_prefix: str, batch_id: str) -> str:
    """The batch's manifest with what became of each of its rows."""
    return within(status_prefix, f"manifest_{batch_id}.csv")


def claims_of(prefix: str) -> str:
    """The prefix of the claims on all that lies inside a prefix."""
    return within(f"{STATE}/claims", prefix)


def claim_key(prefix: str) -> str:
    """The object that says which batch writes under an output or status prefix, since no two share one."""
    return within(f"{STATE}/claims", f"{prefix}.json")


def parse_claim(key: str) -> str:
    """The prefix on which the object called ``key`` is a claim."""
    return key.removeprefix(f"{STATE}/claims/").removesuffix(".json")


def call_key(identity: str) -> str:
    """The mark that a paid call was begun, by the identity of its answer."""
    return within(f"{STATE}/calls/{identity[:2]}", f"{identity}.json")


def answer_key(kind: str, identity: str) -> str:
    """A paid answer, stored raw; ``identity`` is the SHA-256 in hex of what was paid for."""
    return within(f"{STATE}/answers/{kind}/{identity[:2]}", identity)


def spend_key(day: datetime.date) -> str:
    """What all runs spent together on a calendar day."""
    return within(f"{STATE}/spend/days", f"{date_path(day)}.json")


WINDOWS: Final = f"{STATE}/window"
"""What is known of the windows in which a Custom Labels model runs."""

WAITING: Final = f"{WINDOWS}/waiting"


def window_key(model: str, name: str) -> str:
    """A document about the Custom Labels model whose ARN is ``model``: its lease, its start, what was tried."""
    return within(f"{WINDOWS}/models/{model}", f"{name}.json")


def window_run_key(run: str) -> str:
    """The lease that says that a window run is at work."""
    return within(f"{WINDOWS}/runs", f"{run}.json")


def window_report_key(opened: datetime.datetime, run: str) -> str:
    """The report of one window, by when it was opened (UTC) and by whom."""
    return within(f"{WINDOWS}/reports/{date_path(opened.date())}", f"{opened:%H%M%S}-{run}.json")


def waiting_key(date: UploadDate) -> str:
    """The mark that photos of a date wait for a window."""
    return within(WAITING, f"{date_path(date)}.json")


NOTICES: Final = f"{STATE}/notices"
"""Marks of what people were told; those of a date's reports lie under its ``YYYY/MM/DD``."""


def notice_key(report: str, sender: str) -> str:
    """The mark that the report whose key is ``report`` was told of, and in which state, through a sender."""
    return within(NOTICES, f"{report.removeprefix(f'{REPORTS}/')}.{sender}.json")


def run_notice_key(run_id: str, date: UploadDate, sender: str) -> str:
    """The mark that people were told of a run that left batches of a date without a report."""
    return within(f"{NOTICES}/runs", f"{run_id}.{date}.{sender}.json")


def poison_key(message_id: str) -> str:
    """Where a queue's message is kept that was no event and had no dead-letter queue to go to."""
    return within(f"{STATE}/poison", f"{message_id}.txt")


def idempotency_key(digest: str) -> str:
    """What a call of the HTTP API with an idempotency key came to; ``digest`` stands for the caller and the key."""
    return within(f"{STATE}/idempotency/{digest[:2]}", f"{digest}.json")


def output_key(name: str) -> str:
    """A result of the one-image API."""
    return within(OUTPUTS, name)


def photo_key(name: str) -> str:
    """A photo, or a picture made from it, of the photo-booth API."""
    return within(PHOTOS, name)


# Names of results


# Names on this machine
