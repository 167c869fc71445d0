"""`RenderPool`: equal calls run once, the cache is bounded, a lost worker process is replaced.

The operations here are Python's own: ``mkdir`` fails if it is executed twice.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from bg_pipeline_local_aws import render_pool
from bg_pipeline_local_aws.render_pool import RenderPool


def with_pool(use: Callable[[RenderPool], Awaitable[None]]) -> None:
    """Calls ``use`` with a pool of one process."""

    async def run() -> None:
        pool = RenderPool(1)
        try:
            await use(pool)
        finally:
            pool.close()

    asyncio.run(run())


def test_equal_concurrent_and_later_calls_run_once(tmp_path: Path) -> None:
    async def use(pool: RenderPool) -> None:
        folder = str(tmp_path / "made")
        await asyncio.gather(*(pool.run(os.mkdir, folder) for _ in range(4)))
        await pool.run(os.mkdir, folder)
        assert os.listdir(tmp_path) == ["made"]
        with pytest.raises(FileExistsError):
            await pool.run(os.makedirs, folder)  # another operation is not served from the cache

    with_pool(use)


def test_cancelling_one_caller_does_not_stop_the_operation_of_others(tmp_path: Path) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    script = f"until [ -e '{go}' ]; do sleep 0.01; done; echo done >> '{done}'; exit 3"

    async def use(pool: RenderPool) -> None:
        first = asyncio.create_task(pool.run(os.system, script))
        second = asyncio.create_task(pool.run(os.system, script))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.touch()
        assert os.waitstatus_to_exitcode(await second) == 3
        assert done.read_text() == "done\n"

    with_pool(use)


def test_the_oldest_results_are_evicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_pool, "CACHE_BYTES", 5_000)

    async def use(pool: RenderPool) -> None:
        for name in "abcdef":
            await pool.run(os.mkdir, str(tmp_path / name))
        await pool.run(os.mkdir, str(tmp_path / "f"))
        with pytest.raises(FileExistsError):
            await pool.run(os.mkdir, str(tmp_path / "a"))
        assert sorted(os.listdir(tmp_path)) == list("abcdef")

    with_pool(use)


def test_an_error_is_raised_again_and_a_lost_process_is_replaced() -> None:
    async def use(pool: RenderPool) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            await pool.run(int, "no number")
        with pytest.raises(BrokenProcessPool):
            await pool.run(os._exit, 9)
        assert await pool.run(len, b"abc") == 3

    with_pool(use)
