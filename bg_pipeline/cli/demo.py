"""``bg-pipeline demo``: runs the whole pipeline on real photos, on this machine, without an AWS account."""

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import state_dir, this_person, today
from bg_pipeline.cli.terminal import console, counted, print_message, stopped_by_user, table
from bg_pipeline.defs import dagster_home
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import amount
from bg_pipeline.errors import UsageError
from bg_pipeline.local_aws import BUCKET, use_local_aws
from bg_pipeline.reports.contact_sheet import contact_sheet, pairs, save_pairs
from bg_pipeline.reports.overview import load_status
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, open_bucket
from bg_pipeline.uploads.submitting import LocalFile, check_request, find_photos

if TYPE_CHECKING:
    import dagster as dg

TABLE_HEAD = ("Image", "Status", "Seconds", "USD", "Result")
PAINTED = "painted by the stand-in on this machine, not by a model of AWS"
PROGRESS_SECONDS = 0.5

FIRST_ID = "621fa85a-38bb-4d98-a656-93bbbcf5477f"
FIRST, SECOND = "101530", "084500-demo"
"""Names of the demo's own batches."""
FIRST_PHOTOS = ("bus.png", "dog.png")
FIRST_FIELDS = {
    "Prompt": "london city background",
    "NegativePrompt": "low quality, low resolution",
    "Mode": "PRECISE",
    "Images": [{"ImageName": "bus.png", "Labels": "Bus, Person"}, {"ImageName": "dog.png", "Labels": "Dog"}],
}
SECOND_PROMPTS = {
    "IMG_4312.jpg": "snowy mountains",
    "astronaut.jpg": "a starry night sky",
    "coffee.jpg": "the wooden table of a café",
    "racehorse.jpg": "a sandy beach at sunset",
}


@dataclass(frozen=True)
class DemoBatch:
    """A batch of the demo: its photos, the fields of its request, its name, and its date unless submitted before."""

    date: UploadDate
    name: str
    photos: Sequence[LocalFile]
    fields: Mapping[str, Any]

    def request(self, batch: Batch) -> bytes:
        """The request as JSON."""
        document = {
            "Id": FIRST_ID if self.name == FIRST else f"demo-{self.name}",
            "S3Bucket": BUCKET,
            "InputS3Prefix": batch.input_prefix,
            "OutputS3Prefix": batch.output_prefix,
            "StatusS3Prefix": batch.status_prefix,
            **self.fields,
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@click.command()
@click.argument("photos", nargs=-1, type=click.Path(path_type=Path), metavar="[PHOTO|FOLDER]...")
@click.option("--prompt", help="The new background of your own photos.")
@state_dir
def demo(photos: tuple[Path, ...], prompt: str | None, state_dir: Path) -> None:
    """Try the pipeline on this machine, with its own photos or with yours.

    Starts the stand-in for AWS, submits the photos, lets Dagster's sensor find them, runs their dates, and saves the
    pictures before and after. No AWS account is needed or used. If you run it again, no model is called.
    """
    if prompt and not photos:
        raise UsageError("--prompt needs photos of your own: bg-pipeline demo PHOTO… --prompt …")
    if photos and not prompt:
        raise UsageError('name a background: bg-pipeline demo PHOTO… --prompt "london city background"')
    user_photos = find_photos(photos) if photos else []
    with ExitStack() as stack:
        stack.enter_context(stopped_by_user())
        print_message("Starting the stand-in for AWS on this machine …")
        control = stack.enter_context(use_local_aws(state_dir, SETTLE_SECONDS="0"))
        control.mark()
        configured = settings()
        store = open_bucket(configured, make_aws(configured))
        demo_batches = (
            [_user_batch(user_photos, prompt or "")]
            if user_photos
            else list(stack.enter_context(_packaged_batches()))
        )
        batches = [_submit(store, configured, each) for each in demo_batches]
        _run(state_dir, store, batches, sum(len(each.photos) for each in demo_batches))
        succeeded = _show(store, configured, batches, state_dir.absolute() / "pictures")
        calls = len(control.paid())
    if calls:
        print_message(
            f"The stand-in's models were called {calls:,} times. The table shows what this would have cost on AWS."
        )
    else:
        print_message("No model was called: all results existed already, and nothing is paid for twice.")
    print_message(f"All pictures are {PAINTED}. No AWS account was used.")
    click.get_current_context().exit(0 if succeeded else 1)


@contextmanager
def _packaged_batches() -> Iterator[list[DemoBatch]]:
    """The demo's own batches; their files exist while the context is open."""
    with resources.as_file(resources.files("bg_pipeline") / "demo_photos") as folder:

        def files(names: Iterable[str]) -> list[LocalFile]:
            return [LocalFile(folder / name, name) for name in names]

        day = today()
        second = {"Images": [{"ImageName": name, "Prompt": text} for name, text in SECOND_PROMPTS.items()]}
        yield [
            DemoBatch(day, FIRST, files(FIRST_PHOTOS), FIRST_FIELDS),
            DemoBatch(day - timedelta(1), SECOND, files(SECOND_PROMPTS), second),
        ]


def _user_batch(photos: Sequence[LocalFile], prompt: str) -> DemoBatch:
    """The user's photos as a batch; the same photos and prompt give the same name."""
    digest = hashlib.sha256(prompt.encode())
    for photo in photos:
        with photo.path.open("rb") as data:
            digest.update(photo.name.encode() + hashlib.file_digest(data, "sha256").digest())
    return DemoBatch(today(), f"120000-{digest.hexdigest()[:12]}", photos, {"Prompt": prompt})


def _submit(store: Store, configured: Settings, demo_batch: DemoBatch) -> Batch:
    """Submits the batch, unless that was done before on a date that the sensor still looks at; returns it."""
    photos = counted(len(demo_batch.photos), "photo")
    for days in range(configured.lookback_days + 1):
        batch = Batch(demo_batch.date - timedelta(days), demo_batch.name)
        if store.head(batch.request_key) is not None:
            print_message(f"Batch {batch.path} with {photos} was submitted before.")
            return batch
    batch = Batch(demo_batch.date, demo_batch.name)
    request = demo_batch.request(batch)
    check_request(configured, batch, request)
    Acts(configured, store).upload_and_submit(this_person(), batch, demo_batch.photos, request)
    print_message(f"Submitted {photos} as {batch.input_prefix}")
    return batch


def _run(state: Path, store: Store, batches: Sequence[Batch], photos: int) -> None:
    """Lets the sensor find the batches' dates and runs these, with a progress bar."""
    home = state.absolute() / "dagster" / BUCKET
    print_message("Preparing Dagster …")
    dagster_home.prepare(home)
    with dagster_home.opened(home, _definitions) as dagster:
        requests = {request.partition_key: request for request in dagster.tick()}
        dates = sorted({batch.date for batch in batches})
        found = [str(date) for date in dates if str(date) in requests]
        if found:
            print_message(
                f"The sensor {dagster_home.SENSOR} found changed uploads and asks for runs of {' and '.join(found)}."
            )
        else:
            print_message(
                f"The sensor {dagster_home.SENSOR} found nothing new. The demo runs the dates again anyway."
            )
        prefixes = [f"{batch.output_prefix}/" for batch in batches]
        with _progress(store, prefixes, photos):
            for date in dates:
                dagster.run(date, requests.get(str(date)))


def _definitions() -> "dg.Definitions":
    from bg_pipeline.definitions import defs

    return defs


@contextmanager
def _progress(store: Store, prefixes: Sequence[str], photos: int) -> Iterator[None]:
    """A bar that counts the pictures in the bucket while the block runs."""
    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    finished = threading.Event()
    # While a step runs, Dagster redirects stderr to a file, so the bar writes to a copy of it.
    with os.fdopen(os.dup(2), "w") as stderr:
        screen = console(stderr=True)
        screen.file = stderr
        with Progress(*columns, console=screen, disable=not screen.is_terminal) as bar:
            task = bar.add_task("", total=photos)

            def update() -> None:
                while not finished.wait(PROGRESS_SECONDS):
                    bar.update(task, completed=_count_pictures(store, prefixes))

            updater = threading.Thread(target=update, name="progress", daemon=True)
            updater.start()
            try:
                yield
            finally:
                finished.set()
                updater.join()
            bar.update(task, completed=_count_pictures(store, prefixes))


def _count_pictures(store: Store, prefixes: Sequence[str]) -> int:
    keys = (stored.key for prefix in prefixes for stored in store.list(prefix))
    return sum(1 for key in keys if not key.endswith(".json"))


def _show(store: Store, configured: Settings, batches: Sequence[Batch], folder: Path) -> bool:
    """Prints the table and saves the pictures in ``folder``; True if every image succeeded."""
    reports = [(batch, load_status(store, configured, batch).report()) for batch in batches]
    rows = [row for _, report in reports if report for row in report.rows]
    saved = (
        save_pairs(folder, batch, pairs(store, batch.input_prefix, report.rows))
        for batch, report in reports
        if report
    )
    sheet = contact_sheet(chain.from_iterable(saved), f"Before and after; {PAINTED}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contact_sheet.jpg").write_bytes(sheet)
    console().print(table(TABLE_HEAD, [_line(row) for row in rows], right=TABLE_HEAD[2:4]))
    click.echo(f"Pictures before and after: {folder}")
    click.echo(f"Contact sheet: {folder / 'contact_sheet.jpg'}")
    return bool(rows) and all(row.Status == Status.SUCCEEDED for row in rows)


def _line(row: Row) -> tuple[str, str, str, str, str]:
    result = "\n".join(row.Results) or row.Cause
    return (
        row.ImageName,
        row.Status.value,
        f"{row.Seconds:.1f}",
        amount(row.CostUSD, row.MaybeBilledUSD, 3),
        result,
    )
