"""``bg-pipeline publish``: delivers approved results, and only these."""

from collections.abc import Sequence

import click

from bg_pipeline import review
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import by, dates_and_batches, local, this_person
from bg_pipeline.cli.terminal import console, print_message, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import PUBLISHED, UploadDate
from bg_pipeline.review import State
from bg_pipeline.run.batch_work import open_work, stored_batches
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket


@click.command()
@dates_and_batches
@by
@local
def publish(dates: Sequence[UploadDate], batches: tuple[Batch, ...], by: str) -> None:
    """Copy approved results to published/, and delete rejected and replaced ones there.

    Ends with 0 if no result waits for review and all approved results are delivered, else with 1.
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    acts = Acts(configured, store)
    lines, complete = [], True
    for uploaded, ledger in stored_batches(store, dates, batches):
        if not ledger:
            continue
        work = open_work(store, configured, uploaded, ledger)
        items = review.items(work, configured)
        done = acts.publish(this_person(by), work, items)
        waiting = sum(item.state is State.WAITING for item in items)
        lines.append(
            (work.locations.batch.path, done.copied, done.kept, done.removed, len(done.stale), waiting)
        )
        complete = complete and not waiting and not done.stale
        for key in done.stale:
            print_message(
                f"{key} changed after its approval and is not delivered: look at it (`bg-pipeline review list`), "
                "then publish again."
            )
    head = ("Batch", "Delivered now", "Delivered before", "Deleted", "Changed", "Waiting")
    if lines:
        console().print(table(head, lines, right=head[1:]))
        print_message(f"Delivered results are under {PUBLISHED}/ in the bucket of the results.")
    else:
        print_message("None of these batches was run yet.")
    click.get_current_context().exit(0 if complete else 1)
