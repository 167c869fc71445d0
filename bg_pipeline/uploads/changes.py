"""Decides which upload dates need a run, from the uploads and from what a sensor remembers in its cursor.

Two sensors use this: one lists the bucket, the other gets S3 events. Neither requests a run that the other has
requested: before a request, each takes over the date's newest run request from Dagster's runs, because Dagster
compares run keys only within one sensor.

S3 requests: in every tick one listing for each open date; every hour one for each year and month with uploads in
the look-back period, and one for each older date found there; one of a date's reports if its run ended too early. A
listing is one request per 1,000 objects. Batch requests are never read: their ETags are enough.
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
"""Maximum number of runs requested in one tick; the Dagster daemon needs about 0.1 s for each."""
OLDER_SECONDS: Final = 3600
"""Interval at which dates older than the open ones are checked."""
RUNNING_SECONDS: Final = 300
"""Interval at which an older date is checked while its run is queued or in progress."""
BACK_OFF: Final = (300, 1800)
"""Seconds after which a run that ended too early is requested again, the first and the second time. A run ended too
early if it was cancelled, left work undone, or failed without a report."""
CLOCK_SECONDS: Final = 60
"""Assumed maximum difference between the clocks of S3 and of the machine that runs."""
MAX_TOLD: Final = 50
"""Maximum number of folders without an upload date that are remembered as reported."""

_RELEVANT: Final = frozenset(Affects) - {Affects.NOTHING, Affects.REPORT}


def settings_digest(settings: Settings) -> str:
    """A digest of the settings that change what a run does with the same uploads, according to their annotations.

    It leaves out settings of speed, sensors, the web page and notifications. It includes the bucket, so that two
    buckets with the same uploads never have the same run key.
    """
    relevant_values = values(settings, _RELEVANT)
    data = orjson.dumps(relevant_values, option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(data).hexdigest()[:8]


def runs_for(settings: Settings, count: int) -> int:
    """How many runs a date with ``count`` uploaded objects gets: no more than it has parts, 1 without a setting."""
    return max(1, min(settings.runs_per_date, -(-count // settings.part_images)))


class RequestedRun(BaseModel):
    """The newest run that was requested for one upload date; stored in the cursor.

    ``uploads`` (a digest), ``count`` and ``newest`` (seconds since 1970) describe the complete uploads as last
    listed. ``settings`` is the digest of the settings. ``number`` counts all run requests for the date and
    ``attempt`` those for this state, both from 1. ``at`` is the time of the request. ``done`` means that the run
    needs no further checks.
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
    """A sensor's cursor; its size is limited by the number of dates in the look-back period and by `MAX_TOLD`.

    ``again`` is when a date has to be checked although it is not open. ``told`` are the folders without an upload
    date that were reported. ``looked`` is when older dates were last searched.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    version: Literal[1] = 1
    looked: float = 0.0
    dates: dict[date, RequestedRun] = {}
    again: dict[date, float] = {}
    told: list[str] = []

    @classmethod
    def read(cls, cursor: str | None) -> Self:
        """The stored cursor, or an empty one if it is missing or cannot be read."""
        try:
            return cls.model_validate_json(cursor or "{}")
        except ValidationError:
            return cls()


@dataclass(frozen=True)
class RunResult:
    """The state of a requested run; times are in seconds since 1970.

    ``left`` means that the run itself reported work that it left undone and that can be done soon.
    """

    finished: bool
    failed: bool
    started: float
    ended: float
    cancelled: bool = False
    left: bool = False

    @property
    def incomplete(self) -> bool:
        """Whether work is left for another run. Existing reports do not change that: they can be preliminary."""
        return self.cancelled or self.left


@dataclass(frozen=True)
class Uploads:
    """The complete batches of a date; ``batches`` has the time of each one's newest object, by name.

    ``settles_at`` is when the next folder without a request will be complete if nothing more is uploaded, None if
    there is no such folder.
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
    """One tick of a sensor at ``now`` (seconds since 1970), over the partitions from ``first`` to ``last``.

    ``find_run`` returns the state of the run with a run key, and ``find_newest_request`` the newest run request of
    any sensor for a date that became a run; None if there is none. The tick ends when ``time_is_up`` returns True.
    ``warn`` logs a sentence. ``waiting_reasons`` collects why dates are not requested yet, ``listed`` the uploads
    found.
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
    listed: dict[UploadDate, Uploads] = field(default_factory=dict)

    def run_requests(self) -> Iterator[tuple[UploadDate, RequestedRun]]:
        """The dates that need a run now; each is stored in the cursor when it is yielded.

        If the tick is interrupted, for example by an S3 error, nothing is lost: dates that were not checked come
        first in the next tick.
        """
        cursor, newest_first = self.cursor, self.open_dates
        self._forget_before(min(self.oldest, newest_first[-1]))
        if not 0 <= self.now - cursor.looked < OLDER_SECONDS:
            for day in self._find_dates():
                cursor.again[day] = min(cursor.again.get(day, self.now), self.now)
            cursor.looked = self.now
        yield from self._requests(newest_first)

    def requests_due(self) -> Iterator[tuple[UploadDate, RequestedRun]]:
        """The dates that need a run now among those due in the cursor, of any age; otherwise as `run_requests`.

        Finished run requests are removed from the cursor, so that it does not grow; Dagster's runs still have them.
        """
        self._forget_before(self.first)
        again, dates = self.cursor.again, self.cursor.dates
        self.cursor.dates = {
            day: requested for day, requested in dates.items() if day in again or not requested.done
        }
        yield from self._requests(())

    def _forget_before(self, oldest: UploadDate) -> None:
        cursor = self.cursor
        cursor.dates = {
            day: requested for day, requested in cursor.dates.items() if oldest <= day <= self.last
        }
        cursor.again = {day: when for day, when in cursor.again.items() if oldest <= day <= self.last}

    def _requests(self, always: Iterable[UploadDate]) -> Iterator[tuple[UploadDate, RequestedRun]]:
        cursor = self.cursor
        due = {day: when for day, when in cursor.again.items() if when <= self.now}
        due |= {day: due.get(day, self.now) for day in always}
        count = 0
        for day in sorted(due, key=lambda day: (due[day], -day.toordinal())):
            if count == MAX_RUNS or self.time_is_up():
                cursor.again[day] = due[day]
                continue
            uploads = self._list_uploads(day)
            if uploads is None:
                self.warn(
                    f"{day} has more uploads than this tick has time to list; the next tick tries again. "
                    f"If this repeats, run the date with `bg-pipeline run --date {day}`"
                )
                cursor.again[day] = self.now + 1
                continue
            self.listed[day] = uploads
            requested, next_check = self._decide(day, uploads)
            cursor.again.pop(day, None)
            if next_check is not None:
                cursor.again[day] = next_check
            if requested is None and uploads.settles_at is not None:
                self.waiting_reasons.append(
                    f"{day}: a folder without a request waits until uploads to it have ended"
                )
            if requested is not None:
                cursor.dates[day] = requested
                count += 1
                yield day, requested

    @property
    def today(self) -> UploadDate:
        return datetime.fromtimestamp(self.now, UTC).date()

    @property
    def open_dates(self) -> list[UploadDate]:
        """The newest partitions, newest first; if only one date is open, it is today and not tomorrow."""
        count = self.settings.open_dates
        newest = self.last if count > 1 else max(self.first, min(self.last, self.today))
        return list(islice(_dates_back_from(newest, self.first), count))

    @property
    def oldest(self) -> UploadDate:
        """The first date of the look-back period."""
        return max(self.first, self.today - timedelta(days=self.settings.lookback_days))

    def _find_dates(self) -> set[UploadDate]:
        """The dates of the look-back period with uploads; warns once about each folder without an upload date."""
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
                    f"{folder!r} is not an upload date from {self.first} to {self.last}: nothing in it is run"
                )
        self.cursor.told = strays
        return found

    def _list_uploads(self, day: UploadDate) -> Uploads | None:
        """The complete uploads of a date; None if the time is up before everything is listed."""
        digest = hashlib.sha256()
        count, newest, settled = 0, {}, None
        wait = self.settings.settle_seconds
        for uploaded in batches(self.store, day):
            if self.time_is_up():
                return None
            if uploaded.complete(wait, datetime.fromtimestamp(self.now, UTC)):
                for info in filter(None, [uploaded.request, uploaded.approval, *uploaded.objects.values()]):
                    digest.update(f"{info.etag} {info.key}\n".encode())
                    count += 1
                newest[uploaded.batch.name] = uploaded.newest.timestamp()
            elif uploaded.images and not uploaded.draft:
                quiet = uploaded.newest.timestamp() + wait
                settled = quiet if settled is None else min(settled, quiet)
        return Uploads(digest.hexdigest()[:16], count, newest, settled)

    def _decide(self, day: UploadDate, uploads: Uploads) -> tuple[RequestedRun | None, float | None]:
        """The run to request now, if any, and when to check the date again even if it is not open, if at all."""
        before, settings = self.cursor.dates.get(day), settings_digest(self.settings)
        number, attempt = before.number + 1 if before else 1, 1
        when: float | None = None
        if uploads.count and (
            before is None or before.settings != settings or _has_new_uploads(before, uploads)
        ):
            when = self.now
        elif before is not None:
            if uploads.settles_at is None:
                # While a folder settles it is missing from the uploads; that must not look like a deletion.
                before.uploads, before.count, before.newest = uploads.digest, uploads.count, uploads.newest
            attempt = before.attempt + 1
            when = None if before.done else self._follow_up_time(day, before, uploads)
        requested = None
        if when is not None and when <= self.now:
            other = self.find_newest_request(day)
            if other is not None and (
                before is None or (other.run_key != before.run_key and other.at >= before.at)
            ):
                other.number = max(other.number, number - 1)
                self.cursor.dates[day] = other
                return self._decide(day, uploads)
            requested = RequestedRun(
                # The number makes the key new if a state recurs; Dagster would ignore a key that it knows.
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
        return requested, min(filter(None, [when, uploads.settles_at]), default=None)

    def _follow_up_time(self, day: UploadDate, requested: RequestedRun, uploads: Uploads) -> float | None:
        """When to check a requested run again; `now` means to request it again, None that it is done."""
        run = self.find_run(requested.run_key)
        if run is not None and not run.finished:
            self.waiting_reasons.append(f"{day}: its run is queued or in progress")
            return self.now + RUNNING_SECONDS
        if (run is not None and not run.failed and not run.incomplete) or not uploads.count:
            requested.done = True
            return None
        # A run that Dagster does not know was never created, or was deleted since.
        started, ended = (run.started, run.ended) if run is not None else (requested.at, requested.at)
        due = ended + BACK_OFF[min(requested.attempt, len(BACK_OFF)) - 1]
        if due > self.now:
            reason = "Dagster has no run for it" if run is None else "its run ended too early"
            self.waiting_reasons.append(
                f"{day}: {reason}; it can be requested again in {due - self.now:.0f} s"
            )
            return due
        if not (run is not None and run.incomplete) and self._reported(day, uploads, started):
            requested.done = True
            return None
        if requested.attempt > len(BACK_OFF):
            requested.done = True
            self.warn(
                f"{day}: {requested.attempt} runs ended too early; see their logs. "
                "The date is requested again when its uploads or the settings change"
            )
            return None
        return self.now

    def _reported(self, day: UploadDate, uploads: Uploads, started: float) -> bool:
        """Whether each batch's report is newer than its uploads, and one was written since the run started."""
        reports: dict[str, float] = {}
        for info in self.store.list(f"{s3_keys.REPORTS}/{s3_keys.date_path(day)}/"):
            batch = find_batch(info.key)
            if batch is not None:
                reports[batch.name] = max(info.modified.timestamp(), reports.get(batch.name, 0.0))
        all_reported = all(reports.get(name, 0.0) >= newest for name, newest in uploads.batches.items())
        return all_reported and max(reports.values(), default=0.0) >= started - CLOCK_SECONDS


def _has_new_uploads(before: RequestedRun, uploads: Uploads) -> bool:
    """Whether objects were added or overwritten. A deletion (fewer objects, none newer) does not count."""
    deleted = uploads.count < before.count and uploads.newest <= before.newest
    return uploads.digest != before.uploads and not deleted


def _dates_back_from(newest: UploadDate, first: UploadDate) -> Iterator[UploadDate]:
    return (newest - timedelta(days=back) for back in range((newest - first).days + 1))
