"""Errors as outcomes: the status, error and cause of a stage that ended with one, and how attempts are merged."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain.ledger_entries import StageRecord
from bg_pipeline.domain.rows import GOOD, WAITING_FOR_APPROVAL, Status
from bg_pipeline.errors import (
    BgPipelineError,
    Blocked,
    CallError,
    ImageError,
    ModelUnavailable,
    NeedsReview,
    NotTried,
    OutcomeUnknown,
    RunStopped,
    SourceUnreadable,
    StorageFailed,
    Transient,
)

EXPECTED = (ImageError, CallError, RunStopped)
"""Errors that may end the work on one image; any other exception is a bug of this program."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowOutcome:
    """How a stage of an image ended; ``final`` if trying it again would end the same way."""

    status: Status
    final: bool
    error: str
    cause: str


SAMPLE_WAITS = RowOutcome(
    Status.SKIPPED,
    False,
    WAITING_FOR_APPROVAL,
    "not in the sample; it is run once somebody approves that (on the page, or `bg-pipeline approve`)",
)
"""The outcome of the images that are not in a sample, until a person approves it."""


def capture_error(work: Callable[[], T], image: str) -> T | BgPipelineError:
    """What ``work`` returns, or the error that ended it; any exception becomes a `BgPipelineError`.

    ``image`` is named in the log.
    """
    try:
        return work()
    except EXPECTED as error:
        return error
    except (ClientError, BotoCoreError) as error:
        # Errors of other services, of reading photos and of storing results were converted before they came here:
        # this one comes from reading or writing the pipeline's own state.
        return StorageFailed(f"S3 refused to read or write the pipeline's own state: {error}")
    except Exception as error:  # noqa: BLE001 (one odd file must not end the run of ten thousand others)
        return _internal_error(error, image)


def _internal_error(error: Exception, image: str) -> CallError:
    """A bug of this program as a failure of the one image; its traceback is logged."""
    _log.error("a bug in bg_pipeline ended the work on %s", image, exc_info=error)
    text = " ".join(str(error).split())
    return Transient(
        "InternalError",
        f"a bug in bg_pipeline ({type(error).__name__}: {text}); please report it with the traceback in the log "
        "of the run",
    )


def outcome_of_error(error: BgPipelineError) -> RowOutcome:
    """The outcome of a stage that ended with this error."""
    code = getattr(error, "code", type(error).__name__)
    if isinstance(error, (RunStopped, NotTried)):
        return RowOutcome(Status.SKIPPED, False, code, str(error))
    if isinstance(error, Blocked):
        return RowOutcome(Status.BLOCKED, True, code, str(error))
    if isinstance(error, NeedsReview):
        return RowOutcome(Status.NEEDS_REVIEW, True, code, str(error))
    if isinstance(error, SourceUnreadable):
        return RowOutcome(Status.FAILED, False, code, str(error))
    if isinstance(error, OutcomeUnknown):
        return RowOutcome(Status.FAILED, False, "MaybeBilled", str(error))
    if isinstance(error, Transient):
        return RowOutcome(Status.FAILED, False, code, str(error))
    if isinstance(error, ModelUnavailable):
        return RowOutcome(Status.FAILED, False, code, str(error))
    return RowOutcome(Status.FAILED, True, code, str(error))


def keep_better(
    before: StageRecord | None, now: StageRecord, *, intact: bool = True, newer: bool = False
) -> StageRecord:
    """The record of a stage after an attempt: a good outcome of the same request stays until there is a better one.

    ``before`` is the record before the attempt, ``now`` that of the attempt. ``intact`` is false if results of
    ``before`` are missing in S3; then ``now`` is returned. ``newer`` says that the attempt stored a newer version of
    a result that was not read back yet.
    """
    if before is None or not same_request(before, now) or before.status not in GOOD or not intact:
        return now
    if now.status == Status.SUCCEEDED or now.status == before.status:
        return now
    # A final failure fulfils the refresh; after any other failure the refresh is tried again on the same occasion.
    occasion = now.occasion if now.final else before.occasion
    stays = "its newer version counts once a run has read it back" if newer else "the earlier result stays"
    note = f"a refresh of it failed ({now.cause}); {stays}"
    return replace(before, occasion=occasion, note=note, tried=now.made_for if now.final else "")


def same_request(before: StageRecord, now: StageRecord) -> bool:
    """Whether two records are for the same photo and the same request; settings may have changed in between."""
    return before.made_for == now.made_for or before.wish == now.wish != ""


def merge_outputs(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], files: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The outputs after an attempt, by number: an earlier stored output stays if the attempt stored no new one.

    ``before`` are the outputs before the attempt, ``now`` those of the attempt (empty if it ended before the first).
    ``files`` are the stored results by key.
    """
    outputs = {output["Number"]: dict(output) for output in now}
    for output in before:
        number = output["Number"]
        if output["Key"] in files and not outputs.get(number, {}).get("Key"):
            outputs[number] = dict(output)
    return [outputs[number] for number in sorted(outputs)]
