"""``bg-pipeline watch``: submits the photos that settle in a folder, until Ctrl-C."""

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

import click
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import local, this_person, when_to_run
from bg_pipeline.cli.request_options import request_fields, request_options
from bg_pipeline.cli.run import run_dates
from bg_pipeline.cli.submit import ASK_BEYOND
from bg_pipeline.cli.terminal import confirm, counted, print_message, stopped_by_user, upload_progress
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.text import run_command
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, explain_s3_error, open_bucket
from bg_pipeline.uploads.submitting import Upload, compose_request, new_batch, paid_pictures
from bg_pipeline.uploads.watching import (
    JOURNAL,
    FolderWatch,
    Journal,
    PhotoChanged,
    SettledPhoto,
    settle_begun,
    submit_photos,
)

SETTLE_SECONDS = 10.0
LOOK_SECONDS = 2.0
"""Longest time between two looks at the folder."""
AGAIN_SECONDS = 30.0
"""Pause after S3 did not answer."""


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@request_options
@click.option(
    "--settle",
    type=click.FloatRange(min=0.1, max=3600),
    default=SETTLE_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="Time without a change after which a photo is complete.",
)
@click.option("--once", is_flag=True, help="Submit what is there when it has settled, then end.")
@click.option("--run", "at_once", is_flag=True, help="Also run each batch when it is submitted.")
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help=f"Where it is kept what was submitted; by default {JOURNAL} in FOLDER.",
)
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_BEYOND} paid pictures.")
@local
def watch(
    folder: Path, settle: float, once: bool, at_once: bool, journal: Path | None, yes: bool, **options: Any
) -> None:
    """Submit photos that settle in FOLDER and below it, until Ctrl-C; each batch is what settled together.

    A photo is known by its content: renamed, copied or touched, it is not submitted again, nor after a restart, nor
    with other options. Files that are still written wait. The photos stay where they are. To submit everything again,
    delete the journal.

    \b
    Examples:
      bg-pipeline watch inbox/ --prompt "a plain studio"
      bg-pipeline watch inbox/ --task REMOVE --run --yes
      bg-pipeline watch inbox/ --prompt "a sunny beach" --once
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    acts = Acts(configured, store)
    discard = partial(acts.discard, this_person())
    # A wrong option has to be found now and not when the first photo comes.
    trial = new_batch()
    compose_request(configured, trial, ["photo.jpg"], request_fields(options, trial, {}))
    with stopped_by_user(), Journal.opened(journal or folder / JOURNAL, store.bucket) as record:
        looking = FolderWatch(
            folder, record, settle_seconds=settle, clock=time.monotonic, note=cache(print_message)
        )
        if not once:
            print_message(f"Watching {folder} until Ctrl-C.")
        while True:
            try:
                settle_begun(store, record, discard)
                photos = looking.look()
                if photos:
                    _submit(configured, store, acts, record, photos, options, at_once=at_once, yes=yes)
                elif once and not looking.unsettled:
                    return
            except PhotoChanged as error:
                print_message(f"{error}; it is submitted when it has settled.")
            except (ClientError, BotoCoreError) as error:
                if once:
                    raise
                print_message(f"{explain_s3_error(store, error)}. The next try is in {AGAIN_SECONDS:.0f} s.")
                time.sleep(AGAIN_SECONDS)
            time.sleep(min(LOOK_SECONDS, settle / 2))


def _submit(
    configured: Settings,
    store: Store,
    acts: Acts,
    record: Journal,
    photos: list[SettledPhoto],
    options: dict[str, Any],
    *,
    at_once: bool,
    yes: bool,
) -> None:
    batch: Batch = new_batch()
    others: dict[str, Upload] = {}
    fields = request_fields(options, batch, others)
    names = [photo.name for photo in photos]
    data, request = compose_request(configured, batch, names, fields)
    pictures = paid_pictures(request, names)
    if pictures > ASK_BEYOND:
        confirm(f"{counted(len(photos), 'photo')} will need {pictures:,} paid pictures. Continue?", yes=yes)
    with upload_progress(len(photos) + len(others)) as done:
        submit_photos(
            store,
            record,
            batch,
            photos,
            data,
            hand_over=lambda: acts.submit(this_person(), batch, data, request, closed_with=None, draft=True),
            discard=partial(acts.discard, this_person()),
            others=others,
            done=done,
        )
    print_message(
        f"{counted(len(photos), 'photo')} submitted to bucket {store.bucket} as batch {batch.path}."
    )
    if not at_once:
        print_message(f"{when_to_run(configured, batch)}, run it with: {run_command(batch)}")
    click.echo(batch.input_prefix)
    if at_once:
        try:
            run_dates([batch.date], only=[batch])
        except BgPipelineError as error:
            print_message(f"Batch {batch.path} was not run: {error}")
