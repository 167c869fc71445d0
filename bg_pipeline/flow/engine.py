"""The engine: brings upload dates up to date, every image moving through its stages on its own.

The slowest quota sets the pace and everything else hides behind it. A batch is worked on under a lease, so
that two runs never pay for the same image; what is done already costs listings and the batches' ledgers.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from types import MappingProxyType

from bg_pipeline import layout
from bg_pipeline.custom_labels.standstill import WAITS
from bg_pipeline.errors import NothingUsable, RunStopped
from bg_pipeline.flow import heaps
from bg_pipeline.flow.archive import Archive
from bg_pipeline.flow.finding import Finder, results_in, sample_left
from bg_pipeline.flow.outcomes import SAMPLE_WAITS, Meaning, meaning
from bg_pipeline.flow.stages import LABELS, PICTURES, REPORT, STAGES
from bg_pipeline.flow.tools import Tools
from bg_pipeline.flow.walk import Walk
from bg_pipeline.flow.work import Work
from bg_pipeline.inspection.grounds import Inspection
from bg_pipeline.layout import Batch, UploadDate
from bg_pipeline.reports.building import report_batch, rows_and_entries
from bg_pipeline.reports.report import Row, Status
from bg_pipeline.state.leases import POLL_SECONDS, Leases
from bg_pipeline.state.ledger import Entry, StageRecord
from bg_pipeline.uploads.listing import Uploaded, remarks

CHECKPOINT_SECONDS = 20.0
PROGRESS_SECONDS = 10.0
LOOK_SECONDS = 1.0
FIRST_IMAGES = 20
"""The share of failures counts from so many images on."""
TROUBLED_ROWS = 200
"""Rows of failed images that a `Day` holds; the report has all."""
PREVIEWS = 8
Walking = Future[tuple[Entry, RunStopped | None]]
"""The walk of one image, under way or ended."""
NO_COSTS: Mapping[Batch, Mapping[str, float]] = MappingProxyType({})


@dataclass
class Day:
    """What a run did for one date, and what is true of the date after it.

    ``made``, ``waiting`` (for a Custom Labels window) and ``failed`` count by stage what this run did; ``troubled``
    are the first rows that are not ``Succeeded``; ``previews`` pairs of (source key, result key);
    ``unfinished`` the folders that are not yet complete; ``stopped`` why the run ended early, if it did.
    ``cost_usd`` is what this run spent, ``total_usd`` what all runs did for the images as they are now, None where a
    price is unknown. ``seconds`` went by from the first image handed out to the last batch finished, and so long
    ``refused`` calls were refused for their rate, those for other dates included.
    """

    date: UploadDate
    images: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    walked: int = 0
    cost_usd: float = 0.0
    total_usd: float | None = 0.0
    seconds: float = 0.0
    refused: int = 0
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    made: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    batches: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    troubled: list[Row] = field(default_factory=list)
    previews: list[tuple[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    stopped: str = ""
    inspection: Inspection = field(default_factory=Inspection)

    @property
    def nothing_worked(self) -> bool:
        """Images were asked for and none has a usable result."""
        usable = self.counts[Status.SUCCEEDED] + self.counts[Status.NEEDS_REVIEW]
        return self.images > 0 and usable == 0

    @property
    def waits(self) -> bool:
        """Nothing worked yet, and some of it waits for a Custom Labels window that will do it."""
        return self.nothing_worked and self.inspection.errors[WAITS] > 0


@dataclass(frozen=True)
class Progress:
    """Where a run is: images done of those found so far, their rate, what was spent."""

    done: int
    found: int
    failed: int
    seconds: float
    cost_usd: float
    refused: int

    def line(self) -> str:
        """One line for a log."""
        a_minute = self.done / self.seconds * 60 if self.seconds else 0.0
        left = f", about {(self.found - self.done) / a_minute:.0f} min left" if a_minute else ""
        return (
            f"{self.done} of {self.found} images done, {a_minute:.1f} a minute{left}; {self.failed} failed, "
            f"{self.cost_usd:.2f} USD so far, {self.refused} calls refused for their rate"
        )


class Flow:
    """One run over upload dates. Use it once.

    ``stages`` are what is brought up to date, ``again`` what is done, and paid for, anew. ``progress`` is
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
        stages: Collection[str] = STAGES,
        again: Collection[str] = (),
        only: Collection[Batch] = (),
        patient: bool = True,
        label_costs: Mapping[Batch, Mapping[str, float]] = NO_COSTS,
        made: Callable[[Batch, Entry], None] = lambda batch, entry: None,
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self._tools = tools
        self._stages = frozenset(stages)
        self._again = frozenset(again)
        self._finder = Finder(
            tools.store, tools.settings, stages=self._stages, again=self._again, retry=bool(tools.retry)
        )
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
        self._found = self._done = self._failed = 0
        self._started = self._saved = self._told = time.monotonic()

    def run(self, dates: Iterable[UploadDate]) -> dict[UploadDate, Day]:
        """Brings the dates up to date and says what is true of each; errors of images are rows, not raised."""
        heaps.settle()
        workers = self._tools.settings.max_concurrency
        with (
            self._leases,
            ThreadPoolExecutor(workers, "image") as pool,
            ThreadPoolExecutor(workers, "prompt") as helpers,
        ):
            try:
                self._work(dates, pool, helpers)
            finally:
                for work in self._works:
                    if work.lease is not None and work.lease.held():
                        work.ledger.checkpoint()
                        work.lease.release()
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
        """Waits for the calls under way, which are paid for, while the process is being ended."""
        self._tools.stop.set()
        # One that had ended may have been on its way here when the signal came.
        for walking in [each for each in self._running if each.done()]:
            self._ended.put(walking)
        while self._running:
            self._collect()

    # Finding work

    def _tasks(self, dates: Iterable[UploadDate]) -> Iterator[tuple[Work, str] | None]:
        """Every image with something to do; None while there is nothing to hand out yet."""
        busy: deque[tuple[Uploaded, Day]] = deque()
        for date in dates:
            day = self._days[date] = Day(date)
            reports = {
                found.key for found in self._tools.store.list(f"{layout.REPORTS}/{layout.date_path(date)}/")
            }
            for uploaded, work in self._finder.of_date(date, self._only):
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
        while busy:
            # Somebody else is at work on these: their outcome is waited for, then checked.
            uploaded, day = busy.popleft()
            work = self._finder.open(uploaded)
            if self._take(work):
                yield from self._hand_out(work, day)
            elif self._tools.stop.wait(0 if self._running else POLL_SECONDS):
                return
            else:
                busy.append((uploaded, day))
                yield None

    def _reported(self, work: Work, reports: Collection[str]) -> bool:
        """Whether the report, if one is wanted, is there and of this state."""
        if REPORT not in self._stages:
            return True
        place = work.place
        key = layout.report_key(place.status_prefix, place.request_id)
        if place.status_prefix != place.batch.status_prefix or place.data is not self._tools.store:
            return bool(work.ledger.header.get("Reported")) and place.data.head(key) is not None
        return bool(work.ledger.header.get("Reported")) and key in reports

    def _to_archive(self, work: Work) -> bool:
        """Whether photos of the batch can be moved to the archive, which only a run of all stages does."""
        return self._stages.issuperset(STAGES) and bool(self._archive.due(work))

    def _take(self, work: Work) -> bool:
        """Takes the batch's lease, if nobody else has it, and looks again at what is due."""
        lease = self._leases.acquire(work.place.batch.lease_key)
        if lease is None:
            return False
        work.lease = lease
        objects = list(self._tools.store.list(f"{work.place.batch.ledger_prefix}/"))
        if objects != list(work.ledger_objects):  # somebody was at work on it in the meantime
            fresh = self._finder.open(work.uploaded, objects)
            work.ledger, work.place, work.due = fresh.ledger, fresh.place, fresh.due
            work.request, work.problem, work.images = fresh.request, fresh.problem, fresh.images
        return True

    def _hand_out(self, work: Work, day: Day) -> Iterator[tuple[Work, str]]:
        self._works.append(work)
        # Without a report nobody would see them.
        work.place.thumbnails.wanted &= REPORT in self._stages
        self._begun.setdefault(day.date, (time.monotonic(), self._tools.calls.refused()))
        day.walked += len(work.due)
        self._found += len(work.due)
        self._charge(work, day)
        images = list(work.due)
        work.pending = len(images)
        self._look_at_models(work)
        for line in remarks(work.uploaded):
            self._tools.note(line)
        limit = sample_left(work)
        for number, image in enumerate(images):
            if stopped := work.stopped or self._stopped:
                self._skip(work, image, stopped)
            elif number >= limit:
                self._skip(work, image, SAMPLE_WAITS)
            else:
                yield work, image
        if not images:
            self._finish(work)

    def _charge(self, work: Work, day: Day) -> None:
        """Tells what labels have cost beside their calls."""
        for image, usd in self._label_costs.get(work.place.batch, {}).items():
            entry = work.ledger.get(image)
            if entry is not None and LABELS in entry.stages:
                entry.stages[LABELS].cost_usd += usd
                work.ledger.put(entry)
                day.cost_usd += usd

    def _look_at_models(self, work: Work) -> None:
        """Before the first paid call: is there a model for all that is due? Asked once, then remembered."""
        wanted = {stage for stages in work.due.values() for stage in stages}
        try:
            if PICTURES in wanted and any(work.asked(image).needs_prompt for image in work.due):
                self._tools.replacers.current()
        except NothingUsable as error:
            self._stopped = self._stopped or meaning(error)

    # Working

    def _walk(self, work: Work, image: str, helpers: ThreadPoolExecutor) -> tuple[Entry, RunStopped | None]:
        entry = work.ledger.get(image) or Entry(image)
        found = work.images[image]
        entry.etag = found.etag if found else ""
        walk = Walk(
            self._tools,
            work.place,
            work.asked(image),
            entry,
            again=self._again,
            helpers=helpers,
            lease=work.lease,
        )
        return walk.run(work.due[image]), walk.stopped

    def _skip(self, work: Work, image: str, why: Meaning) -> None:
        entry = work.ledger.get(image) or Entry(image)
        for stage, made_for in work.due[image].items():
            entry.stages[stage] = StageRecord(made_for, why.status, why.final, why.error, why.cause)
            if stage == PICTURES:
                entry.outputs = []
        self._take_in(work, entry)

    def _collect(self) -> None:
        """Takes in what is done, waiting a little for the first."""
        ended = self._next_ended(LOOK_SECONDS)
        while ended is not None:
            task = self._running.pop(ended, None)
            if task is not None:
                self._take_over(task[0], *ended.result())
            ended = self._next_ended(0)
        self._tell()
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            for work in self._works:
                if work.lease is not None and work.lease.held():
                    work.ledger.checkpoint()
            self._saved = time.monotonic()

    def _take_over(self, work: Work, entry: Entry, stopped: RunStopped | None) -> None:
        """Takes in an image that was walked, and what ended the run if something did."""
        if stopped is not None:
            if getattr(stopped, "scope", "") == "batch":
                work.stopped = meaning(stopped)
            else:
                self._stopped = self._stopped or meaning(stopped)
        self._take_in(work, entry)

    def _next_ended(self, seconds: float) -> Walking | None:
        try:
            return self._ended.get(timeout=seconds)
        except Empty:
            return None

    def _take_in(self, work: Work, entry: Entry) -> None:
        day = self._days[work.uploaded.batch.date]
        work.ledger.describe(Reported="")
        work.ledger.put(entry)
        self._made(work.place.batch, entry)
        work.pending -= 1
        self._done += 1
        bad = False
        for stage in work.due[entry.image]:
            record = entry.stages[stage]
            day.seconds_by_stage[stage] = day.seconds_by_stage.get(stage, 0.0) + record.seconds
            day.cost_usd += record.cost_usd
            if record.status in (Status.SUCCEEDED, Status.NEEDS_REVIEW):
                day.made[stage] += 1
            elif record.error == WAITS:
                day.waiting[stage] += 1
            else:
                day.failed[stage] += 1
            # What was not needed for the picture is told in the row and is no failure of the image.
            counts = stage == PICTURES or PICTURES not in work.due[entry.image]
            bad = bad or (counts and record.status == Status.FAILED)
        self._failed += bad
        share = self._failed / self._done
        if self._done >= FIRST_IMAGES and share > self._tools.settings.max_failed_share and not self._stopped:
            self._stopped = Meaning(
                Status.SKIPPED,
                False,
                "TooManyFailures",
                f"{self._failed} of {self._done} images failed, more than BG_MAX_FAILED_SHARE allows; "
                "see the causes in the report, mend them and run again",
            )
        if work.pending == 0:
            self._finish(work)

    def _finish(self, work: Work) -> None:
        """Stores the batch's ledger and report and gives its lease back."""
        day = self._days[work.uploaded.batch.date]
        if work.lease is not None and not work.lease.held():
            day.unfinished.append(f"{work.place.batch.path} (taken over by another run)")
        else:
            work.ledger.keep_only(list(work.images))
            if REPORT in self._stages:
                day.reports.append(report_batch(work, self._counted(work, day)))
                work.ledger.describe(Reported=datetime.now(UTC).isoformat(timespec="seconds"))
            else:
                self._count(work, day)
            work.ledger.finish()
            if self._to_archive(work):
                self._archive.move(work)
            self._preview(work, day)
            now_stored = results_in(work.place.data, f"{work.place.output_prefix}/")
            day.inspection.look_again(work, now_stored, reported=REPORT in self._stages)
        self._time(day)
        self._works.remove(work)
        if work.lease is not None:
            work.lease.release()

    def _count(self, work: Work, day: Day) -> None:
        for _ in self._counted(work, day):
            pass

    def _counted(self, work: Work, day: Day) -> Iterator[Row]:
        """The rows of a batch, each counted as it goes by; made once, for they take a while."""
        day.batches.append(work.place.batch.path)
        for row, entry in rows_and_entries(work):
            day.inspection.take(row, entry)
            day.images += 1
            day.counts[row.Status] += 1
            if day.total_usd is not None:
                day.total_usd = None if row.CostUSD is None else day.total_usd + row.CostUSD
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
