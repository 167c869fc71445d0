"""The engine: brings upload dates up to date, every image moving through its stages on its own.

The slowest quota sets the pace and everything else hides behind it. A batch is worked on under a lease, so
that two runs never pay for the same image; what is done already costs listings and the batches' ledgers.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from types import MappingProxyType

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.budget.remaining import family_of, limit_of
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.domain.payments import Bill, Payment, record, sum_payments
from bg_pipeline.domain.rows import GOOD, Row, Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import LABELS, PICTURES, REPORT, STAGES
from bg_pipeline.errors import (
    BgPipelineError,
    LeaseLost,
    NewerDocument,
    NotDelivered,
    NothingUsable,
    RunStopped,
    StorageFailed,
)
from bg_pipeline.imaging import malloc
from bg_pipeline.run.archive import Archive
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.date_result import MAX_FAILED_ROWS, MAX_PREVIEWS, DateResult, Progress
from bg_pipeline.run.discovery import NO_REFRESH, WorkFinder, results_in, sample_left
from bg_pipeline.run.fingerprints import request_fingerprint
from bg_pipeline.run.image_run import ImageRun
from bg_pipeline.run.occasions import RETRY, RefreshRequest, occasions_begun, occasions_fulfilled
from bg_pipeline.run.outcomes import (
    SAMPLE_WAITS,
    RowOutcome,
    keep_better,
    merge_outputs,
    outcome_of_error,
)
from bg_pipeline.run.rows import rows, rows_and_entries
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import POLL_SECONDS, Leases
from bg_pipeline.state.model_stopped import WAITS_FOR_WINDOW
from bg_pipeline.storage.object_store import explain_s3_error
from bg_pipeline.uploads.listing import Uploaded, remarks

CHECKPOINT_SECONDS = 20.0
PROGRESS_SECONDS = 10.0
POLL_SECONDS_RESULTS = 1.0
MIN_IMAGES_FOR_FAILED_SHARE = 20
"""The share of failures counts from so many images on."""
WINDOW_OPERATION = "CUSTOM_LABELS_WINDOW"
"""The operation under which an image's share of a Custom Labels window is told; no cap of a batch counts it."""
MAX_UNDELIVERED = 3
"""A batch is stopped when S3 took the results of so many images in a row not."""
Walking = Future[ImageRun]
"""The walk of one image, under way or ended."""
NO_COSTS: Mapping[Batch, Mapping[str, float]] = MappingProxyType({})


@dataclass(frozen=True)
class Reporter:
    """How a run reports a batch; the run itself knows no form of a report.

    ``write`` stores the report of a batch with these rows, which it goes through once, and returns its key.
    ``missing`` returns the images that have not exactly one row in the stored report.
    """

    write: Callable[[BatchWork, Iterable[Row]], str]
    missing: Callable[[BatchWork], list[str]]


class Engine:
    """One run over upload dates. Use it once.

    ``stages`` are what is brought up to date, ``wish`` what is done, and paid for, anew. ``progress`` is
    called by the thread that calls `run`, about every `PROGRESS_SECONDS`, and once at the end. A batch that
    another run is at work on is waited for if ``patient``, else it counts as unfinished. ``label_costs`` are dollars
    that the labels of images have cost beside their calls, by batch and image; their rows tell them. ``made`` is
    called with each image that was worked on.
    """

    def __init__(
        self,
        context: RunContext,
        *,
        run_id: str,
        reporter: Reporter,
        stages: Collection[str] = STAGES,
        refresh: RefreshRequest = NO_REFRESH,
        only: Collection[Batch] = (),
        wait_for_others: bool = True,
        label_costs: Mapping[Batch, Mapping[str, float]] = NO_COSTS,
        on_image: Callable[[Batch, Entry], None] = lambda batch, entry: None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._context = context
        self._reporter = reporter
        self._stages = frozenset(stages)
        self._refresh = refresh
        self._finder = WorkFinder(context.store, context.settings, stages=self._stages, refresh=refresh)
        self._only = frozenset(only)
        self._wait_for_others = wait_for_others
        self._label_costs = label_costs
        self._on_image = on_image
        self._progress = progress
        self._archive = Archive(context.store, context.settings.archive_to, context.note)
        self._leases = Leases(context.store, run_id)
        self._results: dict[UploadDate, DateResult] = {}
        self._started_by_date: dict[UploadDate, tuple[float, int]] = {}
        self._open_batches: list[BatchWork] = []
        self._running: dict[Walking, tuple[BatchWork, str]] = {}
        self._ended_images: SimpleQueue[Walking] = SimpleQueue()
        self._stopped: RowOutcome | None = None
        self._no_model: RowOutcome | None = None
        self._found = self._done = self._failed = 0
        self._started = self._saved = self._reported_at = time.monotonic()

    def run(self, dates: Iterable[UploadDate]) -> dict[UploadDate, DateResult]:
        """Brings the dates up to date and says what is true of each; errors of images are rows, not raised."""
        malloc.configure_malloc()
        workers = self._context.settings.max_concurrency
        pool = ThreadPoolExecutor(workers, "image")
        helpers = ThreadPoolExecutor(workers, "prompt")
        with self._leases:
            try:
                self._work(dates, pool, helpers)
            finally:
                self._release_leases(pool, helpers)
        for day in self._results.values():
            day.stopped = day.stopped or (self._stopped.cause if self._stopped else "")
        self._report_progress(at_once=True)
        return self._results

    def _work(
        self, dates: Iterable[UploadDate], pool: ThreadPoolExecutor, helpers: ThreadPoolExecutor
    ) -> None:
        workers = self._context.settings.max_concurrency
        try:
            for task in self._tasks(dates):
                if task is not None:
                    work, image = task
                    walking = pool.submit(self._run_image, work, image, helpers)
                    walking.add_done_callback(self._ended_images.put)
                    self._running[walking] = task
                while len(self._running) >= workers or (task is None and self._running):
                    self._collect_ended()
                    if task is None:
                        break
            while self._running:
                self._collect_ended()
        finally:
            if self._running:
                self._finish_calls_under_way()

    def _finish_calls_under_way(self) -> None:
        """Waits for the calls under way, which are paid for, while the process is being ended.

        What is true by now is reported before: whoever ends the process may not wait.
        """
        self._context.stop.set()
        # One that had ended may have been on its way here when the signal came.
        for walking in [each for each in self._running if each.done()]:
            self._ended_images.put(walking)
        self._collect_ended()
        for work in list(self._open_batches):
            self._report_early(work)
        while self._running:
            self._collect_ended()

    def _release_leases(self, pool: ThreadPoolExecutor, helpers: ThreadPoolExecutor) -> None:
        """Gives back the leases of batches that were not finished, once no call is made under them any more.

        Ended a second time while calls are under way, the process keeps its leases: they run out, or are taken over
        once it is known to be dead.
        """
        if self._open_batches:
            self._context.stop.set()
        ended = False
        try:
            pool.shutdown(wait=True, cancel_futures=True)
            helpers.shutdown(wait=True, cancel_futures=True)
            ended = True
        finally:
            for walking, (work, _) in self._running.items():
                # An interrupt kept these from being taken in; what was paid for them is to be told.
                if walking.done() and not walking.cancelled() and walking.exception() is None:
                    work.ledger.put(walking.result().entry)
            for work in list(self._open_batches):
                self._report_early(work)
                if not ended and work.lease is not None:
                    self._leases.keep_until_expiry(work.lease)
                elif work.lease is not None:
                    work.lease.release()

    def _report_early(self, work: BatchWork) -> None:
        """Stores what is known of a batch that is not finished, and reports it."""
        if work.lease is None or not work.lease.held():
            return
        try:
            work.ledger.checkpoint(work.writer)
            if REPORT in self._stages:
                self._reporter.write(work, rows(work))
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            self._context.note(
                f"{work.locations.batch.path}: what was done so far could not be reported: {error}"
            )

    # Finding work

    def _tasks(self, dates: Iterable[UploadDate]) -> Iterator[tuple[BatchWork, str] | None]:
        """Every image with something to do; None while there is nothing to hand out yet."""
        busy: deque[tuple[Uploaded, DateResult]] = deque()
        for date in dates:
            day = self._results[date] = DateResult(date)
            try:
                yield from self._tasks_of(day, busy)
            except (ClientError, BotoCoreError) as error:
                day.problems.append(explain_s3_error(self._context.store, error))
        while busy:
            # Somebody else is at work on these: their outcome is waited for, then checked.
            uploaded, day = busy.popleft()
            work = self._opened(uploaded, day)
            if work is None:
                continue
            if self._lease(work):
                yield from self._tasks_of_batch(work, day)
            elif self._context.stop.wait(0 if self._running else POLL_SECONDS):
                return
            else:
                busy.append((uploaded, day))
                yield None

    def _tasks_of(
        self, day: DateResult, busy: deque[tuple[Uploaded, DateResult]]
    ) -> Iterator[tuple[BatchWork, str]]:
        """The images of a date with something to do; what another run is at work on is put among the ``busy``."""
        prefix = f"{s3_keys.REPORTS}/{s3_keys.date_path(day.date)}/"
        reports = {found.key for found in self._context.store.list(prefix)}

        def failed(batch: Batch, error: Exception) -> None:
            self._problem(day, batch, f"could not be read: {error}")

        for uploaded, work in self._finder.of_date(day.date, self._only, failed):
            if work is None:
                if uploaded.images or uploaded.draft:
                    day.unfinished.append(uploaded.batch.path)
            elif not work.due and self._reported(work, reports) and not self._to_archive(work):
                self._count(work, day)
                self._preview(work, day)
            elif self._lease(work):
                yield from self._tasks_of_batch(work, day)
            elif self._wait_for_others:
                busy.append((uploaded, day))
            else:
                day.unfinished.append(f"{uploaded.batch.path} (another run is at work on it)")

    def _opened(self, uploaded: Uploaded, day: DateResult) -> BatchWork | None:
        """The batch as it is stored now, None where it cannot be read."""
        try:
            return self._finder.open(uploaded)
        except (ClientError, BotoCoreError, NewerDocument) as error:
            self._problem(day, uploaded.batch, f"could not be read: {error}")
            return None

    def _problem(self, day: DateResult, batch: Batch, what: str) -> None:
        day.problems.append(f"batch {batch.path} {what}; the next run tries again")

    def _reported(self, work: BatchWork, reports: Collection[str]) -> bool:
        """Whether the report, if one is wanted, is there and of this state."""
        if REPORT not in self._stages:
            return True
        if not work.ledger.header.get("Reported") or work.has_removed_images:
            return False
        place = work.locations
        key = s3_keys.report_key(place.status_prefix, place.request_id)
        if place.status_prefix != place.batch.status_prefix or place.data is not self._context.store:
            return place.data.head(key) is not None
        return key in reports

    def _to_archive(self, work: BatchWork) -> bool:
        """Whether photos of the batch can be moved to the archive, which only a run of all stages does."""
        return self._stages.issuperset(STAGES) and bool(self._archive.due(work))

    def _lease(self, work: BatchWork) -> bool:
        """Takes the batch's lease, if nobody else has it, and looks again at what is due."""
        lease = self._leases.acquire(work.locations.batch.lease_key)
        if lease is None:
            return False
        work.lease = lease
        work.writer = LeasedWriter(lease, work.locations.batch.path)
        objects = list(self._context.store.list(f"{work.locations.batch.ledger_prefix}/"))
        if objects != list(work.ledger_objects):  # somebody was at work on it in the meantime
            fresh = self._finder.open(work.uploaded, objects)
            for each in (
                "ledger",
                "place",
                "due",
                "lost",
                "occasions",
                "retry",
                "request",
                "problem",
                "images",
            ):
                setattr(work, each, getattr(fresh, each))
        return True

    def _tasks_of_batch(self, work: BatchWork, day: DateResult) -> Iterator[tuple[BatchWork, str]]:
        self._open_batches.append(work)
        # Without a report nobody would see them.
        work.locations.thumbnails.wanted &= REPORT in self._stages
        self._started_by_date.setdefault(day.date, (time.monotonic(), self._context.calls.refused()))
        day.due += len(work.due)
        self._found += len(work.due)
        self._add_label_costs(work, day)
        try:
            self._record_occasions(work)
        except (RunStopped, NotDelivered) as error:
            work.stopped = outcome_of_error(error)
        images = list(work.due)
        work.pending = len(images)
        self._check_models(work)
        for line in remarks(work.uploaded):
            self._context.note(line)
        limit = self._sample_left(work)
        for number, image in enumerate(images):
            if number >= limit:
                self._skip(work, image, SAMPLE_WAITS)
            elif stopped := work.stopped or self._stopped:
                self._skip(work, image, stopped)
            elif self._no_model and not self._may_be_stored(work, image):
                self._skip(work, image, self._no_model)
            else:
                yield work, image
        if not images:
            self._finish(work)

    def _sample_left(self, work: BatchWork) -> int:
        """How many of the due images may be worked on; none while it cannot be read whether a sample is approved."""
        try:
            return sample_left(work)
        except (ClientError, BotoCoreError) as error:
            stopped = StorageFailed(f"the approval of the batch's sample could not be read: {error}")
            work.stopped = work.stopped or outcome_of_error(stopped)
            return len(work.due)

    def _record_occasions(self, work: BatchWork) -> None:
        """Writes down, before anything is paid for it, that a person's wish is being fulfilled."""
        request = work.request
        if (
            request is not None
            and work.due
            and (request.MaxCostUSD is not None or request.RetryOf is not None)
        ):
            # One cap over a batch and all that was asked for again of it.
            store, batch = self._context.store, work.locations.batch
            cap, family = limit_of(store, batch, request), family_of(store, batch, request)
            work.locations = replace(work.locations, cap_usd=cap, family=family)
        on = {**work.occasions, **({RETRY: work.retry} if work.retry else {})}
        facts = (
            occasions_begun(work.ledger.header, self._refresh, on)
            if work.due and work.problem is None
            else {}
        )
        if facts:
            # Should the run be killed, the next one reports the batch anew, whether something is left to do or not.
            work.ledger.update_header(**facts, Reported="")
            work.ledger.checkpoint(work.writer, header=True)

    def _may_be_stored(self, work: BatchWork, image: str) -> bool:
        """Whether what is due of an image may be made of stored answers, without any model."""
        entry = work.ledger.get(image)
        return entry is not None and PICTURES in entry.stages and not work.occasions and bool(entry.sha256)

    def _add_label_costs(self, work: BatchWork, day: DateResult) -> None:
        """Tells what labels have cost beside their calls."""
        for image, usd in self._label_costs.get(work.locations.batch, {}).items():
            entry = work.ledger.get(image)
            if entry is not None and LABELS in entry.stages:
                payment = Payment(f"window-{self._leases.run}", WINDOW_OPERATION, usd)
                record(entry.payments, payment)
                work.ledger.put(entry)
                day.spent += Bill(usd)

    def _check_models(self, work: BatchWork) -> None:
        """Before the first paid call: is there a model for what is due? Asked once, then remembered."""
        wanted = {stage for stages in work.due.values() for stage in stages}
        try:
            if PICTURES in wanted and any(work.settings_of(image).needs_prompt for image in work.due):
                self._context.background_models.current()
        except NothingUsable as error:
            self._no_model = outcome_of_error(error)

    # Working

    def _run_image(self, work: BatchWork, image: str, helpers: ThreadPoolExecutor) -> ImageRun:
        entry = work.ledger.get(image) or Entry(image)
        found = work.images[image]
        entry.etag = found.etag if found else ""
        place = work.locations
        walk = ImageRun(
            self._context,
            place,
            work.settings_of(image),
            entry,
            helpers=helpers,
            writer=work.writer,
            occasions=work.occasions,
            lost=work.lost.get(image, ()),
            retry=work.retry or (place.batch.path if place.retries else ""),
            lease=work.lease,
        )
        walk.run(work.due[image])
        return walk

    def _skip(self, work: BatchWork, image: str, why: RowOutcome) -> None:
        """Says of an image that was due why it was not worked on; what was delivered of it stays."""
        entry = work.ledger.get(image) or Entry(image)
        lost = work.lost.get(image, ())
        if why is not SAMPLE_WAITS:
            day = self._results[work.uploaded.batch.date]
            day.stopped = day.stopped or why.cause
        for stage, made_for in work.due[image].items():
            skipped = StageRecord(made_for, why.status, why.final, why.error, why.cause)
            if stage == PICTURES:
                found = work.images[image]
                skipped.wish = request_fingerprint(work.settings_of(image), found.etag if found else "")
            intact = stage != PICTURES or not lost
            entry.stages[stage] = keep_better(entry.stages.get(stage), skipped, intact=intact)
        if PICTURES in work.due[image]:
            entry.files = {key: etag for key, etag in entry.files.items() if key not in lost}
            # What an earlier attempt failed to make is not what this one was stopped by.
            entry.outputs = merge_outputs(entry.outputs, (), entry.files)
        self._record(work, entry)

    def _collect_ended(self) -> None:
        """Takes in what is done, waiting a little for the first."""
        ended = self._next_ended(POLL_SECONDS_RESULTS)
        while ended is not None:
            task = self._running.pop(ended, None)
            if task is not None:
                self._accept(task[0], ended.result())
            ended = self._next_ended(0)
        self._report_progress()
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            for work in self._open_batches:
                self._checkpoint(work)
            self._saved = time.monotonic()

    def _checkpoint(self, work: BatchWork) -> None:
        try:
            work.ledger.checkpoint(work.writer)
        except LeaseLost as error:
            work.stopped = work.stopped or outcome_of_error(error)
        except NotDelivered as error:
            # What is paid for is stored; without its own state a run stops, it need not fail.
            self._stopped = self._stopped or outcome_of_error(StorageFailed(str(error)))

    def _accept(self, work: BatchWork, walk: ImageRun) -> None:
        """Takes in an image that was walked, and what ended the run if something did."""
        stopped = walk.stopped
        if isinstance(stopped, NothingUsable):
            # Pictures need no captions but by their prompts, and what is stored needs no model.
            pictures = walk.entry.stages.get(PICTURES)
            if pictures is not None and pictures.error == NothingUsable.__name__:
                self._no_model = outcome_of_error(stopped)
                day = self._results[work.uploaded.batch.date]
                day.stopped = day.stopped or str(stopped)
        elif stopped is not None:
            if getattr(stopped, "scope", "") == "batch":
                work.stopped = outcome_of_error(stopped)
            else:
                self._stopped = self._stopped or outcome_of_error(stopped)
        day = self._results[work.uploaded.batch.date]
        day.spent += walk.spent
        work.undelivered = work.undelivered + 1 if walk.undelivered else 0
        if work.undelivered >= MAX_UNDELIVERED:
            work.stopped = work.stopped or RowOutcome(
                Status.SKIPPED,
                False,
                "NotStored",
                f"S3 did not take the results of {work.undelivered} images in a row; see their causes, mend that and "
                "run again: what was paid for is stored and is not paid for again",
            )
        self._record(work, walk.entry, call_failed=walk.call_failed)

    def _next_ended(self, seconds: float) -> Walking | None:
        try:
            return self._ended_images.get(timeout=seconds)
        except Empty:
            return None

    def _record(self, work: BatchWork, entry: Entry, *, call_failed: bool = False) -> None:
        day = self._results[work.uploaded.batch.date]
        work.ledger.update_header(Reported="")
        work.ledger.put(entry)
        self._on_image(work.locations.batch, entry)
        work.pending -= 1
        self._done += 1
        bad = False
        for stage in work.due[entry.image]:
            stage_record = entry.stages[stage]
            day.seconds_by_stage[stage] = day.seconds_by_stage.get(stage, 0.0) + stage_record.seconds
            if stage_record.status in GOOD:
                day.made[stage] += 1
            elif stage_record.error == WAITS_FOR_WINDOW:
                day.waiting[stage] += 1
            else:
                day.failed[stage] += 1
            # What was not needed for the picture is told in the row and is no failure of the image.
            counts = stage == PICTURES or PICTURES not in work.due[entry.image]
            bad = bad or (counts and stage_record.status == Status.FAILED)
        self._failed += bad
        work.done += 1
        work.failed += bad and call_failed
        most = self._context.settings.max_failed_share
        if work.done >= MIN_IMAGES_FOR_FAILED_SHARE and work.failed / work.done > most and not work.stopped:
            work.stopped = RowOutcome(
                Status.SKIPPED,
                False,
                "TooManyFailures",
                f"{work.failed} of {work.done} images of the batch failed at a service, more than "
                "BG_MAX_FAILED_SHARE allows; see the causes in the report, mend them and run again",
            )
        if work.pending == 0:
            self._finish(work)

    def _finish(self, work: BatchWork) -> None:
        """Stores the batch's ledger and report and gives its lease back; a fault of it is the batch's alone."""
        day = self._results[work.uploaded.batch.date]
        try:
            self._store(work, day)
        except LeaseLost:
            day.unfinished.append(f"{work.locations.batch.path} (taken over by another run)")
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            self._problem(day, work.locations.batch, f"could not be reported: {error}")
        self._time(day)
        self._open_batches.remove(work)
        if work.lease is not None:
            work.lease.release()

    def _store(self, work: BatchWork, day: DateResult) -> None:
        work.writer.check()
        work.ledger.keep_only(list(work.images))
        self._record_unattributed_spend(work)
        asked = (*work.occasions, *([RETRY] if work.retry else []))
        left = {stage for image in work.due for stage in self._stages_left(work, image)} if asked else set()
        done = [name for name in asked if name not in left]
        if facts := occasions_fulfilled(work.ledger.header, done, datetime.now(UTC)):
            work.ledger.update_header(**facts)
        if REPORT in self._stages:
            # What a report tells as done, the next run has to know of.
            work.ledger.checkpoint(work.writer)
            day.reports.append(self._reporter.write(work, self._counted(work, day)))
            work.ledger.update_header(Reported=datetime.now(UTC).isoformat(timespec="seconds"))
        else:
            self._count(work, day)
        work.ledger.finish(work.writer)
        if self._to_archive(work):
            self._archive.move(work)
        self._preview(work, day)
        now_stored = results_in(work.locations.data, f"{work.locations.output_prefix}/")
        unreported = self._reporter.missing(work) if REPORT in self._stages else []
        day.checks.compare_with_stored(work, now_stored, unreported)

    def _record_unattributed_spend(self, work: BatchWork) -> None:
        """Keeps what was spent on the batch by calls that no image's record tells of, as what may have been billed.

        A run that was killed pays for calls that it does not come to write down; where their photo or request was
        changed since, nobody asks for their answers again.
        """
        if work.problem is not None:
            return
        try:
            spent = self._context.run_budget.spent_on(work.locations.batch.spend_key)
        except RunStopped as error:
            self._context.note(f"{work.locations.batch.path}: what was spent on it cannot be known: {error}")
            return
        told = [each.usd or 0.0 for each in work.ledger.payments() if each.operation != WINDOW_OPERATION]
        # Caps count in whole micro-dollars, rounded up for each call.
        untold = round(spent - sum(told), 6)
        work.ledger.update_header(Untold=untold if untold > 2e-6 * (len(told) + 1) else 0.0)

    def _stages_left(self, work: BatchWork, image: str) -> Iterator[str]:
        """The stages of an image that a refresh of theirs has still to make."""
        entry = work.ledger.get(image)
        for stage in work.due[image]:
            found = entry.stages.get(stage) if entry else None
            if found is None or found.occasion != work.occasions.get(stage, found.occasion):
                yield stage

    def _count(self, work: BatchWork, day: DateResult) -> None:
        for _ in self._counted(work, day):
            pass

    def _counted(self, work: BatchWork, day: DateResult) -> Iterator[Row]:
        """The rows of a batch, each counted as it goes by; made once, for they take a while."""
        day.batches.append(work.locations.batch.path)
        for dropped in work.ledger.dropped.values():
            day.total += sum_payments(dropped.values())
        for row, entry in rows_and_entries(work):
            day.checks.add(row, entry)
            day.images += 1
            day.counts[row.Status] += 1
            day.total += Bill(row.CostUSD, row.MaybeBilledUSD)
            if row.Status != Status.SUCCEEDED and len(day.failed_rows) < MAX_FAILED_ROWS:
                day.failed_rows.append(row)
            yield row

    def _preview(self, work: BatchWork, day: DateResult) -> None:
        """Pairs photos, where they lie by now, with their first results."""
        for image in work.images:
            if len(day.previews) == MAX_PREVIEWS:
                return
            data, source = work.locations.resolve(f"{work.locations.input_prefix}/{image}")
            entry = work.ledger.get(image)
            result = next((output["Key"] for output in entry.outputs if output["Key"]), "") if entry else ""
            if result and data is work.locations.data:
                day.previews.append((source, result))

    def _time(self, day: DateResult) -> None:
        begun, refused = self._started_by_date[day.date]
        day.seconds = time.monotonic() - begun
        day.refused = self._context.calls.refused() - refused

    def _report_progress(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = now
        spent = sum(total.cost_usd for total in self._context.run_budget.totals().values())
        self._progress(
            Progress(
                self._done,
                self._found,
                self._failed,
                now - self._started,
                spent,
                self._context.calls.refused(),
            )
        )
