"""Finds the batches of a run, leases them, and hands out their images one by one.

Why an image was skipped before it was started: `BatchQueue._images_of`.
"""

import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.budget.remaining import family_of, limit_of
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.payments import Bill, Payment, record
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import LABELS, PICTURES, REPORT
from bg_pipeline.errors import (
    BgPipelineError,
    LeaseLost,
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
from bg_pipeline.run.outcomes import SAMPLE_WAITS, RowOutcome, outcome_of_error
from bg_pipeline.run.run_state import ImageTask, RunState
from bg_pipeline.run.shared_batch import SharedBatch, digest_of, has_names_of_its_own, share
from bg_pipeline.state.batch_parts import Parts, part_lease_key
from bg_pipeline.state.leased_writes import LeasedWriter
from bg_pipeline.state.leases import POLL_SECONDS, Leases
from bg_pipeline.storage.object_store import explain_s3_error
from bg_pipeline.uploads.listing import Uploaded, remarks

NO_COSTS: Mapping[Batch, Mapping[str, float]] = MappingProxyType({})


@dataclass
class _OpenBatch:
    """A batch that this run works on or waits for.

    ``work`` is set once this run has leased the batch; ``shared`` if it works on parts of it, as the owner or as a
    helper. ``outstanding`` are the parts that were not given back yet to this run, the new owner. ``refused`` is the
    division that this run does not help with. ``ended`` says that this run has no more to do with the batch;
    ``poll_at`` (`time.monotonic`) is when it is to be looked at again.
    """

    uploaded: Uploaded
    result: DateResult
    work: BatchWork | None = None
    shared: SharedBatch | None = None
    outstanding: set[int] | None = None
    refused: str = ""
    ended: bool = False
    poll_at: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether this run can complete the batch now."""
        return self.shared is not None and self.shared.own and self.shared.done

    @property
    def leased(self) -> BatchWork:
        """``work``; raises `ValueError` if this run has not leased the batch."""
        if self.work is None:
            raise ValueError(f"{self.uploaded.batch.path} is not leased by this run")
        return self.work


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
        waiting: deque[_OpenBatch] = deque()
        for date in dates:
            result = self._state.results[date] = DateResult(date)
            try:
                yield from self._tasks_of_date(result, waiting)
            except (ClientError, BotoCoreError) as error:
                result.problems.append(explain_s3_error(self._context.store, error))
        while waiting:
            # Wait until the other run has finished the batch, or help it; then process what is still due.
            batch = waiting.popleft()
            if batch.ready or time.monotonic() >= batch.poll_at:
                yield from self._advance(batch)
                batch.poll_at = time.monotonic() + POLL_SECONDS
            if batch.ended:
                continue
            waiting.append(batch)
            if self._context.stop.wait(0 if self._state.running else POLL_SECONDS):
                return
            yield None

    # Finding and leasing batches

    def _tasks_of_date(self, result: DateResult, waiting: "deque[_OpenBatch]") -> Iterator[ImageTask]:
        """The images of one date; batches that other runs have, or work on too, are added to ``waiting``."""
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
            elif self._is_complete(work, report_keys):
                self._completion.count_unchanged(work)
            elif self._lease(work):
                batch = _OpenBatch(uploaded, result, work)
                yield from self._advance(batch)
                if not batch.ended:
                    waiting.append(batch)
            elif self._wait_for_others:
                waiting.append(_OpenBatch(uploaded, result))
            else:
                result.unfinished.append(f"{uploaded.batch.path} (another run is at work on it)")

    def _is_complete(self, work: BatchWork, report_keys: Collection[str] | None = None) -> bool:
        """Whether nothing is due in a batch, its report is stored, and it is not divided into parts."""
        return (
            not work.due
            and work.ledger.parts is None
            and self._is_reported(work, report_keys)
            and not self._completion.can_archive(work)
        )

    def _advance(self, batch: "_OpenBatch") -> Iterator[ImageTask]:
        """The images of a batch that can be started now; sets ``ended`` if this run has no more to do with it."""
        try:
            if batch.work is None:
                if (lease := self._leases.acquire(batch.uploaded.batch.lease_key)) is None:
                    yield from self._help(batch)
                    return
                work = self._reopen(batch.uploaded)
                if work is None or self._is_complete(work):
                    if work is not None:
                        self._completion.count_unchanged(work)
                    lease.release()
                    batch.ended = True
                    return
                work.lease, work.writer = lease, LeasedWriter(lease, batch.uploaded.batch.path)
                batch.work, batch.shared = work, None
            if not self._all_parts_returned(batch):
                return
            if batch.shared is None:
                yield from self._images_of(batch)
            if batch.shared is not None:
                yield from self._parts_of_owner(batch)
            else:
                batch.ended = True
        except (LeaseLost, NotDelivered, NewerDocument) as error:
            self._give_up(batch, error)
        except (ClientError, BotoCoreError) as error:
            if batch.work is None or (batch.shared is None and batch.work.ledger.parts is None):
                raise
            self._give_up(batch, error)

    def _give_up(self, batch: "_OpenBatch", error: Exception) -> None:
        """Ends the work on a batch that this run has leased after an error that concerns the whole batch."""
        batch.ended = True
        if batch.work is not None:
            self._completion.give_up(batch.work, error)

    def _reopen(self, uploaded: Uploaded) -> BatchWork | None:
        """The batch as it is stored now; None, with a problem in its date's result, if it cannot be read."""
        try:
            return self._finder.open(uploaded)
        except (ClientError, BotoCoreError, NewerDocument) as error:
            self._state.add_problem(uploaded.batch, f"could not be read: {error}")
            return None

    def _is_reported(self, work: BatchWork, report_keys: Collection[str] | None) -> bool:
        """Whether the stored report is up to date, or no report is wanted.

        ``report_keys`` are the keys under the default prefix of the date's reports; None if they are not known.
        """
        if REPORT not in self._stages:
            return True
        if not work.ledger.header.get("Reported") or work.reports_other_images:
            return False
        locations = work.locations
        key = s3_keys.report_key(locations.status_prefix, locations.request_id)
        if (
            report_keys is None
            or locations.status_prefix != locations.batch.status_prefix
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

    def _images_of(self, batch: "_OpenBatch") -> Iterator[ImageTask]:
        """Starts a leased batch and yields its images; those that cannot be started now are skipped with a reason.

        The reasons are: the image is beyond a sample that is not approved, the batch or the run was stopped, or the
        image needs an image model and none can be used. A large batch is divided instead, if other runs may help:
        then ``batch.shared`` is set.
        """
        state, work, result = self._state, batch.leased, batch.result
        state.open_batches.append(work)
        # Only the report shows thumbnails.
        work.locations.thumbnails.enabled &= REPORT in self._stages
        state.started_at.setdefault(result.date, (time.monotonic(), self._context.calls.refused()))
        self._add_label_costs(work, result)
        try:
            self._start_refresh(work)
        except (RunStopped, NotDelivered) as error:
            work.stopped = outcome_of_error(error)
        images = list(work.due)
        self._check_models(work)
        for line in remarks(work.uploaded):
            self._context.note(line)
        limit = self._sample_left(work)
        if limit >= len(images) and self._may_be_shared(work):
            batch.shared = share(
                self._context.store, self._leases, work, self._stages, self._context.settings.part_images
            )
            self._context.note(
                f"{work.locations.batch.path}: {len(images)} images in {len(batch.shared.parts.starts)} parts, on "
                f"which up to {self._context.settings.runs_per_date} runs work at once (BG_RUNS_PER_DATE)"
            )
            return
        work.pending = len(images)
        result.due += len(images)
        state.found += len(images)
        for number, image in enumerate(images):
            if number >= limit:
                self._recorder.skip(work, image, SAMPLE_WAITS)
            elif stopped := self._reason_to_skip(work, image):
                self._recorder.skip(work, image, stopped)
            else:
                yield ImageTask(work, image)
        if not images:
            self._completion.finish(work)

    def _reason_to_skip(self, work: BatchWork, image: str) -> RowOutcome | None:
        """Why a due image cannot be started, if it cannot."""
        if stopped := work.stopped or self._state.stopped:
            return stopped
        no_model = self._state.no_model
        return no_model if no_model and not self._may_use_stored_answers(work, image) else None

    # Batches that several runs work on

    def _may_be_shared(self, work: BatchWork) -> bool:
        """Whether a batch is large enough to be divided, and no single run has to know all that is due in it."""
        settings, state = self._context.settings, self._state
        return (
            settings.runs_per_date > 1
            and len(work.due) > settings.part_images
            and work.request is not None
            and not (work.stopped or state.stopped or state.no_model)
            # A refresh ends for the whole batch at once; thumbnails and label costs are in this run's memory.
            and not (work.occasions or work.retry)
            and not work.locations.thumbnails.enabled
            and work.locations.batch not in self._label_costs
            and has_names_of_its_own(work)
        )

    def _parts_of_owner(self, batch: "_OpenBatch") -> Iterator[ImageTask]:
        """The images of the parts of a batch that this run has divided; completes the batch after the last one."""
        work, shared = batch.leased, batch.shared
        if shared is None:
            return
        while True:
            work.writer.check()
            if shared.broken:
                raise NotDelivered("NotStored", shared.broken)
            if shared.stopped and shared.stopped.error == LeaseLost.__name__:
                raise LeaseLost(shared.stopped.cause)
            part = shared.next_part()
            if part is None:
                break
            yield from self._images_of_part(part, shared, batch.result)
        if shared.done:
            batch.ended = True
            self._completion.finish(work)

    def _images_of_part(
        self, part: BatchWork, shared: SharedBatch, result: DateResult
    ) -> Iterator[ImageTask]:
        """The images of a leased part; the owner skips what cannot be started, helpers leave it to others."""
        state = self._state
        state.open_batches.append(part)
        state.started_at.setdefault(result.date, (time.monotonic(), self._context.calls.refused()))
        result.due += len(part.due)
        state.found += len(part.due)
        for image in list(part.due):
            reason = shared.stopped or self._reason_to_skip(part, image)
            if shared.withdrawn or (reason and (not shared.own or reason.error == LeaseLost.__name__)):
                shared.stopped = shared.stopped or reason
                self._recorder.leave(part)
            elif reason:
                self._recorder.skip(part, image, reason)
            else:
                yield ImageTask(part, image)

    def _help(self, batch: "_OpenBatch") -> Iterator[ImageTask]:
        """The images of parts of a batch that another run has leased and divided, as far as this run may help."""
        try:
            shared = self._shared_by_other(batch)
            while shared is not None and not (shared.stopped or shared.broken or self._cannot_help):
                part = None if shared.withdrawn else shared.next_part()
                if part is None:
                    return
                yield from self._images_of_part(part, shared, batch.result)
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            # Whoever has the batch does it all, and this run goes on waiting for it.
            self._context.note(f"{batch.uploaded.batch.path}: this run does not work on parts of it: {error}")
            if batch.shared is not None:
                batch.refused = batch.shared.parts.holder
            batch.shared = None

    @property
    def _cannot_help(self) -> bool:
        return bool(self._state.stopped or self._state.no_model or self._context.stop.is_set())

    def _shared_by_other(self, batch: "_OpenBatch") -> SharedBatch | None:
        """The batch as its present owner divided it, if this run would do the same with its images."""
        if self._context.settings.runs_per_date == 1 or self._cannot_help:
            return None
        store = self._context.store
        parts = Parts.read(store, batch.uploaded.batch)
        if parts is None or parts.closed or parts.holder == batch.refused:
            return None
        if batch.shared is None or batch.shared.parts.holder != parts.holder:
            batch.shared, batch.refused = None, parts.holder
            work = self._finder.open(batch.uploaded)
            # What was asked for as a refresh or a retry is started for the whole batch, by its owner.
            if not work.due or work.problem or work.occasions or work.retry:
                return None
            if digest_of(work, self._stages) != parts.digest:
                return None
            self._share_cap(work)
            work.shared = batch.shared = SharedBatch(store, self._leases, work, parts, own=False)
            batch.refused = ""
        return batch.shared

    def _all_parts_returned(self, batch: "_OpenBatch") -> bool:
        """Whether nobody works on parts that an earlier holder of the batch's lease made; then the batch is current.

        Closes the division first, so that runs leave the parts that they have.
        """
        work, store = batch.leased, self._context.store
        parts = work.ledger.parts
        if parts is None or batch.shared is not None or batch.outstanding == set():
            return True
        if batch.outstanding is None:
            work.ledger.parts = replace(parts, closed=True).write(store, work.locations.batch, work.writer)
            batch.outstanding = set(range(len(parts.starts)))
        work.writer.check()
        for number in sorted(batch.outstanding):
            lease = self._leases.acquire(part_lease_key(work.locations.batch, number))
            if lease is not None:
                lease.release()
                batch.outstanding.discard(number)
        if batch.outstanding:
            return False
        work.update_from(self._finder.open(batch.uploaded))
        return True

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
        """Sets the batch's shared cap, and stores in the ledger what is to be done, before anything is paid.

        That is which refreshes start, and that the last report is no longer true: if this run ends without writing
        the ledger, the next one reports the batch again and tells what was paid, even if nothing is due then, as
        after a change of the request that was taken back.
        """
        self._share_cap(work)
        started = {**work.occasions, **({RETRY: work.retry} if work.retry else {})}
        begins = bool(work.due) and work.problem is None
        fields = start_occasions(work.ledger.header, self._refresh, started) if begins else {}
        reported = begins and bool(work.ledger.header.get("Reported"))
        if fields or reported:
            work.ledger.update_header(**fields, Reported="")
        if fields or reported or (work.lease is not None and work.lease.left_behind):
            # After a takeover also without news: a write of the last holder's first segment, which it began before it
            # was suspended, must find that there is one.
            work.ledger.checkpoint(work.writer, header=True)

    def _share_cap(self, work: BatchWork) -> None:
        """Sets the cap that the batch shares with its retries and redoes; raises `RunStopped` if it is not known."""
        request = work.request
        if (
            request is not None
            and work.due
            and (request.MaxCostUSD is not None or request.RetryOf is not None)
        ):
            store, batch = self._context.store, work.locations.batch
            cap, family = limit_of(store, batch, request), family_of(store, batch, request)
            work.locations = replace(work.locations, cap_usd=cap, family=family)

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
