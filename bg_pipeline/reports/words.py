"""The words for how photos stand that were not made: the same on the page, on the command line and in notices."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bg_pipeline.budget.limits import CapReached
from bg_pipeline.domain.rows import WAITING_FOR_APPROVAL, Row, Status
from bg_pipeline.run.outcome_recorder import WAITING_ERRORS
from bg_pipeline.state.model_stopped import WAITS_FOR_WINDOW

CAP_REACHED: Final = CapReached.__name__
"""The ``Error`` of an image that was not tried because a spending cap was reached."""

SAMPLE_WAITS: Final = "waiting until the sample is approved"
MODEL_WAITS: Final = "waiting for the Custom Labels model"
CAP_STOPPED: Final = "stopped at a spending cap"
NOT_MADE: Final = "not made"
WORKING: Final = "working"
WAITING: Final = "waiting for a run"
FINISHED: Final = "finished"
TO_DO: Final = "something to do"
SAMPLE_FINISHED: Final = "sample finished"
REFUSED: Final = "request refused"

_STATUSES: Final[Mapping[Status, str]] = {
    Status.SUCCEEDED: "good",
    Status.NEEDS_REVIEW: "to look at",
    Status.FAILED: "failed",
    Status.BLOCKED: "refused by the model",
}
_NOT_MADE: Final[Mapping[str, str]] = {
    WAITING_FOR_APPROVAL: SAMPLE_WAITS,
    WAITS_FOR_WINDOW: MODEL_WAITS,
    CAP_REACHED: CAP_STOPPED,
}


def waiting_in_words(errors: Collection[str]) -> str:
    """What images with these ``Error`` values wait for, as the end of a sentence; empty if they do not wait."""
    return " or ".join(_NOT_MADE[error] for error in sorted(WAITING_ERRORS.intersection(errors)))


@dataclass(frozen=True)
class Outcomes:
    """How many images of a batch have each status, and how many of the skipped ones each reason that has words."""

    statuses: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Outcomes":
        """The outcomes of a report's rows."""
        statuses: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for row in rows:
            statuses[row.Status.value] += 1
            if row.Status == Status.SKIPPED and row.Error in _NOT_MADE:
                reasons[row.Error] += 1
        return cls(statuses, reasons)

    @property
    def reason(self) -> str:
        """Why the next run has something to do, in words: the first of the reasons that are no person's choice."""
        return next((text for error, text in _NOT_MADE.items() if self.reasons.get(error)), TO_DO)

    @property
    def in_words(self) -> list[str]:
        """``11 good``, ``1 to look at``, ``3 waiting until the sample is approved`` …"""
        words = [
            f"{number:,} {text}"
            for status, text in _STATUSES.items()
            if (number := self.statuses.get(status.value, 0))
        ]
        words += [
            f"{number:,} {text}"
            for error, text in _NOT_MADE.items()
            if (number := self.reasons.get(error, 0))
        ]
        rest = self.statuses.get(Status.SKIPPED.value, 0) - sum(self.reasons.values())
        return [*words, f"{rest:,} {NOT_MADE}"] if rest > 0 else words


NONE: Final = Outcomes()
