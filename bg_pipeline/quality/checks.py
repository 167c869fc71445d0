"""What is judged of a run over upload dates; each judgment names the dates and says in a sentence what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bg_pipeline.aws.clients import Aws
from bg_pipeline.budget.limits import MICRO, CapReached, read_spending
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.text import counted, listed
from bg_pipeline.imaging.fidelity import MOST_SUBJECT_CHANGED
from bg_pipeline.quality.missing_reports import UnreportedUploads
from bg_pipeline.quality.model_lifecycle import models_in_use
from bg_pipeline.run.date_result import DateResult, Progress
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store

NEAR_CAP: Final = 0.8
NEAR_END: Final = timedelta(days=60)


@dataclass(frozen=True)
class RunOutcome:
    """A run of the flow that is checked; ``progress`` is its last word, None where it said none."""

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
    """What a check came to: ``words`` for people, ``figures`` to plot."""

    passed: bool
    description: str
    figures: Mapping[str, Any] = field(default_factory=dict)


def every_image_succeeded(ran: RunOutcome) -> CheckResult:
    images = sum(day.images for day in ran.days)
    bad = {day.date: day.images - day.counts[Status.SUCCEEDED] for day in ran.days}
    troubled = sum(bad.values())
    figures = {"images": images, "without_success": troubled}
    if not troubled:
        return CheckResult(True, f"Every image asked for on {ran.dates} has its pictures.", figures)
    dates = listed([f"{day} ({count})" for day, count in bad.items() if count])
    words = (
        f"Without a picture that passed: {troubled} of {counted(images, 'image')}, on {dates}. See the table of "
        "failures and the report; materialize the date again for those that failed for a passing reason, mend or "
        "retry the others."
    )
    return CheckResult(False, words, figures)


def subject_unchanged(ran: RunOutcome) -> CheckResult:
    altered = [
        f"{image} of {day.date} ({changed:.1%})"
        for day in ran.days
        for image, changed in day.checks.changed_subjects
    ]
    measured = sum(day.checks.measured for day in ran.days)
    most = max((day.checks.most_changed for day in ran.days), default=0.0)
    figures = {"measured": measured, "most_changed": round(most, 5)}
    if altered:
        words = (
            f"More than {MOST_SUBJECT_CHANGED:.0%} of the subject's pixels changed in {listed(altered)}. Compare "
            "these with their photos; another label, a mask of your own (MaskKey) or another seed may help."
        )
        return CheckResult(False, words, figures)
    words = (
        f"Subjects compared with their photos, in {counted(measured, 'result')} of {ran.dates}: unchanged."
    )
    return CheckResult(True, words, figures)


def results_intact(ran: RunOutcome) -> CheckResult:
    lost = [f"{key} ({day.date})" for day in ran.days for key in day.checks.lost]
    results = sum(day.checks.results for day in ran.days)
    figures = {"results": results, "lost": len(lost)}
    if lost:
        words = (
            f"Not stored any more as they were when they were opened: {listed(lost)}. Something else deletes or "
            "overwrites results; materialize the date again: they are made from stored answers, which costs nothing."
        )
        return CheckResult(False, words, figures)
    words = f"{counted(results, 'result')} of {ran.dates}: stored as when they were read back and opened."
    return CheckResult(True, words, figures)


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
    said = [
        f"{who}: {cost:.2f} USD"
        + (f" of {cap:.2f} ({setting}), {cost / cap:.0%}" if cap else f" ({setting} sets no cap)")
        for who, cost, cap, setting in spent
    ]
    capped = [day for day in ran.days if day.checks.errors[CapReached.__name__]]
    near = [setting for _, cost, cap, setting in spent if cap and cost >= NEAR_CAP * cap]
    figures = {"run_usd": round(spent[0][1], 4), "day_usd": round(spent[1][1], 4)}
    words = f"Spent for {ran.dates}: {'; '.join(said)}."
    if capped:
        dates = listed([f"{day.date} ({day.checks.errors[CapReached.__name__]})" for day in capped])
        words += f" Images were skipped at a cap on {dates}: raise it or wait for a new day, then materialize again."
    elif near:
        words += f" Raise {' and '.join(near)} before the next images are skipped."
    return CheckResult(not capped and not near, words, figures)


def models_supported(ran: RunOutcome) -> CheckResult:
    today = datetime.now(UTC).date()
    used = list(models_in_use(ran.settings, ran.aws))
    names = listed([f"{model.name} ({model.model_id})" for model in used])
    ends = [(model, model.ends) for model in used if model.ends and model.ends - today <= NEAR_END]
    days_left = [(model.ends - today).days for model in used if model.ends]
    figures = {"days_left": min(days_left)} if days_left else {}
    if not used:
        words = f"No configured model can be used on {today}; `bg-pipeline doctor` says why."
        return CheckResult(False, words, figures)
    dearer = [model for model in used if model.dearer_from and model.dearer_from - today <= NEAR_END]
    if not ends and not dearer:
        words = f"The models in use for {ran.dates} live on for more than {NEAR_END.days} days: {names}."
        words += "".join(f" {model.name}: {model.life}." for model in used if model.life)
        return CheckResult(True, words, figures)
    told = [f"{model.name} ({model.model_id}) in {model.region}: {model.life}" for model in dearer]
    told += [
        f"{model.name} ({model.model_id}) in {model.region} ends on {end}, in {(end - today).days} days; "
        + (
            f"{listed(model.after)} of {model.setting} follow: see with `bg-pipeline doctor` whether they can be used"
            if model.after
            else f"name its successor in {model.setting}"
        )
        for model, end in ends
    ]
    return CheckResult(False, f"{'. '.join(told)}.", figures)


def report_complete(ran: RunOutcome) -> CheckResult:
    missing = [f"{image} of {day.date}" for day in ran.days for image in day.checks.unreported]
    images = sum(day.images for day in ran.days)
    figures = {"images": images, "missing": len(missing)}
    if missing:
        words = (
            f"The stored report has not exactly one row for {listed(missing)}. Materialize status_report of the date "
            "again; if that does not help, something else writes under status-report-files/."
        )
        return CheckResult(False, words, figures)
    return CheckResult(
        True, f"The reports of {ran.dates} have a row for each of {counted(images, 'image')}.", figures
    )


def uploads_without_report(settings: Settings, looked: UnreportedUploads) -> CheckResult:
    """What a look back for uploads without a report came to."""
    lost = looked.unreported
    under_way = len(looked.batches) - len(lost)
    figures = {"without_report": len(lost), "being_worked_on": under_way}
    span = f"since {looked.reached}"
    if looked.reached > looked.first:
        span += f" (there was no time to look back to {looked.first})"
    age = f"{settings.stale_hours:g} hours"
    if not lost:
        words = f"Every upload {span} that is older than {age} has its report"
        return CheckResult(True, f"{words}, or a run at work on it." if under_way else f"{words}.", figures)
    dates = sorted({each.batch.date for each in lost})
    told = listed([f"{each.batch.path} (since {each.since:%Y-%m-%d %H:%M} UTC)" for each in lost])
    words = (
        f"{counted(len(lost), 'batch', 'batches')}, complete for more than {age}, with uploads in no report: {told}. "
        "See that the sensor new_uploads is on, and what became of the runs of "
        f"{listed([f'{day}' for day in dates])}; `bg-pipeline run --date {dates[0]}` makes up for it."
    )
    return CheckResult(False, words, figures)
