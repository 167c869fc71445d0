"""Checks of a run over upload dates; each result names the dates and what to do in a sentence.

The names of the functions are the names of the Dagster checks, so they must not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.limits import MICRO, CapReached, read_spending
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.text import counted, listed
from bg_pipeline.imaging.fidelity import MAX_SUBJECT_CHANGED
from bg_pipeline.quality.missing_reports import UnreportedUploads
from bg_pipeline.quality.model_lifecycle import models_in_use
from bg_pipeline.run.date_result import DateResult, Progress
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store

NEAR_CAP: Final = 0.8
"""Share of a spending cap from which a check warns."""
NEAR_END: Final = timedelta(days=60)
"""Time before a model's end of life, or before a higher price, from which a check warns."""


@dataclass(frozen=True)
class RunOutcome:
    """The run to check; ``progress`` is its last `Progress` event, None if there was none."""

    settings: Settings
    aws: Aws
    store: Store
    days: Sequence[DateResult]
    progress: Progress | None

    @property
    def dates(self) -> str:
        return listed([day.date.isoformat() for day in self.days])


@dataclass(frozen=True)
class CheckResult:
    """The result of a check: a ``description`` for people and ``figures`` to plot."""

    passed: bool
    description: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def every_image_succeeded(ran: RunOutcome) -> CheckResult:
    images = sum(day.images for day in ran.days)
    failed_by_date = {day.date: day.images - day.counts[Status.SUCCEEDED] for day in ran.days}
    failed = sum(failed_by_date.values())
    figures = {"images": images, "without_success": failed}
    if not failed:
        return CheckResult(True, f"Every requested image on {ran.dates} has its pictures.", figures)
    dates = listed([f"{day} ({count})" for day, count in failed_by_date.items() if count])
    description = (
        f"Without a picture that passed: {failed} of {counted(images, 'image')}, on {dates}. See the table of "
        "failures and the report; materialize the date again for temporary failures, fix or retry the others."
    )
    return CheckResult(False, description, figures)


def subject_unchanged(ran: RunOutcome) -> CheckResult:
    changed_subjects = [
        f"{image} of {day.date} ({changed:.1%})"
        for day in ran.days
        for image, changed in day.checks.changed_subjects
    ]
    measured = sum(day.checks.measured for day in ran.days)
    most = max((day.checks.most_changed for day in ran.days), default=0.0)
    figures = {"measured": measured, "most_changed": round(most, 5)}
    sure = [day.checks.least_sure for day in ran.days if day.checks.least_sure is not None]
    if sure:
        figures["lowest_confidence"] = min(sure)
    if changed_subjects:
        description = (
            f"More than {MAX_SUBJECT_CHANGED:.0%} of the subject's pixels changed in {listed(changed_subjects)}. "
            "Compare these with their photos; another label, a mask of your own (MaskKey) or another seed may help."
        )
        return CheckResult(False, description, figures)
    description = (
        f"Subjects compared with their photos, in {counted(measured, 'result')} of {ran.dates}: unchanged."
    )
    return CheckResult(True, description, figures)


def results_open(ran: RunOutcome) -> CheckResult:
    lost = [f"{key} ({day.date})" for day in ran.days for key in day.checks.lost]
    results = sum(day.checks.results for day in ran.days)
    figures = {"results": results, "lost": len(lost)}
    if lost:
        description = (
            f"Results that were deleted or changed since they were stored: {listed(lost)}. Something else deletes or "
            "overwrites results; materialize the date again: they are made from stored answers, which costs nothing."
        )
        return CheckResult(False, description, figures)
    description = (
        f"{counted(results, 'result')} of {ran.dates}: unchanged since they were stored and checked."
    )
    return CheckResult(True, description, figures)


def within_cost(ran: RunOutcome) -> CheckResult:
    settings, today = ran.settings, datetime.now(UTC).date()
    spending, _ = read_spending(ran.store, s3_keys.spend_key(today))
    spent = [
        (
            "this run",
            ran.progress.cost_usd if ran.progress else 0.0,
            settings.max_cost_usd,
            "BG_MAX_COST_USD",
        ),
        (f"{today} (UTC)", spending.total / MICRO, settings.max_cost_usd_per_day, "BG_MAX_COST_USD_PER_DAY"),
    ]
    amounts = [
        f"{scope}: {cost:.2f} USD"
        + (f" of {cap:.2f} ({setting}), {cost / cap:.0%}" if cap else f" ({setting} sets no cap)")
        for scope, cost, cap, setting in spent
    ]
    capped = [day for day in ran.days if day.checks.errors[CapReached.__name__]]
    near = [setting for _, cost, cap, setting in spent if cap and cost >= NEAR_CAP * cap]
    figures = {"run_usd": round(spent[0][1], 4), "day_usd": round(spent[1][1], 4)}
    description = f"Spent for {ran.dates}: {'; '.join(amounts)}."
    if capped:
        dates = listed([f"{day.date} ({day.checks.errors[CapReached.__name__]})" for day in capped])
        description += (
            f" Images were skipped because of a cap on {dates}: raise it or wait for the next day, then materialize "
            "the date again."
        )
    elif near:
        description += f" Raise {' and '.join(near)} before the next images are skipped."
    return CheckResult(not capped and not near, description, figures)


def models_live_on(ran: RunOutcome) -> CheckResult:
    today = datetime.now(UTC).date()
    used = list(models_in_use(ran.settings, ran.aws))
    names = listed([f"{model.name} ({model.model_id})" for model in used])
    ends = [(model, model.ends) for model in used if model.ends and model.ends - today <= NEAR_END]
    days_left = [(model.ends - today).days for model in used if model.ends]
    figures = {"days_left": min(days_left)} if days_left else {}
    # A scene model alone makes no picture of most requests.
    if all(model.setting == "BG_SCENE_MODELS" for model in used):
        description = f"No configured model can be used on {today}; `bg-pipeline doctor` shows the reasons."
        return CheckResult(False, description, figures)
    dearer = [model for model in used if model.dearer_from and model.dearer_from - today <= NEAR_END]
    if not ends and not dearer:
        description = f"No model in use for {ran.dates} ends within {NEAR_END.days} days: {names}."
        description += "".join(f" {model.name}: {model.life}." for model in used if model.life)
        return CheckResult(True, description, figures)
    sentences = [f"{model.name} ({model.model_id}) in {model.region}: {model.life}" for model in dearer]
    sentences += [
        f"{model.name} ({model.model_id}) in {model.region} ends on {end}, in {(end - today).days} days; "
        + (
            f"next in {model.setting}: {listed(model.after)}; check with `bg-pipeline doctor` that they can be used"
            if model.after
            else f"name its successor in {model.setting}"
        )
        for model, end in ends
    ]
    return CheckResult(False, f"{'. '.join(sentences)}.", figures)


def report_complete(ran: RunOutcome) -> CheckResult:
    missing = [f"{image} of {day.date}" for day in ran.days for image in day.checks.unreported]
    images = sum(day.images for day in ran.days)
    figures = {"images": images, "missing": len(missing)}
    if missing:
        description = (
            f"The stored report does not have exactly one row for {listed(missing)}. Materialize status_report of "
            "the date again; if that does not help, something else writes under status-report-files/."
        )
        return CheckResult(False, description, figures)
    return CheckResult(
        True, f"The reports of {ran.dates} have a row for each of {counted(images, 'image')}.", figures
    )


def uploads_without_report(settings: Settings, search: UnreportedUploads) -> CheckResult:
    """The result of a search for uploads without a report (`find_unreported_uploads`)."""
    lost = search.unreported
    in_progress = len(search.batches) - len(lost)
    figures = {"without_report": len(lost), "being_worked_on": in_progress}
    span = f"since {search.reached}"
    if search.reached > search.first:
        span += f" (there was no time to look back to {search.first})"
    age = f"{settings.stale_hours:g} hours"
    if not lost:
        description = f"Every upload {span} that is older than {age} has its report"
        description += ", or a run is working on it." if in_progress else "."
        return CheckResult(True, description, figures)
    dates = sorted({each.batch.date for each in lost})
    paths = listed([f"{each.batch.path} (since {each.since:%Y-%m-%d %H:%M} UTC)" for each in lost])
    description = (
        f"{counted(len(lost), 'batch', 'batches')}, complete for more than {age}, with uploads in no report: "
        f"{paths}. Check that the sensor new_uploads is on, and the outcome of the runs of "
        f"{listed([f'{day}' for day in dates])}; `bg-pipeline run --date {dates[0]}` makes the missing report."
    )
    return CheckResult(False, description, figures)
