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
from bg_pipeline.domain.payments import Bill, Payment, bill, record
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
from bg_pipeline.run import malloc
from bg_pipeline.run.archive import Archive
from bg_pipeline.run.batch_work import Work
from bg_pipeline.run.context import Tools
from bg_pipeline.run.date_result import PREVIEWS, TROUBLED_ROWS, Day, Progress
from bg_pipeline.run.discovery import NO_WISH, Finder, results_in, sample_left
from bg_pipeline.run.fingerprints import wish_of
from bg_pipeline.run.image_run import Walk
from bg_pipeline.run.occasions import RETRY, Wish, begun, fulfilled
from bg_pipeline.run.outcomes import SAMPLE_WAITS, Meaning, meaning, merged, settled
from bg_pipeline.run.rows import rows, rows_and_entries
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import POLL_SECONDS, Leases
from bg_pipeline.state.model_stopped import WAITS
from bg_pipeline.storage.object_store import explained
from bg_pipeline.uploads.listing import Uploaded, remarks

CHECKPOINT_SECONDS = 20.0
PROGRESS_SECONDS = 10.0
LOOK_SECONDS = 1.0
FIRST_IMAGES = 20
"""The share of failures counts from so many images on."""
WINDOW = "CUSTOM_LABELS_WINDOW"
"""The operation under which an image's share of a Custom Labels window is told; no cap of a batch counts it."""
MOST_UNDELIVERED = 3
"""A batch is stopped when S3 took the results of so many images in a row not."""
Walking = Future[Walk]
"""The walk of one image, under way or ended."""
NO_COSTS: Mapping[Batch, Mapping[str, float]] = MappingProxyType({})


@dataclass(frozen=True)
class Reporter:
    """How a run reports a batch; the run itself knows no form of a report.

    ``write`` stores the report of a batch with these rows, which it goes through once, and returns its key.
    ``missing`` returns the images that have not exactly one row in the stored report.
    """

    write: Callable[[Work, Iterable[Row]], str]
    missing: Callable[[Work], list[str]]


class Flow:
    """One run over upload dates. Use it once.

    ``stages`` are what is brought up to date, ``wish`` what is done, and paid for, anew. ``progress`` is
    called by the thread that calls `run`, about every `PROGRESS_SECONDS`, and once at the end. A batch that
    another run is at work on is waited for if ``patient``, else it counts as unfinished. ``label_costs`` are dollars
    that the labels of images have cost beside their calls, by batch and image; their rows tell them. ``made`` is
    called with each image that was worked on.
    """

    def __init__(
        self,
        tools: Tools,
        *,
        run_id: str,
        reporter: Reporter,
        stages: Collection[str] = STAGES,
        wish: Wish = NO_WISH,
        only: Collection[Batch] = (),
        patient: bool = True,
        label_costs: Mapping[Batch, Mapping[str, float]] = NO_COSTS,
        made: Callable[[Batch, Entry], None] = lambda batch, entry: None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._tools = tools
        self._reporter = reporter
        self._stages = frozenset(stages)
        self._wish = wish
        self._finder = Finder(tools.store, tools.settings, stages=self._stages, wish=wish)
        self._only = frozenset(only)
        self._patient = patient
        self._label_costs = label_costs
        self._made = made
        self._progress = progress
        self._archive = Archive(tools.store, tools.settings.archive_to, tools.note)
        self._leases = Leases(tools.store, run_id)
        self._days: dict[UploadDate, Day] = {}
        self._begun: dict[UploadDate, tuple[float, int]] = {}
        self._works: list[Work] = []
        self._running: dict[Walking, tuple[Work, str]] = {}
        self._ended: SimpleQueue[Walking] = SimpleQueue()
        self._stopped: Meaning | None = None
        self._no_model: Meaning | None = None
        self._found = self._done = self._failed = 0
        self._started = self._saved = self._told = time.monotonic()

    def run(self, dates: Iterable[UploadDate]) -> dict[UploadDate, Day]:
        """Brings the dates up to date and says what is true of each; errors of images are rows, not raised."""
        malloc.settle()
        workers = self._tools.settings.max_concurrency
        pool = ThreadPoolExecutor(workers, "image")
        helpers = ThreadPoolExecutor(workers, "prompt")
        with self._leases:
            try:
                self._work(dates, pool, helpers)
            finally:
                self._end(pool, helpers)
        for day in self._days.values():
            day.stopped = day.stopped or (self._stopped.cause if self._stopped else "")
        self._tell(at_once=True)
        return self._days

    def _work(
        self, dates: Iterable[UploadDate], pool: ThreadPoolExecutor, helpers: ThreadPoolExecutor
    ) -> None:
        workers = self._tools.settings.max_concurrency
        try:
            for task in self._tasks(dates):
                if task is not None:
                    work, image = task
                    walking = pool.submit(self._walk, work, image, helpers)
                    walking.add_done_callback(self._ended.put)
                    self._running[walking] = task
                while len(self._running) >= workers or (task is None and self._running):
                    self._collect()
                    if task is None:
                        break
            while self._running:
                self._collect()
        finally:
            if self._running:
                self._let_finish()

    def _let_finish(self) -> None:
        """Waits for the calls under way, which are paid for, while the process is being ended.

        What is true by now is reported before: whoever ends the process may not wait.
        """
        self._tools.stop.set()
        # One that had ended may have been on its way here when the signal came.
        for walking in [each for each in self._running if each.done()]:
            self._ended.put(walking)
        self._collect()
        for work in list(self._works):
            self._report_early(work)
        while self._running:
            self._collect()

    def _end(self, pool: ThreadPoolExecutor, helpers: ThreadPoolExecutor) -> None:
        """Gives back the leases of batches that were not finished, once no call is made under them any more.

        Ended a second time while calls are under way, the process keeps its leases: they run out, or are taken over
        once it is known to be dead. No thread is left to wait for work that nobody hands out any more.
        """
        if self._works:
            self._tools.stop.set()
        ended = False
        try:
            pool.shutdown(wait=True, cancel_futures=True)
            helpers.shutdown(wait=True, cancel_futures=True)
            ended = True
        finally:
            for each in (pool, helpers):
                each.shutdown(wait=False)
            for walking, (work, _) in self._running.items():
                # An interrupt kept these from being taken in; what was paid for them is to be told.
                if walking.done() and not walking.cancelled() and walking.exception() is None:
                    work.ledger.put(walking.result().entry)
            for work in list(self._works):
                self._report_early(work)
                if not ended and work.lease is not None:
                    self._leases.leave(work.lease)
                elif work.lease is not None:
                    work.lease.release()

    def _report_early(self, work: Work) -> None:
        """Stores what is known of a batch that is not finished, and reports it."""
        if work.lease is None or not work.lease.held():
            return
        try:
            work.ledger.checkpoint(work.writer)
            if REPORT in self._stages:
                self._reporter.write(work, rows(work))
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            self._tools.note(f"{work.place.batch.path}: what was done so far could not be reported: {error}")

    # Finding work

    def _tasks(self, dates: Iterable[UploadDate]) -> Iterator[tuple[Work, str] | None]:
        """Every image with something to do; None while there is nothing to hand out yet."""
        busy: deque[tuple[Uploaded, Day]] = deque()
        for date in dates:
            day = self._days[date] = Day(date)
            try:
                yield from self._tasks_of(day, busy)
            except (ClientError, BotoCoreError) as error:
                day.problems.append(explained(self._tools.store, error))
        while busy:
            # Somebody else is at work on these: their outcome is waited for, then checked.
            uploaded, day = busy.popleft()
            work = self._opened(uploaded, day)
            if work is None:
                continue
            if self._take(work):
                yield from self._hand_out(work, day)
            elif self._tools.stop.wait(0 if self._running else POLL_SECONDS):
                return
            else:
                busy.append((uploaded, day))
                yield None

    def _tasks_of(self, day: Day, busy: deque[tuple[Uploaded, Day]]) -> Iterator[tuple[Work, str]]:
        """The images of a date with something to do; what another run is at work on is put among the ``busy``."""
        prefix = f"{s3_keys.REPORTS}/{s3_keys.date_path(day.date)}/"
        reports = {found.key for found in self._tools.store.list(prefix)}

        def failed(batch: Batch, error: Exception) -> None:
            self._problem(day, batch, f"could not be read: {error}")

        for uploaded, work in self._finder.of_date(day.date, self._only, failed):
            if work is None:
                if uploaded.images or uploaded.draft:
                    day.unfinished.append(uploaded.batch.path)
            elif not work.due and self._reported(work, reports) and not self._to_archive(work):
                self._count(work, day)
                self._preview(work, day)
            elif self._take(work):
                yield from self._hand_out(work, day)
            elif self._patient:
                busy.append((uploaded, day))
            else:
                day.unfinished.append(f"{uploaded.batch.path} (another run is at work on it)")

    def _opened(self, uploaded: Uploaded, day: Day) -> Work | None:
        """The batch as it is stored now, None where it cannot be read."""
        try:
            return self._finder.open(uploaded)
        except (ClientError, BotoCoreError, NewerDocument) as error:
            self._problem(day, uploaded.batch, f"could not be read: {error}")
            return None

    def _problem(self, day: Day, batch: Batch, what: str) -> None:
        day.problems.append(f"batch {batch.path} {what}; the next run tries again")

    def _reported(self, work: Work, reports: Collection[str]) -> bool:
        """Whether the report, if one is wanted, is there and of this state."""
        if REPORT not in self._stages:
            return True
        if not work.ledger.header.get("Reported") or work.tells_others:
            return False
        place = work.place
        key = s3_keys.report_key(place.status_prefix, place.request_id)
        if place.status_prefix != place.batch.status_prefix or place.data is not self._tools.store:
            return place.data.head(key) is not None
        return key in reports

    def _to_archive(self, work: Work) -> bool:
        """Whether photos of the batch can be moved to the archive, which only a run of all stages does."""
        return self._stages.issuperset(STAGES) and bool(self._archive.due(work))

    def _take(self, work: Work) -> bool:
        """Takes the batch's lease, if nobody else has it, and looks again at what is due."""
        lease = self._leases.acquire(work.place.batch.lease_key)
        if lease is None:
            return False
        work.lease = lease
        work.writer = LeasedWriter(lease, work.place.batch.path)
        objects = list(self._tools.store.list(f"{work.place.batch.ledger_prefix}/"))
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

    def _hand_out(self, work: Work, day: Day) -> Iterator[tuple[Work, str]]:
        self._works.append(work)
        # Without a report nobody would see them.
        work.place.thumbnails.wanted &= REPORT in self._stages
        self._begun.setdefault(day.date, (time.monotonic(), self._tools.calls.refused()))
        day.walked += len(work.due)
        self._found += len(work.due)
        self._charge(work, day)
        try:
            self._begin(work)
        except (RunStopped, NotDelivered) as error:
            work.stopped = meaning(error)
        images = list(work.due)
        work.pending = len(images)
        self._look_at_models(work)
        for line in remarks(work.uploaded):
            self._tools.note(line)
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

    def _sample_left(self, work: Work) -> int:
        """How many of the due images may be worked on; none while it cannot be read whether a sample is approved."""
        try:
            return sample_left(work)
        except (ClientError, BotoCoreError) as error:
            stopped = StorageFailed(f"the approval of the batch's sample could not be read: {error}")
            work.stopped = work.stopped or meaning(stopped)
            return len(work.due)

    def _begin(self, work: Work) -> None:
        """Writes down, before anything is paid for it, that a person's wish is being fulfilled."""
        request = work.request
        if (
            request is not None
            and work.due
            and (request.MaxCostUSD is not None or request.RetryOf is not None)
        ):
            # One cap over a batch and all that was asked for again of it.
            store, batch = self._tools.store, work.place.batch
            cap, family = limit_of(store, batch, request), family_of(store, batch, request)
            work.place = replace(work.place, cap_usd=cap, family=family)
        on = {**work.occasions, **({RETRY: work.retry} if work.retry else {})}
        facts = begun(work.ledger.header, self._wish, on) if work.due and work.problem is None else {}
        if facts:
            # Should the run be killed, the next one reports the batch anew, whether something is left to do or not.
            work.ledger.describe(**facts, Reported="")
            work.ledger.checkpoint(work.writer, header=True)

    def _may_be_stored(self, work: Work, image: str) -> bool:
        """Whether what is due of an image may be made of stored answers, without any model."""
        entry = work.ledger.get(image)
        return entry is not None and PICTURES in entry.stages and not work.occasions and bool(entry.sha256)

    def _charge(self, work: Work, day: Day) -> None:
        """Tells what labels have cost beside their calls."""
        for image, usd in self._label_costs.get(work.place.batch, {}).items():
            entry = work.ledger.get(image)
            if entry is not None and LABELS in entry.stages:
                payment = Payment(f"window-{self._leases.run}", WINDOW, usd)
                record(entry.payments, payment)
                work.ledger.put(entry)
                day.spent += Bill(usd)

    def _look_at_models(self, work: Work) -> None:
        """Before the first paid call: is there a model for what is due? Asked once, then remembered."""
        wanted = {stage for stages in work.due.values() for stage in stages}
        try:
            if PICTURES in wanted and any(work.asked(image).needs_prompt for image in work.due):
                self._tools.replacers.current()
        except NothingUsable as error:
            self._no_model = meaning(error)

    # Working

    def _walk(self, work: Work, image: str, helpers: ThreadPoolExecutor) -> Walk:
        entry = work.ledger.get(image) or Entry(image)
        found = work.images[image]
        entry.etag = found.etag if found else ""
        place = work.place
        walk = Walk(
            self._tools,
            place,
            work.asked(image),
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

    def _skip(self, work: Work, image: str, why: Meaning) -> None:
        """Says of an image that was due why it was not worked on; what was delivered of it stays."""
        entry = work.ledger.get(image) or Entry(image)
        lost = work.lost.get(image, ())
        if why is not SAMPLE_WAITS:
            day = self._days[work.uploaded.batch.date]
            day.stopped = day.stopped or why.cause
        for stage, made_for in work.due[image].items():
            skipped = StageRecord(made_for, why.status, why.final, why.error, why.cause)
            if stage == PICTURES:
                found = work.images[image]
                skipped.wish = wish_of(work.asked(image), found.etag if found else "")
            intact, newer = stage != PICTURES or not lost, stage == PICTURES and bool(entry.unproven)
            entry.stages[stage] = settled(entry.stages.get(stage), skipped, intact=intact, newer=newer)
        if PICTURES in work.due[image]:
            entry.files = {key: etag for key, etag in entry.files.items() if key not in lost}
            # What an earlier attempt failed to make is not what this one was stopped by.
            entry.outputs = merged(entry.outputs, (), entry.files)
        self._take_in(work, entry)

    def _collect(self) -> None:
        """Takes in what is done, waiting a little for the first."""
        ended = self._next_ended(LOOK_SECONDS)
        while ended is not None:
            task = self._running.pop(ended, None)
            if task is not None:
                self._take_over(task[0], ended.result())
            ended = self._next_ended(0)
        self._tell()
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            for work in self._works:
                self._checkpoint(work)
            self._saved = time.monotonic()

    def _checkpoint(self, work: Work) -> None:
        try:
            work.ledger.checkpoint(work.writer)
        except LeaseLost as error:
            work.stopped = work.stopped or meaning(error)
        except NotDelivered as error:
            # What is paid for is stored; without its own state a run stops, it need not fail.
            self._stopped = self._stopped or meaning(StorageFailed(str(error)))

    def _take_over(self, work: Work, walk: Walk) -> None:
        """Takes in an image that was walked, and what ended the run if something did."""
        stopped = walk.stopped
        if isinstance(stopped, NothingUsable):
            # Pictures need no captions but by their prompts, and what is stored needs no model.
            pictures = walk.entry.stages.get(PICTURES)
            if pictures is not None and pictures.error == NothingUsable.__name__:
                self._no_model = meaning(stopped)
                day = self._days[work.uploaded.batch.date]
                day.stopped = day.stopped or str(stopped)
        elif stopped is not None:
            if getattr(stopped, "scope", "") == "batch":
                work.stopped = meaning(stopped)
            else:
                self._stopped = self._stopped or meaning(stopped)
        day = self._days[work.uploaded.batch.date]
        day.spent += walk.spent
        work.undelivered = work.undelivered + 1 if walk.undelivered else 0
        if work.undelivered >= MOST_UNDELIVERED:
            work.stopped = work.stopped or Meaning(
                Status.SKIPPED,
                False,
                "NotStored",
                f"S3 did not take the results of {work.undelivered} images in a row; see their causes, mend that and "
                "run again: what was paid for is stored and is not paid for again",
            )
        self._take_in(work, walk.entry, call_failed=walk.call_failed)

    def _next_ended(self, seconds: float) -> Walking | None:
        try:
            return self._ended.get(timeout=seconds)
        except Empty:
            return None

    def _take_in(self, work: Work, entry: Entry, *, call_failed: bool = False) -> None:
        day = self._days[work.uploaded.batch.date]
        work.ledger.describe(Reported="")
        work.ledger.put(entry)
        self._made(work.place.batch, entry)
        work.pending -= 1
        self._done += 1
        bad = False
        for stage in work.due[entry.image]:
            stage_record = entry.stages[stage]
            day.seconds_by_stage[stage] = day.seconds_by_stage.get(stage, 0.0) + stage_record.seconds
            if stage_record.status in GOOD:
                day.made[stage] += 1
            elif stage_record.error == WAITS:
                day.waiting[stage] += 1
            else:
                day.failed[stage] += 1
            # What was not needed for the picture is told in the row and is no failure of the image.
            counts = stage == PICTURES or PICTURES not in work.due[entry.image]
            bad = bad or (counts and stage_record.status == Status.FAILED)
        self._failed += bad
        work.done += 1
        work.failed += bad and call_failed
        most = self._tools.settings.max_failed_share
        if work.done >= FIRST_IMAGES and work.failed / work.done > most and not work.stopped:
            work.stopped = Meaning(
                Status.SKIPPED,
                False,
                "TooManyFailures",
                f"{work.failed} of {work.done} images of the batch failed at a service, more than "
                "BG_MAX_FAILED_SHARE allows; see the causes in the report, mend them and run again",
            )
        if work.pending == 0:
            self._finish(work)

    def _finish(self, work: Work) -> None:
        """Stores the batch's ledger and report and gives its lease back; a fault of it is the batch's alone."""
        day = self._days[work.uploaded.batch.date]
        try:
            self._store(work, day)
        except LeaseLost:
            day.unfinished.append(f"{work.place.batch.path} (taken over by another run)")
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            self._problem(day, work.place.batch, f"could not be reported: {error}")
        self._time(day)
        self._works.remove(work)
        if work.lease is not None:
            work.lease.release()

    def _store(self, work: Work, day: Day) -> None:
        work.writer.check()
        work.ledger.keep_only(list(work.images))
        self._tell_untold(work)
        asked = (*work.occasions, *([RETRY] if work.retry else []))
        left = {stage for image in work.due for stage in self._left(work, image)} if asked else set()
        done = [name for name in asked if name not in left]
        if facts := fulfilled(work.ledger.header, done, datetime.now(UTC)):
            work.ledger.describe(**facts)
        if REPORT in self._stages:
            # What a report tells as done, the next run has to know of.
            work.ledger.checkpoint(work.writer)
            day.reports.append(self._reporter.write(work, self._counted(work, day)))
            reported = datetime.now(UTC).isoformat(timespec="seconds")
            work.ledger.describe(Reported=reported, ReportedImages=work.images_told)
        else:
            self._count(work, day)
        work.ledger.finish(work.writer)
        if self._to_archive(work):
            self._archive.move(work)
        self._preview(work, day)
        now_stored = results_in(work.place.data, f"{work.place.output_prefix}/")
        unreported = self._reporter.missing(work) if REPORT in self._stages else []
        day.inspection.look_again(work, now_stored, unreported)

    def _tell_untold(self, work: Work) -> None:
        """Keeps what was spent on the batch by calls that no image's record tells of, as what may have been billed.

        A run that was killed pays for calls that it does not come to write down; where their photo or request was
        changed since, nobody asks for their answers again.
        """
        if work.problem is not None:
            return
        try:
            spent = self._tools.purse.spent_on(work.place.batch.spend_key)
        except RunStopped as error:
            self._tools.note(f"{work.place.batch.path}: what was spent on it cannot be known: {error}")
            return
        told = [each.usd or 0.0 for each in work.ledger.payments() if each.operation != WINDOW]
        # Caps count in whole micro-dollars, rounded up for each call.
        untold = round(spent - sum(told), 6)
        work.ledger.describe(Untold=untold if untold > 2e-6 * (len(told) + 1) else 0.0)

    def _left(self, work: Work, image: str) -> Iterator[str]:
        """The stages of an image that a refresh of theirs has still to make."""
        entry = work.ledger.get(image)
        for stage in work.due[image]:
            found = entry.stages.get(stage) if entry else None
            if found is None or found.occasion != work.occasions.get(stage, found.occasion):
                yield stage

    def _count(self, work: Work, day: Day) -> None:
        for _ in self._counted(work, day):
            pass

    def _counted(self, work: Work, day: Day) -> Iterator[Row]:
        """The rows of a batch, each counted as it goes by; made once, for they take a while."""
        day.batches.append(work.place.batch.path)
        for dropped in work.ledger.dropped.values():
            day.total += bill(dropped.values())
        for row, entry in rows_and_entries(work):
            day.inspection.take(row, entry)
            day.images += 1
            day.counts[row.Status] += 1
            day.total += Bill(row.CostUSD, row.MaybeBilledUSD)
            if row.Status != Status.SUCCEEDED and len(day.troubled) < TROUBLED_ROWS:
                day.troubled.append(row)
            yield row

    def _preview(self, work: Work, day: Day) -> None:
        """Pairs photos, where they lie by now, with their first results."""
        for image in work.images:
            if len(day.previews) == PREVIEWS:
                return
            data, source = work.place.lies_at(f"{work.place.input_prefix}/{image}")
            entry = work.ledger.get(image)
            result = next((output["Key"] for output in entry.outputs if output["Key"]), "") if entry else ""
            if result and data is work.place.data:
                day.previews.append((source, result))

    def _time(self, day: Day) -> None:
        begun, refused = self._begun[day.date]
        day.seconds = time.monotonic() - begun
        day.refused = self._tools.calls.refused() - refused

    def _tell(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        spent = sum(total.cost_usd for total in self._tools.purse.totals().values())
        self._progress(
            Progress(
                self._done, self._found, self._failed, now - self._started, spent, self._tools.calls.refused()
            )
        )
