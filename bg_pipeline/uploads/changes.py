"""Which upload dates changed since a run was asked for: what a sensor remembers and how it decides.

Two sensors do so: one that looks for itself, one that is told by S3's events. Neither asks for what the other
asked for: before it asks, each takes over the date's newest request from Dagster's runs. Dagster itself compares
run keys only within one sensor.

Costs: one listing for each open date in every tick; every hour one for each year and month with uploads in
the look-back, and one for each older date found there; one of a date's reports when its run ended badly. A
listing is one request per 1,000 objects. Requests are never read: their tags are enough.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from typing import Final, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import find_batch
from bg_pipeline.domain.effects import Affects, values
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import batches

MAX_RUNS: Final = 25
"""Runs asked for in one tick; the daemon takes about 0.1 s for each."""
OLDER_SECONDS: Final = 3600
"""How often dates older than the open ones are looked at."""
RUNNING_SECONDS: Final = 300
"""How often an older date is looked at while its run is queued or under way."""
BACK_OFF: Final = (300, 1800)
"""Seconds after a run that ended too early until it is asked for again, the first and the second time: it was
cancelled, left something undone, or failed without a report."""
CLOCK_SECONDS: Final = 60
"""How far the clocks of S3 and of the machine that runs may be apart."""
MAX_TOLD: Final = 50

_RELEVANT: Final = frozenset(Affects) - {Affects.NOTHING, Affects.REPORT}


def relevant(settings: Settings) -> str:
    """A digest of the settings that change what a run makes of the same uploads, as they declare it.

    Out of it are those of speed, of the sensor itself, of the page, and of where people are told; in it is the
    bucket, so that two buckets with the same uploads never share a run key.
    """
    counting = values(settings, _RELEVANT)
    return hashlib.sha256(orjson.dumps(counting, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()[:8]


class RequestedRun(BaseModel):
    """The newest run that was asked for, for one upload date.

    ``uploads`` (a digest), ``count`` and ``newest`` (seconds since 1970) are of the complete uploads as last seen;
    ``settings`` is the digest of the settings; ``number`` counts all requests for the date and ``attempt`` those
    for this state, from 1; ``at`` is when it was asked for; ``done`` says that nothing more is expected of it.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    run_key: str
    uploads: str
    count: int
    newest: float
    settings: str
    number: int = Field(ge=1)
    attempt: int = Field(ge=1)
    at: float
    done: bool = False


class SensorCursor(BaseModel):
    """A sensor's cursor: bounded by the dates of the look-back and `MAX_TOLD`.

    ``again`` says when a date is to be looked at although it is not open, ``told`` the folders that were told to
    hold no upload date, ``looked`` when the older dates were last looked for.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    version: Literal[1] = 1
    looked: float = 0.0
    dates: dict[date, RequestedRun] = {}
    again: dict[date, float] = {}
    told: list[str] = []

    @classmethod
    def read(cls, cursor: str | None) -> Self:
        """What the cursor says; an empty memory where it says nothing that can be read."""
        try:
            return cls.model_validate_json(cursor or "{}")
        except ValidationError:
            return cls()


@dataclass(frozen=True)
class RunResult:
    """What became of a run; times in seconds since 1970.

    ``cancelled``, or ``left`` where it says itself that it left something undone which may be done soon.
    """

    finished: bool
    failed: bool
    started: float
    ended: float
    cancelled: bool = False
    left: bool = False

    @property
    def incomplete(self) -> bool:
        """Whether something is left for another run, whatever reports there are: they tell what is true so far."""
        return self.cancelled or self.left


@dataclass(frozen=True)
class Uploads:
    """The complete batches of a date; ``batches`` has the newest time of each, by name.

    ``settled`` is when the next folder that is still settling will have been quiet for long enough, if one is.
    """

    digest: str
    count: int
    batches: dict[str, float]
    settles_at: float | None

    @property
    def newest(self) -> float:
        return max(self.batches.values(), default=0.0)


@dataclass(frozen=True)
class SensorTick:
    """One look at the bucket, at ``now`` (seconds since 1970), over the partitions from ``first`` to ``last``.

    ``find_run`` tells of a run by its key and ``find_asked`` of the newest request for a date that became a run,
    whichever sensor made it; None where there is no such run. ``time_is_up`` ends the tick, and ``warn`` takes a
    sentence for the log. ``waits`` says of each date that is not asked for yet what it waits for.
    """

    settings: Settings
    store: Store
    cursor: SensorCursor
    now: float
    first: UploadDate
    last: UploadDate
    find_run: Callable[[str], RunResult | None]
    time_is_up: Callable[[], bool]
    warn: Callable[[str], None]
    find_newest_request: Callable[[UploadDate], RequestedRun | None] = lambda _: None
    waiting_reasons: list[str] = field(default_factory=list)

    def run_requests(self) -> Iterator[tuple[UploadDate, RequestedRun]]:
        """The dates that need a run now, each remembered when it is given.

        Whatever stops the tick in between, an error of S3 included, loses nothing: what was not looked at comes
        first in the next.
        """
        memory, newest_first = self.cursor, self.open_dates
        self._forget_before(min(self.oldest, newest_first[-1]))
        if not 0 <= self.now - memory.looked < OLDER_SECONDS:
            for day in self._find_dates():
                memory.again[day] = min(memory.again.get(day, self.now), self.now)
            memory.looked = self.now
        yield from self._requests(newest_first)

    def requests_due(self) -> Iterator[tuple[UploadDate, RequestedRun]]:
        """Of the dates that the memory says to look at, however old, those that need a run now; as `requests`.

        What is done is forgotten, so that the memory does not grow with the dates; Dagster's runs know it.
        """
        self._forget_before(self.first)
        again, dates = self.cursor.again, self.cursor.dates
        self.cursor.dates = {day: asked for day, asked in dates.items() if day in again or not asked.done}
        yield from self._requests(())

    def _forget_before(self, oldest: UploadDate) -> None:
        memory = self.cursor
        memory.dates = {day: asked for day, asked in memory.dates.items() if oldest <= day <= self.last}
        memory.again = {day: when for day, when in memory.again.items() if oldest <= day <= self.last}

    def _requests(self, always: Iterable[UploadDate]) -> Iterator[tuple[UploadDate, RequestedRun]]:
        memory = self.cursor
        due = {day: when for day, when in memory.again.items() if when <= self.now}
        due |= {day: due.get(day, self.now) for day in always}
        given = 0
        for day in sorted(due, key=lambda day: (due[day], -day.toordinal())):
            if given == MAX_RUNS or self.time_is_up():
                memory.again[day] = due[day]
                continue
            uploads = self._list_uploads(day)
            if uploads is None:
                self.warn(
                    f"{day} holds more than this tick has time to list; the next one tries again. "
                    f"If that goes on, `bg-pipeline run --date {day}` brings it up to date"
                )
                memory.again[day] = self.now + 1
                continue
            asked, again = self._decide(day, uploads)
            memory.again.pop(day, None)
            if again is not None:
                memory.again[day] = again
            if asked is None and uploads.settles_at is not None:
                self.waiting_reasons.append(
                    f"{day}: a folder without a request waits until it has been quiet"
                )
            if asked is not None:
                memory.dates[day] = asked
                given += 1
                yield day, asked

    @property
    def today(self) -> UploadDate:
        return datetime.fromtimestamp(self.now, UTC).date()

    @property
    def open_dates(self) -> list[UploadDate]:
        """The newest calendar dates that are partitions, newest first; a single one is today, not tomorrow."""
        wanted = self.settings.open_dates
        newest = self.last if wanted > 1 else max(self.first, min(self.last, self.today))
        return list(islice(_dates_back_from(newest, self.first), wanted))

    @property
    def oldest(self) -> UploadDate:
        """The first date of the look-back."""
        return max(self.first, self.today - timedelta(days=self.settings.lookback_days))

    def _find_dates(self) -> set[UploadDate]:
        """The dates of the look-back with uploads; tells once of folders that are no partition's."""
        parts = {
            s3_keys.date_path(day)[:end] for day in _dates_back_from(self.last, self.first) for end in (4, 7)
        }
        edges = [
            self.first,
            *takewhile(lambda day: day >= self.oldest, _dates_back_from(self.last, self.first)),
        ]
        opened = {s3_keys.date_path(day)[:end] for day in edges for end in (4, 7)}
        found: set[UploadDate] = set()
        strays: list[str] = []

        def walk(prefix: str) -> None:
            for folder in self.store.folders(prefix):
                part = folder.removeprefix(f"{s3_keys.UPLOADS}/").removesuffix("/")
                inside = find_batch(f"{folder}any")
                if part in opened:
                    walk(folder)
                elif inside is not None and self.first <= inside.date <= self.last:
                    found.update([inside.date] if inside.date >= self.oldest else [])
                elif part not in parts and len(strays) < MAX_TOLD:
                    strays.append(folder)

        walk(f"{s3_keys.UPLOADS}/")
        for folder in strays:
            if folder not in self.cursor.told:
                self.warn(
                    f"{folder!r} holds no upload date from {self.first} to {self.last}: nothing in it is run"
                )
        self.cursor.told = strays
        return found

    def _list_uploads(self, day: UploadDate) -> Uploads | None:
        """What a date holds; None where the time is up before all is listed."""
        digest = hashlib.sha256()
        count, newest, settled = 0, {}, None
        wait = self.settings.settle_seconds
        for uploaded in batches(self.store, day):
            if self.time_is_up():
                return None
            if uploaded.complete(wait, datetime.fromtimestamp(self.now, UTC)):
                for each in filter(None, [uploaded.request, uploaded.approval, *uploaded.objects.values()]):
                    digest.update(f"{each.etag} {each.key}\n".encode())
                    count += 1
                newest[uploaded.batch.name] = uploaded.newest.timestamp()
            elif uploaded.images and not uploaded.draft:
                quiet = uploaded.newest.timestamp() + wait
                settled = quiet if settled is None else min(settled, quiet)
        return Uploads(digest.hexdigest()[:16], count, newest, settled)

    def _decide(self, day: UploadDate, uploads: Uploads) -> tuple[RequestedRun | None, float | None]:
        """The run to ask for, if any, and when to look again at a date that is not open, if earlier than usual."""
        before, settings = self.cursor.dates.get(day), relevant(self.settings)
        number, attempt = before.number + 1 if before else 1, 1
        when: float | None = None
        if uploads.count and (
            before is None or before.settings != settings or _has_new_uploads(before, uploads)
        ):
            when = self.now
        elif before is not None:
            if uploads.settles_at is None:
                # A folder that settles is missing from the uploads, which is no deletion to remember.
                before.uploads, before.count, before.newest = uploads.digest, uploads.count, uploads.newest
            attempt = before.attempt + 1
            when = None if before.done else self._follow_up_time(day, before, uploads)
        asked = None
        if when is not None and when <= self.now:
            other = self.find_newest_request(day)
            if other is not None and (
                before is None or (other.run_key != before.run_key and other.at >= before.at)
            ):
                other.number = max(other.number, number - 1)
                self.cursor.dates[day] = other
                return self._decide(day, uploads)
            asked = RequestedRun(
                # The number tells a state from the same state before, whose key Dagster would refuse.
                run_key=f"{day}:{uploads.digest}-{settings}:{number}",
                uploads=uploads.digest,
                count=uploads.count,
                newest=uploads.newest,
                settings=settings,
                number=number,
                attempt=attempt,
                at=self.now,
            )
            when = self.now + RUNNING_SECONDS
        return asked, min(filter(None, [when, uploads.settles_at]), default=None)

    def _follow_up_time(self, day: UploadDate, asked: RequestedRun, uploads: Uploads) -> float | None:
        """When to come back to a run that was asked for: at once means to ask again, None that it is done."""
        run = self.find_run(asked.run_key)
        if run is not None and not run.finished:
            self.waiting_reasons.append(f"{day}: its run is queued or under way")
            return self.now + RUNNING_SECONDS
        if (run is not None and not run.failed and not run.incomplete) or not uploads.count:
            asked.done = True
            return None
        # A run that Dagster does not know was dropped before it was made, or deleted since.
        started, ended = (run.started, run.ended) if run is not None else (asked.at, asked.at)
        due = ended + BACK_OFF[min(asked.attempt, len(BACK_OFF)) - 1]
        if due > self.now:
            why = "Dagster knows no run of it" if run is None else "its run ended too early"
            self.waiting_reasons.append(f"{day}: {why}; it may be asked for again in {due - self.now:.0f} s")
            return due
        if not (run is not None and run.incomplete) and self._reported(day, uploads, started):
            asked.done = True
            return None
        if asked.attempt > len(BACK_OFF):
            asked.done = True
            self.warn(
                f"{day}: {asked.attempt} runs ended too early; see their logs. "
                "The date is asked for again when its uploads or settings change"
            )
            return None
        return self.now

    def _reported(self, day: UploadDate, uploads: Uploads, started: float) -> bool:
        """Whether every batch has a report of its newest upload, and one was written since the run started."""
        reports: dict[str, float] = {}
        for found in self.store.list(f"{s3_keys.REPORTS}/{s3_keys.date_path(day)}/"):
            batch = find_batch(found.key)
            if batch is not None:
                reports[batch.name] = max(found.modified.timestamp(), reports.get(batch.name, 0.0))
        each = all(reports.get(name, 0.0) >= newest for name, newest in uploads.batches.items())
        return each and max(reports.values(), default=0.0) >= started - CLOCK_SECONDS


def _has_new_uploads(before: RequestedRun, uploads: Uploads) -> bool:
    """Whether something came or was overwritten; fewer objects and none of them newer are a deletion."""
    deleted = uploads.count < before.count and uploads.newest <= before.newest
    return uploads.digest != before.uploads and not deleted


def _dates_back_from(newest: UploadDate, first: UploadDate) -> Iterator[UploadDate]:
    return (newest - timedelta(days=back) for back in range((newest - first).days + 1))
