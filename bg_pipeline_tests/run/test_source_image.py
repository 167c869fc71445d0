"""Photos while they are worked on: what is in memory and for how long, and files that decoders fail on."""

import threading
from typing import Any

import pytest

from bg_pipeline.domain.rows import Status
from bg_pipeline.imaging.workers import InProcess
from bg_pipeline.run.source_image import MAX_STORED_BYTES, PictureMemory
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench

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
