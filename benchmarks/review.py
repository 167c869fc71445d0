"""What a person's work on a large batch costs: the queue, decisions at once, the table out and in, publishing.

    python -m benchmarks.review [--images 8000]

S3 is `memory_s3`, so that requests are counted and take their CPU, but hardly any time on a network.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from benchmarks.makespan import Scaled
from benchmarks.rig import Rig, rig, table
from benchmarks.rig import finished as finish
from bg_pipeline import review
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.settings import settings


def measured(rig: Rig, images: int) -> None:
    """Prints the table."""
    store = rig.bucket()
    chosen = settings(
        bucket=store.bucket, **{**Scaled(10).settings(), "regions": "us-east-1", "auto_approve": False}
    )
    batch = finish(rig, store, chosen, images)
    rows = []

    def step(name: str, work: Callable[[], Any]) -> Any:
        before = rig.requests(store)
        began, cpu = time.monotonic(), time.process_time()
        found = work()
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
        rows.append((name, f"{wall:.1f}", f"{cpu:.1f}", f"{rig.requests(store) - before:,}"))
        return found

    work = open_batch(store, chosen, batch)
    results = step("read the results", lambda: review.Results(work, chosen))
    found = step("list what waits", lambda: results.items())
    assert len(review.queue(found)) == images, len(found)
    step("approve all at once", lambda: review.decide(store, found, review.State.APPROVED, by="ada"))
    found = step("list again", lambda: results.items())
    assert not review.queue(found)
    step("list once more", lambda: results.items())
    data = step("table out", lambda: review.as_csv(found))
    assert step("table in, nothing new", lambda: review.read_csv(data, found)) == {}
    published = step("publish", lambda: review.publish(work, found))
    assert published.copied == images, published
    assert step("publish again", lambda: review.publish(work, found)).kept == images
    table((f"{images:,} results", "s", "CPU s", "S3 calls"), rows)


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=8000)
    asked = parser.parse_args()
    with rig() as services:
        measured(services, asked.images)


if __name__ == "__main__":
    main()
