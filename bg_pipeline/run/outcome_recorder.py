"""Records what became of each image, and stops a batch or the run when an outcome requires that."""

from collections.abc import Callable

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.domain.rows import GOOD, WAITING_FOR_APPROVAL, Status
from bg_pipeline.domain.stages import PICTURES
from bg_pipeline.errors import NothingUsable
from bg_pipeline.run.batch_completion import BatchCompletion
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.fingerprints import request_fingerprint
from bg_pipeline.run.image_run import ImageRun
from bg_pipeline.run.outcomes import (
    SAMPLE_WAITS,
    RowOutcome,
    keep_better,
    merge_outputs,
    outcome_of_error,
)
from bg_pipeline.run.run_state import RunState
from bg_pipeline.state.model_stopped import WAITS_FOR_WINDOW

WAITING_ERRORS = frozenset({WAITING_FOR_APPROVAL, WAITS_FOR_WINDOW})
"""``Error`` codes of images that wait for a person or for a Custom Labels window."""
MIN_IMAGES_FOR_FAILED_SHARE = 20
"""``BG_MAX_FAILED_SHARE`` is checked once this many images of a batch are done."""
MAX_UNDELIVERED = 3
"""A batch is stopped after this many images in a row whose results S3 did not store."""


class OutcomeRecorder:
    """Writes the outcome of each image to its batch's ledger, and completes a batch after its last image.

    ``on_image`` is called with the batch and the ledger entry of each image.
    """

    def __init__(
        self,
        state: RunState,
        completion: BatchCompletion,
        *,
        max_failed_share: float,
        on_image: Callable[[Batch, Entry], None],
    ) -> None:
        self._state = state
        self._completion = completion
        self._max_failed_share = max_failed_share
        self._on_image = on_image

    def accept(self, work: BatchWork, image_run: ImageRun) -> None:
        """Records a processed image, and stops its batch or the run if it ended with a `RunStopped`."""
        stopped = image_run.stopped
        result = self._state.result_of(work)
        if isinstance(stopped, NothingUsable):
            # Continue without an image model: stored pictures need none, and only some prompts need captions.
            pictures = image_run.entry.stages.get(PICTURES)
            if pictures is not None and pictures.error == NothingUsable.__name__:
                self._state.no_model = outcome_of_error(stopped)
                result.stopped = result.stopped or str(stopped)
        elif stopped is not None:
            if getattr(stopped, "scope", "") == "batch":
                work.stopped = outcome_of_error(stopped)
            else:
                self._state.stopped = self._state.stopped or outcome_of_error(stopped)
        result.spent += image_run.spent
        work.undelivered = work.undelivered + 1 if image_run.undelivered else 0
        if work.undelivered >= MAX_UNDELIVERED:
            work.stopped = work.stopped or RowOutcome(
                Status.SKIPPED,
                False,
                "NotStored",
                f"S3 did not store the results of {work.undelivered} images in a row; see their causes, fix that and "
                "run again: what was paid for is stored and is not paid for again",
            )
        self._record(work, image_run.entry, call_failed=image_run.call_failed)

    def leave(self, work: BatchWork) -> None:
        """Counts a due image of a part that is left to other runs; nothing is recorded for it."""
        self._state.result_of(work).due -= 1
        self._state.found -= 1
        work.left += 1
        work.pending -= 1
        if work.pending == 0:
            self._completion.finish(work)

    def skip(self, work: BatchWork, image: str, reason: RowOutcome) -> None:
        """Records why a due image was not started; its earlier results stay."""
        entry = work.ledger.get(image) or Entry(image)
        lost = work.take_lost(image, entry)
        if reason is not SAMPLE_WAITS:
            result = self._state.result_of(work)
            result.stopped = result.stopped or reason.cause
        for stage, made_for in work.due[image].items():
            skipped = StageRecord(made_for, reason.status, reason.final, reason.error, reason.cause)
            if stage == PICTURES:
                source = work.images[image]
                skipped.wish = request_fingerprint(work.settings_of(image), source.etag if source else "")
            intact, newer = stage != PICTURES or not lost, stage == PICTURES and bool(entry.unproven)
            entry.stages[stage] = keep_better(entry.stages.get(stage), skipped, intact=intact, newer=newer)
        if PICTURES in work.due[image]:
            entry.files = {key: etag for key, etag in entry.files.items() if key not in lost}
            # Drop the failed outputs of an earlier attempt: their errors are not the reason for this skip.
            entry.outputs = merge_outputs(entry.outputs, (), entry.files)
        self._record(work, entry)

    def _record(self, work: BatchWork, entry: Entry, *, call_failed: bool = False) -> None:
        result = self._state.result_of(work)
        work.ledger.update_header(Reported="")
        work.ledger.put(entry)
        self._on_image(work.locations.batch, entry)
        work.pending -= 1
        self._state.done += 1
        failed = waiting = skipped = blocked = False
        for stage in work.due[entry.image]:
            stage_record = entry.stages[stage]
            seconds = result.seconds_by_stage.get(stage, 0.0) + stage_record.seconds
            result.seconds_by_stage[stage] = seconds
            if stage_record.status in GOOD:
                result.made[stage] += 1
            elif stage_record.error == WAITS_FOR_WINDOW:
                result.waiting[stage] += 1
            else:
                result.failed[stage] += 1
            # Labels and captions that a picture did not need are noted in its row and are no failure of the image.
            counts = stage == PICTURES or PICTURES not in work.due[entry.image]
            failed = failed or (counts and stage_record.status == Status.FAILED)
            waiting = waiting or (counts and stage_record.error in WAITING_ERRORS)
            skipped = skipped or (counts and stage_record.status == Status.SKIPPED)
            blocked = blocked or (counts and stage_record.status == Status.BLOCKED)
        self._state.failed += failed
        self._state.blocked += blocked and not failed
        self._state.waiting += waiting and not (failed or blocked)
        self._state.skipped += skipped and not (failed or blocked or waiting)
        work.done += 1
        work.failed += failed and call_failed
        failed_share = work.failed / work.done
        if (
            work.done >= MIN_IMAGES_FOR_FAILED_SHARE
            and failed_share > self._max_failed_share
            and not work.stopped
        ):
            work.stopped = RowOutcome(
                Status.SKIPPED,
                False,
                "TooManyFailures",
                f"{work.failed} of {work.done} images of the batch failed at a service, more than "
                "BG_MAX_FAILED_SHARE allows; see the causes in the report, fix them and run again",
            )
        if work.pending == 0:
            self._completion.finish(work)
