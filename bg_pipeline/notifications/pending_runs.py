"""Which runs that ended are still to be told of: what the sensor of notices remembers between its ticks."""

from collections.abc import Iterable
from datetime import date
from typing import Final, Literal, Self

from pydantic import BaseModel, ValidationError

FIRST_LOOK_SECONDS: Final = 86_400
"""Runs that ended so long before the first look are still told of."""
OVERLAP_SECONDS: Final = 60
AGAIN_SECONDS: Final = 15
LONGEST_SECONDS: Final = 3600
ATTEMPTS: Final = 32
"""A notice that cannot be sent is tried again for about a day."""


class PendingRun(BaseModel):
    """One date of a run that ended; ``due`` (seconds since 1970) is when it is to be told, or tried again.

    ``told_blindly``: people know that the run ended badly, and no more, since the bucket could not be looked at.
    """

    run_id: str
    day: date
    attempts: int = 0
    due: float = 0.0
    told_blindly: bool = False


class NotificationCursor(BaseModel):
    """A sensor's cursor: which runs it has seen, by when they were last changed, and what is still to be told."""

    version: Literal[1] = 1
    since: float
    seen: dict[str, float] = {}
    errands: list[PendingRun] = []

    @classmethod
    def read(cls, cursor: str | None, now: float) -> Self:
        """What the cursor says; from `FIRST_LOOK_SECONDS` ago on where it says nothing that can be read."""
        try:
            return cls.model_validate_json(cursor or "")
        except ValidationError:
            return cls(since=now - FIRST_LOOK_SECONDS)

    @property
    def oldest(self) -> float:
        """From when on a change of a run may be news: Dagster may store changes a little out of order."""
        return self.since - OVERLAP_SECONDS

    def add(self, run_id: str, changed: float, days: Iterable[date]) -> None:
        """Takes up a run that has ended, unless it was taken up before."""
        if run_id not in self.seen:
            self.errands += [PendingRun(run_id=run_id, day=day) for day in days]
        self.since = max(self.since, changed)
        self.seen = {run: at for run, at in {**self.seen, run_id: changed}.items() if at >= self.oldest}

    def postpone(self, errand: PendingRun, now: float) -> bool:
        """Sets when an errand that failed is tried again; False where it is given up instead."""
        errand.attempts += 1
        errand.due = now + min(AGAIN_SECONDS * 2**errand.attempts, LONGEST_SECONDS)
        if errand.attempts >= ATTEMPTS:
            self.errands.remove(errand)
        return errand in self.errands
