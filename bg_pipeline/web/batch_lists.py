"""The calls that list batches, and the one that follows a batch's progress as server-sent events."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Final

import orjson
from botocore.exceptions import BotoCoreError, ClientError
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator
from starlette.concurrency import run_in_threadpool

from bg_pipeline.authorization import Right
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.people import Person
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.reports.overview import BatchState
from bg_pipeline.reports.summaries import batches_of, dates_with_uploads, list_batches
from bg_pipeline.web.batch_status import BatchStatus, batch_status
from bg_pipeline.web.batch_uploads import TheBatch
from bg_pipeline.web.problems import Problem, of_error
from bg_pipeline.web.service import AMember, Service, TheCaller, TheService

MOST_LISTED: Final = 500
MOST_STREAMS: Final = 32
"""Streams of this process at a time: each reads the batch's state every `EVENT_SECONDS`."""
MOST_STREAMS_OF_CALLER: Final = 8
"""Streams of one caller who signed in, so that nobody takes them all."""
EVENT_SECONDS: Final = 2.0
SILENT_SECONDS: Final = 15.0
"""A stream without news gets a comment at this interval, so that no proxy closes it."""
STREAM_SECONDS: Final = 600.0
"""A stream ends after this time; browsers then open it again, with a token that is checked again."""

router = APIRouter(prefix="/batches", tags=["batches"])


def _iso(value: object) -> object:
    # Pydantic would take a number for seconds since 1970.
    if isinstance(value, str) and not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise ValueError("is not a date such as 2026-11-21")
    return value


IsoDate = Annotated[date, BeforeValidator(_iso)]


class BatchList(BaseModel):
    """A page of batches by date and name. ``Next`` is the ``after`` of the next page, empty on the last one."""

    Batches: list[BatchStatus]
    Next: str = ""


@router.get("")
def batches(
    service: TheService,
    caller: AMember,
    first: Annotated[
        IsoDate | None,
        Query(alias="from", description="First upload date; by default the oldest of the open dates."),
    ] = None,
    last: Annotated[
        IsoDate | None, Query(alias="to", description="Last upload date; by default tomorrow (UTC).")
    ] = None,
    state: Annotated[BatchState | None, Query(description="Only batches in this state.")] = None,
    after: Annotated[
        str, Query(max_length=1000, description="A batch (`YYYY/MM/DD/name`): only those that follow it.")
    ] = "",
    limit: Annotated[int, Query(ge=1, le=MOST_LISTED, description="Batches per page.")] = 100,
) -> BatchList:
    """Lists the batches in a range of upload dates that the caller may see, including drafts."""
    today = datetime.now(UTC).date()
    first = first or today - timedelta(service.settings.open_dates - 1)
    last = last or max(first, today + timedelta(1))
    if last < first:
        raise Problem(422, "InvalidRequest", f"'from' {first} is later than 'to' {last}")
    start = find_batch(after) if after else None
    if after and (start is None or start.path != after):
        raise Problem(422, "InvalidRequest", f"'after' is not a batch (YYYY/MM/DD/name): '{after[:100]}'")
    found = list(islice(_listed(service, caller, first, last, state, start), limit + 1))
    return BatchList(
        Batches=found[:limit],
        Next=found[limit - 1].Batch if len(found) > limit else "",
    )


def _listed(
    service: Service,
    caller: Person,
    first: date,
    last: date,
    state: BatchState | None,
    start: Batch | None,
) -> Iterator[BatchStatus]:
    if start is not None and start.date > first:
        first = start.date
    access = service.acts.authorization
    sees_all = access.may(caller, Right.SEE_ALL)
    for day in dates_with_uploads(service.store, first, last):
        visible: set[Batch] = set()
        if not sees_all:
            found = batches_of(service.store, day)
            visible = access.visible(caller, [each for each in found if not _passed(each, start)])
            if not visible:
                # Without any, the list below would have every batch.
                continue
        for each in list_batches(service.store, service.settings, [day], visible):
            batch = find_batch(each.summary.Batch)
            if batch and not _passed(batch, start) and state in (None, each.summary.State):
                yield BatchStatus(**asdict(each.summary))


def _passed(batch: Batch, start: Batch | None) -> bool:
    return start is not None and batch.path <= start.path


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `status` with the batch's status as JSON, then one event `end`, or `problem` with a "
        "problem document",
        # Without a schema: OpenAPI 3.1 cannot describe a sequence of events.
        "content": {"text/event-stream": {}},
    }
}


@router.get("/{date}/{name}/events", response_class=StreamingResponse, responses=_STREAM)
async def events(
    batch: TheBatch, service: TheService, caller: TheCaller, request: Request
) -> StreamingResponse:
    """Streams the batch's status as server-sent events, one for each change, until nothing is left to do.

    Each event `status` has the whole status, so clients need not keep earlier ones. The last event is `end`: the
    batch is reported and nothing is due, or its request was refused. A stream lasts at most ten minutes and no longer
    than the sign-in; open it again after that.
    """
    streams: Counter[str] = request.app.state.streams
    if problem := _no_room(streams, caller):
        raise problem
    # The first status is read here: a batch that does not exist is a problem and not a stream.
    current = await run_in_threadpool(batch_status, service, batch)

    async def stream() -> AsyncIterator[bytes]:
        # Many may have asked at the same moment. Not counted earlier: for a caller that is gone already this never
        # begins, and so never ends.
        if problem := _no_room(streams, caller):
            yield _problem(problem)
            return
        streams[caller.subject] += 1
        try:
            async for event in _events(service, caller, batch, current):
                yield event
        finally:
            streams[caller.subject] -= 1
            if not streams[caller.subject]:
                del streams[caller.subject]

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


def _no_room(streams: Counter[str], caller: Person) -> Problem | None:
    """Why a caller gets no further stream; ``streams`` are the open ones by caller, None if there is room."""
    if streams.total() >= MOST_STREAMS:
        text = f"{MOST_STREAMS} streams are open; ask for the status instead, or later"
        return Problem(503, "Busy", text, retry_after=10)
    if caller.signed_in and streams[caller.subject] >= MOST_STREAMS_OF_CALLER:
        text = f"{MOST_STREAMS_OF_CALLER} streams of yours are open; close one, or ask for the status instead"
        return Problem(429, "TooManyStreams", text, retry_after=10)
    return None


async def _events(
    service: Service, caller: Person, batch: Batch, current: BatchStatus
) -> AsyncIterator[bytes]:
    started = spoken = time.monotonic()
    yield f"retry: {int(EVENT_SECONDS * 1000)}\n".encode() + _event("status", current)
    while time.monotonic() - started < STREAM_SECONDS:
        if current.State is BatchState.REFUSED or (current.State is BatchState.REPORTED and not current.Due):
            yield _event("end", current)
            return
        await asyncio.sleep(EVENT_SECONDS)
        try:
            new = await run_in_threadpool(_visible_status, service, caller, batch)
        except (Problem, BgPipelineError, ClientError, BotoCoreError) as error:
            # A draft was discarded, the sign-in has ended, or S3 did not answer.
            yield _problem(error)
            return
        if new != current:
            current, spoken = new, time.monotonic()
            yield _event("status", current)
        elif time.monotonic() - spoken > SILENT_SECONDS:
            spoken = time.monotonic()
            yield b": nothing new\n\n"


def _visible_status(service: Service, caller: Person, batch: Batch) -> BatchStatus:
    service.acts.authorization.require_visible(caller, batch)
    return batch_status(service, batch)


def _problem(error: Exception) -> bytes:
    return b"event: problem\ndata: " + orjson.dumps(of_error(error).document()) + b"\n\n"


def _event(kind: str, status: BatchStatus) -> bytes:
    # JSON has no line break outside of its indentation, so it is one line of data.
    return f"event: {kind}\ndata: {status.model_dump_json()}\n\n".encode()
