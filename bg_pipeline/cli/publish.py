"""``bg-pipeline publish``: delivers approved results, and only these."""

from collections.abc import Sequence

import click

from bg_pipeline import review
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import by, dates_and_batches, existing_dates, local, output_format, this_person
from bg_pipeline.cli.terminal import console, print_message, print_records, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import PUBLISHED, UploadDate
from bg_pipeline.domain.text import command
from bg_pipeline.review import State
from bg_pipeline.run.batch_work import open_work, stored_batches
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket


@click.command()
@dates_and_batches
@output_format()
@by
@local
def publish(dates: Sequence[UploadDate], batches: tuple[Batch, ...], form: str, by: str) -> None:
    """Copy approved results to published/, and delete rejected and replaced ones there.

    Ends with 0 if no result waits for review and all approved results are delivered, else with 1.

    \b
    Examples:
      bg-pipeline publish --date 2026-11-21
      bg-pipeline publish --batch 2026/11/21/101530 --format json
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    acts = Acts(configured, store)
    lines, complete = [], True
    for uploaded, ledger in stored_batches(store, existing_dates(store, dates), batches):
        if not ledger:
            continue
        work = open_work(store, configured, uploaded, ledger)
        items = review.items(work, configured)
        done = acts.publish(this_person(by), work, items)
        waiting = sum(item.state is State.WAITING for item in items)
        path = work.locations.batch.path
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
