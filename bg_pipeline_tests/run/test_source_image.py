"""Photos while they are worked on: what is in memory and for how long, and files that decoders fail on."""

import io
import threading
import time
from typing import Any

import pytest
from PIL import Image

from bg_pipeline.domain.rows import Status
from bg_pipeline.imaging import workers
from bg_pipeline.imaging.workers import InProcess
from bg_pipeline.run.source_image import MAX_STORED_BYTES, PictureMemory
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo

WAIT = 20.0
"""Seconds after which something that should have happened has not."""


def test_a_result_on_its_way_to_the_store_does_not_keep_the_next_photo_from_being_decoded(
    s3, bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    write, both = Store.write, threading.Barrier(2)
    waited: list[bool] = []

    def slow_write(self: Store, key: str, *args: Any, **more: Any) -> str:
        if key.startswith("generated-image-files/") and not key.endswith(".json"):
            try:
                both.wait(WAIT)
            except threading.BrokenBarrierError:
                waited.append(False)
        return write(self, key, *args, **more)

    monkeypatch.setattr(Store, "write", slow_write)
    batch = bench.submit(2)
    day = bench.run(max_decoded_images=1)
    assert waited == [], "with one worker, both results were being stored at once"
    assert day.counts == {Status.SUCCEEDED: 2}
    assert len(bench.rows(batch)) == 2


def test_files_to_be_stored_are_bounded_in_bytes() -> None:
    memory = PictureMemory(InProcess())
    entered = threading.Event()

    def second() -> None:
        with memory.storing(MAX_STORED_BYTES // 2):
            entered.set()

    thread = threading.Thread(target=second)
    with memory.storing(MAX_STORED_BYTES * 2):  # more than the bound, alone
        thread.start()
        assert not entered.wait(0.2)
    thread.join(WAIT)
    assert entered.is_set()
    with memory.storing(MAX_STORED_BYTES // 2), memory.storing(MAX_STORED_BYTES // 2):
        pass


def with_empty_scans(scans: int) -> bytes:
    """A progressive JPEG of 9,992 × 9,992 pixels whose first scan is followed by many that hold nothing."""
    out = io.BytesIO()
    Image.new("RGB", (9992, 9992), (90, 120, 90)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    first = data.index(b"\xff\xda")
    second = data.index(b"\xff\xda", first + 2)
    return data[:second] + data[second : second + 10] * scans + b"\xff\xd9"


def test_files_that_keep_a_decoder_busy_do_not_keep_good_photos_waiting(
    s3, bucket: str, control: ControlClient
) -> None:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    hostile = with_empty_scans(28_000)
    good = {f"good-{number}.jpg": photo(number) for number in range(4)}
    batch = bench.submit({"a.jpg": hostile, "b.jpg": hostile + b"\0", **good})
    began = time.monotonic()
    day = bench.run()
    assert day.counts == {Status.SUCCEEDED: 4, Status.FAILED: 2}
    assert time.monotonic() - began < 60
    rows = bench.rows(batch)
    assert {rows[name].Error for name in ("a.jpg", "b.jpg")} == {"DamagedImage"}
    assert {rows[name].CostUSD for name in ("a.jpg", "b.jpg")} == {0.0}


def test_a_photo_that_needs_too_much_memory_is_refused_before_anything_is_paid(
    s3, bucket: str, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(Store(s3, bucket))
    # A PNG is decoded at full size. In a new worker, because heap that another file left behind may have room for it.
    pool = workers.WorkerPool(1)
    batch = bench.submit({"large.png": photo(1, size=(3000, 2500), format="PNG")})
    with monkeypatch.context() as patch:
        patch.setattr(workers, "MEMORY", 10_000_000)
        patch.setattr(workers, "MEMORY_PER_PIXEL", 0)
        with workers.substituted(pool):
            day = bench.run()
    pool.close()
    assert day.counts == {Status.FAILED: 1}
    (row,) = bench.rows(batch).values()
    assert row.Error == "TooLarge"
    assert "needs more than 0.0 GB of memory to decode" in row.Cause
    assert control.paid() == []
    # It is final: the next run does not try again.
    assert bench.run().due == 0
