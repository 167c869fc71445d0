"""The pipeline's Python API for asyncio: the methods of `Pipeline`, each in a thread of its own."""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.stages import STAGES
from bg_pipeline.pipeline import Pipeline
from bg_pipeline.review import DownloadedFile
from bg_pipeline.run.date_result import DateResult, Progress

P = ParamSpec("P")
T = TypeVar("T")


def _in_thread(
    method: Callable[Concatenate[Pipeline, P], T],
) -> "Callable[Concatenate[AsyncPipeline, P], Coroutine[Any, Any, T]]":
    async def call(self: "AsyncPipeline", /, *args: P.args, **named: P.kwargs) -> T:
        return await asyncio.to_thread(method, self.pipeline, *args, **named)

    functools.update_wrapper(call, method)
    return call


def _in_loop(progress: Callable[[T], None]) -> Callable[[T], None]:
    """Calls ``progress`` in the running event loop, from any thread."""
    loop = asyncio.get_running_loop()

    def call(news: T) -> None:
        loop.call_soon_threadsafe(progress, news)

    return call


class AsyncPipeline:
    """As `Pipeline`, for asyncio: the same settings and methods, with progress callbacks in the event loop.

    A cancelled `run` makes no further call; it waits for those under way, which are paid for, before it raises
    ``CancelledError``. Other methods, once cancelled, finish in their threads.
    """

    def __init__(self, **overrides: Any) -> None:
        self.pipeline = Pipeline(**overrides)

    @classmethod
    @asynccontextmanager
    async def local(cls, folder: str | Path = ".bg_pipeline", **overrides: Any) -> AsyncIterator[Self]:
        """As `Pipeline.local`, for an ``async with`` block."""
        local = Pipeline.local(folder, **overrides)
        pipeline = await asyncio.to_thread(local.__enter__)
        try:
            result = cls.__new__(cls)
            result.pipeline = pipeline
            yield result
        finally:
            await asyncio.shield(asyncio.to_thread(local.__exit__, None, None, None))

    async def submit(
        self,
        photos: Sequence[str | Path] = (),
        *,
        manifest: str | Path | None = None,
        batch: Batch | None = None,
        name: str = "",
        progress: Callable[[str], None] = lambda name: None,
        **fields: Any,
    ) -> Batch:
        """See `Pipeline.submit`."""
        return await asyncio.to_thread(
            self.pipeline.submit,
            photos,
            manifest=manifest,
            batch=batch,
            name=name,
            progress=_in_loop(progress),
            **fields,
        )

    async def run(
        self,
        dates: Iterable[date],
        *,
        stages: Collection[str] = STAGES,
        again: Collection[str] = (),
        retry: bool = False,
        only: Collection[Batch] = (),
        progress: Callable[[Progress], None] = lambda progress: None,
    ) -> dict[date, DateResult]:
        """See `Pipeline.run`."""
        stop = threading.Event()
        running = asyncio.ensure_future(
            asyncio.to_thread(
                self.pipeline.run,
                dates,
                stages=stages,
                again=again,
                retry=retry,
                only=only,
                progress=_in_loop(progress),
                stop=stop,
            )
        )
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([running])
            raise

    async def download(
        self,
        batch: Batch,
        folder: str | Path,
        *,
        approved: bool = False,
        overwrite: bool = False,
        progress: Callable[[DownloadedFile], None] = lambda file: None,
    ) -> list[DownloadedFile]:
        """See `Pipeline.download`."""
        return await asyncio.to_thread(
            self.pipeline.download,
            batch,
            folder,
            approved=approved,
            overwrite=overwrite,
            progress=_in_loop(progress),
        )

    plan = _in_thread(Pipeline.plan)
    status = _in_thread(Pipeline.status)
    batches = _in_thread(Pipeline.batches)
    report = _in_thread(Pipeline.report)
    review = _in_thread(Pipeline.review)
    approve = _in_thread(Pipeline.approve)
    reject = _in_thread(Pipeline.reject)
    redo = _in_thread(Pipeline.redo)
    publish = _in_thread(Pipeline.publish)
    captions = _in_thread(Pipeline.captions)
    approve_sample = _in_thread(Pipeline.approve_sample)
    retry = _in_thread(Pipeline.retry)
