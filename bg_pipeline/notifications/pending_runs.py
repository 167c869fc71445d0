"""The cursor of the notification sensor: ended runs for which notifications still have to be sent."""

from collections.abc import Iterable
from datetime import date
from typing import Final, Literal, Self

from pydantic import BaseModel, ValidationError

FIRST_LOOK_SECONDS: Final = 86_400
"""The first tick sends notifications for runs that ended up to this many seconds before it."""
OVERLAP_SECONDS: Final = 60
"""Dagster may store changes of runs slightly out of order; so many seconds are searched again."""
AGAIN_SECONDS: Final = 15
"""Seconds before a failed notification is tried again; doubled with each attempt."""
LONGEST_SECONDS: Final = 3600
"""Maximum seconds between two attempts."""
ATTEMPTS: Final = 32
"""Maximum number of attempts; they take about a day."""


class PendingRun(BaseModel):
    """One date of an ended run; ``due`` (seconds since 1970) is when its notifications are sent or tried again.

    ``told_blindly``: a notification was sent that the run failed, without details, because the bucket could not be
    read. What is to be said about a run that ``failed`` waits for no digest.
    """

    run_id: str
    day: date
    attempts: int = 0
    due: float = 0.0
    told_blindly: bool = False
    failed: bool = False


class NotificationCursor(BaseModel):
    """The sensor's cursor: the runs it has seen, with the time of their last change, and the pending runs.

    ``errands`` are the pending runs; the name is stored and stays. ``digest_due`` is when the next digest is sent, 0
    if nothing waits for it.
    """

    version: Literal[1] = 1
    since: float
    digest_due: float = 0.0
    seen: dict[str, float] = {}
    errands: list[PendingRun] = []

    @classmethod
    def read(cls, cursor: str | None, now: float) -> Self:
        """The stored cursor; if it is missing or cannot be read, one that starts `FIRST_LOOK_SECONDS` ago."""
        try:
            return cls.model_validate_json(cursor or "")
        except ValidationError:
            return cls(since=now - FIRST_LOOK_SECONDS)

    @property
    def oldest(self) -> float:
        """The time from which changes of runs have to be searched."""
        return self.since - OVERLAP_SECONDS

    def add(self, run_id: str, changed: float, days: Iterable[date], *, failed: bool = False) -> None:
        """Adds the dates of an ended run, unless the run was added before."""
        if run_id not in self.seen:
            self.errands += [PendingRun(run_id=run_id, day=day, failed=failed) for day in days]
        self.since = max(self.since, changed)
        self.seen = {run: at for run, at in {**self.seen, run_id: changed}.items() if at >= self.oldest}

    def digest_is_due(self, now: float, minutes: int) -> bool:
        """Whether notices of runs that succeeded are sent now: at once, or ``minutes`` after the first of them."""
        if minutes and not self.digest_due and not all(pending.failed for pending in self.errands):
            self.digest_due = now + 60 * minutes
        # A shorter time that is set meanwhile counts at once.
        due = min(self.digest_due, now + 60 * minutes)
        if due > now:
            return False
        self.digest_due = 0.0
        return True

    def postpone(self, pending: PendingRun, now: float) -> bool:
        """Sets the time of the next attempt after a failure; returns False if the run is given up."""
        pending.attempts += 1
        pending.due = now + min(AGAIN_SECONDS * 2**pending.attempts, LONGEST_SECONDS)
        if pending.attempts >= ATTEMPTS:
            self.errands.remove(pending)
        return pending in self.errands
