"""Completes a batch: stores its ledger and report, archives its photos, counts its rows, releases its lease."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain.payments import sum_payments
from bg_pipeline.domain.rows import GOOD, Row, Status
from bg_pipeline.domain.stages import LABELS, PICTURES, REPORT, STAGES
from bg_pipeline.errors import BgPipelineError, LeaseLost, NotDelivered, RunStopped, StorageFailed
from bg_pipeline.run.archive import Archive
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.date_result import MAX_FAILED_ROWS, MAX_PREVIEWS, AnalysedPhoto, DateResult
from bg_pipeline.run.discovery import results_in
from bg_pipeline.run.occasions import RETRY, fulfil_occasions
from bg_pipeline.run.outcomes import outcome_of_error
from bg_pipeline.run.rows import current_rows_and_entries, paid_beside, rows_and_entries
from bg_pipeline.run.run_state import RunState

WINDOW_OPERATION = "CUSTOM_LABELS_WINDOW"
"""The operation of the payment for an image's share of a Custom Labels window; it does not count against a cap."""


@dataclass(frozen=True)
class Reporter:
    """The functions that write and check a batch's report, so that a run does not depend on its format.

    ``write`` stores a report with these rows, which it reads once, and returns its key. ``missing`` returns the
    images that do not have exactly one row in the stored report.
    """

    write: Callable[[BatchWork, Iterable[Row]], str]
    missing: Callable[[BatchWork], list[str]]


class BatchCompletion:
    """Stores and reports the batches of one run. ``stages`` are the stages that the run brings up to date."""

    def __init__(
        self, context: RunContext, state: RunState, reporter: Reporter, stages: frozenset[str]
    ) -> None:
        self._context = context
        self._state = state
        self._reporter = reporter
        self._stages = stages
        self._archive = Archive(context.store, context.settings.archive_to, context.note)

    def finish(self, work: BatchWork) -> None:
        """Stores the ledger and the report of a processed batch and releases its lease.

        An error is a problem of this batch alone and is added to the result of its date.
        """
        if work.part is not None:
            self._finish_part(work)
            return
        result = self._state.result_of(work)
        try:
            if work.shared is not None:
                # Everything was recorded in the parts.
                work.ledger = work.shared.merged_ledger()
            self._store(work, result)
            if work.shared is not None:
                with suppress(ClientError, BotoCoreError):
                    work.shared.delete_leases()
        except LeaseLost:
            result.unfinished.append(f"{work.locations.batch.path} (taken over by another run)")
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            self._state.add_problem(work.locations.batch, f"could not be reported: {error}")
        self._measure_time(result)
        self._state.open_batches.remove(work)
        if work.lease is not None:
            work.lease.release()

    def _finish_part(self, work: BatchWork) -> None:
        """Stores the ledger of a part and releases its lease."""
        shared = work.shared
        if shared is None:
            return
        stored = False
        try:
            work.writer.check()
            work.ledger.checkpoint(work.writer)
            stored = True
        except LeaseLost:
            pass  # whoever has the part now does it again, from the stored answers
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            shared.broken = str(error)
        self._measure_time(self._state.result_of(work))
        self._state.open_batches.remove(work)
        self.release_part(work, stored=stored)

    def release_part(self, work: BatchWork, *, stored: bool) -> None:
        """Releases the lease of a part on which this run makes no call any more, and what it reserved for it.

        ``stored`` says that all that the run did is in the part's ledger.
        """
        if work.shared is not None:
            work.shared.end_part(work, stored=stored)
            if not (work.shared.own or work.shared.working):
                # Whoever completes the batch tells what was paid and is in no ledger; a reservation looks like it.
                self._context.run_budget.settle_batch(work.locations.batch.spend_key)
        if work.lease is not None:
            work.lease.release()

    def give_up(self, work: BatchWork, error: Exception) -> None:
        """Releases a shared batch that this run cannot complete; parts under way are finished under their own leases.

        The error is added to the result of its date.
        """
        result = self._state.result_of(work)
        if isinstance(error, LeaseLost):
            result.unfinished.append(f"{work.locations.batch.path} (taken over by another run)")
        else:
            self._state.add_problem(work.locations.batch, f"could not be completed: {error}")
        if work in self._state.open_batches:
            self._measure_time(result)
            self._state.open_batches.remove(work)
        if work.lease is not None:
            work.lease.release()

    def report_early(self, work: BatchWork) -> None:
        """Stores and reports what is known of a batch that is not finished; an error is only noted."""
        if work.lease is None or not work.lease.held():
            return
        try:
            work.ledger.checkpoint(work.writer)
            if work.part is not None:
                return
            if work.shared is not None:
                work.ledger = work.shared.merged_ledger()
            if REPORT in self._stages:
                self._reporter.write(work, (row for row, _ in current_rows_and_entries(work)))
        except (BgPipelineError, ClientError, BotoCoreError) as error:
            self._context.note(
                f"{work.locations.batch.path}: what was done so far could not be reported: {error}"
            )

    def checkpoint(self, work: BatchWork) -> None:
        """Stores the new ledger entries; an error stops the batch or the run but is not raised."""
        try:
            work.ledger.checkpoint(work.writer)
        except LeaseLost as error:
            work.stopped = work.stopped or outcome_of_error(error)
        except NotDelivered as error:
            # What was paid for is stored already, so the run need not fail: it stops.
            stopped = outcome_of_error(StorageFailed(str(error)))
            self._state.stopped = self._state.stopped or stopped
        if work.part is not None and work.shared is not None:
            with suppress(ClientError, BotoCoreError, BgPipelineError):
                work.shared.still_open()

    def count_unchanged(self, work: BatchWork) -> None:
        """Adds a batch in which nothing is due to the result of its date."""
        result = self._state.result_of(work)
        self._count(work, result)
        self._add_previews(work, result)

    def can_archive(self, work: BatchWork) -> bool:
        """Whether photos of the batch can be archived now; only a run of all stages does that."""
        return self._stages.issuperset(STAGES) and bool(self._archive.due(work))

    def _store(self, work: BatchWork, result: DateResult) -> None:
        work.writer.check()
        work.ledger.keep_only(list(work.images))
        self._record_unattributed_spend(work)
        refreshes = (*work.occasions, *([RETRY] if work.retry else []))
        unfulfilled = (
            {stage for image in work.due for stage in self._stages_left(work, image)} if refreshes else set()
        )
        fulfilled = [name for name in refreshes if name not in unfulfilled]
        if fields := fulfil_occasions(work.ledger.header, fulfilled, datetime.now(UTC)):
            work.ledger.update_header(**fields)
        if REPORT in self._stages:
            # The ledger first: the next run must know of everything that the report contains.
            work.ledger.checkpoint(work.writer)
            result.reports.append(self._reporter.write(work, self._counted_rows(work, result)))
            reported = datetime.now(UTC).isoformat(timespec="seconds")
            work.ledger.update_header(Reported=reported, ReportedImages=work.images_digest)
        else:
            self._count(work, result)
        work.ledger.finish(work.writer)
        if self.can_archive(work):
            self._archive.move(work)
        self._add_previews(work, result)
        stored = results_in(work.locations.data, f"{work.locations.output_prefix}/")
        unreported = self._reporter.missing(work) if REPORT in self._stages else []
        result.checks.compare_with_stored(work, stored, unreported)

    def _record_unattributed_spend(self, work: BatchWork) -> None:
        """Records in the ledger's header what was spent on the batch by calls that no image's entry contains.

        A run that is killed does not write its last calls into the ledger. If their photo or request has changed
        since, no later run uses their answers. What they cost may have been billed.
        """
        if work.problem is not None:
            return
        try:
            spent = self._context.run_budget.spent_on(work.locations.batch.spend_key)
        except RunStopped as error:
            self._context.note(f"{work.locations.batch.path}: what was spent on it cannot be known: {error}")
            return
        payments = [
            payment.usd or 0.0 for payment in work.ledger.payments() if payment.operation != WINDOW_OPERATION
        ]
        # The spend document counts whole micro-dollars, rounded up for each call.
        unattributed = round(spent - sum(payments), 6)
        tolerance = 2e-6 * (len(payments) + 1)
        work.ledger.update_header(Untold=unattributed if unattributed > tolerance else 0.0)

    def _stages_left(self, work: BatchWork, image: str) -> Iterator[str]:
        """The stages of an image that were to be refreshed and were not."""
        entry = work.ledger.get(image)
        for stage in work.due[image]:
            stage_record = entry.stages.get(stage) if entry else None
            if stage_record is None or stage_record.occasion != work.occasions.get(
                stage, stage_record.occasion
            ):
                yield stage

    def _count(self, work: BatchWork, result: DateResult) -> None:
        for _ in self._counted_rows(work, result):
            pass

    def _counted_rows(self, work: BatchWork, result: DateResult) -> Iterator[Row]:
        """The rows of a batch, each added to the result as it is yielded: making rows is slow, so once must do."""
        result.batches.append(work.locations.batch.path)
        if beside := paid_beside(work):
            result.total += beside.bill
        found = rows_and_entries if PICTURES in self._stages else current_rows_and_entries
        for row, entry in found(work):
            result.checks.add(row, entry)
            result.images += 1
            result.counts[row.Status] += 1
            result.total += sum_payments(entry.payments.values())
            result.good.update(stage for stage, record in entry.stages.items() if record.status in GOOD)
            if row.Status != Status.SUCCEEDED and len(result.failed_rows) < MAX_FAILED_ROWS:
                result.failed_rows.append(row)
            yield row

    def _add_previews(self, work: BatchWork, result: DateResult) -> None:
        """Adds pairs of a photo's current key and the key of its first result, and photos with labels or captions."""
        for image in work.images:
            if len(result.previews) == len(result.analysed) == MAX_PREVIEWS:
                return
            data, source_key = work.locations.resolve(f"{work.locations.input_prefix}/{image}")
            entry = work.ledger.get(image)
            if entry is None or data is not work.locations.data:
                continue
            result_key = next((output["Key"] for output in entry.outputs if output["Key"]), "")
            if result_key and len(result.previews) < MAX_PREVIEWS:
                result.previews.append((source_key, result_key))
            labels = entry.stages.get(LABELS)
            labelled = labels is not None and labels.status in GOOD
            if (labelled or entry.caption) and len(result.analysed) < MAX_PREVIEWS:
                labels_key = work.locations.batch.labels_key(image) if labelled else ""
                result.analysed.append(
                    AnalysedPhoto(image, source_key, labels_key, entry.labels, entry.caption, entry.alt_text)
                )

    def _measure_time(self, result: DateResult) -> None:
        started, refused = self._state.started_at[result.date]
        result.seconds = time.monotonic() - started
        result.refused = self._context.calls.refused() - refused
