"""Finds complete uploads that are in no report, because a sensor, a queue or a run lost or has not reached them.

S3 requests for each date: one per 1,000 uploads and one per 1,000 report documents; the ledger is read for a batch
whose report is missing, older than its uploads or under another prefix.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.run.batch_work import open_work
from bg_pipeline.settings import Settings
from bg_pipeline.state.leases import holder_of, is_held
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import Uploaded, batches


@dataclass(frozen=True)
class UnreportedBatch:
    """A batch with uploads in no report; ``since`` is the time of the newest one, ``run`` the run working on it."""

    batch: Batch
    since: datetime
    run: str = ""


def dates_with_uploads(store: Store, first: UploadDate, last: UploadDate) -> Iterator[UploadDate]:
    """The dates with uploads from ``last`` back to ``first``; one S3 request for each month."""
    month = last.replace(day=1)
    while month >= first.replace(day=1):
        batches_of_days = (
            find_batch(f"{folder}any") for folder in store.folders(f"{s3_keys.UPLOADS}/{month:%Y/%m}/")
        )
        days = {batch.date for batch in batches_of_days if batch is not None}
        yield from sorted((day for day in days if first <= day <= last), reverse=True)
        month = (month - timedelta(days=1)).replace(day=1)


def unreported(store: Store, settings: Settings, day: date, *, before: datetime) -> Iterator[UnreportedBatch]:
    """The complete batches of a date whose newest upload is older than ``before`` and in no report."""
    reports: dict[Batch, datetime] = {}
    for info in store.list(f"{s3_keys.REPORTS}/{s3_keys.date_path(day)}/"):
        batch = find_batch(info.key)
        if batch is not None and s3_keys.is_report(info.key):
            reports[batch] = max(info.modified, reports.get(batch, info.modified))
    now = datetime.now(UTC)
    for uploaded in batches(store, day):
        if not uploaded.complete(settings.settle_seconds, now):
            continue
        batch, newest = uploaded.batch, _newest(uploaded)
        if newest >= before:
            continue
        reported = reports.get(batch)
        if (reported is None or reported < newest) and not _covered(store, settings, uploaded):
            yield UnreportedBatch(batch, newest, _at_work(store, batch))


def _newest(uploaded: Uploaded) -> datetime:
    """The time of the newest image or request."""
    objects = [*uploaded.images.values(), *([uploaded.request] if uploaded.request else [])]
    return max(info.modified for info in objects)


def _covered(store: Store, settings: Settings, uploaded: Uploaded) -> bool:
    """Whether the batch's ledger shows a report of this request and these images."""
    objects = list(store.list(f"{uploaded.batch.ledger_prefix}/"))
    header = Ledger.read(store, uploaded.batch, objects).header
    etag = uploaded.request.etag if uploaded.request else ""
    if not header.get("Reported") or header.get("RequestETag", "") != etag:
        return False
    work = open_work(store, settings, uploaded, objects)
    for image, info in work.images.items():
        entry = work.ledger.get(image)
        if entry is None or (info is not None and entry.etag not in ("", info.etag)):
            return False
    return True


def _at_work(store: Store, batch: Batch) -> str:
    holder = holder_of(store, batch.lease_key)
    return holder.run if holder and is_held(store, batch.lease_key) else ""


@dataclass
class UnreportedUploads:
    """The unreported batches from the newest date back to ``reached``, which is ``first`` unless the time was up."""

    first: UploadDate
    reached: UploadDate
    batches: list[UnreportedBatch] = field(default_factory=list)

    @property
    def unreported(self) -> list[UnreportedBatch]:
        """The batches on which no run is working."""
        return [each for each in self.batches if not each.run]


def find_unreported_uploads(
    store: Store, settings: Settings, now: datetime, *, time_is_up: Callable[[], bool] = lambda: False
) -> UnreportedUploads:
    """The batches of the last ``BG_LOOKBACK_DAYS`` with uploads in no report older than ``BG_STALE_HOURS``."""
    today = now.astimezone(UTC).date()
    first = max(settings.first_date, today - timedelta(days=settings.lookback_days))
    before = now - timedelta(hours=settings.stale_hours)
    result = UnreportedUploads(first, today + timedelta(days=2))
    for day in dates_with_uploads(store, first, today + timedelta(days=1)):
        if time_is_up():
            return result
        result.batches += unreported(store, settings, day, before=before)
        result.reached = day
    result.reached = first
    return result
