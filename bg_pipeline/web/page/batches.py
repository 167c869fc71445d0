"""Batches on the page: their state, approvals and retries, and their results as pictures and downloads.

Nothing here imports Streamlit.
"""

import json
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from bg_pipeline import review
from bg_pipeline.acts import Acts
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.errors import ImageError, UsageError
from bg_pipeline.imaging import small_jpeg
from bg_pipeline.imaging.workers import run_on_file, shared_workers
from bg_pipeline.reports import overview
from bg_pipeline.reports.overview import BatchCosts, BatchOverview
from bg_pipeline.reports.report import Report
from bg_pipeline.review import Item, Results, Reviews, State
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.run.discovery import find_work
from bg_pipeline.run.rows import rows
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads import listing
from bg_pipeline.uploads.submitting import paid_pictures

REFRESH_SECONDS = 30
"""The list of a date's batches is read again at this age, so that new uploads appear."""
CACHED_DATES = 10
CACHED_RESULTS = 5
PREVIEW_SIDE = 1200
"""Longer side, in pixels, of the pictures on the review screen."""

_opener_without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class PendingPhotos:
    """Photos of a batch that could be run, and the pictures to pay for if each is made at the first attempt."""

    photos: int = 0
    pictures: int = 0


@dataclass(frozen=True)
class BatchCard:
    """A batch as the screen *Batches* shows it: its ``state`` as text, photos by status, and its cost.

    No run works on a batch that is not ``complete``: a ``draft``, or one still being uploaded. ``to_approve`` are the
    photos that wait until the sample is approved; ``to_retry`` those that failed or were skipped, once there is a
    report. ``request_etag`` is the ETag of the request from which the card was made.
    """

    batch: Batch
    state: str
    images: int
    counts: Mapping[str, int] = field(default_factory=dict)
    to_do: int = 0
    costs: BatchCosts = field(default_factory=BatchCosts)
    to_approve: PendingPhotos = PendingPhotos()
    to_retry: PendingPhotos = PendingPhotos()
    complete: bool = True
    draft: bool = False
    request_etag: str = ""

    @property
    def done(self) -> int:
        """Photos that need no further work."""
        return self.images - self.to_do


class BatchService:
    """The batches and results of one bucket, cached for all visitors of the page. Thread-safe."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store
        self.acts = Acts(settings, store)
        self._workers = shared_workers(settings.max_decoded_images)
        self._lock = threading.Lock()
        self._cards: dict[UploadDate, tuple[float, object, list[BatchCard]]] = {}
        self._results: dict[Batch, tuple[object, Results]] = {}
        self._reviews: dict[str, Reviews] = {}

    def refresh(self, batch: Batch) -> None:
        """Drops the cached list of the batch's date: it is read again when it is next needed."""
        with self._lock:
            self._cards.pop(batch.date, None)

    def batches(self, person: Person, date: UploadDate) -> list[BatchCard]:
        """The batches of a date that a person may see, newest first.

        Each call lists a few objects. Uploads and results are read again only if a run has stored something since, or
        after `REFRESH_SECONDS`.
        """
        version = tuple(
            (stored.key, stored.etag)
            for kind in ("ledger", "leases")
            for stored in self.store.list(f"{s3_keys.STATE}/{kind}/{s3_keys.date_path(date)}/")
        )
        with self._lock:
            cached = self._cards.get(date)
            if cached is None or cached[1] != version or time.monotonic() - cached[0] > REFRESH_SECONDS:
                started = time.monotonic()
                cached = started, version, self._read_cards(date)
                self._cards.pop(date, None)
                self._cards[date] = cached
                if len(self._cards) > CACHED_DATES:
                    self._cards.pop(next(iter(self._cards)))
            cards = list(cached[2])
        visible = self.acts.authorization.visible(person, (card.batch for card in cards))
        return [card for card in cards if card.batch in visible]

    def _read_cards(self, date: UploadDate) -> list[BatchCard]:
        complete = {work.locations.batch: work for work in find_work(self.store, self.settings, [date])}
        cards = []
        uploads = sorted(listing.batches(self.store, date), key=lambda each: each.newest, reverse=True)
        for uploaded in uploads:
            work = complete.get(uploaded.batch)
            if work is None:
                draft = uploaded.draft is not None
                state = f"draft, last changed {uploaded.last_change:%H:%M} UTC" if draft else "being uploaded"
                images = len(uploaded.images)
                cards.append(BatchCard(uploaded.batch, state, images, complete=False, draft=draft))
                continue
            report = Report(tuple(rows(work)))
            state, state_text = overview.batch_state(self.store, work)
            waiting = [row.ImageName for row in report if row.waits_for_approval]
            sample = work.request.Sample if work.request else None
            if sample is not None and work.uploaded.approved:
                sample, waiting = None, []
            cards.append(
                BatchCard(
                    uploaded.batch,
                    state_text,
                    len(work.images),
                    {status.value: number for status, number in report.counts.items() if number},
                    len(work.due),
                    BatchCosts.of(report),
                    to_approve=_pending(work, waiting),
                    to_retry=_pending(work, overview.images_to_retry(report, sample))
                    if state is overview.BatchState.REPORTED
                    else PendingPhotos(),
                    request_etag=work.uploaded.request.etag if work.uploaded.request else "",
                )
            )
        return cards

    def open(self, batch: Batch) -> BatchWork:
        """One batch; `UsageError` if it does not exist."""
        return open_batch(self.store, self.settings, batch)

    def status(self, person: Person, batch: Batch) -> BatchOverview:
        """The overview of a batch, from which its report can be read.

        Raises `UsageError` if the batch does not exist, or not for this person.
        """
        self.acts.authorization.require_visible(person, batch)
        status = overview.load_status(self.store, self.settings, batch)
        if not self.acts.authorization.may_read_report(person, batch, status.status_prefix):
            raise UsageError(f"batch {batch.path} has no report yet; a run writes it")
        return status

    def approve_sample(self, person: Person, batch: Batch, *, seen: str = "") -> None:
        """Lets the rest of the batch run; `UsageError` if its request asks for no sample.

        ``seen`` is the ``request_etag`` of the card that the person saw. If the request was replaced since, nothing
        is approved and `UsageError` is raised.
        """
        status = overview.load_status(self.store, self.settings, batch)
        try:
            self.acts.approve_sample(person, status, seen=seen)
        finally:
            self.refresh(batch)

    def retry(self, person: Person, batch: Batch) -> Batch:
        """Submits what failed or was skipped as a new batch, which is returned.

        While an earlier retry of the batch has no report, that one is returned instead. Raises `UsageError` if
        nothing can be retried, or if nothing is left of the batch's cap.
        """
        self.acts.authorization.require_change(person, batch)
        status = overview.load_status(self.store, self.settings, batch)
        prepared = review.prepare_retry(self.store, self.settings, status)
        if prepared is None:
            raise UsageError(
                "nothing in this batch failed for a reason that a retry could mend; photos without a background are "
                "not retried"
            )
        submitted = self.acts.retry(person, status, prepared)
        self.refresh(submitted)
        return submitted

    def results(self, person: Person, batch: Batch) -> Results:
        """The results of a batch, read again once a run has stored something.

        Raises `UsageError` if it does not exist, or not for this person.
        """
        self.acts.authorization.require_visible(person, batch)
        version = tuple((stored.key, stored.etag) for stored in self.store.list(f"{batch.ledger_prefix}/"))
        with self._lock:
            cached = self._results.pop(batch, None)
            if cached is None or cached[0] != version:
                work = self.open(batch)
                reviews = self._reviews.setdefault(work.locations.data.bucket, Reviews(work.locations.data))
                cached = version, Results(work, self.settings, reviews)
            self._results[batch] = cached
            if len(self._results) > CACHED_RESULTS:
                self._results.pop(next(iter(self._results)))
            return cached[1]

    def redo(
        self, person: Person, work: BatchWork, items: Sequence[Item], *, prompt: str, seed: int | None
    ) -> Batch:
        """Requests new pictures in place of ``items``, as a new batch, which is returned.

        While an earlier batch for the same pictures has no report, that one is returned instead.
        """
        submitted = self.acts.redo(person, work, items, prompt=prompt, seed=seed)
        self.refresh(submitted)
        return submitted

    def previews(self, work: BatchWork, item: Item) -> tuple[bytes, bytes]:
        """A photo and its result as JPEGs of at most `PREVIEW_SIDE` pixels; empty if missing or not an image."""
        store, key = work.locations.resolve(f"{work.locations.input_prefix}/{item.image}")
        return self._preview(store, key), self._preview(work.locations.data, item.key) if item.key else b""

    def _preview(self, store: Store, key: str) -> bytes:
        content = store.read(key)
        if content is None:
            return b""
        try:
            return run_on_file(self._workers, small_jpeg, content.data, within=(PREVIEW_SIDE, PREVIEW_SIDE))
        except ImageError:
            return b""

    def download(self, work: BatchWork, item: Item) -> bytes:
        """A result's file; `UsageError` if it was deleted."""
        content = work.locations.data.read(item.key)
        if content is None:
            raise UsageError(f"{item.key} is gone; run its date again")
        return content.data

    def pack(self, work: BatchWork, items: Sequence[Item], file: Path) -> int:
        """Writes the approved results into a ZIP file, one in memory at a time; returns their number."""
        approved = [item for item in items if item.state is State.APPROVED and item.key]
        prefix = f"{work.locations.output_prefix}/"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as pack:
            for item in approved:
                name = archive_path(item.key.removeprefix(prefix))
                pack.writestr(name, self.download(work, item))
        return len(approved)


def _pending(work: BatchWork, names: Sequence[str]) -> PendingPhotos:
    if work.request is None:
        return PendingPhotos()
    return PendingPhotos(len(names), paid_pictures(replace(work.request, Sample=None), names))


def dagster_at_work(address: str) -> bool | None:
    """Whether the daemon of Dagster at ``address`` runs sensors and queued runs; None if nobody answers there."""
    query = {"query": "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy } } } }"}
    request = urllib.request.Request(  # noqa: S310 (the address is `up`'s own or the setting's)
        f"{address}/graphql", orjson.dumps(query), {"Content-Type": "application/json"}
    )
    try:
        with _opener_without_proxy.open(request, timeout=5) as answer:
            statuses = json.load(answer)["data"]["instance"]["daemonHealth"]["allDaemonStatuses"]
    except (urllib.error.URLError, ConnectionError, TimeoutError, ValueError, KeyError, TypeError):
        return None
    healthy = {status["daemonType"]: status["healthy"] for status in statuses}
    return bool(healthy.get("SENSOR")) and bool(healthy.get("QUEUED_RUN_COORDINATOR", True))
