"""A window run: processes all dates that wait for the Custom Labels model.

A window is the time in which the model runs: only while labels are made, because it is billed by the hour.

The run starts the model, labels all waiting photos and stops the model. Only then, when the model costs nothing any
more, it makes the captions, pictures and reports of these dates.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.spend_log import SpendLog
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
from bg_pipeline.custom_labels.window import Window, WindowReport, WindowTaken, open_window
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.people import Via, local_person
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.stages import LABELS
from bg_pipeline.errors import SettingsError
from bg_pipeline.reports.batch_report import REPORTER
from bg_pipeline.run.context import RunContext, check_signing
from bg_pipeline.run.date_result import DateResult, Progress
from bg_pipeline.run.engine import Engine
from bg_pipeline.settings import Settings
from bg_pipeline.state.audit import Act, AuditLog
from bg_pipeline.state.leases import Leases, is_held
from bg_pipeline.state.model_stopped import mark_date_waiting
from bg_pipeline.storage.object_store import Store


@dataclass(frozen=True)
class LabelsDue:
    """The work for a window run: dates with photos to label, and dates that an earlier window run left unfinished.

    ``given_up`` is the number of photos that still wait but are no reason to start the model any more.
    """

    to_label: tuple[date, ...]
    half_done: tuple[date, ...]
    given_up: int = 0

    @property
    def empty_reason(self) -> str:
        """Why there is nothing to do; an empty string if there is work."""
        if self.to_label or self.half_done:
            return ""
        if not self.given_up:
            return "no photo waits for the Custom Labels model"
        return (
            f"no photo waits for the Custom Labels model, except {self.given_up} that got no labels in "
            f"{RETRIES_PER_DATE} windows; they are tried again together with other waiting photos, or by a run of "
            "this job with given_up: true"
        )


@dataclass
class WindowOutcome:
    """The result of a window run; ``reason`` says why it did nothing, ``report`` is None if no model was needed.

    ``labels`` has the results by date after labelling, ``days`` those at the end of the run.
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
    """The work that is due; None if ``time_is_up`` returned True before the end of the search.

    With ``first`` the search ends at the first date found. If ``given_up`` is true, photos that have used up
    their retries count too.
    """
    markers = list(date_markers(store))
    half_done = tuple(
        sorted({each.date for each in markers if each.run and not _is_running(store, each.run)})
    )
    if first and half_done:
        return LabelsDue((), half_done)
    retries = RetryBudget(store, settings.custom_labels_arn)
    to_label: list[date] = []
    given_up_count = 0
    for day in _dates(settings, markers):
        if time_is_up():
            return None
        waiting = list(waiting_batches(store, settings, [day]))
        eligible = [each for each in waiting if given_up or retries.left(each)]
        given_up_count += len(waiting) - len(eligible)
        if eligible:
            to_label.append(day)
            if first:
                break
    return LabelsDue(tuple(sorted(to_label)), half_done, given_up_count)


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
    """Processes all waiting dates; does nothing while another run owns the window.

    The model is stopped before this returns or raises. Raises `NotStarted` and the other errors of
    `window.open_window`, such as `CapReached` if a cap has no room for the model's time. Errors of images are counted
    in the `DateResult`s and listed in the reports.
    """
    if not settings.custom_labels_arn:
        raise SettingsError("BG_CUSTOM_LABELS_ARN is not set: there is no model to start")
    check_signing(settings)
    due = find_labels_due(store, settings, given_up=given_up)
    if due is None or due.empty_reason:
        return WindowOutcome(reason=due.empty_reason if due else "")
    person = local_person(f"Custom Labels window {run_id}", Via.RUN)
    spend_log = SpendLog(store, person, {"Run": run_id})
    context = RunContext(settings, aws, store, stop=threading.Event(), note=note, spend_log=spend_log)
    outcome = WindowOutcome()
    markers: dict[date, str] = {}
    labelled: dict[Batch, set[str]] = {}
    try:
        with Leases(store, run_id) as leases:
            # While this lease is held, other runs leave dates alone that are marked with this run.
            leases.acquire(s3_keys.window_run_key(run_id))
            if due.to_label:
                with (
                    AuditLog(store).act(
                        person,
                        Act.SPEND,
                        None,
                        For="a Custom Labels model's time",
                        Model=settings.custom_labels_arn,
                        Run=run_id,
                    ) as spent,
                    open_window(
                        CustomModel(aws, settings.custom_labels_arn),
                        store,
                        leases,
                        units=settings.custom_labels_units,
                        minutes=settings.custom_labels_start_minutes,
                        run_budget=context.run_budget,
                        note=note,
                    ) as window,
                ):
                    outcome.labels = _label(
                        context, window, due.to_label, markers, labelled, run_id, progress
                    )
                    spent["Labelled"] = sum(map(len, labelled.values()))
                outcome.report, outcome.report_key = window.report, window.report_key
            markers |= _mark(store, set(due.half_done) - markers.keys(), run_id)
            costs = _cost_by_photo(outcome.report, labelled)
            engine = Engine(context, run_id=run_id, reporter=REPORTER, label_costs=costs, progress=progress)
            outcome.days = engine.run(sorted(markers))
            _unmark(store, settings, markers)
    except WindowTaken as error:
        outcome.reason = str(error)
    finally:
        context.close()
    return outcome


def _label(
    context: RunContext,
    window: Window,
    dates: Collection[date],
    markers: dict[date, str],
    labelled: dict[Batch, set[str]],
    run_id: str,
    progress: Callable[[Progress], None],
) -> dict[date, DateResult]:
    """Labels the waiting photos, and those that arrive meanwhile, until none waits or none could be labelled.

    Labelled photos are added to ``labelled``, and marked dates to ``markers``, also if this raises.
    """

    def on_progress(now: Progress) -> None:
        window.keep_alive()
        progress(now)

    def on_image(batch: Batch, entry: Entry) -> None:
        record = entry.stages.get(LABELS)
        if record is not None and record.status == Status.SUCCEEDED and not record.reused:
            labelled.setdefault(batch, set()).add(entry.image)

    retries = RetryBudget(context.store, context.settings.custom_labels_arn)
    waiting: list[WaitingBatch] = []
    done: dict[date, DateResult] = {}
    while dates:
        markers |= _mark(context.store, set(dates) - markers.keys(), run_id)
        engine = Engine(
            context,
            run_id=run_id,
            reporter=REPORTER,
            stages=(LABELS,),
            wait_for_others=False,
            on_image=on_image,
            progress=on_progress,
        )
        days = engine.run(sorted(dates))
        made = sum(day.made[LABELS] for day in days.values())
        waiting = list(
            waiting_batches(
                context.store, context.settings, _dates(context.settings, date_markers(context.store))
            )
        )
        window.counts.dates = tuple(sorted(markers))
        window.counts.labelled += made
        window.counts.failed += sum(day.failed[LABELS] for day in days.values())
        window.counts.still_waiting = len(waiting)
        for each, day in days.items():
            if each in done:
                day.made += done[each].made
            done[each] = day
        dates = {photo.batch.date for photo in waiting} if made else ()
    retries.use(waiting)
    return done


def _cost_by_photo(
    report: WindowReport | None, labelled: Mapping[Batch, Collection[str]]
) -> dict[Batch, dict[str, float]]:
    """The window's cost divided equally among the photos labelled in it, in US dollars by batch and image."""
    photos = sum(len(images) for images in labelled.values())
    if report is None or not report.cost_usd or not photos:
        return {}
    share = report.cost_usd / photos
    return {batch: dict.fromkeys(images, share) for batch, images in labelled.items()}


def _dates(settings: Settings, markers: Iterable[DateMarker]) -> list[date]:
    """The dates to search: those of the look-back and the marked ones, newest first."""
    recent = recent_dates(settings, datetime.now(UTC))
    return sorted({*recent, *(each.date for each in markers)}, reverse=True)


def _is_running(store: Store, run: str) -> bool:
    return is_held(store, s3_keys.window_run_key(run))


def _mark(store: Store, dates: Iterable[date], run_id: str) -> dict[date, str]:
    return {day: mark_date_waiting(store, day, run_id) for day in dates}


def _unmark(store: Store, settings: Settings, markers: Mapping[date, str]) -> None:
    """Removes this run's markers; dates whose photos still wait are marked for the next window."""
    retries = RetryBudget(store, settings.custom_labels_arn)
    waiting = {
        each.batch.date for each in waiting_batches(store, settings, sorted(markers)) if retries.left(each)
    }
    for day, etag in markers.items():
        remove_marker(store, day, etag)
        if day in waiting:
            mark_date_waiting(store, day)
