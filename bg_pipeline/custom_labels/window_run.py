"""One run over all dates that wait for the Custom Labels model: it is on for their labels and for nothing else.

First the model is started, all waiting photos are labelled, and the model is stopped. Only then, when it costs
nothing any more, captions, pictures and reports of the same dates are made.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from bg_pipeline.aws.clients import Aws
from bg_pipeline.custom_labels.model import CustomModel
from bg_pipeline.custom_labels.waiting_dates import (
    RETRIES_PER_DATE,
    DateMarker,
    RetryBudget,
    WaitingBatch,
    date_markers,
    recent_dates,
    remove_marker,
    waiting_batches,
)
from bg_pipeline.custom_labels.window import Window, WindowReport, WindowTaken, opened
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.stages import LABELS
from bg_pipeline.errors import SettingsError
from bg_pipeline.reports.batch_report import REPORTER
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.date_result import DateResult, Progress
from bg_pipeline.run.engine import Engine
from bg_pipeline.settings import Settings
from bg_pipeline.state.leases import Leases, at_work
from bg_pipeline.state.model_stopped import mark_date_waiting
from bg_pipeline.storage.object_store import Store


@dataclass(frozen=True)
class LabelsDue:
    """What there is to do: dates with photos to label, and dates that an earlier window run left half done.

    ``given_up`` photos still wait and are no reason to start the model any more.
    """

    to_label: tuple[date, ...]
    half_done: tuple[date, ...]
    given_up: int = 0

    @property
    def is_empty(self) -> str:
        """Why there is nothing to do; empty if there is something."""
        if self.to_label or self.half_done:
            return ""
        if not self.given_up:
            return "no photo waits for the Custom Labels model"
        return (
            f"no photo waits for the Custom Labels model, but for {self.given_up} that got no labels in "
            f"{RETRIES_PER_DATE} windows; they are tried again when others wait as well, or by a run of this job "
            "with given_up: true"
        )


@dataclass
class WindowOutcome:
    """What a window run did; ``reason`` says why it did nothing, ``report`` is None where no model was needed.

    ``labels`` are the dates as the labels left them, ``days`` as they are at the end.
    """

    reason: str = ""
    report: WindowReport | None = None
    report_key: str = ""
    labels: Mapping[date, DateResult] = field(default_factory=dict)
    days: Mapping[date, DateResult] = field(default_factory=dict)


def find_labels_due(
    store: Store,
    settings: Settings,
    *,
    given_up: bool = False,
    first: bool = False,
    time_is_up: Callable[[], bool] = lambda: False,
) -> LabelsDue | None:
    """What there is to do; with ``first`` the first find ends the search. None if the time is up before its end.

    With ``given_up`` photos count that had their chances in vain.
    """
    marked = list(date_markers(store))
    half_done = tuple(sorted({each.date for each in marked if each.run and not _alive(store, each.run)}))
    if first and half_done:
        return LabelsDue((), half_done)
    chances = RetryBudget(store, settings.custom_labels_arn)
    to_label: list[date] = []
    hopeless = 0
    for day in _dates(settings, marked):
        if time_is_up():
            return None
        waiting = list(waiting_batches(store, settings, [day]))
        reasons = [each for each in waiting if given_up or chances.left(each)]
        hopeless += len(waiting) - len(reasons)
        if reasons:
            to_label.append(day)
            if first:
                break
    return LabelsDue(tuple(sorted(to_label)), half_done, hopeless)


def run(
    settings: Settings,
    aws: Aws,
    store: Store,
    *,
    run_id: str,
    given_up: bool = False,
    progress: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda line: None,
) -> WindowOutcome:
    """Brings all waiting dates up to date; does nothing while another run owns the window.

    The model is stopped before this returns or raises: `NotStarted` and others as `window.opened`, and `CapReached`
    where a cap has no room for the model's time. Errors of images are counted in the `DateResult`s and told in the
    reports.
    """
    if not settings.custom_labels_arn:
        raise SettingsError("BG_CUSTOM_LABELS_ARN is not set: there is no model to start")
    need = find_labels_due(store, settings, given_up=given_up)
    if need is None or need.is_empty:
        return WindowOutcome(reason=need.is_empty if need else "")
    context = RunContext(settings, aws, store, stop=threading.Event(), note=note)
    outcome = WindowOutcome()
    claims: dict[date, str] = {}
    labelled: dict[Batch, set[str]] = {}
    try:
        with Leases(store, run_id) as leases:
            # While it is held, dates that are marked with this run are in good hands.
            leases.acquire(s3_keys.window_run_key(run_id))
            if need.to_label:
                with opened(
                    CustomModel(aws, settings.custom_labels_arn),
                    store,
                    leases,
                    units=settings.custom_labels_units,
                    minutes=settings.custom_labels_start_minutes,
                    purse=context.run_budget,
                    note=note,
                ) as window:
                    outcome.labels = _label(
                        context, window, need.to_label, claims, labelled, run_id, progress
                    )
                outcome.report, outcome.report_key = window.report, window.report_key
            claims |= _claim(store, set(need.half_done) - claims.keys(), run_id)
            costs = _shares(outcome.report, labelled)
            engine = Engine(context, run_id=run_id, reporter=REPORTER, label_costs=costs, progress=progress)
            outcome.days = engine.run(sorted(claims))
            _hand_back(store, settings, claims)
    except WindowTaken as error:
        outcome.reason = str(error)
    finally:
        context.close()
    return outcome


def _label(
    context: RunContext,
    window: Window,
    dates: Collection[date],
    claims: dict[date, str],
    labelled: dict[Batch, set[str]],
    run_id: str,
    progress: Callable[[Progress], None],
) -> dict[date, DateResult]:
    """Labels what waits, and what comes meanwhile, until nothing waits or nothing more can be done.

    What got labels is put into ``labelled``, even if this ends with an error.
    """

    def tell(now: Progress) -> None:
        window.keep_alive()
        progress(now)

    def take_down(batch: Batch, entry: Entry) -> None:
        record = entry.stages.get(LABELS)
        if record is not None and record.status == Status.SUCCEEDED and not record.reused:
            labelled.setdefault(batch, set()).add(entry.image)

    chances = RetryBudget(context.store, context.settings.custom_labels_arn)
    waiting: list[WaitingBatch] = []
    done: dict[date, DateResult] = {}
    while dates:
        claims |= _claim(context.store, set(dates) - claims.keys(), run_id)
        engine = Engine(
            context,
            run_id=run_id,
            reporter=REPORTER,
            stages=(LABELS,),
            wait_for_others=False,
            on_image=take_down,
            progress=tell,
        )
        days = engine.run(sorted(dates))
        made = sum(day.made[LABELS] for day in days.values())
        waiting = list(
            waiting_batches(
                context.store, context.settings, _dates(context.settings, date_markers(context.store))
            )
        )
        window.tally.dates = tuple(sorted(claims))
        window.tally.labelled += made
        window.tally.failed += sum(day.failed[LABELS] for day in days.values())
        window.tally.still_waiting = len(waiting)
        for each, day in days.items():
            if each in done:
                day.made += done[each].made
            done[each] = day
        dates = {waiter.batch.date for waiter in waiting} if made else ()
    chances.use(waiting)
    return done


def _shares(
    report: WindowReport | None, labelled: Mapping[Batch, Collection[str]]
) -> dict[Batch, dict[str, float]]:
    """What the window cost for each photo that got its labels in it: all the same."""
    photos = sum(len(images) for images in labelled.values())
    if report is None or not report.cost_usd or not photos:
        return {}
    share = report.cost_usd / photos
    return {batch: dict.fromkeys(images, share) for batch, images in labelled.items()}


def _dates(settings: Settings, marked: Iterable[DateMarker]) -> list[date]:
    """The dates to look at, newest first."""
    recent = recent_dates(settings, datetime.now(UTC))
    return sorted({*recent, *(each.date for each in marked)}, reverse=True)


def _alive(store: Store, run: str) -> bool:
    return at_work(store, s3_keys.window_run_key(run))


def _claim(store: Store, dates: Iterable[date], run_id: str) -> dict[date, str]:
    return {day: mark_date_waiting(store, day, run_id) for day in dates}


def _hand_back(store: Store, settings: Settings, claims: Mapping[date, str]) -> None:
    """Removes the marks of dates that are up to date; those that still wait stay marked for the next window."""
    chances = RetryBudget(store, settings.custom_labels_arn)
    waiting = {
        each.batch.date for each in waiting_batches(store, settings, sorted(claims)) if chances.left(each)
    }
    for day, etag in claims.items():
        remove_marker(store, day, etag)
        if day in waiting:
            mark_date_waiting(store, day)
