"""``bg-pipeline submit`` and ``discard``: submits photos as a batch, and deletes uploads that were not submitted."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, BATCH_NAME, DATE, local, this_person, today, when_to_run
from bg_pipeline.cli.request_options import request_fields, request_options
from bg_pipeline.cli.run import run_dates
from bg_pipeline.cli.terminal import confirm, counted, print_message, stopped_by_user, upload_progress
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import run_command
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.reports.summaries import dates_with_uploads
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import open_bucket
from bg_pipeline.uploads.listing import find_draft, old_drafts
from bg_pipeline.uploads.manifest import read
from bg_pipeline.uploads.sources import LocalSources, ResolvedManifest, S3Sources, resolve_manifest
from bg_pipeline.uploads.submitting import (
    LocalFile,
    StoredFile,
    Upload,
    compose_request,
    find_photos,
    new_batch,
    paid_pictures,
)

ASK_BEYOND = 50
"""Commands ask before they submit more paid pictures than this."""


@click.command()
@click.argument("photos", nargs=-1, type=click.Path(path_type=Path), metavar="[PHOTO|FOLDER...]")
@request_options
@click.option(
    "--masks",
    metavar="FOLDER",
    help="The sub-folder of the photos' folder with a mask for each photo: of its name, as .png.",
)
@click.option("--date", "date", type=DATE, help="The batch's upload date; by default today (UTC).")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="A table with one photo and its settings per row, instead of PHOTO.",
)
@click.option(
    "--name",
    type=BATCH_NAME,
    help="The batch's name, unique on its date; by default the time and a random id. Submitting a name twice is "
    "refused.",
)
@click.option("--run", "at_once", is_flag=True, help="Also run the batch now.")
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_BEYOND} paid pictures.")
@local
def submit(
    photos: tuple[Path, ...],
    date: UploadDate | None,
    manifest: Path | None,
    name: str | None,
    at_once: bool,
    yes: bool,
    **options: Any,
) -> None:
    """Upload photos as a batch with its request, and print the batch's prefix.

    A photo is named after its file. Photos of a FOLDER keep their sub-folders; with several folders, their names
    begin with the folder's name. Files that are not pictures are uploaded too and are in the report as failed.

    A manifest's columns are source (a file, relative to the manifest's folder, or s3://bucket/key), name, ref,
    prompt, prompts (one per line), negative_prompt, labels, preset, variants, seed, mask, backdrop, task, subject,
    mode, shadow, quality and cfg_scale. Only source is required; the options apply to empty cells.
    `bg-pipeline report BATCH --format manifest` prints its rows with their results.

    With --run the command ends as `run` does, else with 0.

    \b
    Examples:
      bg-pipeline submit shoes/ hat.jpg --prompt "a sunny beach"
      bg-pipeline submit shoes/ --prompt "a plain studio" --name spring-shoes --run
      bg-pipeline submit bus.jpg --prompt "london city background" --keep Bus --keep Person --seed 7
      bg-pipeline submit --manifest catalogue.csv --prompt "a plain studio" --sample 20
    """
    if bool(photos) == bool(manifest):
        raise UsageError("name photos or folders, or a --manifest, but not both")
    configured = settings()
    batch = new_batch(date) if name is None else Batch(date or today(), name)
    if configured.first_date > batch.date:
        raise UsageError(f"--date {batch.date} is earlier than BG_FIRST_DATE, {configured.first_date}")
    if batch.date > today() + timedelta(1):
        raise UsageError(f"--date {batch.date} is in the future")
    uploads: Sequence[Upload]
    others: dict[str, Upload] = {}
    if manifest:
        if options["masks"]:
            raise UsageError("--masks is for folders of photos; a manifest has a column 'mask'")
        fields = request_fields(options, batch, others)
        resolved = _resolve_manifest(configured, batch, manifest, fields)
        uploads, data, request = resolved.photos, resolved.data, resolved.request
        others |= resolved.others
    else:
        sidecars: list[str] = []
        uploads = find_photos(photos, sidecars)
        if sidecars:
            print_message(
                f"Files that accompany photos but are not photos are left out ({len(sidecars):,}): "
                f"{_first_names(sidecars)}"
            )
        fields = request_fields(options, batch, others)
        masks = _mask_folder(options["masks"], [photo.name for photo in uploads])
        if masks:
            fields["MaskKey"] = f"{batch.input_prefix}/{masks}"
        photo_names = [each.name for each in uploads if not masks or not each.name.startswith(masks)]
        data, request = compose_request(configured, batch, photo_names, fields)
    names = [photo.name for photo in uploads if not request.names(f"{batch.input_prefix}/{photo.name}")]
    files = [each for each in uploads if isinstance(each, (LocalFile, StoredFile))]
    if suspicious := [each.name for each in files if not each.looks_like_a_picture]:
        print_message(
            f"{counted(len(suspicious), 'file')} may not be a picture and would then be reported as failed: "
            f"{_first_names(suspicious)}"
        )
    pictures = paid_pictures(request, names)
    if pictures > ASK_BEYOND:
        confirm(f"{counted(len(names), 'photo')} will need {pictures:,} paid pictures. Continue?", yes=yes)
    store = open_bucket(configured, make_aws(configured))
    with stopped_by_user(), upload_progress(len(uploads) + len(others)) as done:
        Acts(configured, store).upload_and_submit(
            this_person(), batch, uploads, data, others=others, done=done, new_name=name is not None
        )
    print_message(f"{counted(len(names), 'photo')} submitted to bucket {store.bucket} as batch {batch.path}.")
    if not at_once:
        print_message(f"{when_to_run(configured, batch)}, run it with: {run_command(batch)}")
    click.echo(batch.input_prefix)
    if at_once:
        click.get_current_context().exit(0 if run_dates([batch.date], only=[batch]) else 1)


@click.command()
@click.argument("batch", type=BATCH, required=False)
@click.option(
    "--older-than",
    metavar="DAYS",
    type=click.IntRange(1, 36_500),
    help="Instead of one draft: all that were last changed before so many days.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@local
def discard(batch: Batch | None, older_than: int | None, yes: bool) -> None:
    """Delete a draft: photos that were uploaded, but not submitted, on the page, by the API or by a `submit` that was
    interrupted. Submitted batches cannot be deleted.
    """
    if (batch is None) == (older_than is None):
        raise UsageError("name one draft, or give --older-than; `bg-pipeline status` lists drafts")
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    if batch is not None:
        drafts = [find_draft(store, batch)]
    else:
        today = datetime.now(UTC)
        dates = dates_with_uploads(store, UploadDate.min, today.date() + timedelta(1))
        drafts = list(old_drafts(store, dates, today - timedelta(days=older_than or 0)))
        if not drafts:
            print_message(f"There is no draft older than {counted(older_than or 0, 'day')}.")
            return
    photos = counted(sum(len(draft.images) for draft in drafts), "photo")
    if batch is not None:
        what = (
            f"the draft {batch.path} with {photos}, last changed {drafts[0].last_change:%Y-%m-%d %H:%M} UTC"
        )
    else:
        for draft in drafts:
            print_message(
                f"{draft.batch.path}: {counted(len(draft.images), 'photo')}, last changed "
                f"{draft.last_change:%Y-%m-%d %H:%M} UTC"
            )
        what = f"{counted(len(drafts), 'draft')} with {photos}"
    confirm(f"Delete {what}?", yes=yes)
    acts, failed = Acts(configured, store), 0
    for draft in drafts:
        try:
            deleted = acts.discard(this_person(), draft.batch)
            print_message(f"The draft {draft.batch.path} with {counted(deleted, 'photo')} is deleted.")
        except UsageError as error:
            # Somebody submitted or deleted it meanwhile; the others are still to be deleted.
            if batch is not None:
                raise
            failed += 1
            print_message(str(error))
    if failed:
        raise UsageError(f"{counted(failed, 'draft')} could not be deleted, for the reasons above")


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _resolve_manifest(
    configured: Settings, batch: Batch, file: Path, fields: Mapping[str, Any]
) -> ResolvedManifest:
    """The photos and the request of a manifest; prints its problems one by one, then raises `UsageError`."""
    data = file.read_bytes()
    try:
        manifest = read(data)
        if manifest.unused:
            print_message(
                f"Columns that are not used, but copied to the report: {', '.join(manifest.unused)}"
            )
        for _, place, text in manifest.warnings[:10]:
            print_message(f"Please check {place}: {text}")
        if len(manifest.warnings) > 10:
            print_message(f"and {len(manifest.warnings) - 10} more such cells")
        store = open_bucket(configured, make_aws(configured))
        sources = LocalSources(file.parent, S3Sources(configured, store))
        return resolve_manifest(configured, batch, manifest, data, sources, fields)
    except RequestError as error:
        for place, text in error.problems:
            print_message(f"{place}: {text}" if place else text)
        count = counted(len(error.problems), "problem")
        raise UsageError(f"'{file}' has {count}, listed above; nothing was uploaded") from None


def _mask_folder(name: str | None, uploads: Sequence[str]) -> str:
    """The folder that ``--masks`` names, with a slash; empty without one."""
    folder = f"{name.strip('/')}/" if name else ""
    if folder and not any(each.startswith(folder) for each in uploads):
        raise UsageError(f"--masks: no file of the photos' folder lies in {folder}; nothing was uploaded")
    return folder
