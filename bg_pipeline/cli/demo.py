"""``bg-pipeline demo``: the whole lineage on real photos, on this machine, without an account."""

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

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import state_dir, today
from bg_pipeline.cli.local_aws import BUCKET, use_local_aws
from bg_pipeline.cli.terminal import console, counted, print_message, stopped_by_user, table
from bg_pipeline.defs import dagster_home
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import amount
from bg_pipeline.errors import UsageError
from bg_pipeline.reports.contact_sheet import contact_sheet, pairs, save_pairs
from bg_pipeline.reports.overview import load_status
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, open_bucket
from bg_pipeline.uploads.submitting import LocalFile, check_request, find_photos, submit

if TYPE_CHECKING:
    import dagster as dg

HEAD = ("Image", "Status", "Seconds", "USD", "Result")
PAINTED = "painted by the stand-in on this machine, not by a model of AWS"
LOOK_SECONDS = 0.5

ID = "621fa85a-38bb-4d98-a656-93bbbcf5477f"
FIRST, SECOND = "101530", "084500-demo"
FIRST_PHOTOS = ("bus.png", "dog.png")
FIRST_WISHES = {
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
class Wanted:
    """A batch of the demo: its name and date unless it was submitted before, its photos and its request."""

    date: UploadDate
    name: str
    photos: Sequence[LocalFile]
    wishes: Mapping[str, Any]

    def request(self, batch: Batch) -> bytes:
        document = {
            "Id": ID if self.name == FIRST else f"demo-{self.name}",
            "S3Bucket": BUCKET,
            "InputS3Prefix": batch.input_prefix,
            "OutputS3Prefix": batch.output_prefix,
            "StatusS3Prefix": batch.status_prefix,
            **self.wishes,
        }
        return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


@click.command()
@click.argument("photos", nargs=-1, type=click.Path(path_type=Path), metavar="[PHOTO|FOLDER]...")
@click.option("--prompt", help="With photos of your own: their new background.")
@state_dir
def demo(photos: tuple[Path, ...], prompt: str | None, state_dir: Path) -> None:
    """Try the pipeline on this machine, with its own photos or with yours.

    Starts the stand-in for AWS, submits the photos, lets Dagster's sensor find them, runs their dates, and keeps
    the pictures before and after. No account is needed or touched. A second demo has nothing left to pay.
    """
    if prompt and not photos:
        raise UsageError("--prompt goes with photos of your own: bg-pipeline demo PHOTO… --prompt …")
    if photos and not prompt:
        raise UsageError('say which background: bg-pipeline demo PHOTO… --prompt "london city background"')
    own = find_photos(photos) if photos else []
    with ExitStack() as stack:
        stack.enter_context(stopped_by_user())
        print_message("Starting the stand-in for AWS on this machine …")
        books = stack.enter_context(use_local_aws(state_dir, SETTLE_SECONDS="0"))
        books.mark()
        configured = settings()
        store = open_bucket(configured, make_aws(configured))
        wanted = [_own(own, prompt or "")] if own else list(stack.enter_context(_packaged()))
        batches = [_submitted(store, configured, each) for each in wanted]
        _run(state_dir, store, batches, sum(len(each.photos) for each in wanted))
        succeeded = _show(store, configured, batches, state_dir.absolute() / "pictures")
        paid = len(books.paid())
    if paid:
        print_message(
            f"Models of the stand-in were called {paid:,} times; on AWS that would have cost what the table says."
        )
    else:
        print_message(
            "No model was called: everything was there already, and nothing is ever paid for twice."
        )
    print_message(f"All pictures are {PAINTED}. No account was touched.")
    click.get_current_context().exit(0 if succeeded else 1)


@contextmanager
def _packaged() -> Iterator[list[Wanted]]:
    """The demo's own batches; the files are there while the context is open."""
    with resources.as_file(resources.files("bg_pipeline") / "demo_photos") as folder:

        def files(names: Iterable[str]) -> list[LocalFile]:
            return [LocalFile(folder / name, name) for name in names]

        day = today()
        second = {"Images": [{"ImageName": name, "Prompt": words} for name, words in SECOND_PROMPTS.items()]}
        yield [
            Wanted(day, FIRST, files(FIRST_PHOTOS), FIRST_WISHES),
            Wanted(day - timedelta(1), SECOND, files(SECOND_PROMPTS), second),
        ]


def _own(photos: Sequence[LocalFile], prompt: str) -> Wanted:
    """The visitor's photos as a batch that has the same name whenever it has the same photos and prompt."""
    digest = hashlib.sha256(prompt.encode())
    for photo in photos:
        with photo.path.open("rb") as data:
            digest.update(photo.name.encode() + hashlib.file_digest(data, "sha256").digest())
    return Wanted(today(), f"120000-{digest.hexdigest()[:12]}", photos, {"Prompt": prompt})


def _submitted(store: Store, configured: Settings, wanted: Wanted) -> Batch:
    """The batch, uploaded now, or on an earlier day that the sensor still looks at."""
    for days in range(configured.lookback_days + 1):
        batch = Batch(wanted.date - timedelta(days), wanted.name)
        if store.head(batch.request_key) is not None:
            print_message(f"Batch {batch.path} with {counted(len(wanted.photos), 'photo')} is there already.")
            return batch
    batch = Batch(wanted.date, wanted.name)
    request = wanted.request(batch)
    check_request(configured, batch, request)
    submit(store, batch, wanted.photos, request)
    print_message(f"Submitted {counted(len(wanted.photos), 'photo')} as {batch.input_prefix}")
    return batch


def _run(state: Path, store: Store, batches: Sequence[Batch], photos: int) -> None:
    """Lets the sensor find the dates and runs them, with a progress bar."""
    home = state.absolute() / "dagster" / BUCKET
    print_message("Preparing Dagster …")
    dagster_home.prepare(home)
    with dagster_home.opened(home, _definitions) as dagster:
        requests = {request.partition_key: request for request in dagster.tick()}
        dates = sorted({batch.date for batch in batches})
        found = [str(date) for date in dates if str(date) in requests]
        if found:
            print_message(
                f"The sensor {dagster_home.SENSOR} found changed uploads and asks for {' and '.join(found)}."
            )
        else:
            print_message(
                f"The sensor {dagster_home.SENSOR} found nothing new. The dates are run once more all the same."
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
    over = threading.Event()
    # While a step runs Dagster sends stderr to a file of its own.
    with os.fdopen(os.dup(2), "w") as screen:
        shown = console(stderr=True)
        shown.file = screen
        with Progress(*columns, console=shown, disable=not shown.is_terminal) as bar:
            task = bar.add_task("", total=photos)

            def look() -> None:
                while not over.wait(LOOK_SECONDS):
                    bar.update(task, completed=_pictures(store, prefixes))

            looker = threading.Thread(target=look, name="progress", daemon=True)
            looker.start()
            try:
                yield
            finally:
                over.set()
                looker.join()
            bar.update(task, completed=_pictures(store, prefixes))


def _pictures(store: Store, prefixes: Sequence[str]) -> int:
    names = (found.key for prefix in prefixes for found in store.list(prefix))
    return sum(1 for name in names if not name.endswith(".json"))


def _show(store: Store, configured: Settings, batches: Sequence[Batch], folder: Path) -> bool:
    """Prints the table, keeps the pictures on this machine; True if every image succeeded."""
    reports = [(batch, load_status(store, configured, batch).report()) for batch in batches]
    rows = [row for _, report in reports if report for row in report.rows]
    found = (
        save_pairs(folder, batch, pairs(store, batch.input_prefix, report.rows))
        for batch, report in reports
        if report
    )
    sheet = contact_sheet(chain.from_iterable(found), f"Before and after; {PAINTED}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contact_sheet.jpg").write_bytes(sheet)
    console().print(table(HEAD, [_line(row) for row in rows], right=HEAD[2:4]))
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
