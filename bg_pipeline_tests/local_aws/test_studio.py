"""Picture work in processes: done once, kept within bounds, surviving a lost process."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from bg_pipeline.local_aws import studio
from bg_pipeline.local_aws.studio import Studio


def noted(place: str, data: bytes) -> bytes:
    """Picture work that leaves a trace of having been done."""
    with Path(place).open("a") as trace:
        trace.write(f"{len(data)}\n")
    time.sleep(0.1)
    return data


def refused(data: bytes) -> bytes:
    """Picture work on what is no picture."""
    raise ValueError("not a picture")


def killed() -> None:
    """Picture work that the system kills."""
    os._exit(9)


def run(work: Callable[[Studio], Awaitable[None]]) -> None:
    """Do something with a studio of one process."""

    async def all_of_it() -> None:
        made = Studio(1)
        try:
            await work(made)
        finally:
            made.close()

    asyncio.run(all_of_it())


def test_the_same_work_asked_for_at_once_and_again_is_done_once(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    async def work(made: Studio) -> None:
        await asyncio.gather(*(made.do(noted, str(trace), b"a picture") for _ in range(4)))
        assert await made.do(noted, str(trace), b"a picture") == b"a picture"

    run(work)
    assert trace.read_text() == "9\n"


def test_a_caller_that_goes_away_does_not_stop_the_work_of_others(tmp_path: Path) -> None:
    async def work(made: Studio) -> None:
        first = asyncio.create_task(made.do(noted, str(tmp_path / "trace"), b"x"))
        second = asyncio.create_task(made.do(noted, str(tmp_path / "trace"), b"x"))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"x"

    run(work)


def test_old_results_make_room_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio, "CACHE_BYTES", 5_000)
    trace = tmp_path / "trace"

    async def work(made: Studio) -> None:
        for size in (3000, 3001, 3000):
            await made.do(noted, str(trace), bytes(size))

    run(work)
    assert trace.read_text().split() == ["3000", "3001", "3000"]


def test_a_refusal_is_not_kept_and_a_lost_process_is_replaced() -> None:
    async def work(made: Studio) -> None:
        for _ in range(2):
            with pytest.raises(ValueError, match="not a picture"):
                await made.do(refused, b"")
        with pytest.raises(BrokenProcessPool):
            await made.do(killed)
        assert await made.do(len, b"abc") == 3

    run(work)
