"""``bg-pipeline retry`` and ``approve``: what a person decides once a batch was run."""

import click

from bg_pipeline import layout
from bg_pipeline.commands.arguments import BATCH, local, today
from bg_pipeline.commands.run import run_dates
from bg_pipeline.commands.submit import ASK_BEYOND
from bg_pipeline.commands.terminal import ask, counted, say
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.layout import Batch
from bg_pipeline.pipeline import make_aws, open_bucket
from bg_pipeline.reports.overview import look_up
from bg_pipeline.settings import settings
from bg_pipeline.uploads.submitting import check_request, new_batch, paid_pictures, submit


@click.command()
@click.argument("batch", type=BATCH)
@click.option("--run", "at_once", is_flag=True, help="Also run the new batch now.")
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_BEYOND} paid pictures.")
@local
def retry(batch: Batch, at_once: bool, yes: bool) -> None:
    """Ask again for the images of a batch that failed or were skipped, as a new batch of today.

    The photos stay where they are; only a request is written. What is stored is not paid for again; a call that was
    never answered, and may have been billed, is made once more.
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    standing = look_up(store, configured, batch)
    if standing.report() is None:
        raise UsageError(
            f"batch {batch.path} has no report yet; `bg-pipeline run --batch {batch.path}` makes it"
        )
    data = standing.retry()
    if data is None:
        say(f"Nothing of batch {batch.path} failed or was skipped for a reason that a retry could mend.")
        return
    again = new_batch(today())
    request = check_request(configured, again, data)
    names = list(request.entries)
    pictures = paid_pictures(request, names)
    if pictures > ASK_BEYOND:
        ask(f"{counted(len(names), 'image')} ask for {pictures:,} paid pictures. Go on?", yes=yes)
    submit(store, again, [], data)
    say(f"{counted(len(names), 'image')} of batch {batch.path} asked for again.")
    click.echo(again.input_prefix)
    if at_once:
        click.get_current_context().exit(0 if run_dates([again.date], only=[again]) else 1)


@click.command()
@click.argument("batch", type=BATCH)
@click.option("--run", "at_once", is_flag=True, help="Also run the rest of the batch now.")
@local
def approve(batch: Batch, at_once: bool) -> None:
    """Say that a batch's sample is good, so that the rest of the batch may run."""
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    standing = look_up(store, configured, batch)
    if standing.problem is not None:
        raise UsageError(f"the request of batch {batch.path} cannot be read: {standing.problem}")
    if standing.request is None or standing.request.Sample is None:
        raise UsageError(f"batch {batch.path} asked for no sample, so there is nothing to approve")
    try:
        store.write_json(layout.approval_key(batch), {"Batch": batch.path}, if_absent=True)
        say(f"The sample of batch {batch.path} is approved.")
    except PreconditionFailed:
        say(f"The sample of batch {batch.path} was approved before.")
    if at_once:
        click.get_current_context().exit(0 if run_dates([batch.date], only=[batch]) else 1)
    say(f"Run the rest with: bg-pipeline run --batch {batch.path}")
