"""Cost of finding nothing to do: an idle tick of the sensor, and a run over a finished date.

python -m benchmarks.listing [--elsewhere 10000 100000 1000000] [--finished 1000 10000 100000]
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.rig import FIRST_DATE, Rig, finished, jpeg, rig, submit, table
from bg_pipeline import pipeline
from bg_pipeline.aws.clients import Aws
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.changes import SensorCursor, SensorTick

TICKS = 100


def tick(chosen: Settings, store: Store, memory: SensorCursor) -> int:
    """One tick of the sensor on the evening of the first date; returns the number of runs it requests."""
    sensor_tick = SensorTick(
        settings=chosen,
        store=store,
        cursor=memory,
        now=datetime(2026, 11, 1, 20, tzinfo=UTC).timestamp(),
        first=chosen.first_date,
        last=FIRST_DATE + timedelta(days=1),
        find_run=lambda key: None,
        time_is_up=lambda: False,
        warn=print,
    )
    return len(list(sensor_tick.run_requests()))


@dataclass
class Watched:
    """A bucket with one date of 100 images and ``elsewhere`` other objects, and the times of its idle ticks."""

    elsewhere: int
    store: Store
    chosen: Settings
    memory: SensorCursor = field(default_factory=SensorCursor)
    cpu_ms: list[float] = field(default_factory=list)
    wall_ms: list[float] = field(default_factory=list)

    def tick(self) -> None:
        began, cpu = time.monotonic(), time.process_time()
        requested = tick(self.chosen, self.store, self.memory)
        self.wall_ms.append((time.monotonic() - began) * 1000)
        self.cpu_ms.append((time.process_time() - cpu) * 1000)
        assert requested == 0


def watched(rig: Rig, elsewhere: int) -> Watched:
    """A bucket after the first tick of its sensor."""
    store = rig.bucket()
    chosen = settings(bucket=store.bucket)
    submit(store, jpeg((64, 64)), 100)
    rig.seed(store, "image-files/2025/06/01", elsewhere // 2)
    rig.seed(store, "generated-image-files/2025/06/01", elsewhere // 2)
    bucket = Watched(elsewhere, store, chosen)
    tick(chosen, store, bucket.memory)
    return bucket


def ticks(rig: Rig, sizes: Sequence[int]) -> Iterator[list[object]]:
    """A row for each number of other objects; the ticks take turns, so that other load affects all of them."""
    buckets = [watched(rig, elsewhere) for elsewhere in sizes]
    before = [rig.requests(bucket.store) for bucket in buckets]
    for _ in range(TICKS):
        for bucket in buckets:
            bucket.tick()
    first = statistics.median(buckets[0].cpu_ms)
    for bucket, had in zip(buckets, before, strict=True):
        cpu = statistics.median(bucket.cpu_ms)
        yield [
            f"{bucket.elsewhere:,}",
            f"{(rig.requests(bucket.store) - had) / TICKS:g}",
            f"{cpu:.1f}",
            f"{statistics.median(bucket.wall_ms):.1f}",
            f"{cpu / first:.2f}",
        ]


def recheck(rig: Rig, images: int) -> list[object]:
    """The row of a run over a date whose images are all finished."""
    store = rig.bucket()
    chosen = settings(bucket=store.bucket, regions="us-east-1")
    finished(rig, store, chosen, images)
    rig.control.mark()
    aws = Aws(chosen.regions)
    before = rig.requests(store)
    began, cpu = time.monotonic(), time.process_time()
    day = pipeline.run(chosen, [FIRST_DATE], aws=aws, store=store)[FIRST_DATE]
    wall, cpu = time.monotonic() - began, time.process_time() - cpu
    calls = rig.requests(store) - before
    assert (day.due, day.counts["Succeeded"]) == (0, images)
    bound = 4 + 3 * images / 1000 + 1
    models: list[Any] = rig.control.calls()
    return [f"{images:,}", calls, f"{bound:g}", len(models), f"{cpu:.2f}", f"{wall:.2f}"]


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--elsewhere", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--finished", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    options = parser.parse_args()
    with rig() as services:
        table(
            ("objects elsewhere", "S3 calls a tick", "CPU ms, median", "wall ms", "CPU to the first"),
            ticks(services, options.elsewhere),
        )
        print()
        table(
            ("finished images", "S3 calls", "4 + 3 per 1,000 + 1", "model calls", "CPU s", "wall s"),
            (recheck(services, number) for number in options.finished),
        )


if __name__ == "__main__":
    main()
