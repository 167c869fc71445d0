"""What keeps the Custom Labels model on only while it is needed: the hourly schedule, and the guard that stops it."""

import time

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import RootModel, ValidationError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.custom_labels import window_run
from bg_pipeline.custom_labels.orphaned_models import ModelSighting, OrphanedModelCheck
from bg_pipeline.custom_labels.window import describe_owner
from bg_pipeline.defs.sensors import NO_BUCKET, skip
from bg_pipeline.domain import s3_keys
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.settings import Settings
from bg_pipeline.state.leases import at_work
from bg_pipeline.storage.object_store import Store

TICK_SECONDS = 35.0
"""What a tick takes for itself; the daemon kills it at 60 s."""
GUARD_SECONDS = 30


class Sights(RootModel[dict[str, ModelSighting]]):
    """The guard's cursor: the leases it saw."""


def custom_labels_hourly(settings: Settings, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """Every hour asks for a run of ``job`` if photos wait for the model; else the tick is skipped with the reason.

    It is stopped until a person turns it on, since the model costs money.
    """

    @dg.schedule(
        name="custom_labels_hourly",
        cron_schedule="0 * * * *",
        job=job,
        required_resource_keys={"bucket"} if settings.bucket else set(),
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Starts the Custom Labels model once an hour if photos wait for it.",
    )
    def schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        if not settings.bucket:
            return skip(context, NO_BUCKET)
        store: Store = context.resources.bucket
        model = settings.custom_labels_arn
        deadline = time.monotonic() + TICK_SECONDS
        try:
            if at_work(store, s3_keys.window_key(model, "lease")):
                return skip(context, f"{describe_owner(store, model)} owns the window")
            need = window_run.find_labels_due(
                store, settings, first=True, time_is_up=lambda: time.monotonic() > deadline
            )
        except (ClientError, BotoCoreError) as error:
            return skip(context, f"bucket '{store.bucket}' (BG_BUCKET) could not be looked at: {error}")
        # More than a tick has time to look at: the run looks at all of it before it starts the model.
        if need is not None and need.empty_reason:
            return skip(context, need.empty_reason)
        context.log.info("photos wait for the Custom Labels model; asked for a run")
        return dg.RunRequest()

    return schedule


def custom_labels_guard(settings: Settings) -> dg.SensorDefinition:
    """Stops a model that a run started and, because it was killed, did not stop; it is on from the start.

    Only starts that the pipeline recorded count: a model that a person started is left alone. It is there also
    without ``BG_CUSTOM_LABELS_ARN``, for a model that was left on before that was taken away.
    """

    @dg.sensor(
        name="custom_labels_guard",
        required_resource_keys={"bucket", "aws"} if settings.bucket else set(),
        minimum_interval_seconds=GUARD_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Stops a Custom Labels model that a dead run left on.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not settings.bucket:
            return skip(context, NO_BUCKET)
        store: Store = context.resources.bucket
        aws: Aws = context.resources.aws
        guard = OrphanedModelCheck(store, aws, _read(context.cursor))
        try:
            lines = guard.check()
        except (ClientError, BotoCoreError, BgPipelineError) as error:
            lines = [f"the next look tries again: {error}"]
        for line in lines:
            context.log.warning(line)
        reason = "; ".join(lines) or "no Custom Labels model that this pipeline started is on"
        if not lines:
            context.log.info(reason)
        return dg.SensorResult(skip_reason=reason, cursor=Sights(guard.seen).model_dump_json())

    return sensor


def _read(cursor: str | None) -> dict[str, ModelSighting]:
    try:
        return Sights.model_validate_json(cursor or "{}").root
    except ValidationError:
        return {}
