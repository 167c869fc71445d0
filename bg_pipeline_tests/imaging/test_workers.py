"""Worker processes for pictures: what crosses to them, and that what ends one of them harms nobody else."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import open_photo, read_header, small_jpeg
from bg_pipeline.imaging import workers as workers_module
from bg_pipeline.imaging.parcels import INLINE_BYTES, Blob, open_stored
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.imaging.workers import (
    InProcess,
    Limit,
    WorkerPool,
    run_on_file,
    shared_workers,
    substituted,
)
from bg_pipeline_tests.imaging import worker_tasks
from bg_pipeline_tests.pictures import photo

AMPLE = Limit(120.0)
"""Workers take seconds to start while the machine does other work."""


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerPool]:
    pool = WorkerPool(2)
    yield pool
    pool.close()


def noise(size: tuple[int, int]) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=0)
    return out.getvalue()


# What crosses


@pytest.mark.parametrize("size", [(20, 10), (600, 400)], ids=["small", "in a file"])
def test_bytes_go_in_and_pictures_come_out_as_in_this_process(
    workers: WorkerPool, size: tuple[int, int]
) -> None:
    data = noise(size)
    opened, expected = workers.run(AMPLE, open_photo, data), open_photo(data)
    assert opened.image.mode == expected.image.mode
    assert opened.image.tobytes() == expected.image.tobytes()
    assert (opened.format, opened.notes) == (expected.format, expected.notes)
    assert workers.run(AMPLE, thumbnail, opened.image) == thumbnail(expected.image)
    stored = workers.run(AMPLE, open_stored, data, within=size)
    for _ in range(2):
        assert workers.run(AMPLE, thumbnail, stored.pixels) == thumbnail(expected.image)
        assert workers.run(AMPLE, small_jpeg, stored, within=size) == small_jpeg(expected, within=size)
    assert stored.load().image.tobytes() == expected.image.tobytes()
    assert run_on_file(workers, thumbnail, data) == InProcess().run(AMPLE, thumbnail, Blob(data))


def test_a_blob_is_passed_to_several_calls_and_leaves_no_file(workers: WorkerPool) -> None:
    data = noise((600, 400))
    blob = workers.blob(data)
    assert blob.path
    assert len(blob) == len(data) > INLINE_BYTES
    for _ in range(2):
        assert workers.run(AMPLE, len, blob) == len(data)
    folder, path = Path(blob.path).parent, blob.path
    del blob
    assert not Path(path).exists()
    assert [file.name for file in folder.iterdir()] == ["lock"]


def test_large_results_wait_in_files(workers: WorkerPool) -> None:
    data = noise((600, 400))
    made = workers.run(AMPLE, Blob, data)
    assert made.path
    assert made.read() == data


def test_errors_keep_their_codes_and_unexpected_ones_their_tracebacks(workers: WorkerPool) -> None:
    with pytest.raises(ImageError, match="the image is damaged") as refused:
        workers.run(AMPLE, worker_tasks.refuse)
    assert refused.value.code == "DamagedImage"
    with pytest.raises(ZeroDivisionError, match="a case nobody thought of") as failed:
        workers.run(AMPLE, worker_tasks.fail)
    assert "in fail" in "".join(failed.value.__notes__)


# What ends a worker


@pytest.mark.parametrize(
    ("work", "limit", "code", "sentence"),
    [
        (worker_tasks.crash, AMPLE, "DamagedImage", "made the decoder crash (SIGABRT)"),
        (worker_tasks.hang, Limit(1.0), "DamagedImage", "took longer than 1 s to decode"),
        (
            worker_tasks.swell,
            Limit(120.0, 500_000_000),
            "TooLarge",
            "needs more than 0.5 GB of memory to decode",
        ),
    ],
    ids=["crash", "hang", "swell"],
)
def test_a_file_that_ends_its_worker_is_refused_and_its_neighbours_do_not_notice(
    workers: WorkerPool, work: Callable[[], None], limit: Limit, code: str, sentence: str
) -> None:
    workers.run(AMPLE, len, b"")  # they are started
    good = photo(1)
    with ThreadPoolExecutor(12) as threads:
        bad = [threads.submit(workers.run, limit, work) for _ in range(2)]
        others = [threads.submit(workers.run, AMPLE, open_photo, good) for _ in range(10)]
        for refused in bad:
            with pytest.raises(ImageError) as error:
                refused.result()
            assert error.value.code == code
            assert sentence in str(error.value)
        for opened in others:
            assert opened.result().size == open_photo(good).size


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_call_whose_worker_was_ended_once_is_made_again(
    workers: WorkerPool, tmp_path: Path, signal_number: int
) -> None:
    marker = str(tmp_path / "ended")
    data = bytes(INLINE_BYTES + 1)
    assert workers.run(AMPLE, worker_tasks.end_once, marker, signal_number, data) == len(data)


def test_all_idle_workers_may_be_ended(workers: WorkerPool) -> None:
    with ThreadPoolExecutor(2) as threads:
        both = {
            one.result() for one in [threads.submit(workers.run, AMPLE, worker_tasks.process_id, 0.5)] * 2
        }
    for process in both:
        os.kill(process, signal.SIGKILL)
    assert workers.run(AMPLE, worker_tasks.process_id) not in both


def test_a_call_that_no_worker_begins_is_made_by_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "START_SECONDS", 1.5)
    # A new worker of a busy machine may need several times as long.
    monkeypatch.setattr(workers_module, "ATTEMPTS", 20)
    pool = WorkerPool(1)
    stuck = pool.run(AMPLE, worker_tasks.process_id)
    os.kill(stuck, signal.SIGSTOP)
    try:
        assert pool.run(AMPLE, worker_tasks.process_id) != stuck
    finally:
        with suppress(ProcessLookupError):
            os.kill(stuck, signal.SIGKILL)
        pool.close()


@pytest.mark.slow
def test_a_call_whose_pool_is_replaced_because_of_another_is_made_anew_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool, marker = WorkerPool(2), tmp_path / "begun"
    stuck = 0
    with ThreadPoolExecutor(2) as threads:
        ready = [threads.submit(pool.run, AMPLE, worker_tasks.process_id, 0.5) for _ in range(2)]
        both = {one.result() for one in ready}
        monkeypatch.setattr(workers_module, "START_SECONDS", 5.0)
        try:
            long = threads.submit(pool.run, AMPLE, worker_tasks.tell_process, str(marker), 8.0)
            while not (marker.exists() and marker.read_text().endswith("\n")):
                time.sleep(0.01)
            (stuck,) = both - {int(marker.read_text())}
            os.kill(stuck, signal.SIGSTOP)
            assert pool.run(AMPLE, worker_tasks.process_id) not in both
            assert long.result(30) not in both
        finally:
            with suppress(ProcessLookupError):
                os.kill(stuck, signal.SIGKILL)
            pool.close()


def test_what_a_call_without_a_limit_leaves_behind_does_not_count_for_the_next_file() -> None:
    pool = WorkerPool(1)
    try:
        pool.run(Limit(120.0, 0), worker_tasks.hold, 600_000_000)
        process = pool.run(AMPLE, worker_tasks.process_id)
        assert pool.run(Limit(120.0, 500_000_000), open_photo, photo(1)).size == open_photo(photo(1)).size
        assert pool.run(AMPLE, worker_tasks.process_id) == process
    finally:
        pool.close()


def test_a_decoder_is_given_time_and_memory_by_the_size_of_its_picture() -> None:
    assert Limit.of() == Limit(20.0, 1_000_000_000)
    assert Limit.of((4000, 3000), files=5_000_000) == Limit(32.0, 1_490_000_000)
    assert Limit.of((4000, 3000), (2000, 1000), rounds=5, doing="finish") == Limit(
        170.0, 1_560_000_000, "finish"
    )


# Processes


def test_a_worker_imports_nothing_that_takes_long_or_holds_credentials() -> None:
    pool = WorkerPool(1)
    try:
        pool.run(AMPLE, read_header, photo(1))
        imported = set(pool.run(AMPLE, worker_tasks.imported_modules))
        then = set(
            pool.run(
                AMPLE,
                worker_tasks.imported_modules,
                "bg_pipeline.run.finishing",
                "bg_pipeline.run.answer_masks",
            )
        )
    finally:
        pool.close()
    slow = {"dagster", "boto3", "botocore", "pandas", "streamlit", "pytest"}
    assert not slow & then
    assert not {"pydantic", "pyvips", "cv2"} & imported
    assert "bg_pipeline.run.finishing" in then


_PARENT = """
import multiprocessing
from bg_pipeline.imaging.workers import Limit, shared_workers
from bg_pipeline_tests.imaging import worker_tasks
if __name__ == "__main__":
    workers = shared_workers(2)
    workers.run(Limit(120.0), worker_tasks.process_id)
    print(*(process.pid for process in multiprocessing.active_children()), workers._folder, flush=True)
    workers.run(Limit(120.0), worker_tasks.hang)
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent_however_it_ends(tmp_path: Path, signal_number: int) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as parent:
        assert parent.stdout is not None
        *processes, folder = parent.stdout.readline().split()
        assert len(processes) == 2
        parent.send_signal(signal_number)
        assert parent.wait(60) != 0
    deadline = time.monotonic() + 30
    while any(Path("/proc", process).exists() for process in processes):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    if Path(folder).exists():  # nobody could remove it: the next process does
        script.write_text(
            f"import bg_pipeline.imaging.workers as w; w.WorkerPool(1).blob(bytes({INLINE_BYTES + 1}))"
        )
        subprocess.run([sys.executable, str(script)], env=environment, check=True)
    assert not Path(folder).exists()


def test_a_process_has_one_pool_and_a_simulation_none() -> None:
    assert shared_workers(2) is shared_workers(2)
    assert shared_workers(0).number == len(os.sched_getaffinity(0))
    assert shared_workers(3) is shared_workers()
    with substituted(InProcess()):
        assert shared_workers(2).run(AMPLE, worker_tasks.process_id) == os.getpid()
