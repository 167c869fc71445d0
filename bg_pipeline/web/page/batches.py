"""Batches on the page: their state, approvals and retries, and their results as pictures and downloads.

Nothing here imports Streamlit.
"""

import json
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any

import orjson

from bg_pipeline import review
from bg_pipeline.acts import Acts
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.people import Person
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import ImageError, UsageError
from bg_pipeline.imaging import small_jpeg
from bg_pipeline.imaging.thumbnail import strip, thumbnail
from bg_pipeline.imaging.workers import run_on_file, shared_workers
from bg_pipeline.reports import overview
from bg_pipeline.reports.overview import BatchCosts, BatchOverview, BatchState
from bg_pipeline.reports.report import Report
from bg_pipeline.reports.words import Outcomes
from bg_pipeline.review import Item, MendedMask, Place, Results, Reviews
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.run.discovery import find_work
from bg_pipeline.run.rows import rows
from bg_pipeline.settings import Settings
from bg_pipeline.state.follow_ups import REDOES, FollowUps, origin
from bg_pipeline.state.thumbnails import Thumbnails
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline.uploads import listing
from bg_pipeline.uploads.submitting import paid_pictures
from bg_pipeline.web.page.drafts import stored_wishes

REFRESH_SECONDS = 30
"""The list of a date's batches is read again at this age, so that new uploads appear."""
CACHED_DATES = 40
CARD_PHOTOS = 3
"""Photos that stand for a batch."""
TITLE_CHARACTERS = 60
CACHED_RESULTS = 60_000
"""Results of batches that are kept in memory, about 1 KB each."""
CACHED_THUMBNAILS = 4
"""Batches whose stored thumbnails are kept in memory, up to 16 MB each."""
SMALL_BYTES = 64_000_000
"""Small pictures that are kept in memory."""
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
    report. ``request_etag`` is the ETag of the request from which the card was made. ``kind`` is the state without
    words, ``changed`` when it was last uploaded to. ``title`` has the first words of its background. ``redo_of`` is
    the path of the batch for which it makes pictures again. ``reasons`` are the ``Error`` values of skipped photos
    that have words, with their numbers. ``first_photos`` are the keys and ETags of up to
    `CARD_PHOTOS` photos.
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
    kind: BatchState = BatchState.DRAFT
    changed: datetime | None = None
    title: str = ""
    redo_of: str = ""
    first_photos: tuple[tuple[str, str], ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)

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
        self._lock = threading.Lock()
        self._cards: dict[UploadDate, tuple[float, object, list[BatchCard]]] = {}
        self._results: dict[Batch, tuple[object, Results]] = {}
        self._reviews: dict[str, Reviews] = {}
        self._looked: dict[UploadDate, float] = {}
        self._workers = shared_workers(settings.max_decoded_images)
        self._small: OrderedDict[tuple[str, str, str], bytes] = OrderedDict()
        self._small_bytes = 0
        self._progress: dict[Batch, tuple[float, int]] = {}
        self._thumbnails: dict[Batch, Thumbnails] = {}

    def refresh(self, batch: Batch) -> None:
        """Drops the cached list of the batch's date: it is read again when it is next needed."""
        with self._lock:
            self._cards.pop(batch.date, None)

    def batches(self, person: Person, date: UploadDate, *, max_age: float = 0.0) -> list[BatchCard]:
        """The batches of a date that a person may see, newest first.

        Each call lists a few objects, unless the last one for this date was less than ``max_age`` seconds ago.
        Uploads and results are read again only if a run has stored something since, or after `REFRESH_SECONDS`.
        """
        cards = self._cards_of(date, max_age)
        visible = self.acts.authorization.visible(person, (card.batch for card in cards))
        return [card for card in cards if card.batch in visible]

    def _cards_of(self, date: UploadDate, max_age: float) -> list[BatchCard]:
        with self._lock:
            cached = self._cards.get(date)
            if cached is not None and time.monotonic() - self._looked.get(date, 0.0) < max_age:
                return cached[2]
            self._looked[date] = time.monotonic()
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
            return cached[2]

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
                wishes = stored_wishes(self.store, uploaded.batch) if draft else {}
                labelled = wishes.get("Labels")
                if labelled and isinstance(labelled, dict):
                    state += f"; the labels of {counted(len(labelled), 'photo')} were found, which is paid"
                cards.append(
                    BatchCard(
                        uploaded.batch,
                        state,
                        images,
                        complete=False,
                        draft=draft,
                        changed=uploaded.last_change,
                        title=_draft_title(wishes),
                        first_photos=_first_photos(uploaded.images.values()),
                    )
                )
                continue
            report = Report(tuple(rows(work)))
            outcomes = Outcomes.of(report)
            state, state_text = overview.batch_state(self.store, work, outcomes)
            waiting = [row.ImageName for row in report if row.waits_for_approval]
            sample = work.request.Sample if work.request else None
            if sample is not None and work.uploaded.approved:
                sample, waiting = None, []
            cards.append(
                BatchCard(
                    uploaded.batch,
                    state_text,
                    len(work.images),
                    outcomes.statuses,
                    len(work.due),
                    BatchCosts.of(report),
                    reasons=outcomes.reasons,
                    to_approve=_pending(work, waiting),
                    to_retry=_pending(work, overview.images_to_retry(report, sample))
                    if state is BatchState.REPORTED
                    else PendingPhotos(),
                    request_etag=work.uploaded.request.etag if work.uploaded.request else "",
                    kind=state,
                    changed=uploaded.last_change,
                    title=_title(work),
                    redo_of=self._redo_of(work),
                    first_photos=_first_photos(work.images.values()),
                )
            )
        return cards

    def _redo_of(self, work: BatchWork) -> str:
        """The path of the batch for which this one makes pictures again; empty if it was submitted on its own."""
        batch = work.locations.batch
        of = origin(self.store, batch) if work.locations.retries else None
        redoes = FollowUps.read(self.store, REDOES(of)).batches if of else {}
        return of.path if of and batch in redoes else ""

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
            kept = sum(len(results.unjudged()) for _, results in self._results.values())
            while kept > CACHED_RESULTS and len(self._results) > 1:
                _, oldest = self._results.pop(next(iter(self._results)))
                kept -= len(oldest.unjudged())
            return cached[1]

    def places(self, person: Person, batch: Batch) -> list[Place]:
        """The batch's results, pictures that were made again in the places of their originals.

        Raises as `results`. Pictures of batches that the person may not see stand in no place.
        """
        return review.places(self.results(person, batch), partial(self.results, person))

    def thumbnail(self, batch: Batch, key: str, etag: str) -> bytes | None:
        """The thumbnail that a run stored of this version of a photo or result; None if there is none."""
        with self._lock:
            thumbnails = self._thumbnails.pop(batch, None)
        if thumbnails is None:
            thumbnails = Thumbnails(self.store, batch)
            thumbnails.load()
        with self._lock:
            self._thumbnails[batch] = thumbnails
            if len(self._thumbnails) > CACHED_THUMBNAILS:
                self._thumbnails.pop(next(iter(self._thumbnails)))
        return thumbnails.get(key, etag)

    def small_picture(self, batch: Batch, store: Store, key: str, etag: str) -> bytes | None:
        """A small JPEG of a photo or result of ``batch`` in this version; None if it is gone or was replaced.

        Raises `ImageError` if it cannot be opened.
        """
        name = store.bucket, key, etag
        with self._lock:
            if name in self._small:
                self._small.move_to_end(name)
                return self._small[name]
        small = self.thumbnail(batch, key, etag)
        if small is None:
            content = store.read(key)
            if content is None or (etag and content.etag != etag):
                return None
            small = run_on_file(self._workers, thumbnail, content.data)
        with self._lock:
            if etag and name not in self._small:
                self._small[name] = small
                self._small_bytes += len(small)
            while self._small_bytes > SMALL_BYTES:
                self._small_bytes -= len(self._small.popitem(last=False)[1])
        return small

    def card_picture(self, card: BatchCard) -> bytes:
        """The photos that stand for a batch beside each other as one JPEG; empty if there is none."""
        pictures = []
        for key, etag in card.first_photos:
            try:
                small = self.small_picture(card.batch, self.store, key, etag)
            except ImageError:
                continue  # the report says why
            if small:
                pictures.append(small)
        return strip(pictures) if pictures else b""

    def photo(self, person: Person, path: str, image: str, *, small: bool) -> bytes | None:
        """A photo of the batch ``path`` as a JPEG, at most `PREVIEW_SIDE` wide and high.

        None if there is none, or not for this person.
        """
        batch = find_batch(path)
        if batch is None or not self.acts.authorization.sees(person, batch):
            return None
        try:
            if small:
                return self.small_picture(batch, self.store, batch.upload_key(image), "")
            content = self.store.read(batch.upload_key(image))
            side = PREVIEW_SIDE
            if content is None:
                return None
            return run_on_file(self._workers, small_jpeg, content.data, within=(side, side))
        except ImageError:
            return None

    def minutes_left(self, card: BatchCard) -> float | None:
        """How long the run of a batch still takes at the speed since it was first asked about; None if not known."""
        now = time.monotonic()
        with self._lock:
            if card.kind is not BatchState.WORKING:
                self._progress.pop(card.batch, None)
                return None
            began, done = self._progress.setdefault(card.batch, (now, card.done))
        made = card.done - done
        return (now - began) / made * card.to_do / 60 if made > 0 else None

    def redo(
        self, person: Person, work: BatchWork, items: Sequence[Item], *, prompt: str, seed: int | None
    ) -> Batch:
        """Requests new pictures in place of ``items``, as a new batch, which is returned.

        While an earlier batch for the same pictures has no report, that one is returned instead.
        """
        submitted = self.acts.redo(person, work, items, prompt=prompt, seed=seed)
        self.refresh(submitted)
        return submitted

    def mend(self, person: Person, work: BatchWork, mended: MendedMask) -> Batch:
        """Makes a photo's results anew with a mended mask, as a new batch, which is returned."""
        submitted = self.acts.mend(person, work, mended)
        self.refresh(submitted)
        return submitted


def _first_photos(photos: Iterable[ObjectInfo | None]) -> tuple[tuple[str, str], ...]:
    found = ((photo.key, photo.etag) for photo in photos if photo is not None)
    return tuple(islice(found, CARD_PHOTOS))


def _title(work: BatchWork) -> str:
    """What the batch asks for in a few words, from its request."""
    if work.request is None:
        return "a request that cannot be read"
    asked = work.settings_of(next(iter(work.images), ""))
    if asked.task == "REMOVE":
        return "No background"
    if asked.backdrop:
        return f"Colour {asked.backdrop}" if asked.backdrop.startswith("#") else "A given picture"
    return _first_words((asked.prompts or ("",))[0])


def _draft_title(wishes: Mapping[str, Any]) -> str:
    fields = wishes.get("Fields")
    prompts = fields.get("Prompts") if isinstance(fields, dict) else ""
    return _first_words(prompts.strip().partition("\n")[0]) if isinstance(prompts, str) else ""


def _first_words(prompt: str) -> str:
    words = " ".join(prompt.split())
    return words if len(words) <= TITLE_CHARACTERS else f"{words[:TITLE_CHARACTERS].rpartition(' ')[0]} …"


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
