"""Cost of reviewing a large batch: listing the queue, bulk decisions, CSV export and import, publishing.

    python -m benchmarks.review [--images 8000]

S3 is `memory_s3`: requests are counted and take CPU, but hardly any network time.
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
        result = work()
        wall, cpu = time.monotonic() - began, time.process_time() - cpu
        rows.append((name, f"{wall:.1f}", f"{cpu:.1f}", f"{rig.requests(store) - before:,}"))
        return result

    work = open_batch(store, chosen, batch)
    results = step("read the results", lambda: review.Results(work, chosen))
    items = step("list what waits", lambda: results.items())
    assert len(review.review_queue(items)) == images, len(items)
    step("approve all at once", lambda: review.decide(store, items, review.State.APPROVED, by="ada"))
    items = step("list again", lambda: results.items())
    assert not review.review_queue(items)
    step("list once more", lambda: results.items())
    data = step("table out", lambda: review.as_csv(items))
    assert step("table in, nothing new", lambda: review.read_csv(data, items)) == {}
    published = step("publish", lambda: review.publish(work, items))
    assert published.copied == images, published
    assert step("publish again", lambda: review.publish(work, items)).kept == images
    table((f"{images:,} results", "s", "CPU s", "S3 calls"), rows)


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=8000)
    options = parser.parse_args()
    with rig() as services:
        measured(services, options.images)


if __name__ == "__main__":
    main()
