"""``bg-pipeline discard``: away with what was uploaded and never submitted."""

import click

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, local
from bg_pipeline.cli.terminal import confirm, counted, print_message
from bg_pipeline.domain.batches import Batch
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket
from bg_pipeline.uploads.listing import discard_draft, find_draft


@click.command()
@click.argument("batch", type=BATCH)
@click.option("--yes", is_flag=True, help="Do not ask.")
@local
def discard(batch: Batch, yes: bool) -> None:
    """Delete a draft: photos that were uploaded, on the page, by the API or by a `submit` that was interrupted, and
    never submitted. What was submitted is left alone.
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    found = find_draft(store, batch)
    photos = counted(len(found.images), "photo")
    confirm(
        f"Delete the draft {batch.path} with {photos}, last touched {found.last_change:%Y-%m-%d %H:%M} UTC?",
        yes=yes,
    )
    discard_draft(store, batch)
    print_message(f"The draft {batch.path} with {photos} is deleted.")
