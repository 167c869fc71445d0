"""``bg-pipeline run``: upload dates brought up to date without Dagster."""

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
from bg_pipeline.cli.arguments import dates_and_batches, local
from bg_pipeline.cli.terminal import console, counted, print_message, stopped_by_user, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.domain.text import amount
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.run.date_result import Progress as FlowProgress
from bg_pipeline.settings import settings

SHOWN = 20
"""Images without success that are listed; the report has all."""


@click.command()
@dates_and_batches
@click.option(
    "--again",
    type=click.Choice(STAGES),
    multiple=True,
    help="Make this anew, and pay for it again; may be repeated.",
)
@click.option(
    "--retry",
    is_flag=True,
    help="Also try again what failed for a lasting reason, and once more what may have been billed twice.",
)
@local
def run(dates: Sequence[UploadDate], batches: tuple[Batch, ...], again: tuple[str, ...], retry: bool) -> None:
    """Bring upload dates up to date: what is done stays, what is missing, failed or changed is done.

    Ends with 0 if every image asked for succeeded, else with 1.
    """
    succeeded = run_dates(dates, only=batches, again=again, retry=retry)
    click.get_current_context().exit(0 if succeeded else 1)


def run_dates(
    dates: Sequence[UploadDate], *, only: Iterable[Batch] = (), again: Sequence[str] = (), retry: bool = False
) -> bool:
    """Runs the dates, shows how it goes and what came of it; True if every image asked for succeeded."""
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
        task = bar.add_task("looking what is to be done", total=None)

        def tell(progress: FlowProgress) -> None:
            if screen.is_terminal:
                bar.update(task, completed=progress.done, total=progress.found, description=progress.line())
            else:
                print_message(progress.line())

        days = pipeline.run(
            configured,
            dates,
            only=tuple(only),
            again=again,
            retry=retry,
            progress=tell,
            note=cache(print_message),
        )
    show(days.values())
    return all(_succeeded(day) for day in days.values())


def _succeeded(day: DateResult) -> bool:
    return not day.stopped and not day.problems and day.counts[Status.SUCCEEDED] == day.images


def show(days: Iterable[DateResult]) -> None:
    """What is true of each date after a run."""
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
    troubled = [row for day in days for row in day.failed_rows]
    if troubled:
        screen.print()
        shown = [(row.ImageName, row.Status.value, row.Cause) for row in troubled[:SHOWN]]
        screen.print(table(("Image", "Status", "Cause"), shown))
        if len(troubled) > SHOWN:
            print_message(
                f"… and more; `bg-pipeline report BATCH` lists every image of {counted(len(days), 'date')}."
            )
    for day in days:
        for problem in day.problems:
            print_message(f"{day.date}: {problem}.")
        if day.stopped:
            print_message(f"{day.date}: stopped early: {day.stopped}")
        for path in day.unfinished:
            print_message(
                f"{path} is left alone: it is still being uploaded, or another run is at work on it."
            )
        if not (day.images or day.unfinished or day.problems):
            print_message(f"{day.date}: no complete batch of photos.")
