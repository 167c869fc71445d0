"""``bg-pipeline submit`` and ``discard``: submits photos as a batch, and deletes uploads that were not submitted."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, DATE, local, today
from bg_pipeline.cli.terminal import confirm, console, counted, print_message, stopped_by_user
from bg_pipeline.domain import requests
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import run_command
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import open_bucket
from bg_pipeline.uploads.listing import discard_draft, find_draft
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
from bg_pipeline.uploads.submitting import submit as upload

ASK_BEYOND = 50
"""Commands ask before they submit more paid pictures than this."""


@click.command()
@click.argument("photos", nargs=-1, type=click.Path(path_type=Path), metavar="[PHOTO|FOLDER...]")
@click.option(
    "--prompt", "prompts", multiple=True, help="The new background; repeat it for several backgrounds."
)
@click.option("--negative-prompt", help="What the background must not show.")
@click.option(
    "--mode",
    type=click.Choice(get_args(requests.ModeName)),
    help="The subject's edge; by default PRECISE: exactly the photo's pixels.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="LABEL",
    help="What to keep, such as Dog; repeat it for more. '' keeps everything that stands out.",
)
@click.option(
    "--task",
    type=click.Choice(get_args(requests.TaskName)),
    help="REMOVE makes the background transparent.",
)
@click.option(
    "--subject", type=click.Choice(get_args(requests.SubjectName)), help="How the subject is found."
)
@click.option(
    "--backdrop",
    metavar="#RRGGBB|KEY|FILE|blur",
    help="A colour, a picture, or the photo's own ground out of focus as the background; no model paints it.",
)
@click.option(
    "--scene",
    metavar="TEXT",
    help="One background for all photos, such as 'a sunlit oak table': painted and paid for once for each of at most "
    "three aspects.",
)
@click.option(
    "--shadow",
    metavar="none|soft [direction=0…360] [softness=0…1] [strength=0…1]",
    help="A shadow under the subject, with --backdrop or --scene; direction is where it falls, as on a clock.",
)
@click.option(
    "--masks",
    metavar="FOLDER",
    help="The sub-folder of the photos' folder with a mask for each photo: of its name, as .png.",
)
@click.option("--preset", multiple=True, help="The name of a preset of files to make from each picture.")
@click.option("--variants", type=int, help="Pictures for each photo and prompt, 1 to 5.")
@click.option("--sample", type=int, metavar="N", help="Run N images, then wait for `bg-pipeline approve`.")
@click.option(
    "--max-cost-usd", type=float, metavar="USD", help="Most that all runs of this batch may cost together."
)
@click.option("--ref", help="Your own id, such as a SKU; it is in every report.")
@click.option("--date", "date", type=DATE, help="The batch's upload date; by default today (UTC).")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="A table with one photo and its settings per row, instead of PHOTO.",
)
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_BEYOND} paid pictures.")
@local
def submit(
    photos: tuple[Path, ...], date: UploadDate | None, manifest: Path | None, yes: bool, **options: Any
) -> None:
    """Upload photos as a batch with its request, and print the batch's prefix.

    A photo is named after its file. Photos of a FOLDER keep their sub-folders; with several folders, their names
    begin with the folder's name. Files that are not pictures are uploaded too and are in the report as failed.

    A manifest's columns are source (a file, relative to the manifest's folder, or s3://bucket/key), name, ref,
    prompt, prompts (one per line), negative_prompt, labels, preset, variants, seed, mask, backdrop, task, subject,
    mode, shadow, quality and cfg_scale. Only source is required; the options apply to empty cells.
    `bg-pipeline report BATCH --format manifest` prints its rows with their results.
    """
    if bool(photos) == bool(manifest):
        raise UsageError("name photos or folders, or a --manifest, but not both")
    configured = settings()
    batch = new_batch(date)
    if configured.first_date > batch.date:
        raise UsageError(f"--date {batch.date} is earlier than BG_FIRST_DATE, {configured.first_date}")
    if batch.date > today() + timedelta(1):
        raise UsageError(f"--date {batch.date} is in the future")
    uploads: Sequence[Upload]
    others: dict[str, Upload] = {}
    if manifest:
        if options["masks"]:
            raise UsageError("--masks is for folders of photos; a manifest has a column 'mask'")
        fields = _fields(options, batch, others)
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
        fields = _fields(options, batch, others)
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
    columns = (TextColumn("uploading"), BarColumn(), MofNCompleteColumn())
    screen = console(stderr=True)
    with stopped_by_user(), Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("", total=len(uploads) + len(others))
        upload(store, batch, uploads, data, others=others, done=lambda name: progress.advance(bar))
    print_message(f"{counted(len(names), 'photo')} submitted to bucket {store.bucket} as {request.Id}.")
    print_message(f"{_when_to_run(configured, batch)}, run it with: {run_command(batch)}")
    click.echo(batch.input_prefix)


@click.command()
@click.argument("batch", type=BATCH)
@click.option("--yes", is_flag=True, help="Do not ask.")
@local
def discard(batch: Batch, yes: bool) -> None:
    """Delete a draft: photos that were uploaded, but not submitted, on the page, by the API or by a `submit` that was
    interrupted. Submitted batches cannot be deleted.
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    draft = find_draft(store, batch)
    photos = counted(len(draft.images), "photo")
    confirm(
        f"Delete the draft {batch.path} with {photos}, last changed {draft.last_change:%Y-%m-%d %H:%M} UTC?",
        yes=yes,
    )
    discard_draft(store, batch)
    print_message(f"The draft {batch.path} with {photos} is deleted.")


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _when_to_run(configured: Settings, batch: Batch) -> str:
    """The condition under which a person has to start the batch's run."""
    age = (today() - batch.date).days
    if configured.queue_url or age < configured.open_dates:
        return "If no sensor is on"
    if age <= configured.lookback_days:
        return f"The sensor looks at {batch.date} within the hour; if no sensor is on, or that is too late"
    return f"The sensor does not look at dates as old as {batch.date} (BG_LOOKBACK_DAYS)"


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


def _fields(options: Mapping[str, Any], batch: Batch, others: dict[str, Upload]) -> dict[str, Any]:
    """The options as fields of a request. A local backdrop file is added to ``others`` under its key."""
    prompts, backdrop = options["prompts"], options["backdrop"]
    if backdrop and requests.names_object(backdrop) and Path(backdrop).is_file():
        # Files whose names start with a dot are never treated as photos.
        file = LocalFile(Path(backdrop), f".backdrop{Path(backdrop).suffix.lower()}")
        backdrop = batch.upload_key(file.name)
        others[backdrop] = file
    fields = {
        "Prompt": prompts[0] if len(prompts) == 1 else None,
        "Prompts": list(prompts) if len(prompts) > 1 else None,
        "NegativePrompt": options["negative_prompt"],
        "Mode": options["mode"],
        "Task": options["task"],
        "Subject": options["subject"],
        "Backdrop": backdrop,
        "Scene": options["scene"],
        "Shadow": options["shadow"],
        "Variants": options["variants"],
        "Sample": options["sample"],
        "MaxCostUSD": options["max_cost_usd"],
        "Ref": options["ref"],
        "Renditions": [{"Preset": name} for name in options["preset"]] or None,
        # Empty labels keep everything that stands out; without the option the field is left out.
        "Labels": ", ".join(options["keep"]) if options["keep"] else None,
    }
    return {
        name: value
        for name, value in fields.items()
        if value is not None and (value != "" or name == "Labels")
    }
