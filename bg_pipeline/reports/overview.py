"""The state of one batch: its request, the keys of its report, its costs, and links to share. No model is called."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.payments import total
from bg_pipeline.domain.requests import BatchRequest, default_request
from bg_pipeline.domain.rows import Row
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.reports import words
from bg_pipeline.reports.report import Report
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.discovery import sample_left
from bg_pipeline.settings import Settings
from bg_pipeline.state.leases import holder_of
from bg_pipeline.state.process_identity import is_dead
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.submitting import check_request


class BatchState(StrEnum):
    """How far the processing of a batch is."""

    DRAFT = "Draft"
    WAITING = "Waiting"
    WORKING = "Working"
    REPORTED = "Reported"
    REFUSED = "Refused"


@dataclass(frozen=True)
class BatchOverview:
    """A batch with its request and the places of its report.

    If the request cannot be read, ``request`` is None and ``problem`` is the reason. ``data`` is the bucket of its
    results and reports. ``request_etag`` is the ETag of the request's object, empty if there is none.
    """

    batch: Batch
    data: Store
    request: BatchRequest | None
    problem: RequestError | None
    request_id: str
    status_prefix: str
    request_etag: str = ""

    def report_key(self, extension: str = "json") -> str:
        return s3_keys.report_key(self.status_prefix, self.request_id, extension)

    @property
    def reported(self) -> bool:
        """Whether a report exists, even an outdated one."""
        return self.data.head(self.report_key()) is not None

    def report(self) -> Report | None:
        """The last report, or None if there is none yet."""
        content = self.data.read(self.report_key())
        return None if content is None else Report.read(content.data)

    def retry(self) -> bytes | None:
        """The prepared request that asks again for the failed images, or None if none failed."""
        content = self.data.read(s3_keys.retry_key(self.status_prefix, self.request_id))
        return None if content is None else content.data


def load_status(store: Store, settings: Settings, batch: Batch) -> BatchOverview:
    """The overview of ``batch``. Raises `UsageError` if the batch does not exist."""
    content = store.read(batch.request_key)
    problem, request = None, None
    if content is None:
        if next(store.list(f"{batch.input_prefix}/"), None) is None:
            raise UsageError(f"there is no batch {batch.path} in bucket {store.bucket}")
        request = default_request(batch, store.bucket, settings.default_prompt)
    else:
        try:
            request = check_request(settings, batch, content.data)
        except RequestError as error:
            problem = error
    return BatchOverview(
        batch=batch,
        data=store.in_bucket(request.S3Bucket) if request else store,
        request=request,
        problem=problem,
        request_id=request.Id if request else batch.derived_id(store.bucket),
        status_prefix=request.StatusS3Prefix if request else batch.status_prefix,
        request_etag=content.etag if content else "",
    )


def images_to_retry(rows: Iterable[Row], sample: int | None) -> list[str]:
    """The images of a report that a retry asks for; ``sample`` is the size of a sample that is not approved, if any.

    With a sample they are at most as many as the sample still lacks.
    """
    left, names = sample, []
    for row in rows:
        if row.to_do_again:
            names.append(row.ImageName)
        elif left is not None and not row.waits_for_approval:
            left -= 1
    return names if left is None else names[: max(left, 0)]


@dataclass(frozen=True, slots=True)
class BatchCosts:
    """Dollars that were certainly billed, and that may have been in addition (calls with unknown outcome).

    None means not known.
    """

    usd: float | None = 0.0
    maybe_usd: float | None = 0.0

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "BatchCosts":
        """The sums over a report's rows."""
        paid = [(row.CostUSD, row.MaybeBilledUSD) for row in rows]
        return cls(total((usd for usd, _ in paid), 6), total((maybe for _, maybe in paid), 6))

    def in_words(self, places: int = 2) -> str:
        """``0.12 USD, and up to 0.03 more that may have been billed``; without the second part if it is zero."""
        paid = "unknown" if self.usd is None else f"{self.usd:,.{places}f} USD"
        if self.maybe_usd is None:
            return f"{paid}, and an unknown amount more that may have been billed"
        more = f", and up to {self.maybe_usd:,.{places}f} more that may have been billed"
        return paid + (more if self.maybe_usd else "")


def batch_state(
    store: Store, work: BatchWork, outcomes: words.Outcomes = words.NONE
) -> tuple[BatchState, str]:
    """The state of a complete batch, and a text for people that also shows whether a reported batch is due again.

    ``outcomes`` are those of its images, from which the text says why.
    """
    holder = holder_of(store, work.locations.batch.lease_key)
    if holder is not None and not is_dead(holder.process):
        return BatchState.WORKING, f"{words.WORKING} on {holder.host}"
    if work.problem is not None:
        return BatchState.REFUSED, words.REFUSED
    if not work.ledger.header.get("Reported"):
        return BatchState.WAITING, words.WAITING
    if not work.due:
        return BatchState.REPORTED, words.FINISHED
    return BatchState.REPORTED, outcomes.reason if sample_left(work) else words.SAMPLE_WAITS


@dataclass(frozen=True)
class ShareLink:
    """A presigned link that works without AWS credentials until ``until``.

    Not ``sure``: the session that signed it may end earlier, and the link with it.
    """

    url: str
    until: datetime
    sure: bool

    @property
    def life(self) -> str:
        """How long the link works, as part of a sentence."""
        until = f"{self.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if self.sure:
            return f"works until {until}"
        return f"works until the AWS session that signed it ends, {until} at the latest"


def share_link(aws: Aws, store: Store, key: str, seconds: int, now: datetime) -> ShareLink:
    """A link to an object for ``seconds``, or until the credentials that sign it end, whichever is sooner.

    boto3 knows when the session of a role that it renews ends. It does not know it for a session token that was
    given to this process, so such a link may end earlier than ``until``.
    """
    url = store.presign(key, seconds)
    until = now + timedelta(seconds=seconds)
    temporary, ends = aws.session_end()
    return ShareLink(url, min(until, ends or until), sure=ends is not None or not temporary)
