"""The schedule that starts the Custom Labels model once an hour if photos wait for it."""

import time

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.custom_labels import window_run
from bg_pipeline.custom_labels.window import describe_owner
from bg_pipeline.defs.sensors import NO_BUCKET, skip
from bg_pipeline.domain import s3_keys
from bg_pipeline.settings import Settings
from bg_pipeline.state.leases import is_held
from bg_pipeline.storage.object_store import Store

TICK_SECONDS = 35.0
"""Time for a tick; the daemon kills it at 60 s."""


def custom_labels_hourly(settings: Settings, job: dg.JobDefinition) -> dg.ScheduleDefinition:
    """The schedule that asks for a run of ``job`` every hour if photos wait for the model.

    Otherwise its tick is skipped with the reason. It is off until a person turns it on, since the model costs money.
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
            if is_held(store, s3_keys.window_key(model, "lease")):
                return skip(context, f"{describe_owner(store, model)} owns the window")
            need = window_run.find_labels_due(
                store, settings, first=True, time_is_up=lambda: time.monotonic() > deadline
            )
        except (ClientError, BotoCoreError) as error:
            return skip(context, f"bucket '{store.bucket}' (BG_BUCKET) could not be read: {error}")
        # None means that the tick's time was up: the run then looks at all dates before it starts the model.
        if need is not None and need.empty_reason:
            return skip(context, need.empty_reason)
        context.log.info("photos wait for the Custom Labels model: asks for a run")
        return dg.RunRequest()

    return schedule
