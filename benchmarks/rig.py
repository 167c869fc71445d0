"""Shared parts of the benchmarks: local services, photos with distinct bytes, runs in processes of their own.

The models are the stand-in's, with canned pictures and the quotas and latencies that a benchmark sets; S3 is
`memory_s3`. The pipeline, boto3 and Dagster are the real ones.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import IO, Any, Self
from urllib.request import Request, urlopen

import boto3
import numpy as np
from PIL import Image

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.domain.payments import Payment
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.reports.batch_report import write_report
from bg_pipeline.run.batch_work import open_work
from bg_pipeline.run.fingerprints import fingerprints
from bg_pipeline.run.rows import rows
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import batches
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_local_aws.launcher import local_aws

FIRST_DATE = date(2026, 11, 1)
ROOT = Path(__file__).parent.parent
MODEL_OPERATIONS = ("DetectLabels", "Converse", "InvokeModel")
"""The model calls of one image, in this order."""


@dataclass
class Rig:
    """The running services; `bucket` creates a bucket."""

    control: ControlClient
    storage: str
    _buckets: int = field(default=0)

    def bucket(self) -> Store:
        """A new, empty bucket."""
        self._buckets += 1
        return Store(boto3.client("s3"), f"bench-{self._buckets}")

    def seed(self, store: Store, prefix: str, objects: int, ending: str = ".jpg") -> None:
        """Adds empty objects to a bucket, in numbered folders of 1,000 each under a prefix."""
        query = f"bucket={store.bucket}&prefix={prefix}&objects={objects}&ending={ending}"
        with urlopen(Request(f"{self.storage}/_seed?{query}", method="POST"), timeout=60):  # noqa: S310
            pass

    def overwritten(self, store: Store, prefix: str) -> int:
        """Number of objects under a prefix that were written more than once."""
        return self._number(f"_overwritten?bucket={store.bucket}&prefix={prefix}")

    def requests(self, store: Store) -> int:
        """Number of requests to a bucket, of all clients."""
        return self._number(f"_requests?bucket={store.bucket}")

    def _number(self, question: str) -> int:
        with urlopen(f"{self.storage}/{question}", timeout=60) as answer:  # noqa: S310
            return int(answer.read())


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """Runs the services while the context is open and directs boto3 in this process and its children to them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        local_aws(folder, workers=1) as stand_in,
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.memory_s3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as storage,
    ):
        assert storage.stdin
        assert storage.stdout
        address = f"http://127.0.0.1:{int(storage.stdout.readline())}"
        before = dict(os.environ)
        clean = {name: value for name, value in stand_in.environment().items() if not name.startswith("BG_")}
        # Import from compiled files; otherwise the compilation of pandas would be measured.
        clean.pop("PYTHONDONTWRITEBYTECODE", None)
        clean["PYTHONPYCACHEPREFIX"] = str(Path(tempfile.gettempdir(), "bg-pipeline-benchmarks"))
        os.environ.clear()
        os.environ.update({**clean, "AWS_ENDPOINT_URL_S3": address})
        control = ControlClient(stand_in.models)
        control.switch(canned=True)
        try:
            yield Rig(control, address)
        finally:
            os.environ.clear()
            os.environ.update(before)
            storage.stdin.close()
            storage.wait()


# Photos


def figure(size: tuple[int, int]) -> Image.Image:
    """The mask (L, 255 = figure) of the figure in `jpeg`."""
    return Image.radial_gradient("L").resize(size).point(lambda value: 255 * (value < 110))


def jpeg(size: tuple[int, int], *, quality: int = 90, seed: int = 0) -> bytes:
    """A photo-like JPEG: soft shapes with grain, and a dark figure at the place of the ellipse in canned masks."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(60, 230, (9, 12, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    dark = Image.fromarray(random.integers(10, 70, (24, 32, 3), np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    coarse.paste(dark, mask=figure(size))
    pixels = np.asarray(coarse).astype(np.int16)
    for row in range(0, size[1], 256):
        part = pixels[row : row + 256]
        part += random.normal(0, 4, (*part.shape[:2], 1)).astype(np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def numbered(photo: bytes, number: int) -> bytes:
    """The JPEG with a comment that makes its bytes distinct."""
    comment = f"photo {number}".encode()
    return photo[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2) + comment + photo[2:]


def submit(
    store: Store, photo: bytes, images: int, *, day: date = FIRST_DATE, first: int = 0, **request: Any
) -> Batch:
    """Uploads a batch of ``images`` photos with distinct bytes, and its request."""
    batch = Batch(day, "101530")
    for number in range(first, first + images):
        store.write(batch.upload_key(f"{number:06}.jpg"), numbered(photo, number), media_type="image/jpeg")
    document = {"Id": f"bench-{day}", "Prompt": "a sunny beach", **request}
    store.write(batch.request_key, json.dumps(document).encode(), media_type="application/json")
    return batch


def finished(
    rig: Rig,
    store: Store,
    settings: Settings,
    images: int,
    *,
    day: date = FIRST_DATE,
    photo: bytes = b"",
    result: bytes = b"",
) -> Batch:
    """A batch in the state after a successful run: results, ledger, report.

    Photos and results are empty, or JPEGs that differ in a comment.
    """
    batch = Batch(day, "101530")
    if photo:
        _store_pictures(store, batch, images, photo, result)
    else:
        rig.seed(store, batch.input_prefix, images)
        rig.seed(store, batch.output_prefix, images)
        rig.seed(store, batch.output_prefix, images, ".jpg.json")
    document = {"Id": f"bench-{batch.date}", "Prompt": "a sunny beach"}
    store.write(batch.request_key, json.dumps(document).encode(), media_type="application/json")
    (uploaded,) = batches(store, batch.date)
    tags = {found.key: found.etag for found in store.list(f"{batch.output_prefix}/")}
    work = open_work(store, settings, uploaded, [])
    for image, source in work.images.items():
        assert source is not None
        prints = fingerprints(settings, work.settings_of(image), source.etag, {})
        stages = {stage: StageRecord(made_for, Status.SUCCEEDED) for stage, made_for in prints.items()}
        key = s3_keys.result_key(batch.output_prefix, image)
        output = {
            "Number": 1,
            "Key": key,
            "Status": Status.SUCCEEDED,
            "Error": "",
            "Cause": "",
            "Final": True,
            "Model": "titan-v2",
            "Region": "us-east-1",
            "Seed": 123_456_789,
            "CostUSD": 0.012,
        }
        entry = Entry(image, source.etag, "0" * 64, labels="Object", caption="An object before a plain wall.")
        entry.stages, entry.outputs = stages, [output]
        entry.files, entry.names = {key: tags[key]}, {"1": image}
        for number, stage in enumerate(prints):
            call = f"{abs(hash((image, stage))):012x}-{number}"
            entry.payments[call] = Payment(call, stage.upper(), 0.01)
        work.ledger.put(entry)
    write_report(work, rows(work))
    work.ledger.update_header(Reported="2026-11-01T12:00:00+00:00")
    work.ledger.finish(work.writer)
    return batch


def _store_pictures(store: Store, batch: Batch, images: int, photo: bytes, result: bytes) -> None:
    def write(number: int) -> None:
        name = f"{number:06}.jpg"
        store.write(batch.upload_key(name), numbered(photo, number), media_type="image/jpeg")
        key = s3_keys.result_key(batch.output_prefix, name)
        store.write(key, numbered(result, number), media_type="image/jpeg")
        store.write_json(f"{key}.json", {})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(images)))


def days(count: int) -> list[date]:
    """The first ``count`` upload dates."""
    return [FIRST_DATE + timedelta(days=number) for number in range(count)]


def environment_variables(**settings: Any) -> dict[str, str]:
    """Settings as environment variables of the pipeline."""
    return {f"BG_{name.upper()}": str(value) for name, value in settings.items()}


# Runs in processes of their own


class Run:
    """A run of the pipeline in its own process, which waits for `go`; see `one_run`."""

    def __init__(
        self, store: Store, dates: Sequence[date], *, stages: Sequence[str] = STAGES, **settings: Any
    ) -> None:
        variables = environment_variables(bucket=store.bucket, max_cost_usd=0, settle_seconds=0, **settings)
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.one_run", *map(str, dates), "--stages", *stages],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | variables,
            cwd=ROOT,
        )
        assert self.process.stdin
        assert self.process.stdout
        self._in: IO[str] = self.process.stdin
        self._out: IO[str] = self.process.stdout

    def ready(self) -> Self:
        """Waits until the process has imported everything."""
        assert self._out.readline() == "ready\n"
        return self

    def go(self) -> Self:
        """Starts the run."""
        self._in.write("go\n")
        self._in.flush()
        return self

    def result(self) -> dict[str, Any]:
        """Waits for the end of the run and returns its result; the fields are those in `one_run`."""
        result: dict[str, Any] = json.loads(self._out.readline())
        self.process.wait()
        return result

    def kill(self) -> None:
        """Ends the process with SIGKILL."""
        self.process.kill()
        self.process.wait()


def run(store: Store, dates: Sequence[date], **settings: Any) -> dict[str, Any]:
    """Executes a run in its own process and returns its result."""
    return Run(store, dates, **settings).ready().go().result()


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a Markdown table, each row as soon as it is computed."""
    print("|", " | ".join(head), "|")
    print("|", " | ".join("---" for _ in head), "|", flush=True)
    for row in rows:
        print("|", " | ".join(map(str, row)), "|", flush=True)
