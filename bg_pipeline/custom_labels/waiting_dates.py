"""Which photos wait for a Custom Labels model, and whether the model is to be started for them.

The dates of the sensor's look-back are searched, and the marked dates: those marked by a run that found the model
stopped, or by a window run that has not finished them. A photo that still has no labels after `RETRIES_PER_DATE`
windows opens no further window, so that a bad file cannot keep a model running.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, parse_waiting
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import LABELS
from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.run.batch_work import BatchWork, open_work, stored_batches
from bg_pipeline.run.discovery import NO_REFRESH, sample_left
from bg_pipeline.settings import Settings
from bg_pipeline.state.leases import is_held
from bg_pipeline.state.model_stopped import WAITS_FOR_WINDOW
from bg_pipeline.storage.object_store import Store

RETRIES_PER_DATE = 3
"""Windows after which a photo without labels is no reason to start the model any more."""


@dataclass(frozen=True)
class WaitingBatch:
    """A photo whose labels are due; ``tried`` is True if a run attempted them and they failed."""

    batch: Batch
    image: str
    made_for: str
    tried: bool

    @property
    def name(self) -> str:
        """An id of this version of the photo with this model; another upload or model has another id."""
        return hashlib.sha256(f"{self.batch.path}/{self.image} {self.made_for}".encode()).hexdigest()[:20]


@dataclass(frozen=True)
class DateMarker:
    """A marked date; ``run`` is the window run that processes it, or empty if a run found the model stopped."""

    date: UploadDate
    run: str
    etag: str


def date_markers(store: Store) -> Iterator[DateMarker]:
    """Yields all marked dates."""
    for stored in store.list(f"{s3_keys.WAITING}/"):
        date = parse_waiting(stored.key)
        document = store.read_json(stored.key)
        if date is not None and isinstance(document, dict):
            yield DateMarker(date, str(document.get("Run", "")), stored.etag)


def remove_marker(store: Store, date: UploadDate, etag: str) -> None:
    """Deletes the marker of a date, unless the date was marked again since."""
    with suppress(PreconditionFailed):
        store.delete(s3_keys.waiting_key(date), if_etag=etag)


def recent_dates(settings: Settings, now: datetime) -> list[UploadDate]:
    """The dates of the look-back up to tomorrow (UTC), newest first."""
    newest = now.astimezone(UTC).date() + timedelta(days=1)
    days = (newest - timedelta(days=days) for days in range(settings.lookback_days + 2))
    return [day for day in days if day >= settings.first_date]


def waiting_batches(store: Store, settings: Settings, dates: Iterable[UploadDate]) -> Iterator[WaitingBatch]:
    """Yields the photos of these dates that wait for labels, except in batches that another run is working on."""
    now = datetime.now(UTC)
    for uploaded, ledger in stored_batches(store, dates):
        if not uploaded.complete(settings.settle_seconds, now):
            continue
        work = open_work(store, settings, uploaded, ledger)
        work.find_due(settings, {}, stages=(LABELS,), refresh=NO_REFRESH, etags_of=None)
        if work.due and not is_held(store, uploaded.batch.lease_key):
            yield from _waiting_in(work)


def _waiting_in(work: BatchWork) -> Iterator[WaitingBatch]:
    batch = work.locations.batch
    allowed = sample_left(work)
    for image in list(work.due)[:allowed]:
        entry = work.ledger.get(image)
        record = entry.stages.get(LABELS) if entry else None
        made_for = work.due[image][LABELS]
        tried = record is not None and record.made_for == made_for and record.error != WAITS_FOR_WINDOW
        yield WaitingBatch(batch, image, made_for, tried)


class RetryBudget:
    """Counts the windows in which each waiting photo was tried, for one model."""

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._key = s3_keys.window_key(model, "tried")
        document = store.read_json(self._key)
        counts = document if isinstance(document, dict) else {}
        self._counts = {name: count for name, count in counts.items() if isinstance(count, int)}

    def left(self, photo: WaitingBatch) -> bool:
        """Whether the model may still be started for the photo."""
        return self._counts.get(photo.name, 0) < RETRIES_PER_DATE

    def use(self, waiting: Collection[WaitingBatch]) -> None:
        """Counts one more window for the tried photos in ``waiting``; called at its end. Forgets all other photos."""
        counts = {each.name: self._counts.get(each.name, 0) + each.tried for each in waiting}
        counts = {name: count for name, count in counts.items() if count}
        if counts != self._counts:
            self._counts = counts
            self._store.write_json(self._key, counts)
