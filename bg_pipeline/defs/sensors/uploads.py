"""The sensors that find uploads and ask for runs: one lists the bucket, the other reads S3's event notifications."""

import time
from collections.abc import Callable, Iterator
from datetime import date
from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from bg_pipeline.defs.assets.image_flow import GROUP_TAG, HELPER_TAG, INCOMPLETE_TAG
from bg_pipeline.defs.run_resources import ECS, KUBERNETES, launcher_of, run_tags
from bg_pipeline.defs.sensors import NO_BUCKET, skip
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import counted, listed
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.changes import (
    MAX_TOLD,
    RequestedRun,
    RunResult,
    SensorCursor,
    SensorTick,
    runs_for,
)
from bg_pipeline.uploads.events import EventCursor, EventReader

EVERY_SECONDS = 30
EVENTS_EVERY_SECONDS = 10
TICK_SECONDS = 35.0
"""Time for a tick. At 60 s the daemon kills it and its cursor is lost; the last call of S3 may take 20 s more."""
RECEIVE_SECONDS = 15.0
"""Part of the tick's time in which messages are received."""

_UPLOADS_TAG = ".dagster/bg_pipeline_of"
"""The tag with the uploads for which a run was requested, see `_uploads_tag`. The UI hides tags with this prefix."""
_REQUEST_TAG = ".dagster/bg_pipeline_asked"
"""The tag with the `RequestedRun` of a run, as JSON; hidden too."""
_OLD_TAGS = {
    _UPLOADS_TAG: "bg_pipeline/of",
    _REQUEST_TAG: "bg_pipeline/asked",
    INCOMPLETE_TAG: "bg_pipeline/left",
}
"""The names of these tags on runs of earlier versions."""
MOST_NAMED = 5
"""Batches that the tag for people names."""

Result = dg.SensorResult | dg.SkipReason


def new_uploads(
    settings: Settings,
    partitions: dg.DailyPartitionsDefinition,
    target: Any,
    *,
    clock: Callable[[], float] = time.time,
) -> dg.SensorDefinition:
    """The sensor that asks for one run of ``target`` for each upload date whose uploads changed.

    It is off until a person turns it on, since runs cost money. It lists the resource ``bucket``, a `Store`. If no
    bucket is set or S3 does not answer, the tick is skipped with the reason, and the next one finds the same changes.
    A run that was cancelled, left work or failed without a report is requested twice more. ``target`` is a job,
    assets or a selection of them, as in `dg.sensor`; ``clock`` returns seconds since 1970.
    """

    # Not as a resource parameter: Dagster would create it, and fail, before the sensor can report a missing bucket.
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
        days = tick.open_dates
        reason = f"no upload date changed: {days[-1]} to {days[0]} were listed, older ones once an hour"
        return _result(context, tick, tick.run_requests(), reason)

    return sensor


def upload_events(
    settings: Settings,
    partitions: dg.DailyPartitionsDefinition,
    target: Any,
    *,
    clock: Callable[[], float] = time.time,
) -> dg.SensorDefinition:
    """The sensor that asks for one run of ``target`` for each upload date, however old, that S3's events name.

    It reads the events from the queue ``BG_QUEUE_URL`` through the resource ``queue``, a `Queue`. A message is
    deleted after Dagster has stored the run request that it caused. Uploads that `new_uploads` finds too are
    requested only once by both. Otherwise it is like `new_uploads`.
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
        cursor = EventCursor.read(context.cursor)
        tick = _tick(context, settings, partitions, cursor, clock())
        if isinstance(tick, dg.SkipReason):
            return tick
        deadline = time.monotonic() + RECEIVE_SECONDS
        events = EventReader(context.resources.queue, cursor, tick, lambda: time.monotonic() > deadline)
        reason = "no event named a date with new uploads"
        try:
            events.receive()
        except (ClientError, BotoCoreError) as error:
            reason = f"queue {events.queue.url} (BG_QUEUE_URL) could not be read; the next tick tries again: {error}"
            context.log.warning(reason)
        return _result(context, tick, tick.requests_due(), reason)

    return sensor


def _tick(
    context: dg.SensorEvaluationContext,
    settings: Settings,
    partitions: dg.DailyPartitionsDefinition,
    cursor: SensorCursor,
    now: float,
) -> SensorTick | dg.SkipReason:
    """A tick over the bucket, or why there can be none."""
    first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
    if first is None or last is None:
        return skip(
            context, f"BG_FIRST_DATE {settings.first_date} is in the future: there are no upload dates yet"
        )
    if not settings.bucket:
        return skip(context, NO_BUCKET)
    store: Store = context.resources.bucket
    deadline = time.monotonic() + TICK_SECONDS
    return SensorTick(
        settings=settings,
        store=store,
        cursor=cursor,
        now=now,
        first=date.fromisoformat(first),
        last=date.fromisoformat(last),
        find_run=lambda key: _find_run(context.instance, key),
        find_newest_request=lambda day: _find_requested(context.instance, _uploads_tag(settings, day)),
        time_is_up=lambda: time.monotonic() > deadline,
        warn=context.log.warning,
    )


def _result(
    context: dg.SensorEvaluationContext,
    tick: SensorTick,
    requested: Iterator[tuple[UploadDate, RequestedRun]],
    reason: str,
) -> dg.SensorResult:
    """The tick's run requests and its cursor; ``reason`` is the skip reason if there are none. Both are logged."""
    requests: list[dg.RunRequest] = []
    try:
        for day, each in requested:
            batches = sorted(tick.listed[day].batches) if day in tick.listed else []
            tags = {
                "bg_pipeline/batches": listed(batches, MOST_NAMED),
                "bg_pipeline/uploads": counted(each.count, "object"),
                **({"bg_pipeline/attempt": str(each.attempt)} if each.attempt > 1 else {}),
                **_size_tags(context.instance, tick, day),
            }
            own_tags = {
                _UPLOADS_TAG: _uploads_tag(tick.settings, day),
                _REQUEST_TAG: each.model_dump_json(),
            }
            context.log.info(
                f"asked for a run of {day}, attempt {each.attempt}: {counted(len(batches), 'batch', 'batches')} "
                f"({listed(batches, MOST_NAMED)})"
            )
            runs = runs_for(tick.settings, each.count)
            if runs > 1:
                tags[GROUP_TAG] = each.run_key
            for number in range(1, runs + 1):
                run_key = each.run_key if number == 1 else f"{each.run_key}+{number}"
                more = own_tags if number == 1 else {HELPER_TAG: each.run_key}
                if runs > 1:
                    more = {**more, "bg_pipeline/run": f"{number} of {runs}"}
                requests.append(dg.RunRequest(run_key, partition_key=f"{day}", tags={**tags, **more}))
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


def _size_tags(instance: dg.DagsterInstance, tick: SensorTick, day: UploadDate) -> dict[str, str]:
    """The size of the run's container, where it gets one; it takes one more listing of the date."""
    if (launcher := launcher_of(instance)) not in (ECS, KUBERNETES):
        return {}
    uploads = tick.store.list(f"{s3_keys.uploads_of(day)}/")
    photos = ((each.key, each.size) for each in uploads if not each.key.endswith((".json", "/")))
    return run_tags(launcher, photos, tick.settings)


def _uploads_tag(settings: Settings, day: UploadDate) -> str:
    """Identifies a date's uploads: the same for both sensors, and another for a second pipeline in the instance."""
    prefix = f"{settings.key_prefix} " if settings.key_prefix else ""
    return f"{prefix}s3://{settings.bucket}/{s3_keys.uploads_of(day)}"


def _find_requested(instance: dg.DagsterInstance, uploads: str) -> RequestedRun | None:
    """The request of the newest run that a sensor asked for."""
    for name in (_UPLOADS_TAG, _OLD_TAGS[_UPLOADS_TAG]):
        for run in instance.get_runs(dg.RunsFilter(tags={name: uploads}), limit=1):
            try:
                return RequestedRun.model_validate_json(_tag(run, _REQUEST_TAG))
            except ValidationError:
                return None
    return None


def _tag(run: dg.DagsterRun, name: str) -> str:
    return run.tags.get(name) or run.tags.get(_OLD_TAGS[name]) or ""


def _find_run(instance: dg.DagsterInstance, run_key: str) -> RunResult | None:
    """The newest run with this key; if the run was re-executed, its newest re-execution."""
    for record in instance.get_run_records(dg.RunsFilter(tags={"dagster/run_key": run_key}), limit=1):
        run = record.dagster_run
        return RunResult(
            finished=run.is_finished,
            failed=run.status == dg.DagsterRunStatus.FAILURE,
            cancelled=run.status == dg.DagsterRunStatus.CANCELED,
            left=_tag(run, INCOMPLETE_TAG) == run.run_id,
            started=record.start_time or record.create_timestamp.timestamp(),
            ended=record.end_time or record.update_timestamp.timestamp(),
        )
    return None
