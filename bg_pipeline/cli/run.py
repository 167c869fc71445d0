"""``bg-pipeline run``: brings upload dates up to date, without Dagster."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import click
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from bg_pipeline import pipeline
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import dates_and_batches, existing_dates, local, output_format, this_person
from bg_pipeline.cli.terminal import console, print_message, print_records, stopped_by_user, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.domain.text import amount, command
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.run.date_result import Progress as FlowProgress
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket

MAX_LISTED = 20
"""Images without success that are listed; the reports have all."""
MAX_COMMANDS = 3
"""Commands that are proposed for the other images."""


@click.command()
@dates_and_batches
@click.option(
    "--again",
    type=click.Choice(STAGES),
    multiple=True,
    help="Make this again and pay for it again; repeat the option for more.",
)
@click.option(
    "--retry",
    is_flag=True,
    help="Also retry what failed for a lasting reason, and calls that may have been billed twice.",
)
@output_format()
@local
def run(
    dates: Sequence[UploadDate], batches: tuple[Batch, ...], again: tuple[str, ...], retry: bool, form: str
) -> None:
    """Bring upload dates up to date: do what is missing, failed or changed, and keep what is done.

    Of a range only the dates with uploads are run and shown. Ends with 0 if every requested image succeeded, else
    with 1.

    \b
    Examples:
      bg-pipeline run --date today
      bg-pipeline run --from 2026-10-01 --to 2026-10-31
      bg-pipeline run --batch 2026/11/21/101530 --again generated_images
    """
    succeeded = run_dates(dates, only=batches, again=again, retry=retry, form=form)
    click.get_current_context().exit(0 if succeeded else 1)


def run_dates(
    dates: Sequence[UploadDate],
    *,
    only: Iterable[Batch] = (),
    again: Sequence[str] = (),
    retry: bool = False,
    form: str = "table",
) -> bool:
    """Runs the dates and prints progress and results; True if every requested image succeeded."""
    configured = settings()
    aws = make_aws(configured)
    store = open_bucket(configured, aws)
    existing = existing_dates(store, dates)
    if not existing:
        show([], form)
        print_message(f"There are no batches from {min(dates)} to {max(dates)}.")
        return True
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    screen = console(stderr=True)
    with stopped_by_user(), Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("looking for work", total=None)

        def show_progress(progress: FlowProgress) -> None:
            if screen.is_terminal:
                bar.update(task, completed=progress.done, total=progress.found, description=progress.line())
            else:
                print_message(progress.line())

        results = pipeline.run(
            configured,
            existing,
            aws=aws,
            store=store,
            by=this_person().name,
            only=tuple(only),
            again=again,
            retry=retry,
            progress=show_progress,
            note=cache(print_message),
        )
    show(results.values(), form)
    return all(_succeeded(result) for result in results.values())


def _succeeded(day: DateResult) -> bool:
    return not day.stopped and not day.problems and day.counts[Status.SUCCEEDED] == day.images


_COLUMNS = (
    *("Date", "Images", *(f"Counts.{status.value}" for status in Status), "WorkedOn", "CostUSD"),
    *("MaybeBilledUSD", "Batches", "Unfinished", "Problems", "Stopped", "Reports"),
)


def _record(day: DateResult) -> dict[str, Any]:
    return {
        "Date": f"{day.date}",
        "Images": day.images,
        "Counts": dict(day.counts),
        "WorkedOn": day.due,
        "CostUSD": day.spent.cost_usd,
        "MaybeBilledUSD": day.spent.maybe_usd,
        "Batches": day.batches,
        "Unfinished": day.unfinished,
        "Problems": day.problems,
        "Stopped": day.stopped,
        "Reports": day.reports,
    }


def show(days: Iterable[DateResult], form: str = "table") -> None:
    """Prints the state of each date after a run."""
    days = list(days)
    if form != "table":
        print_records(form, _COLUMNS, [_record(day) for day in days])
        return
    if not days:
        return
    head = ["Date", "Batches", "Images", *(status.value for status in Status), "Worked on", "USD"]
    rows = [
        [
            day.date,
            len(day.batches),
            day.images,
            *(day.counts[status] for status in Status),
            day.due,
            amount(day.spent.cost_usd, day.spent.maybe_usd),
        ]
        for day in days
    ]
    screen = console()
    screen.print(table(head, rows, right=head[1:]))
    failed = [row for day in days for row in day.failed_rows]
    if failed:
        screen.print()
        listed = [(row.ImageName, row.Status.value, row.Cause) for row in failed[:MAX_LISTED]]
        screen.print(table(("Image", "Status", "Cause"), listed))
        if len(failed) > MAX_LISTED:
            paths = [path for day in days if day.failed_rows for path in day.batches]
            print_message(
                "… and more. All images of a batch are listed by: "
                + "; ".join(command("report", path) for path in paths[:MAX_COMMANDS])
            )
    for day in days:
        for problem in day.problems:
            print_message(f"{day.date}: {problem}.")
        if day.stopped:
            print_message(f"{day.date}: stopped early: {day.stopped}")
        for path in day.unfinished:
            print_message(f"{path} was not run: it is still being uploaded, or another run works on it.")
        if not (day.images or day.unfinished or day.problems):
            print_message(f"{day.date}: there is no complete batch of photos.")
