"""What an expected error makes of an image's row."""

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
"""What may end the work on one image; what else does is a fault of this program's own."""

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Meaning:
    """What an expected error makes of a row; ``final`` if doing it again would end the same way."""

    status: Status
    final: bool
    error: str
    cause: str


SAMPLE_WAITS = Meaning(
    Status.SKIPPED,
    False,
    WAITING_FOR_APPROVAL,
    "not in the sample; it is run once somebody approves that (on the page, or `bg-pipeline approve`)",
)
"""What becomes of the images that are not in a sample, until a person approves it."""


def attempt(work: Callable[[], T], image: str) -> T | BgPipelineError:
    """What ``work`` returns, or the error that ended it for this image, whatever it was."""
    try:
        return work()
    except EXPECTED as error:
        return error
    except (ClientError, BotoCoreError) as error:
        # Every other service's errors have a meaning of their own by now, and so have photos that S3 does not hand
        # out and results that it does not take: this is S3 with the pipeline's own state.
        return StorageFailed(f"S3 does not do what it is asked with the pipeline's state: {error}")
    except Exception as error:  # noqa: BLE001 (one odd file must not take ten thousand others with it)
        return _own_fault(error, image)


def _own_fault(error: Exception, image: str) -> CallError:
    """A fault of this program's own, as a failure of the one image that met it; the log has its traceback."""
    _log.error("bg_pipeline has a fault, met by %s", image, exc_info=error)
    words = " ".join(str(error).split())
    return Transient(
        "InternalError",
        f"a fault of bg_pipeline's own ({type(error).__name__}: {words}); please report it with the traceback "
        "that the log of the run has",
    )


def meaning(error: BgPipelineError) -> Meaning:
    """The status, error and cause that a row has for an expected error."""
    code = getattr(error, "code", type(error).__name__)
    if isinstance(error, (RunStopped, NotTried)):
        return Meaning(Status.SKIPPED, False, code, str(error))
    if isinstance(error, Blocked):
        return Meaning(Status.BLOCKED, True, code, str(error))
    if isinstance(error, NeedsReview):
        return Meaning(Status.NEEDS_REVIEW, True, code, str(error))
    if isinstance(error, SourceUnreadable):
        return Meaning(Status.FAILED, False, code, str(error))
    if isinstance(error, OutcomeUnknown):
        return Meaning(Status.FAILED, False, "MaybeBilled", str(error))
    if isinstance(error, Transient):
        return Meaning(Status.FAILED, False, code, str(error))
    if isinstance(error, ModelUnavailable):
        return Meaning(Status.FAILED, False, code, str(error))
    return Meaning(Status.FAILED, True, code, str(error))


def settled(
    before: StageRecord | None, now: StageRecord, *, intact: bool = True, newer: bool = False
) -> StageRecord:
    """The record of a stage after an attempt: a good outcome of the same request stays until there is a better one.

    ``intact`` says that what ``before`` tells of is still stored, ``newer`` that the attempt has put something in its
    place that does not count yet.
    """
    if before is None or not same_wish(before, now) or before.status not in GOOD or not intact:
        return now
    if now.status == Status.SUCCEEDED or now.status == before.status:
        return now
    # A refusal of a refresh is an answer to it; what did not come to an end is asked for again on the same occasion.
    occasion = now.occasion if now.final else before.occasion
    stays = (
        "what was stored in its place counts once a run has read it back"
        if newer
        else "the earlier result stays"
    )
    note = f"it was to be made anew, which did not succeed ({now.cause}); {stays}"
    return replace(before, occasion=occasion, note=note, tried=now.made_for if now.final else "")


def same_wish(before: StageRecord, now: StageRecord) -> bool:
    """Whether two records are of the same request for the same photo; settings may have changed in between."""
    return before.made_for == now.made_for or before.wish == now.wish != ""


def merged(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], files: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The outputs after an attempt, by number: where it made none, what was delivered before stays.

    ``files`` are the results that are stored. ``now`` is empty where the attempt ended before any output.
    """
    made = {output["Number"]: dict(output) for output in now}
    for output in before:
        number = output["Number"]
        if output["Key"] in files and not made.get(number, {}).get("Key"):
            made[number] = dict(output)
    return [made[number] for number in sorted(made)]
