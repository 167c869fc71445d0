"""Picture work in processes: done once, kept within bounds, surviving a lost process.

The work here is Python's own: making a folder cannot be done twice.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from bg_pipeline_local_aws import studio
from bg_pipeline_local_aws.studio import Studio


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
    async def work(made: Studio) -> None:
        place = str(tmp_path / "made")
        await asyncio.gather(*(made.do(os.mkdir, place) for _ in range(4)))
        await made.do(os.mkdir, place)
        assert os.listdir(tmp_path) == ["made"]
        with pytest.raises(FileExistsError):
            await made.do(os.makedirs, place)  # other work that makes the same folder would fail

    run(work)


def test_a_caller_that_goes_away_does_not_stop_the_work_of_others(tmp_path: Path) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    script = f"until [ -e '{go}' ]; do sleep 0.01; done; echo done >> '{done}'; exit 3"

    async def work(made: Studio) -> None:
        first = asyncio.create_task(made.do(os.system, script))
        second = asyncio.create_task(made.do(os.system, script))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        go.touch()
        assert os.waitstatus_to_exitcode(await second) == 3
        assert done.read_text() == "done\n"

    run(work)


def test_old_results_make_room_for_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio, "CACHE_BYTES", 5_000)

    async def work(made: Studio) -> None:
        for name in "abcdef":
            await made.do(os.mkdir, str(tmp_path / name))
        await made.do(os.mkdir, str(tmp_path / "f"))
        with pytest.raises(FileExistsError):
            await made.do(os.mkdir, str(tmp_path / "a"))

    run(work)


def test_a_refusal_is_told_and_a_lost_process_is_replaced() -> None:
    async def work(made: Studio) -> None:
        with pytest.raises(ValueError, match="invalid literal"):
            await made.do(int, "no number")
        with pytest.raises(BrokenProcessPool):
            await made.do(os._exit, 9)
        assert await made.do(len, b"abc") == 3

    run(work)
