"""The sensors that find uploads and ask for runs: one looks for itself, one is told by S3's events."""

import time
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from bg_pipeline.defs.assets.image_flow import LEFT
from bg_pipeline.defs.sensors import NO_BUCKET, skip
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.changes import MAX_TOLD, RequestedRun, RunResult, SensorCursor, SensorTick
from bg_pipeline.uploads.events import EventCursor, EventReader

EVERY_SECONDS = 30
EVENTS_EVERY_SECONDS = 10
TICK_SECONDS = 35.0
"""What a tick takes for itself; the daemon kills it, and its cursor, at 60 s. One call of S3 may take 20 s more."""
TAKE_SECONDS = 15.0
"""What of it may go by with receiving messages."""

_OF = "bg_pipeline/of"
_ASKED = "bg_pipeline/asked"

Result = dg.SensorResult | dg.SkipReason


def new_uploads(
    settings: Settings,
    partitions: dg.DailyPartitionsDefinition,
    target: Any,
    *,
    clock: Callable[[], float] = time.time,
) -> dg.SensorDefinition:
    """The sensor that asks for one run of ``target`` for each upload date whose uploads changed.

    It is stopped until a person turns it on, since runs cost money. It looks through the resource ``bucket``, a
    `Store`; where no bucket is set or S3 does not answer, the tick is skipped with the reason and nothing is
    forgotten. A run that was cancelled, left something undone or failed without a report is asked for twice more.
    ``target`` is a job, assets or a selection of them, as `dg.sensor` takes it; ``clock`` tells the seconds since
    1970.
    """

    # A resource as a parameter would be made, and fail, before the sensor could say that there is no bucket.
    @dg.sensor(
        name="new_uploads",
        target=target,
        required_resource_keys={"bucket"} if settings.bucket else set(),
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks for one run for each upload date whose uploads changed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Result:
        tick = _tick(context, settings, partitions, SensorCursor.read(context.cursor), clock())
        if isinstance(tick, dg.SkipReason):
            return tick
        return _result(context, tick, tick.run_requests(), "no upload date changed")

    return sensor


def upload_events(
    settings: Settings,
    partitions: dg.DailyPartitionsDefinition,
    target: Any,
    *,
    clock: Callable[[], float] = time.time,
) -> dg.SensorDefinition:
    """The sensor that asks for one run of ``target`` for each date, however old, that events name uploads of.

    The events are those of S3 in the queue ``BG_QUEUE_URL``, which it reads through the resource ``queue``, a
    `Queue`; a message is deleted when the request that it led to is stored by Dagster. What
    `new_uploads` sees as well is asked for once by the two of them. Otherwise it is as `new_uploads`.
    """

    @dg.sensor(
        name="upload_events",
        target=target,
        required_resource_keys={"bucket", "queue"} if settings.bucket else set(),
        minimum_interval_seconds=EVENTS_EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Asks for one run for each upload date that event notifications in BG_QUEUE_URL name.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> Result:
        inbox = EventCursor.read(context.cursor)
        tick = _tick(context, settings, partitions, inbox, clock())
        if isinstance(tick, dg.SkipReason):
            return tick
        taken = time.monotonic() + TAKE_SECONDS
        delivery = EventReader(context.resources.queue, inbox, tick, lambda: time.monotonic() > taken)
        reason = "no event named a date with new uploads"
        try:
            delivery.receive()
        except (ClientError, BotoCoreError) as error:
            reason = (
                f"queue {delivery.queue.url} (BG_QUEUE_URL) could not be worked off; "
                f"the next tick tries again: {error}"
            )
            context.log.warning(reason)
        return _result(context, tick, tick.requests_due(), reason)

    return sensor


def _tick(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    partitions: dg.DailyPartitionsDefinition,
    memory: SensorCursor,
    now: float,
) -> SensorTick | dg.SkipReason:
    """A look at the bucket, or why there can be none."""
    first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
    if first is None or last is None:
        return skip(
            context, f"BG_FIRST_DATE {settings.first_date} is still to come: there are no upload dates yet"
        )
    if not settings.bucket:
        return skip(context, NO_BUCKET)
    store: Store = context.resources.bucket
    deadline = time.monotonic() + TICK_SECONDS
    return SensorTick(
        settings=settings,
        store=store,
        cursor=memory,
        now=now,
        first=date.fromisoformat(first),
        last=date.fromisoformat(last),
        find_run=lambda key: _find_run(context.instance, key),
        find_newest_request=lambda day: _find_asked(context.instance, _of(settings, day)),
        time_is_up=lambda: time.monotonic() > deadline,
        warn=context.log.warning,
    )


def _result(
    context: dg.SensorEvaluationContext,
    tick: SensorTick,
    asked: Iterator[tuple[UploadDate, RequestedRun]],
    reason: str,
) -> dg.SensorResult:
    """The runs that a tick asks for, with its memory; ``reason`` is why there may be none. The log tells either."""
    requests: list[dg.RunRequest] = []
    try:
        for day, each in asked:
            tags = {
                "bg_pipeline/uploads": each.uploads,
                "bg_pipeline/attempt": str(each.attempt),
                _OF: _of(tick.settings, day),
                _ASKED: each.model_dump_json(),
            }
            context.log.info(f"asked for a run of {day}, attempt {each.attempt}")
            requests.append(dg.RunRequest(each.run_key, partition_key=f"{day}", tags=tags))
    except (ClientError, BotoCoreError) as error:
        reason = f"bucket '{tick.store.bucket}' (BG_BUCKET) could not be listed; the next tick tries again: {error}"
        context.log.warning(reason)
    reason = "; ".join([reason, *tick.waiting_reasons[:MAX_TOLD]])
    if not requests:
        context.log.info(reason)
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else reason,
        cursor=tick.cursor.model_dump_json(),
    )


def _of(settings: Settings, day: UploadDate) -> str:
    """What a run was asked for, by one name for all sensors of this pipeline and none of another beside it."""
    prefix = f"{settings.key_prefix} " if settings.key_prefix else ""
    return f"{prefix}s3://{settings.bucket}/{s3_keys.uploads_of(day)}"


def _find_asked(instance: dg.DagsterInstance, of: str) -> RequestedRun | None:
    """The request of the newest run that a sensor asked for."""
    for run in instance.get_runs(dg.RunsFilter(tags={_OF: of}), limit=1):
        try:
            return RequestedRun.model_validate_json(run.tags.get(_ASKED, ""))
        except ValidationError:
            return None
    return None


def _find_run(instance: dg.DagsterInstance, run_key: str) -> RunResult | None:
    """The newest run with this key, which is a re-execution where there was one."""
    for record in instance.get_run_records(dg.RunsFilter(tags={"dagster/run_key": run_key}), limit=1):
        run = record.dagster_run
        return RunResult(
            finished=run.is_finished,
            failed=run.status == dg.DagsterRunStatus.FAILURE,
            cancelled=run.status == dg.DagsterRunStatus.CANCELED,
            left=run.tags.get(LEFT) == run.run_id,
            started=record.start_time or record.create_timestamp.timestamp(),
            ended=record.end_time or record.update_timestamp.timestamp(),
        )
    return None
