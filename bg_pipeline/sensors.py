"""The sensor that finds uploads and asks for runs."""

import time
from collections.abc import Callable
from datetime import date
from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.changes import Memory, Run, Tick
from bg_pipeline.settings import Settings
from bg_pipeline.store import Store

EVERY_SECONDS = 30
TICK_SECONDS = 40.0
"""What a tick takes for itself; the daemon kills it, and its cursor, at 60 s."""


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
    forgotten. A run that ended without a report is asked for twice more. ``target`` is a job, assets or a selection
    of them, as `dg.sensor` takes it; ``clock`` tells the seconds since 1970.
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
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        first, last = partitions.get_first_partition_key(), partitions.get_last_partition_key()
        if first is None or last is None:
            return dg.SkipReason(
                f"BG_FIRST_DATE {settings.first_date} is still to come: there are no upload dates yet"
            )
        if not settings.bucket:
            return dg.SkipReason("BG_BUCKET is not set: name the S3 bucket that holds the photos")
        store: Store = context.resources.bucket
        deadline = time.monotonic() + TICK_SECONDS
        tick = Tick(
            settings=settings,
            store=store,
            memory=Memory.read(context.cursor),
            now=clock(),
            first=date.fromisoformat(first),
            last=date.fromisoformat(last),
            find_run=lambda key: _find_run(context.instance, key),
            time_is_up=lambda: time.monotonic() > deadline,
            warn=context.log.warning,
        )
        requests: list[dg.RunRequest] = []
        reason = "no upload date changed"
        try:
            for day, asked in tick.requests():
                tags = {"bg_pipeline/uploads": asked.uploads, "bg_pipeline/attempt": str(asked.attempt)}
                requests.append(dg.RunRequest(asked.run_key, partition_key=f"{day}", tags=tags))
        except (ClientError, BotoCoreError) as error:
            reason = (
                f"bucket '{store.bucket}' (BG_BUCKET) could not be listed; the next tick tries again: {error}"
            )
            context.log.warning(reason)
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else reason,
            cursor=tick.memory.model_dump_json(),
        )

    return sensor


def _find_run(instance: dg.DagsterInstance, run_key: str) -> Run | None:
    """The newest run with this key, which is a re-execution where there was one."""
    for record in instance.get_run_records(dg.RunsFilter(tags={"dagster/run_key": run_key}), limit=1):
        run = record.dagster_run
        return Run(
            finished=run.is_finished,
            failed=run.status == dg.DagsterRunStatus.FAILURE,
            started=record.start_time or record.create_timestamp.timestamp(),
            ended=record.end_time or record.update_timestamp.timestamp(),
        )
    return None
