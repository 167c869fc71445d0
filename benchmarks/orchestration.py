"""Overhead of the pipeline and of Dagster over a bare loop, and the time from an asset's start to its first call.

    python -m benchmarks.orchestration [--images 1000 5000]

For the table the work on images is replaced, so that listing, ledger, threads, report and events remain; the second
figure is from a real run of three images: the time from Dagster's STEP_START to the first model call.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.rig import (
    FIRST_DATE,
    MODEL_OPERATIONS,
    ROOT,
    Rig,
    days,
    environment_variables,
    jpeg,
    rig,
    submit,
    table,
)
from bg_pipeline import pipeline
from bg_pipeline.aws.clients import Aws
from bg_pipeline.definitions import definitions
from bg_pipeline.domain.ledger_entries import Entry, StageRecord
from bg_pipeline.domain.payments import Payment
from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.stages import PICTURES
from bg_pipeline.run.image_run import ImageRun
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store

COLD_STARTS = 3
REPEATS = 5


def no_work(self: ImageRun, due: Mapping[str, str]) -> Entry:
    """Replaces `ImageRun.run`: marks every stage as succeeded without doing anything."""
    entry, image = self.entry, self._image_settings.image
    for stage, made_for in due.items():
        entry.stages[stage] = StageRecord(made_for, Status.SUCCEEDED)
        call = f"{abs(hash((image, stage))):012x}-1"
        entry.payments[call] = Payment(call, stage, 0.01)
    entry.labels, entry.caption, entry.sha256 = "Object", "An object before a plain wall.", "0" * 64
    if PICTURES in due:
        key = f"{self._locations.output_prefix}/{image}"
        entry.outputs = [
            {
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
        ]
        entry.files, entry.names = {key: "0" * 32}, {"1": image}
    return entry


def cost(rig: Rig, images: int, work: Callable[[Settings, Store, date], object]) -> tuple[float, float]:
    """CPU and wall seconds of ``work`` over a date with ``images`` images."""
    store = rig.bucket()
    chosen = settings(bucket=store.bucket, regions="us-east-1", settle_seconds=0)
    (day,) = days(1)
    submit(store, b"", 0)
    rig.seed(store, "image-files/2026/11/01/101530", images)
    cpu, wall = time.process_time(), time.monotonic()
    work(chosen, store, day)
    return time.process_time() - cpu, time.monotonic() - wall


def bare(chosen: Settings, store: Store, day: date) -> None:
    """A thread pool that does nothing for each key of the date."""
    keys = [found.key for found in store.list(f"image-files/{day:%Y/%m/%d}/")]
    with ThreadPoolExecutor(chosen.max_concurrency) as pool:
        for _ in pool.map(len, keys):
            pass


def ours(chosen: Settings, store: Store, day: date) -> None:
    """The pipeline without Dagster."""
    pipeline.run(chosen, [day], aws=Aws(chosen.regions), store=store)


def in_dagster(instance: dg.DagsterInstance) -> Callable[[Settings, Store, date], None]:
    """Materializes the assets of the date in this process."""

    def work(chosen: Settings, store: Store, day: date) -> None:
        defs = definitions(chosen)
        assets: Any = [*(defs.assets or [])]
        result = dg.materialize(
            assets,
            instance=instance,
            partition_key=day.isoformat(),
            resources={"bucket": store, "aws": Aws(chosen.regions)},
        )
        assert result.success

    return work


def added(rig: Rig, sizes: Sequence[int]) -> None:
    """Prints the median cost of each variant per image (the slope over ``sizes``) and per run (the remainder)."""
    real = ImageRun.run
    ImageRun.run = no_work  # type: ignore[method-assign]
    rows = []
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home) as instance:
        variants = (("bare loop", bare), ("pipeline", ours), ("pipeline in Dagster", in_dagster(instance)))
        for _, work in variants:
            cost(rig, 10, work)
        # The variants take turns, so that other load of the machine affects all of them.
        measured: dict[str, list[tuple[float, ...]]] = {name: [] for name, _ in variants}
        for _ in range(REPEATS):
            for name, work in variants:
                before = folder_size(Path(home))
                costs = slopes(cost(rig, sizes[0], work), cost(rig, sizes[-1], work), sizes)
                grown = (folder_size(Path(home)) - before) / 2e6
                measured[name].append((*costs, grown))
        for name, values in measured.items():
            cpu, wall, *others = (statistics.median(column) for column in zip(*values, strict=True))
            least = min(each for each, *_ in values)
            figures = (f"{each:.3f}" for each in (cpu, least, wall))
            rows.append((name, *figures, *(f"{other:.2f}" for other in others)))
    ImageRun.run = real  # type: ignore[method-assign]
    head = (
        "variant",
        "CPU ms an image, median",
        "least",
        "wall ms an image",
        "CPU s a run",
        "wall s a run",
        "database MB a date",
    )
    table(head, rows)


def slopes(few: Sequence[float], many: Sequence[float], sizes: Sequence[int]) -> list[float]:
    """Milliseconds per image, then remaining seconds per run, for each kind of cost (seconds) of two runs."""
    each = [(more - less) / (sizes[-1] - sizes[0]) for less, more in zip(few, many, strict=True)]
    rest = [less - slope * sizes[0] for less, slope in zip(few, each, strict=True)]
    return [slope * 1000 for slope in each] + rest


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


COLD = """
import os, sys
from datetime import date
import dagster as dg
from bg_pipeline.definitions import defs

with dg.DagsterInstance.local_temp() as instance:
    job = defs.resolve_job_def("whole_date")
    result = job.execute_in_process(partition_key=sys.argv[1], instance=instance)
    starts = [event for event in result.all_events if event.event_type_value == "STEP_START"]
    (step,) = [event.step_key for event in starts if event.step_key == "image_flow"]
    records = instance.all_logs(result.run_id)
    print(next(
        record.timestamp for record in records
        if record.is_dagster_event and record.dagster_event.event_type_value == "STEP_START"
        and record.dagster_event.step_key == step
    ))
"""


def cold_start(rig: Rig) -> None:
    """Prints the time between the start of an asset and its first model call."""
    seconds = []
    for _ in range(COLD_STARTS):
        store = rig.bucket()
        submit(store, jpeg((192, 128)), 3)
        rig.control.mark()
        variables = environment_variables(
            bucket=store.bucket, regions="us-east-1", settle_seconds=0, mask_sources="alpha"
        )
        process = subprocess.run(
            [sys.executable, "-c", COLD, f"{FIRST_DATE}"],
            env=os.environ | variables,
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        calls = [call for call in rig.control.calls() if call["operation"] in MODEL_OPERATIONS]
        seconds.append(min(call["at"] - call["seconds"] for call in calls) - float(process.stdout))
    print(
        f"\nasset start to first model call: median {statistics.median(seconds):.2f} s, "
        f"least {min(seconds):.2f} s of {COLD_STARTS}"
    )


def main() -> None:
    """Prints the table and the cold start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, nargs=2, default=[1000, 5000])
    options = parser.parse_args()
    with rig() as services:
        added(services, options.images)
        cold_start(services)


if __name__ == "__main__":
    main()
