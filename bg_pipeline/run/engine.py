"""The engine: brings upload dates up to date; each image runs through its stages in a thread of its own.

The slowest quota sets the pace, and all other work is done meanwhile. A batch is leased before it is processed, so
that two runs never pay for the same image. For what is already done a run reads only listings and ledgers.

- Which batches and images are processed, and why an image is skipped before it starts: `bg_pipeline.run.batch_queue`.
- What happens to one image: `bg_pipeline.run.image_run`.
- How its outcome is recorded, and when a batch or the run stops: `bg_pipeline.run.outcome_recorder`.
- How a batch is stored, reported and archived: `bg_pipeline.run.batch_completion`.
- What happens at Ctrl-C or SIGTERM, which arrive as an exception: `Engine._interrupted` and `Engine._close`.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.run.batch_completion import BatchCompletion, Reporter
from bg_pipeline.run.batch_queue import NO_COSTS, BatchQueue
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.date_result import DateResult, Progress
from bg_pipeline.run.discovery import NO_REFRESH
from bg_pipeline.run.image_run import ImageRun
from bg_pipeline.run.occasions import RefreshRequest
from bg_pipeline.run.outcome_recorder import OutcomeRecorder
from bg_pipeline.run.run_state import ImageTask, RunState
from bg_pipeline.run.scenes import SceneStudio
from bg_pipeline.run.worker_pools import WorkerPools
from bg_pipeline.state.leases import Leases

CHECKPOINT_SECONDS = 20.0
"""Seconds between two checkpoints of the open batches' ledgers."""
PROGRESS_SECONDS = 10.0
"""Seconds between two calls of ``progress``."""
RESULT_POLL_SECONDS = 1.0
"""Seconds to wait for the next finished image before progress and checkpoints are checked."""


class Engine:
    """One run over upload dates. Use it once.

    ``stages`` are the stages to bring up to date; ``refresh`` names those to do, and pay for, again. ``only`` limits
    the run to these batches (empty: all). With ``wait_for_others`` the run waits for batches that another run has
    leased; without it they count as unfinished. ``label_costs`` are dollars that an image's labels cost in addition
    to their calls, by batch and image; they are added to its row. ``on_image`` is called with each image that was
    processed or skipped. ``progress`` is called by the thread that calls `run`, about every `PROGRESS_SECONDS`, and
    once at the end.
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
        self._progress = progress
        self._state = RunState()
        self._scenes = SceneStudio(context)
        self._leases = Leases(context.store, run_id)
        self._completion = BatchCompletion(context, self._state, reporter, frozenset(stages))
        self._recorder = OutcomeRecorder(
            self._state,
            self._completion,
            max_failed_share=context.settings.max_failed_share,
            on_image=on_image,
        )
        self._queue = BatchQueue(
            context,
            self._state,
            self._leases,
            self._recorder,
            self._completion,
            stages=frozenset(stages),
            refresh=refresh,
            only=only,
            wait_for_others=wait_for_others,
            label_costs=label_costs,
        )
        self._finished: SimpleQueue[Future[ImageRun]] = SimpleQueue()
        self._started = self._checkpointed_at = self._reported_at = time.monotonic()

    def run(self, dates: Iterable[UploadDate]) -> dict[UploadDate, DateResult]:
        """Brings the dates up to date and returns each one's result; errors of images become rows, not exceptions."""
        pools = WorkerPools(self._context.settings.max_concurrency)
        with self._leases:
            try:
                self._process(dates, pools)
            finally:
                self._close(pools)
        for result in self._state.results.values():
            result.stopped = result.stopped or (self._state.stopped.cause if self._state.stopped else "")
        self._report_progress(at_once=True)
        return self._state.results

    def _process(self, dates: Iterable[UploadDate], pools: WorkerPools) -> None:
        """Runs the images of the dates, at most ``BG_MAX_CONCURRENCY`` at a time, until all are recorded."""
        running, workers = self._state.running, self._context.settings.max_concurrency
        try:
            for task in self._queue.tasks(dates):
                if task is not None:
                    future = pools.images.submit(self._run_image, task, pools)
                    future.add_done_callback(self._finished.put)
                    running[future] = task
                while len(running) >= workers or (task is None and running):
                    self._collect_finished()
                    if task is None:
                        break
            while running:
                self._collect_finished()
        finally:
            if running:
                self._interrupted()

    def _run_image(self, task: ImageTask, pools: WorkerPools) -> ImageRun:
        work, image = task
        entry = work.ledger.get(image) or Entry(image)
        source = work.images[image]
        entry.etag = source.etag if source else ""
        locations = work.locations
        image_run = ImageRun(
            self._context,
            locations,
            work.settings_of(image),
            entry,
            helpers=pools.prompts,
            scenes=self._scenes,
            writer=work.writer,
            occasions=work.occasions,
            lost=work.take_lost(image, entry),
            retry=work.retry or (locations.batch.path if locations.retries else ""),
            lease=work.lease,
            refusal=work.refusal(image),
            submitted_etag=source.etag if source and work.submission.etags is not None else "",
        )
        image_run.run(work.due[image])
        return image_run

    def _collect_finished(self) -> None:
        """Records the images that have finished, and waits up to `RESULT_POLL_SECONDS` for the first one."""
        future = self._next_finished(RESULT_POLL_SECONDS)
        while future is not None:
            task = self._state.running.pop(future, None)
            if task is not None:
                self._recorder.accept(task.work, future.result())
            future = self._next_finished(0)
        self._report_progress()
        if time.monotonic() - self._checkpointed_at > CHECKPOINT_SECONDS:
            for work in self._state.open_batches:
                self._completion.checkpoint(work)
            self._checkpointed_at = time.monotonic()

    def _next_finished(self, seconds: float) -> Future[ImageRun] | None:
        try:
            return self._finished.get(timeout=seconds)
        except Empty:
            return None

    # Ending, also at Ctrl-C or SIGTERM

    def _interrupted(self) -> None:
        """Waits for the calls under way, which are paid for, after the run was interrupted.

        The open batches are reported before that, because whoever ends the process may not wait.
        """
        self._context.stop.set()
        # The interrupt may have come between taking a future from the queue and recording it.
        for future in [future for future in self._state.running if future.done()]:
            self._finished.put(future)
        self._collect_finished()
        for work in self._open_works():
            self._completion.report_early(work)
        while self._state.running:
            self._collect_finished()

    def _open_works(self) -> list[BatchWork]:
        """The open batches; a batch comes after its parts, whose ledgers it reports."""
        return sorted(self._state.open_batches, key=lambda work: work.part is None)

    def _close(self, pools: WorkerPools) -> None:
        """Ends the threads, then reports the batches that are not finished and releases their leases.

        If a second interrupt ends the waiting for the threads, the leases are kept, because calls may still be made
        under them. They expire, or another run takes them over once it knows that this process has ended.
        """
        if self._state.open_batches:
            self._context.stop.set()
        all_ended = False
        try:
            pools.shutdown()
            all_ended = True
        finally:
            for future, (work, _) in self._state.running.items():
                # An interrupt prevented that these were recorded; what was paid for them must be in the ledger.
                if future.done() and not future.cancelled() and future.exception() is None:
                    work.ledger.put(future.result().entry)
            for work in self._open_works():
                self._completion.report_early(work)
                if not all_ended and work.lease is not None:
                    self._leases.keep_until_expiry(work.lease)
                elif work.part is not None:
                    self._completion.release_part(work, stored=False)
                elif work.lease is not None:
                    work.lease.release()

    def _report_progress(self, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._reported_at < PROGRESS_SECONDS:
            return
        self._reported_at = now
        spent = sum(total.cost_usd for total in self._context.run_budget.totals().values())
        self._progress(
            Progress(
                self._state.done,
                self._state.found,
                self._state.failed,
                now - self._started,
                spent,
                self._context.calls.refused(),
                self._state.waiting,
                self._state.skipped,
                self._state.blocked,
            )
        )
