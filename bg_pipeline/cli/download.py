"""``bg-pipeline download``: brings a batch's pictures to this machine."""

from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from bg_pipeline import review
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, local, output_format, this_person
from bg_pipeline.cli.terminal import console, counted, print_message, print_records, stopped_by_user, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import local_path
from bg_pipeline.domain.text import command, run_command
from bg_pipeline.review import DownloadedFile, FileState, State
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import open_bucket

_COLUMNS = ("Image", "Result", "File", "State", "Cause")


@click.command()
@click.argument("batch", type=BATCH)
@click.option(
    "--output",
    "-o",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder for the pictures; by default one with the batch's date and name, here.",
)
@click.option("--approved", is_flag=True, help="Only approved results.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Also replace files that you changed, or that were not made by `download`.",
)
@output_format()
@local
def download(batch: Batch, output: Path | None, approved: bool, overwrite: bool, form: str) -> None:
    """Download a batch's pictures: only what is missing or was made again, each file whole or not at all.

    Interrupted, it continues when it is given again. A picture that was made again replaces its original.
    The folder keeps a record of what was downloaded; files that you changed stay as they are. With --approved, files
    whose result is not approved any more are listed and stay. Ends with 0 if every result, and with --approved
    nothing else of the batch, is in the folder; else with 1.

    \b
    Examples:
      bg-pipeline download 2026/11/21/101530 -o spring
      bg-pipeline download 2026/11/21/101530 --approved
    """
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    work = open_batch(store, configured, batch)
    places = Acts(configured, store).places(this_person(), batch)
    chosen = [place for place in places if place.item.key]
    if approved:
        chosen = [place for place in chosen if place.item.state is State.APPROVED]
    folder = output or local_path(Path(), f"{batch.date} {batch.name}")
    screen = console(stderr=True)
    columns = (TextColumn("downloading"), BarColumn(), MofNCompleteColumn())
    with stopped_by_user(), Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=len(chosen))
        files = review.download(
            work,
            places,
            folder,
            approved=approved,
            overwrite=overwrite,
            done=lambda file: bar.advance(task),
        )
    if not files:
        if form != "table":
            print_records(form, _COLUMNS, [])
        if places and approved:
            print_message(
                f"No result of batch {batch.path} is approved; see {command('review', 'list', batch.path)}"
            )
        else:
            print_message(f"Batch {batch.path} has no results; make them with: {run_command(batch)}")
        click.get_current_context().exit(1)
    _show(files, folder, form)
    click.get_current_context().exit(0 if all(file.complete for file in files) else 1)


def _show(files: list[DownloadedFile], folder: Path, form: str) -> None:
    left = [file for file in files if not file.complete]
    if form != "table":
        rows = [(file.image, file.result, str(file.path), file.state.value, file.cause) for file in files]
        print_records(form, _COLUMNS, [dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    elif left:
        lines = [(file.image, str(file.path), file.state.value, file.cause) for file in left]
        console().print(table(("Image", "File", "State", "Cause"), lines))
    downloaded = sum(file.state is FileState.DOWNLOADED for file in files)
    kept = sum(file.state is FileState.KEPT for file in files)
    withdrawn = sum(file.state is FileState.WITHDRAWN for file in files)
    missing = len(left) - withdrawn
    taken = any(file.state is FileState.TAKEN for file in files)
    print_message(
        f"{counted(downloaded, 'picture')} downloaded to {folder}"
        + (f", {kept:,} there already" if kept else "")
        + (f", {missing:,} not downloaded" if missing else "")
        + (" (--overwrite replaces files that are in the way)" if taken else "")
        + "."
    )
    if withdrawn:
        print_message(
            f"{counted(withdrawn, 'file')} of an earlier download {'is' if withdrawn == 1 else 'are'} not approved "
            "any more; delete or move what you do not want to use."
        )
