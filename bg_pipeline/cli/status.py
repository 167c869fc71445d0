"""``bg-pipeline status`` and ``report``: the state of batches, and of each image of a batch."""

import datetime
from collections.abc import Sequence
from dataclasses import asdict

import click
import orjson

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, DATE, chosen_dates, existing_dates, local, output_format, today
from bg_pipeline.cli.terminal import console, dollars, print_message, print_records, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import command, run_command
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.batch_report import html_report
from bg_pipeline.reports.manifest import mirror_stored
from bg_pipeline.reports.overview import BatchCosts, load_status
from bg_pipeline.reports.report import TABLE_HEAD, Report
from bg_pipeline.reports.summaries import ListedBatch, list_batches
from bg_pipeline.reports.words import SAMPLE_WAITS
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, open_bucket

_COLUMNS = (
    *("Batch", "State", "Images", *(f"Counts.{status.value}" for status in Status), "ToDo", "Due"),
    *("WaitForApproval", "CostUSD", "MaybeBilledUSD", "Cause", "RequestETag", "Id", "Prompt", "LastChange"),
)


@click.command()
@click.argument("batch", type=BATCH, required=False)
@click.option("--date", "date", type=DATE, help="All batches of an upload date.")
@click.option("--from", "first", type=DATE, help="All batches from this date on; without --to until today.")
@click.option("--to", "last", type=DATE, help="The last date of a range; needs --from.")
@output_format()
@local
def status(
    batch: Batch | None, date: UploadDate | None, first: UploadDate | None, last: UploadDate | None, form: str
) -> None:
    """Show the state of a batch, or of all batches of dates; by default of the newest dates (BG_OPEN_DATES).

    Ends with 0 if all of them are finished and every image succeeded, else with 1.

    \b
    Examples:
      bg-pipeline status
      bg-pipeline status 2026/11/21/101530
      bg-pipeline status --from 2026-11-01 --format csv
    """
    if batch and (date or first or last):
        raise UsageError("use either a batch or --date or a range, not both")
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    if batch:
        load_status(store, configured, batch)
    if batch:
        dates = [batch.date]
    elif date or first or last:
        dates = existing_dates(store, chosen_dates(date, first, last, ()))
    else:
        dates = _open_dates(configured)
    listed = list(list_batches(store, configured, dates, [batch] if batch else ()))
    if form != "table":
        print_records(form, _COLUMNS, [asdict(each.summary) for each in listed])
    elif listed:
        head = (
            *("Batch", "State", "Images", *(status.value for status in Status)),
            *("To do", "USD", "Maybe more"),
        )
        console().print(table(head, [_line(each, len(head)) for each in listed], right=head[2:]))
    else:
        print_message(f"There are no batches {_in_words(dates, first, last)}.")
    click.get_current_context().exit(0 if all(each.summary.succeeded for each in listed) else 1)


def _in_words(dates: Sequence[UploadDate], first: UploadDate | None, last: UploadDate | None) -> str:
    return f"from {first} to {last or today()}" if first else f"on {', '.join(map(str, dates))}"


def _open_dates(configured: Settings) -> list[UploadDate]:
    newest = today()
    return [newest - datetime.timedelta(days) for days in reversed(range(configured.open_dates))]


def _line(listed: ListedBatch, columns: int) -> list[object]:
    """A batch as a line of the table."""
    summary = listed.summary
    line: list[object] = [summary.Batch, listed.state, summary.Images]
    if listed.work is None:
        return [*line, *[""] * (columns - len(line))]
    line += [*(summary.Counts.get(status, 0) for status in Status), summary.Due]
    return [*line, dollars(summary.CostUSD), dollars(summary.MaybeBilledUSD)]


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
    help="With html and json: links to the pictures, which work for everybody for BG_REPORT_LINK_SECONDS. In JSON "
    "each row has Links, in the order of its Results.",
)
@local
def report(batch: Batch, form: str, links: bool) -> None:
    """Print a batch's report: every requested image and its result.

    Ends with 0 if every image succeeded, else with 1.

    \b
    Examples:
      bg-pipeline report 2026/11/21/101530
      bg-pipeline report 2026/11/21/101530 --format html --links > report.html
      bg-pipeline report 2026/11/21/101530 --format json --links
    """
    if links and form not in ("html", "json"):
        raise UsageError("--links needs --format html or json")
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
                f"The rest is {SAMPLE_WAITS}: look at the pictures, then run it with "
                f"`{command('approve', batch.path, '--seen', overview.request_etag)}`."
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
    elif links:
        click.echo(_json_with_links(overview.data, result, configured.report_link_seconds))
    else:
        click.echo(result.json() if form == "json" else result.csv(), nl=False)
    succeeded = result.counts[Status.SUCCEEDED] == len(result.rows)
    click.get_current_context().exit(0 if succeeded else 1)


def _json_with_links(data: Store, result: Report, seconds: int) -> str:
    rows = orjson.loads(result.json())
    for row in rows:
        row["Links"] = [data.presign(key, seconds) for key in row["Results"]]
    return orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode()


def _summary(result: Report) -> str:
    counts = ", ".join(f"{number} {status.value}" for status, number in result.counts.items() if number)
    return f"{counts}; {BatchCosts.of(result).in_words()}"
