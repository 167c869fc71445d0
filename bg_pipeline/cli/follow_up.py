"""``bg-pipeline retry`` and ``approve``: what a person can decide after a batch was run."""

import click

from bg_pipeline import review
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, by, local, this_person, when_to_run
from bg_pipeline.cli.run import run_dates
from bg_pipeline.cli.submit import ASK_BEYOND
from bg_pipeline.cli.terminal import confirm, counted, print_message
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.text import run_command
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.overview import load_status
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket


@click.command()
@click.argument("batch", type=BATCH)
@click.option("--run", "at_once", is_flag=True, help="Also run the new batch now.")
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_BEYOND} paid pictures.")
@local
def retry(batch: Batch, at_once: bool, yes: bool) -> None:
    """Submit the images of a batch that failed or were skipped again, as a new batch dated today.

    The photos stay where they are; only a request is written. What is stored is not paid for again. A call that was
    never answered, and may have been billed, is made once more. Images that wait for the approval of a sample are
    left out. While an earlier retry of the batch has no report, that one is named and no other is added. A batch and
    its retries share one cap: a retry gets what is left of MaxCostUSD.
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    overview = load_status(store, configured, batch)
    prepared = review.prepare_retry(store, configured, overview)
    if prepared is None:
        print_message(
            f"Nothing in batch {batch.path} failed or was skipped for a reason that a retry could mend."
        )
        return
    images = counted(prepared.images, "image")
    if prepared.pictures > ASK_BEYOND and not prepared.submitted:
        confirm(f"{images} will need {prepared.pictures:,} paid pictures. Continue?", yes=yes)
    submitted = Acts(configured, store).retry(this_person(), overview, prepared)
    if prepared.submitted or submitted != prepared.batch:
        print_message(
            f"{images} of batch {batch.path} already submitted again, as a batch that has no report yet."
        )
    else:
        print_message(f"{images} of batch {batch.path} submitted again.")
    click.echo(submitted.input_prefix)
    if at_once:
        click.get_current_context().exit(0 if run_dates([submitted.date], only=[submitted]) else 1)


@click.command()
@click.argument("batch", type=BATCH)
@click.option("--run", "at_once", is_flag=True, help="Also run the rest of the batch now.")
@click.option(
    "--seen",
    default="",
    metavar="TAG",
    help="The tag, printed by `report`, of the request whose sample you saw; by default the current one.",
)
@by
@local
def approve(batch: Batch, at_once: bool, seen: str, by: str) -> None:
    """Approve a batch's sample, so that the rest of the batch may run.

    Dagster's sensors notice it and ask for a run. The approval counts for the request that made the sample: if that
    is replaced, the new request has its own sample and needs its own approval.
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    if not by.strip():
        raise UsageError("name the person who approves (--by)")
    status = load_status(store, configured, batch)
    if Acts(configured, store).approve_sample(this_person(by), status, seen=seen.strip('"')):
        print_message(f"The sample of batch {batch.path} is approved.")
    else:
        print_message(f"The sample of batch {batch.path} was approved before.")
    if at_once:
        click.get_current_context().exit(0 if run_dates([batch.date], only=[batch]) else 1)
    print_message(f"{when_to_run(configured, batch)}, run the rest with: {run_command(batch)}")
