"""``bg-pipeline publish``: delivers approved results, and only these."""

from collections.abc import Sequence

import click

from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import by, dates_and_batches, existing_dates, local, output_format, this_person
from bg_pipeline.cli.terminal import console, print_message, print_records, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import PUBLISHED, UploadDate
from bg_pipeline.domain.text import command
from bg_pipeline.review import State
from bg_pipeline.run.batch_work import open_batch, stored_batches
from bg_pipeline.settings import settings
from bg_pipeline.state.follow_ups import original
from bg_pipeline.storage.object_store import Store, open_bucket
from bg_pipeline.uploads.listing import find


def _delivered_with(store: Store, batch: Batch) -> Batch:
    """The batch in whose places the pictures of ``batch`` stand, if it still exists; else ``batch``."""
    of = original(store, batch)
    return of if of == batch or find(store, of) is not None else batch


@click.command()
@dates_and_batches
@output_format()
@by
@local
def publish(dates: Sequence[UploadDate], batches: tuple[Batch, ...], form: str, by: str) -> None:
    """Copy approved results to published/, and delete rejected and replaced ones there.

    A picture that was made again is delivered in the place of its original, with the original's batch.

    Ends with 0 if no result waits for review and all approved results are delivered, else with 1.

    \b
    Examples:
      bg-pipeline publish --date 2026-11-21
      bg-pipeline publish --batch 2026/11/21/101530 --format json
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    acts = Acts(configured, store)
    person = this_person(by)
    lines, complete = [], True
    run = [
        uploaded.batch
        for uploaded, ledger in stored_batches(store, existing_dates(store, dates), batches)
        if ledger
    ]
    for batch in dict.fromkeys(_delivered_with(store, each) for each in run):
        places = acts.places(person, batch)
        done = acts.publish(person, open_batch(store, configured, batch), places)
        waiting = sum(place.item.state is State.WAITING for place in places)
        path = batch.path
        lines.append((path, done.copied, done.kept, done.removed, len(done.stale), waiting))
        complete = complete and not waiting and not done.stale
        for key in done.stale:
            print_message(
                f"{key} changed after its approval and is not delivered: look at it "
                f"(`{command('review', 'list', path)}`), then publish again."
            )
    head = ("Batch", "Delivered now", "Delivered before", "Deleted", "Changed", "Waiting")
    if form != "table":
        columns = ("Batch", "DeliveredNow", "DeliveredBefore", "Deleted", "Changed", "Waiting")
        print_records(form, columns, [dict(zip(columns, line, strict=True)) for line in lines])
    elif lines:
        console().print(table(head, lines, right=head[1:]))
        print_message(f"Delivered results are under {PUBLISHED}/ in the bucket of the results.")
    else:
        print_message("None of these batches was run yet.")
    click.get_current_context().exit(0 if complete else 1)
