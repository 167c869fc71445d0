"""What an expected error makes of an image's row."""

from dataclasses import dataclass

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
    Transient,
)
from bg_pipeline.reports.report import Status

EXPECTED = (ImageError, CallError, RunStopped)
"""What may end the work on one image; anything else is a bug and propagates."""


@dataclass(frozen=True)
class Meaning:
    """What an expected error makes of a row; ``final`` if doing it again would end the same way."""

    status: Status
    final: bool
    error: str
    cause: str


SAMPLE_WAITS = Meaning(
    Status.SKIPPED, False, "SampleWaits", "the sample waits for approval: `bg-pipeline approve` runs the rest"
)
"""What becomes of the images that are not in a sample, until a person approves it."""


def meaning(error: BgPipelineError) -> Meaning:
    """The status, error and cause that a row has for an expected error."""
    code = getattr(error, "code", type(error).__name__)
    if isinstance(error, (RunStopped, NotTried)):
        return Meaning(Status.SKIPPED, False, code, str(error))
    if isinstance(error, Blocked):
        return Meaning(Status.BLOCKED, True, code, str(error))
    if isinstance(error, NeedsReview):
        return Meaning(Status.NEEDS_REVIEW, True, code, str(error))
    if isinstance(error, OutcomeUnknown):
        return Meaning(Status.FAILED, False, "MaybeBilled", str(error))
    if isinstance(error, Transient):
        return Meaning(Status.FAILED, False, code, str(error))
    if isinstance(error, ModelUnavailable):
        return Meaning(Status.FAILED, False, code, str(error))
    return Meaning(Status.FAILED, True, code, str(error))
