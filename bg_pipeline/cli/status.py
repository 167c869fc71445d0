"""``bg-pipeline status`` and ``report``: how batches stand, and what became of each image of one."""

import datetime
import shlex
from collections import Counter
from collections.abc import Iterable

import click

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, DATE, local, today
from bg_pipeline.cli.terminal import console, dollars, print_message, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import run_command
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.batch_report import html_report
from bg_pipeline.reports.manifest import mirror_stored
from bg_pipeline.reports.overview import BatchCosts, BatchState, batch_state, load_status
from bg_pipeline.reports.report import TABLE_HEAD, Report
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.run.discovery import find_work
from bg_pipeline.run.rows import rows
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, open_bucket
from bg_pipeline.uploads.listing import Uploaded, batches, find


@click.command()
@click.argument("batch", type=BATCH, required=False)
@click.option("--date", "date", type=DATE, help="All batches of an upload date.")
@local
def status(batch: Batch | None, date: UploadDate | None) -> None:
    """Show how a batch, or the batches of a date, stand; without either, those of the open dates.

    Ends with 0 if all of them are finished and every image succeeded, else with 1.
    """
    if batch and date:
        raise UsageError("say either a batch or --date")
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    if batch:
        load_status(store, configured, batch)
    dates = [batch.date] if batch else [date] if date else _open_dates(configured)
    head = (
        "Batch",
        "BatchState",
        "Images",
        *(status.value for status in Status),
        "To do",
        "USD",
        "Maybe more",
    )
    lines, finished = [], True
    works = {
        work.locations.batch: work for work in find_work(store, configured, dates, [batch] if batch else ())
    }
    for uploaded in _uploaded(store, dates, batch):
        if uploaded.batch in works:
            line, good = _line(store, works[uploaded.batch])
        else:
            state = (
                f"draft of {uploaded.last_change:%Y-%m-%d %H:%M} UTC" if uploaded.draft else "being uploaded"
            )
            line, good = [uploaded.batch.path, state, len(uploaded.images), *[""] * (len(head) - 3)], False
        lines.append(line)
        finished = finished and good
    if lines:
        console().print(table(head, lines, right=head[2:]))
    else:
        print_message(f"There are no batches on {', '.join(map(str, dates))}.")
    click.get_current_context().exit(0 if finished else 1)


def _open_dates(configured: Settings) -> list[UploadDate]:
    newest = today()
    return [newest - datetime.timedelta(days) for days in reversed(range(configured.open_dates))]


def _uploaded(store: Store, dates: Iterable[UploadDate], only: Batch | None) -> list[Uploaded]:
    if only:
        return [find(store, only) or Uploaded(only, emptied=True)]
    return [uploaded for date in dates for uploaded in batches(store, date)]


def _line(store: Store, work: BatchWork) -> tuple[list[object], bool]:
    """A batch as a line of the table, and whether all of it succeeded."""
    found = list(rows(work))
    counts = Counter(row.Status for row in found)
    state, words = batch_state(store, work)
    costs = BatchCosts.of(found)
    line: list[object] = [work.locations.batch.path, words, len(work.images)]
    line += [*(counts[status] for status in Status), len(work.due)]
    line += [dollars(costs.usd), dollars(costs.maybe_usd)]
    done = state == BatchState.REPORTED and not work.due
    return line, done and counts[Status.SUCCEEDED] == len(found)


@click.command()
@click.argument("batch", type=BATCH)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "html", "manifest"]),
    default="table",
    show_default=True,
    help="How; html is one page with all images before and after, manifest the rows of `submit --manifest`.",
)
@click.option(
    "--links",
    is_flag=True,
    help="With html: links to the pictures, which anyone may follow for BG_REPORT_LINK_SECONDS.",
)
@local
def report(batch: Batch, form: str, links: bool) -> None:
    """Print a batch's report: every image asked for and what became of it.

    Ends with 0 if every image succeeded, else with 1.
    """
    if links and form != "html":
        raise UsageError("--links goes with --format html")
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    standing = load_status(store, configured, batch)
    found = standing.report()
    if found is None:
        raise UsageError(f"batch {batch.path} has no report yet; `{run_command(batch)}` makes it")
    if form == "table":
        console().print(table(TABLE_HEAD, found.table(), right=TABLE_HEAD[2:4]))
        click.echo(_summary(found))
        if any(row.waits_for_approval for row in found):
            print_message(
                f"Its sample waits: look at it, then `bg-pipeline approve {shlex.quote(batch.path)} "
                f"--seen {standing.request_etag}` lets the rest run."
            )
    elif form == "html":
        link_seconds = configured.report_link_seconds if links else 0
        click.echo(html_report(open_batch(store, configured, batch), link_seconds=link_seconds), nl=False)
    elif form == "manifest":
        by_image = {row.ImageName: row for row in found.rows}
        mirrored = mirror_stored(store, batch, standing.request, by_image.get)
        if mirrored is None:
            raise UsageError(
                f"batch {batch.path} was not submitted with a manifest; --format csv has its rows"
            )
        click.echo(mirrored, nl=False)
    else:
        click.echo(found.json() if form == "json" else found.csv(), nl=False)
    good = found.counts[Status.SUCCEEDED] == len(found.rows)
    click.get_current_context().exit(0 if good else 1)


def _summary(found: Report) -> str:
    counts = ", ".join(f"{number} {status.value}" for status, number in found.counts.items() if number)
    return f"{counts}; {BatchCosts.of(found).in_words()}"
