"""``bg-pipeline status`` and ``report``: the state of batches, and of each image of a batch."""

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
    """Show the state of a batch, or of all batches of a date; by default of the newest dates (BG_OPEN_DATES).

    Ends with 0 if all of them are finished and every image succeeded, else with 1.
    """
    if batch and date:
        raise UsageError("use either a batch or --date, not both")
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    if batch:
        load_status(store, configured, batch)
    dates = [batch.date] if batch else [date] if date else _open_dates(configured)
    head = (
        "Batch",
        "State",
        "Images",
        *(status.value for status in Status),
        "To do",
        "USD",
        "Maybe more",
    )
    lines, all_succeeded = [], True
    works = {
        work.locations.batch: work for work in find_work(store, configured, dates, [batch] if batch else ())
    }
    for uploaded in _uploaded(store, dates, batch):
        if uploaded.batch in works:
            line, succeeded = _line(store, works[uploaded.batch])
        else:
            state = (
                f"draft of {uploaded.last_change:%Y-%m-%d %H:%M} UTC" if uploaded.draft else "being uploaded"
            )
            line = [uploaded.batch.path, state, len(uploaded.images), *[""] * (len(head) - 3)]
            succeeded = False
        lines.append(line)
        all_succeeded = all_succeeded and succeeded
    if lines:
        console().print(table(head, lines, right=head[2:]))
    else:
        print_message(f"There are no batches on {', '.join(map(str, dates))}.")
    click.get_current_context().exit(0 if all_succeeded else 1)


def _open_dates(configured: Settings) -> list[UploadDate]:
    newest = today()
    return [newest - datetime.timedelta(days) for days in reversed(range(configured.open_dates))]


def _uploaded(store: Store, dates: Iterable[UploadDate], only: Batch | None) -> list[Uploaded]:
    if only:
        return [find(store, only) or Uploaded(only, emptied=True)]
    return [uploaded for date in dates for uploaded in batches(store, date)]


def _line(store: Store, work: BatchWork) -> tuple[list[object], bool]:
    """A batch as a line of the table, and whether all its images succeeded."""
    image_rows = list(rows(work))
    counts = Counter(row.Status for row in image_rows)
    state, state_text = batch_state(store, work)
    costs = BatchCosts.of(image_rows)
    line: list[object] = [work.locations.batch.path, state_text, len(work.images)]
    line += [*(counts[status] for status in Status), len(work.due)]
    line += [dollars(costs.usd), dollars(costs.maybe_usd)]
    done = state == BatchState.REPORTED and not work.due
    return line, done and counts[Status.SUCCEEDED] == len(image_rows)


@click.command()
@click.argument("batch", type=BATCH)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "html", "manifest"]),
    default="table",
    show_default=True,
    help="Output format. html is a page with all images before and after; manifest has the rows of "
    "`submit --manifest` with the results.",
)
@click.option(
    "--links",
    is_flag=True,
    help="With html: links to the pictures, which work for everybody for BG_REPORT_LINK_SECONDS.",
)
@local
def report(batch: Batch, form: str, links: bool) -> None:
    """Print a batch's report: every requested image and its result.

    Ends with 0 if every image succeeded, else with 1.
    """
    if links and form != "html":
        raise UsageError("--links needs --format html")
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    overview = load_status(store, configured, batch)
    result = overview.report()
    if result is None:
        raise UsageError(f"batch {batch.path} has no report yet; make it with `{run_command(batch)}`")
    if form == "table":
        console().print(table(TABLE_HEAD, result.table(), right=TABLE_HEAD[2:4]))
        click.echo(_summary(result))
        if any(row.waits_for_approval for row in result):
            print_message(
                "The batch waits for the approval of its sample: look at the pictures, then run the rest with "
                f"`bg-pipeline approve {shlex.quote(batch.path)} --seen {overview.request_etag}`."
            )
    elif form == "html":
        link_seconds = configured.report_link_seconds if links else 0
        click.echo(html_report(open_batch(store, configured, batch), link_seconds=link_seconds), nl=False)
    elif form == "manifest":
        by_image = {row.ImageName: row for row in result.rows}
        manifest = mirror_stored(store, batch, overview.request, by_image.get)
        if manifest is None:
            raise UsageError(
                f"batch {batch.path} was not submitted with a manifest; use --format csv for its rows"
            )
        click.echo(manifest, nl=False)
    else:
        click.echo(result.json() if form == "json" else result.csv(), nl=False)
    succeeded = result.counts[Status.SUCCEEDED] == len(result.rows)
    click.get_current_context().exit(0 if succeeded else 1)


def _summary(result: Report) -> str:
    counts = ", ".join(f"{number} {status.value}" for status, number in result.counts.items() if number)
    return f"{counts}; {BatchCosts.of(result).in_words()}"
