"""Finds the batches of a run, leases them, and hands out their images one by one.

Why an image was skipped before it was started: `BatchQueue._images_of`.
"""

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.budget.remaining import family_of, limit_of
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.payments import Bill, Payment, record
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import LABELS, PICTURES, REPORT
from bg_pipeline.errors import (
    NewerDocument,
    NotDelivered,
    NothingUsable,
    RunStopped,
    StorageFailed,
)
from bg_pipeline.run.batch_completion import WINDOW_OPERATION, BatchCompletion
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.run.discovery import NO_REFRESH, WorkFinder, sample_left
from bg_pipeline.run.occasions import RETRY, RefreshRequest, start_occasions
from bg_pipeline.run.outcome_recorder import OutcomeRecorder
from bg_pipeline.run.outcomes import SAMPLE_WAITS, outcome_of_error
from bg_pipeline.run.run_state import ImageTask, RunState
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import POLL_SECONDS, Leases
from bg_pipeline.storage.object_store import explain_s3_error
from bg_pipeline.uploads.listing import Uploaded, remarks

NO_COSTS: Mapping[Batch, Mapping[str, float]] = MappingProxyType({})


class BatchQueue:
    """The images of a run that have due stages, batch by batch; each batch is leased before its first image.

    ``stages``, ``refresh``, ``only``, ``wait_for_others`` and ``label_costs`` are as in `Engine`.
    """

    def __init__(
        self,
        context: RunContext,
        state: RunState,
        leases: Leases,
        recorder: OutcomeRecorder,
        completion: BatchCompletion,
        *,
        stages: frozenset[str],
        refresh: RefreshRequest = NO_REFRESH,
        only: Collection[Batch] = (),
        wait_for_others: bool = True,
        label_costs: Mapping[Batch, Mapping[str, float]] = NO_COSTS,
    ) -> None:
        self._context = context
        self._state = state
        self._leases = leases
        self._recorder = recorder
        self._completion = completion
        self._stages = stages
        self._refresh = refresh
        self._finder = WorkFinder(context.store, context.settings, stages=stages, refresh=refresh)
        self._only = frozenset(only)
        self._wait_for_others = wait_for_others
        self._label_costs = label_costs

    def tasks(self, dates: Iterable[UploadDate]) -> Iterator[ImageTask | None]:
        """Every image that is to be started now; None while all that is left is leased by other runs."""
        leased_elsewhere: deque[tuple[Uploaded, DateResult]] = deque()
        for date in dates:
            result = self._state.results[date] = DateResult(date)
            try:
                yield from self._tasks_of_date(result, leased_elsewhere)
            except (ClientError, BotoCoreError) as error:
                result.problems.append(explain_s3_error(self._context.store, error))
        while leased_elsewhere:
            # Wait until the other run has finished the batch, then process what is still due.
            uploaded, result = leased_elsewhere.popleft()
            work = self._reopen(uploaded)
            if work is None:
                continue
            if self._lease(work):
                yield from self._images_of(work, result)
            elif self._context.stop.wait(0 if self._state.running else POLL_SECONDS):
                return
            else:
                leased_elsewhere.append((uploaded, result))
                yield None

    # Finding and leasing batches

    def _tasks_of_date(
        self, result: DateResult, leased_elsewhere: deque[tuple[Uploaded, DateResult]]
    ) -> Iterator[ImageTask]:
        """The images of one date; batches that another run has leased are added to ``leased_elsewhere``."""
        prefix = f"{s3_keys.REPORTS}/{s3_keys.date_path(result.date)}/"
        report_keys = {report.key for report in self._context.store.list(prefix)}

        def add_unreadable(batch: Batch, error: Exception) -> None:
            self._state.add_problem(batch, f"could not be read: {error}")

        for uploaded, work in self._finder.of_date(result.date, self._only, add_unreadable):
            for line in work.submission.remarks(uploaded.batch.path) if work else ():
                self._context.note(line)
            if work is None:
                if uploaded.images or uploaded.draft:
                    result.unfinished.append(uploaded.batch.path)
            elif (
                not work.due
                and self._is_reported(work, report_keys)
                and not self._completion.can_archive(work)
            ):
                self._completion.count_unchanged(work)
            elif self._lease(work):
                yield from self._images_of(work, result)
            elif self._wait_for_others:
                leased_elsewhere.append((uploaded, result))
            else:
                result.unfinished.append(f"{uploaded.batch.path} (another run is at work on it)")

    def _reopen(self, uploaded: Uploaded) -> BatchWork | None:
        """The batch as it is stored now; None, with a problem in its date's result, if it cannot be read."""
        try:
            return self._finder.open(uploaded)
        except (ClientError, BotoCoreError, NewerDocument) as error:
            self._state.add_problem(uploaded.batch, f"could not be read: {error}")
            return None

    def _is_reported(self, work: BatchWork, report_keys: Collection[str]) -> bool:
        """Whether the stored report is up to date, or no report is wanted.

        ``report_keys`` are the keys under the default prefix of the date's reports.
        """
        if REPORT not in self._stages:
            return True
        if not work.ledger.header.get("Reported") or work.reports_other_images:
            return False
        locations = work.locations
        key = s3_keys.report_key(locations.status_prefix, locations.request_id)
        if (
            locations.status_prefix != locations.batch.status_prefix
            or locations.data is not self._context.store
        ):
            return locations.data.head(key) is not None
        return key in report_keys

    def _lease(self, work: BatchWork) -> bool:
        """Leases the batch unless another run has it, and updates ``work`` if it was changed before that."""
        lease = self._leases.acquire(work.locations.batch.lease_key)
        if lease is None:
            return False
        work.lease = lease
        work.writer = LeasedWriter(lease, work.locations.batch.path)
        ledger_objects = list(self._context.store.list(f"{work.locations.batch.ledger_prefix}/"))
        if ledger_objects != list(work.ledger_objects):
            work.update_from(self._finder.open(work.uploaded, ledger_objects))
        return True

    # Starting a batch

    def _images_of(self, work: BatchWork, result: DateResult) -> Iterator[ImageTask]:
        """Starts a leased batch and yields its images; those that cannot be started now are skipped with a reason.

        The reasons are: the image is beyond a sample that is not approved, the batch or the run was stopped, or the
        image needs an image model and none can be used.
        """
        state = self._state
        state.open_batches.append(work)
        # Only the report shows thumbnails.
        work.locations.thumbnails.enabled &= REPORT in self._stages
        state.started_at.setdefault(result.date, (time.monotonic(), self._context.calls.refused()))
        result.due += len(work.due)
        state.found += len(work.due)
        self._add_label_costs(work, result)
        try:
            self._start_refresh(work)
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
                self._recorder.skip(work, image, SAMPLE_WAITS)
            elif stopped := work.stopped or state.stopped:
                self._recorder.skip(work, image, stopped)
            elif state.no_model and not self._may_use_stored_answers(work, image):
                self._recorder.skip(work, image, state.no_model)
            else:
                yield ImageTask(work, image)
        if not images:
            self._completion.finish(work)

    def _sample_left(self, work: BatchWork) -> int:
        """How many of the due images may be processed.

        If the approval of the sample cannot be read, the batch is stopped, so that all its images are skipped.
        """
        try:
            return sample_left(work)
        except (ClientError, BotoCoreError) as error:
            stopped = StorageFailed(f"the approval of the batch's sample could not be read: {error}")
            work.stopped = work.stopped or outcome_of_error(stopped)
            return len(work.due)

    def _start_refresh(self, work: BatchWork) -> None:
        """Sets the batch's shared cap, and stores in the ledger which refreshes start, before anything is paid."""
        request = work.request
        if (
            request is not None
            and work.due
            and (request.MaxCostUSD is not None or request.RetryOf is not None)
        ):
            # A batch and its retries and redoes share one cap.
            store, batch = self._context.store, work.locations.batch
            cap, family = limit_of(store, batch, request), family_of(store, batch, request)
            work.locations = replace(work.locations, cap_usd=cap, family=family)
        started = {**work.occasions, **({RETRY: work.retry} if work.retry else {})}
        fields = (
            start_occasions(work.ledger.header, self._refresh, started)
            if work.due and work.problem is None
            else {}
        )
        if fields:
            # If this run is killed, the next one reports the batch again, even if nothing is due then.
            work.ledger.update_header(**fields, Reported="")
        if fields or (work.lease is not None and work.lease.left_behind):
            # After a takeover also without news: a write of the last holder's first segment, which it began before it
            # was suspended, must find that there is one.
            work.ledger.checkpoint(work.writer, header=True)

    def _may_use_stored_answers(self, work: BatchWork, image: str) -> bool:
        """Whether what is due of an image may be made from stored answers alone."""
        entry = work.ledger.get(image)
        return entry is not None and PICTURES in entry.stages and not work.occasions and bool(entry.sha256)

    def _add_label_costs(self, work: BatchWork, result: DateResult) -> None:
        """Adds each image's share of the Custom Labels window to its cost."""
        for image, usd in self._label_costs.get(work.locations.batch, {}).items():
            entry = work.ledger.get(image)
            if entry is not None and LABELS in entry.stages:
                payment = Payment(f"window-{self._leases.run}", WINDOW_OPERATION, usd)
                record(entry.payments, payment)
                work.ledger.put(entry)
                result.spent += Bill(usd)

    def _check_models(self, work: BatchWork) -> None:
        """Sets ``no_model`` if the batch needs an image model and none can be used; the selection is cached."""
        due_stages = {stage for stages in work.due.values() for stage in stages}
        try:
            if PICTURES in due_stages and any(work.settings_of(image).needs_prompt for image in work.due):
                self._context.background_models.current()
        except NothingUsable as error:
            self._state.no_model = outcome_of_error(error)
