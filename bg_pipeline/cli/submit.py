"""``bg-pipeline submit``: photos and a sentence become a batch."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import DATE, local, today
from bg_pipeline.cli.terminal import confirm, console, counted, print_message, stopped_by_user
from bg_pipeline.domain import requests
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import run_command
from bg_pipeline.errors import RequestError, UsageError
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import open_bucket
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
"""More pictures than these are paid for only after a question."""


@click.command()
@click.argument("photos", nargs=-1, type=click.Path(path_type=Path), metavar="[PHOTO|FOLDER...]")
@click.option(
    "--prompt", "prompts", multiple=True, help="The new background; repeat it for several of each photo."
)
@click.option("--negative-prompt", help="What the background must not show.")
@click.option(
    "--mode", type=click.Choice(get_args(requests.ModeName)), help="The subject's edge; PRECISE if unsaid."
)
@click.option(
    "--keep",
    multiple=True,
    metavar="LABEL",
    help="What is kept, such as Dog; repeat it for more. '' means everything that stands out.",
)
@click.option(
    "--task", type=click.Choice(get_args(requests.TaskName)), help="REMOVE leaves the background empty."
)
@click.option(
    "--subject", type=click.Choice(get_args(requests.SubjectName)), help="How the subject is found."
)
@click.option(
    "--backdrop", metavar="#RRGGBB|KEY|FILE", help="A colour or a picture in the place of a painted one."
)
@click.option(
    "--shadow", type=click.Choice(get_args(requests.ShadowName)), help="Under the subject, on a backdrop."
)
@click.option("--preset", multiple=True, help="Files to be made of each picture, by the name of a preset.")
@click.option("--variants", type=int, help="Pictures of each photo and prompt, 1 to 5.")
@click.option("--sample", type=int, metavar="N", help="Make N images, then wait for `bg-pipeline approve`.")
@click.option("--max-cost-usd", type=float, metavar="USD", help="Hard cap of this batch over all its runs.")
@click.option("--ref", help="Your own id, carried through to every report.")
@click.option("--date", "date", type=DATE, help="The upload date it is filed under; today in UTC if unsaid.")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    metavar="FILE.csv",
    help="A table with one photo a row and what is wanted of it, in the place of PHOTO.",
)
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_BEYOND} paid pictures.")
@local
def submit(
    photos: tuple[Path, ...], date: UploadDate | None, manifest: Path | None, yes: bool, **wishes: Any
) -> None:
    """Upload photos as a batch with its request, and print the batch's prefix.

    A photo is named after its file; a FOLDER's photos keep their sub-folders, and with several folders each one's
    own name in front. Files that are no pictures are uploaded as well and told as failed in the report.

    A manifest's columns are source (a file, from the manifest's folder on, or s3://bucket/key), name, ref, prompt,
    prompts (one a line), negative_prompt, labels, preset, variants, seed, mask, backdrop, task, subject, mode,
    shadow, quality and cfg_scale; all but source may be left out, and where a cell is empty the options count.
    `bg-pipeline report BATCH --format manifest` prints its rows with what became of each.
    """
    if bool(photos) == bool(manifest):
        raise UsageError("name photos or folders, or a --manifest, and not both")
    configured = settings()
    batch = new_batch(date)
    if configured.first_date > batch.date:
        raise UsageError(f"--date {batch.date} lies before BG_FIRST_DATE, {configured.first_date}")
    if batch.date > today() + timedelta(1):
        raise UsageError(f"--date {batch.date} lies in the future")
    found: Sequence[Upload]
    others: dict[str, Upload] = {}
    if manifest:
        fields = _fields(wishes, batch, others)
        ordered = _order(configured, batch, manifest, fields)
        found, data, request = ordered.photos, ordered.data, ordered.request
        others |= ordered.others
    else:
        beside: list[str] = []
        found = find_photos(photos, beside)
        if beside:
            shown = ", ".join(beside[:3]) + (", …" if len(beside) > 3 else "")
            print_message(
                f"{counted(len(beside), 'file')} that go with photos and are none are left out: {shown}"
            )
        fields = _fields(wishes, batch, others)
        data, request = compose_request(configured, batch, [photo.name for photo in found], fields)
    names = [photo.name for photo in found]
    files = [each for each in found if isinstance(each, (LocalFile, StoredFile))]
    if odd := [each.name for each in files if not each.looks_like_a_picture]:
        shown = ", ".join(odd[:3]) + (", …" if len(odd) > 3 else "")
        print_message(
            f"{counted(len(odd), 'file')} may be no picture and, if so, will be told as failed: {shown}"
        )
    pictures = paid_pictures(request, names)
    if pictures > ASK_BEYOND:
        confirm(f"{counted(len(found), 'photo')} ask for {pictures:,} paid pictures. Go on?", yes=yes)
    store = open_bucket(configured, make_aws(configured))
    columns = (TextColumn("uploading"), BarColumn(), MofNCompleteColumn())
    screen = console(stderr=True)
    with stopped_by_user(), Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("", total=len(found) + len(others))
        upload(store, batch, found, data, others=others, done=lambda name: progress.advance(bar))
    print_message(f"{counted(len(found), 'photo')} submitted to bucket {store.bucket} as {request.Id}.")
    print_message(f"{_when(configured, batch)}, run it with: {run_command(batch)}")
    click.echo(batch.input_prefix)


def _when(configured: Settings, batch: Batch) -> str:
    """In which case a person has to start the batch's run."""
    age = (today() - batch.date).days
    if configured.queue_url or age < configured.open_dates:
        return "Where no sensor is on"
    if age <= configured.lookback_days:
        return f"The sensor looks at {batch.date} within the hour; where that is too late or no sensor is on"
    return f"The sensor does not look at dates as old as {batch.date} (BG_LOOKBACK_DAYS)"


def _order(configured: Settings, batch: Batch, file: Path, fields: Mapping[str, Any]) -> ResolvedManifest:
    """What the manifest asks for; its problems are told one by one, and end the command."""
    data = file.read_bytes()
    try:
        manifest = read(data)
        if manifest.unused:
            print_message(
                f"Columns that mean nothing here, and only come back in the report: {', '.join(manifest.unused)}"
            )
        for _, place, words in manifest.warnings[:10]:
            print_message(f"Please look at {place}: {words}")
        if len(manifest.warnings) > 10:
            print_message(f"and at {len(manifest.warnings) - 10} more such cells")
        store = open_bucket(configured, make_aws(configured))
        sources = LocalSources(file.parent, S3Sources(configured, store))
        return resolve_manifest(configured, batch, manifest, data, sources, fields)
    except RequestError as error:
        for place, words in error.problems:
            print_message(f"{place}: {words}" if place else words)
        count = counted(len(error.problems), "problem")
        raise UsageError(f"'{file}' is not submitted: {count}, told above; nothing was uploaded") from None


def _fields(wishes: Mapping[str, Any], batch: Batch, others: dict[str, Upload]) -> dict[str, Any]:
    """The options as fields of a request; a backdrop of this machine is put into ``others`` by the key it gets."""
    prompts, backdrop = wishes["prompts"], wishes["backdrop"]
    if backdrop and not backdrop.startswith("#") and Path(backdrop).is_file():
        # A dot-file is never taken for one of the photos.
        file = LocalFile(Path(backdrop), f".backdrop{Path(backdrop).suffix.lower()}")
        backdrop = batch.upload_key(file.name)
        others[backdrop] = file
    fields = {
        "Prompt": prompts[0] if len(prompts) == 1 else None,
        "Prompts": list(prompts) if len(prompts) > 1 else None,
        "NegativePrompt": wishes["negative_prompt"],
        "Mode": wishes["mode"],
        "Task": wishes["task"],
        "Subject": wishes["subject"],
        "Backdrop": backdrop,
        "Shadow": wishes["shadow"],
        "Variants": wishes["variants"],
        "Sample": wishes["sample"],
        "MaxCostUSD": wishes["max_cost_usd"],
        "Ref": wishes["ref"],
        "Renditions": [{"Preset": name} for name in wishes["preset"]] or None,
        # An empty one means everything that stands out, and is not the same as none.
        "Labels": ", ".join(wishes["keep"]) if wishes["keep"] else None,
    }
    return {
        name: value
        for name, value in fields.items()
        if value is not None and (value != "" or name == "Labels")
    }
