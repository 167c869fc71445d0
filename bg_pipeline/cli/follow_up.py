"""``bg-pipeline retry`` and ``approve``: what a person decides once a batch was run."""

import click

from bg_pipeline import review
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, by, local
from bg_pipeline.cli.run import run_dates
from bg_pipeline.cli.submit import ASK_BEYOND
from bg_pipeline.cli.terminal import confirm, counted, print_message
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.text import run_command
from bg_pipeline.reports.overview import load_status
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket


@click.command()
@click.argument("batch", type=BATCH)
@click.option("--run", "at_once", is_flag=True, help="Also run the new batch now.")
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_BEYOND} paid pictures.")
@local
def retry(batch: Batch, at_once: bool, yes: bool) -> None:
    """Ask again for the images of a batch that failed or were skipped, as a new batch of today.

    The photos stay where they are; only a request is written. What is stored is not paid for again; a call that was
    never answered, and may have been billed, is made once more. Images that wait for the approval of a sample are
    not asked for. While an earlier retry of the batch has no report, that one is named and none is added. Batch and
    retries share one cap: MaxCostUSD is what is left of it.
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    found = review.prepare_retry(store, configured, load_status(store, configured, batch))
    if found is None:
        print_message(
            f"Nothing of batch {batch.path} failed or was skipped for a reason that a retry could mend."
        )
        return
    if found.pictures > ASK_BEYOND and not found.submitted:
        confirm(f"{counted(found.images, 'image')} ask for {found.pictures:,} paid pictures. Go on?", yes=yes)
    asks = found.submit(store)
    before = " before, by a batch that has no report yet" if found.submitted or asks != found.batch else ""
    print_message(f"{counted(found.images, 'image')} of batch {batch.path} asked for again{before}.")
    click.echo(asks.input_prefix)
    if at_once:
        click.get_current_context().exit(0 if run_dates([asks.date], only=[asks]) else 1)


@click.command()
@click.argument("batch", type=BATCH)
@click.option("--run", "at_once", is_flag=True, help="Also run the rest of the batch now.")
@click.option(
    "--seen",
    default="",
    metavar="TAG",
    help="The tag of the request whose sample you looked at, as `report` tells it; else the present one's.",
)
@by
@local
def approve(batch: Batch, at_once: bool, seen: str, by: str) -> None:
    """Say that a batch's sample is good, so that the rest of the batch may run.

    Dagster's sensors see it and ask for a run. The approval is of the request that made the sample: one that replaced
    it is not approved, and has a sample of its own.
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    if review.approve_sample(store, load_status(store, configured, batch), by=by, seen=seen.strip('"')):
        print_message(f"The sample of batch {batch.path} is approved.")
    else:
        print_message(f"The sample of batch {batch.path} was approved before.")
    if at_once:
        click.get_current_context().exit(0 if run_dates([batch.date], only=[batch]) else 1)
    print_message(f"Dagster's sensor runs the rest, or: {run_command(batch)}")
