"""``bg-pipeline run``: brings upload dates up to date, without Dagster."""

from collections.abc import Iterable, Sequence
from functools import cache

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
from bg_pipeline.cli.arguments import dates_and_batches, local, this_person
from bg_pipeline.cli.terminal import console, print_message, stopped_by_user, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.domain.text import amount
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.run.date_result import Progress as FlowProgress
from bg_pipeline.settings import settings

MAX_LISTED = 20
"""Images without success that are listed; the reports have all."""


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
@local
def run(dates: Sequence[UploadDate], batches: tuple[Batch, ...], again: tuple[str, ...], retry: bool) -> None:
    """Bring upload dates up to date: do what is missing, failed or changed, and keep what is done.

    Ends with 0 if every requested image succeeded, else with 1.
    """
    succeeded = run_dates(dates, only=batches, again=again, retry=retry)
    click.get_current_context().exit(0 if succeeded else 1)


def run_dates(
    dates: Sequence[UploadDate], *, only: Iterable[Batch] = (), again: Sequence[str] = (), retry: bool = False
) -> bool:
    """Runs the dates and prints progress and results; True if every requested image succeeded."""
    configured = settings()
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
            dates,
            by=this_person().name,
            only=tuple(only),
            again=again,
            retry=retry,
            progress=show_progress,
            note=cache(print_message),
        )
    show(results.values())
    return all(_succeeded(result) for result in results.values())


def _succeeded(day: DateResult) -> bool:
    return not day.stopped and not day.problems and day.counts[Status.SUCCEEDED] == day.images


def show(days: Iterable[DateResult]) -> None:
    """Prints the state of each date after a run."""
    days = list(days)
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
            print_message("… and more. `bg-pipeline report BATCH` lists all images of a batch.")
    for day in days:
        for problem in day.problems:
            print_message(f"{day.date}: {problem}.")
        if day.stopped:
            print_message(f"{day.date}: stopped early: {day.stopped}")
        for path in day.unfinished:
            print_message(f"{path} was not run: it is still being uploaded, or another run works on it.")
        if not (day.images or day.unfinished or day.problems):
            print_message(f"{day.date}: there is no complete batch of photos.")
