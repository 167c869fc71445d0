"""The texts and documents of notifications: about a finished batch, and about a run that left batches unreported.

`senders` sends them, and `delivery` knows which were sent.
"""

import hashlib
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import amount, counted, listed, printable
from bg_pipeline.reports.overview import ShareLink
from bg_pipeline.reports.report import Report
from bg_pipeline.reports.words import CAP_REACHED, CAP_STOPPED, waiting_in_words
from bg_pipeline.run.outcome_recorder import WAITING_ERRORS
from bg_pipeline.state.model_stopped import WAITS_FOR_WINDOW

NAMED: Final = 10
"""Maximum number of images that a notification names; the report has all."""
NAMED_IN_DIGEST: Final = 200
"""Maximum number of batches that a digest names in its text."""
CAUSE: Final = 300
"""Maximum length of a cause or reason in a notification, in characters."""


class BatchOutcome(StrEnum):
    """The outcome of a batch; each has its own subject and text."""

    ALL_GOOD = "all_good"
    SOME_FAILED = "some_failed"
    NOTHING_WORKED = "nothing_worked"
    STOPPED_AT_CAP = "stopped_at_cap"
    WAITING = "waiting"
    NO_REPORT = "no_report"


@dataclass(frozen=True)
class StoredReport:
    """A batch's report with its bucket, key and link; ``batch`` is the batch's path, ``YYYY/MM/DD/<batch>``.

    ``json_link`` leads to the report for programs, where ``link`` leads to another form of it.
    """

    batch: str
    bucket: str
    key: str
    report: Report
    link: ShareLink
    json_link: ShareLink | None = None


@dataclass(frozen=True)
class RunFailure:
    """A run that ended while ``batches`` (paths) of ``date`` had no report.

    ``reason`` is Dagster's. ``batches`` is None if the bucket could not be read. ``retried`` means that Dagster
    starts the run again automatically.
    """

    run_id: str
    date: UploadDate
    cancelled: bool
    reason: str
    retried: bool
    batches: Sequence[str] | None


@dataclass(frozen=True)
class Notification:
    """One message: ``subject`` and ``text`` for people, ``document`` for programs.

    ``id`` is the same for the same content, so receivers can recognize repetitions.
    """

    id: str
    outcome: BatchOutcome
    subject: str
    text: str
    document: dict[str, Any]


def outcome_of(report: Report) -> BatchOutcome:
    """The outcome of the batch of a report; a batch without images is `BatchOutcome.ALL_GOOD`."""
    if any(row.Error == CAP_REACHED for row in report.rows):
        return BatchOutcome.STOPPED_AT_CAP
    counts = report.counts
    if counts[Status.SUCCEEDED] == len(report.rows):
        return BatchOutcome.ALL_GOOD
    if all(row.Status == Status.SUCCEEDED or row.Error in WAITING_ERRORS for row in report.rows):
        return BatchOutcome.WAITING
    if counts[Status.SUCCEEDED] + counts[Status.NEEDS_REVIEW] == 0:
        return BatchOutcome.NOTHING_WORKED
    return BatchOutcome.SOME_FAILED


def is_news(report: Report) -> bool:
    """Whether people are told of a report: not while photos wait for the Custom Labels model, and nothing else.

    Its next window makes them, and the report that then follows is the news.
    """
    others = [row for row in report.rows if row.Status != Status.SUCCEEDED]
    return not others or any(row.Error != WAITS_FOR_WINDOW for row in others)


def batch_finished(stored_report: StoredReport, now: datetime) -> Notification:
    """The notification about a batch that has its report."""
    report, outcome = stored_report.report, outcome_of(stored_report.report)
    batch = printable(stored_report.batch)
    images, done = len(report.rows), report.counts[Status.SUCCEEDED]
    not_succeeded = [row for row in report.rows if row.Status != Status.SUCCEEDED]
    counts = {status.value: count for status, count in report.counts.items() if count}
    cost, maybe = report.cost_usd, report.maybe_usd
    results = _folder(stored_report.bucket, report.rows)
    stored = f"s3://{stored_report.bucket}/{stored_report.key}"
    headline, advice = _HEADLINES[outcome], _ADVICE[outcome]
    if images == 0:
        headline = "no image was requested"
    errors = {row.Error for row in not_succeeded}
    waiting = waiting_in_words(errors) if errors <= WAITING_ERRORS else ""
    summary = headline.format(
        images=counted(images, "image"), done=done, rest=images - done, waiting=waiting or "waiting"
    )
    paragraphs = [
        [f"Batch {batch} of bucket {stored_report.bucket}: {summary}."],
        [advice] if advice else [],
        [
            *(f"{status}: {count}" for status, count in counts.items()),
            f"Cost: {'not known in full' if cost is None or maybe is None else f'{amount(cost, maybe)} USD'}",
        ],
        [f"- {_line(row)}" for row in not_succeeded[:NAMED]]
        + (
            [f"- and {len(not_succeeded) - NAMED} more; the report has all"]
            if len(not_succeeded) > NAMED
            else []
        ),
        [
            *([f"Results: {printable(results)}"] if results else []),
            f"Report: {stored_report.link.url}",
            *([f"As JSON: {stored_report.json_link.url}"] if stored_report.json_link else []),
            f"(The link {stored_report.link.life}. The report stays at {printable(stored)}.)",
        ],
    ]
    text = _text(paragraphs)
    id = _id(stored, hashlib.sha256(report.json()).hexdigest())
    document = {
        "NoticeId": id,
        "Kind": "batch_finished",
        "BatchOutcome": outcome.value,
        "SentAt": _iso(now),
        "Bucket": stored_report.bucket,
        "Batch": stored_report.batch,
        "Id": report.rows[0].Id if report.rows else "",
        "Images": images,
        "Counts": counts,
        "CostUSD": cost,
        "MaybeBilledUSD": maybe,
        "Results": results,
        "Report": stored,
        "ReportLink": {
            "URL": stored_report.link.url,
            "Until": _iso(stored_report.link.until),
            "AtTheLatest": not stored_report.link.sure,
        },
        "ReportJsonURL": (stored_report.json_link or stored_report.link).url,
        "Problems": [
            {"ImageName": row.ImageName, "Status": row.Status.value, "Error": row.Error, "Cause": row.Cause}
            for row in not_succeeded[:NAMED]
        ],
        "Text": text,
    }
    return Notification(id, outcome, f"bg_pipeline: {batch}: {summary}", text, document)


def digest(notices: Sequence[Notification], bucket: str, now: datetime) -> Notification:
    """One notification for several; its outcome is the worst of them."""
    outcome = min((notice.outcome for notice in notices), key=_WORST_FIRST.index)
    numbers = Counter(notice.outcome for notice in notices)
    summary = ", ".join(f"{numbers[each]} {_IN_DIGEST[each]}" for each in _WORST_FIRST if numbers[each])
    ordered = sorted(notices, key=lambda notice: _WORST_FIRST.index(notice.outcome))
    named = [f"- {notice.subject.removeprefix('bg_pipeline: ')}" for notice in ordered[:NAMED_IN_DIGEST]]
    links = [
        f"  {notice.document['ReportLink']['URL']}" if "ReportLink" in notice.document else ""
        for notice in ordered[:NAMED_IN_DIGEST]
    ]
    lines = [line for pair in zip(named, links, strict=True) for line in pair if line]
    if len(notices) > NAMED_IN_DIGEST:
        lines.append(f"- and {len(notices) - NAMED_IN_DIGEST} more")
    heading = f"{counted(len(notices), 'batch', 'batches')} of bucket {bucket}: {summary}."
    text = _text([[heading], lines])
    id = _id(*(notice.id for notice in notices))
    document = {
        "NoticeId": id,
        "Kind": "digest",
        "BatchOutcome": outcome.value,
        "SentAt": _iso(now),
        "Bucket": bucket,
        "Notices": [
            {name: value for name, value in notice.document.items() if name != "Text"} for notice in ordered
        ],
        "Text": text,
    }
    return Notification(
        id, outcome, f"bg_pipeline: {counted(len(notices), 'batch', 'batches')}: {summary}", text, document
    )


def batch_unreported(failure: RunFailure, bucket: str, now: datetime) -> Notification:
    """The notification about a run that left batches of a date without a report."""
    day, batches = failure.date.isoformat(), failure.batches
    ended = "was cancelled" if failure.cancelled else "failed"
    if batches is None:
        missing = "The bucket could not be read, so it is not known which batches have no report."
    else:
        paths = listed([printable(path) for path in batches], NAMED)
        missing = f"Without a report {'is' if len(batches) == 1 else 'are'}: {paths}."
    advice = (
        "Dagster starts the run again automatically."
        if failure.retried
        else f"Fix the cause, then materialize {day} again in Dagster, or: bg-pipeline run --date {day}"
    )
    paragraphs = [
        [
            f"Run {failure.run_id} over {day} (bucket {bucket}) {ended} before everything was reported.",
            missing,
        ],
        [f"Reason: {_cut(failure.reason)}"] if failure.reason else [],
        [advice, "Paid answers are stored and are not paid for again."],
    ]
    text = _text(paragraphs)
    id = _id(failure.run_id, day)
    document = {
        "NoticeId": id,
        "Kind": "run_without_report",
        "BatchOutcome": BatchOutcome.NO_REPORT.value,
        "SentAt": _iso(now),
        "Bucket": bucket,
        "RunId": failure.run_id,
        "Date": day,
        "Cancelled": failure.cancelled,
        "Reason": _cut(failure.reason),
        "Retried": failure.retried,
        "Batches": None if batches is None else list(batches),
        "Text": text,
    }
    subject = f"bg_pipeline: {day}: the run {ended} without a report"
    return Notification(id, BatchOutcome.NO_REPORT, subject, text, document)


_WORST_FIRST: Final = (
    BatchOutcome.NO_REPORT,
    BatchOutcome.NOTHING_WORKED,
    BatchOutcome.STOPPED_AT_CAP,
    BatchOutcome.SOME_FAILED,
    BatchOutcome.WAITING,
    BatchOutcome.ALL_GOOD,
)
_IN_DIGEST: Final = {
    BatchOutcome.NO_REPORT: "without a report",
    BatchOutcome.NOTHING_WORKED: "without any result",
    BatchOutcome.STOPPED_AT_CAP: CAP_STOPPED,
    BatchOutcome.SOME_FAILED: "in part",
    BatchOutcome.WAITING: "waiting",
    BatchOutcome.ALL_GOOD: "all done",
}

_HEADLINES: Final = {
    BatchOutcome.ALL_GOOD: "all done, {images}",
    BatchOutcome.SOME_FAILED: "{done} of {images} done, {rest} not",
    BatchOutcome.NOTHING_WORKED: "nothing worked, none of {images} done",
    BatchOutcome.STOPPED_AT_CAP: f"{CAP_STOPPED}, {{done}} of {{images}} done",
    BatchOutcome.WAITING: "{done} of {images} done, {rest} {waiting}",
}

_ADVICE: Final = {
    BatchOutcome.ALL_GOOD: "",
    BatchOutcome.SOME_FAILED: "The next run repeats temporary failures; check the other images:",
    BatchOutcome.NOTHING_WORKED: "No image has a result. The causes:",
    BatchOutcome.STOPPED_AT_CAP: "The spending cap was reached before the rest was done. Raise it or wait for the "
    "next day, then run the date again: finished images are not paid for again.",
    BatchOutcome.WAITING: "The others wait for something that is expected to happen:",
}


def _line(row: Row) -> str:
    cause = f": {_cut(row.Cause)}" if row.Cause else ""
    return f"{printable(row.ImageName)} ({row.Status.value}){cause}"


def _cut(text: str) -> str:
    text = printable(" ".join(text.split()))
    return text if len(text) <= CAUSE else f"{text[: CAUSE - 2]} …"


def _folder(bucket: str, rows: Iterable[Row]) -> str:
    """The common folder of all results as an ``s3://`` address; empty if there are no results."""
    keys = [key for row in rows for key in row.Results]
    return f"s3://{bucket}/{posixpath.commonprefix(keys).rpartition('/')[0]}/" if keys else ""


def _text(paragraphs: Iterable[Sequence[str]]) -> str:
    return "\n\n".join("\n".join(lines) for lines in paragraphs if lines) + "\n"


def _id(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
