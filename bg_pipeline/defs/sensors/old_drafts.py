"""The sensor that discards drafts which nobody submitted; it exists with ``BG_DRAFT_DAYS``."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.acts import Acts
from bg_pipeline.defs.sensors import NO_BUCKET, skip
from bg_pipeline.domain.people import Via, local_person
from bg_pipeline.domain.text import counted
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import old_drafts

EVERY_SECONDS: Final = 6 * 3600
TICK_SECONDS: Final = 35.0
DAYS_BACK: Final = 8
"""Upload dates that a tick looks at; drafts of earlier ones are found by ``bg-pipeline discard --older-than``."""


def draft_expiry(settings: Settings, *, clock: Callable[[], float] = time.time) -> dg.SensorDefinition:
    """The sensor that deletes drafts unchanged for ``BG_DRAFT_DAYS``, with their photos and an audit line each.

    It is on by default: somebody has set the number of days.
    """

    @dg.sensor(
        name="draft_expiry",
        required_resource_keys={"bucket"} if settings.bucket else set(),
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Deletes drafts that nobody changed or submitted for {settings.draft_days} days.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        if not settings.bucket:
            return skip(context, NO_BUCKET)
        store: Store = context.resources.bucket
        deadline = time.monotonic() + TICK_SECONDS
        before = datetime.fromtimestamp(clock(), UTC) - timedelta(days=settings.draft_days)
        acts, program = Acts(settings, store), local_person("BG_DRAFT_DAYS", Via.RUN)
        dates = [(before - timedelta(days=back)).date() for back in range(DAYS_BACK)]
        deleted, refused = 0, []
        try:
            for draft in old_drafts(store, dates, before):
                if time.monotonic() > deadline:
                    break
                try:
                    acts.discard(program, draft.batch)
                    deleted += 1
                except BgPipelineError as error:
                    # Somebody has submitted or discarded it meanwhile.
                    refused.append(str(error))
        except (ClientError, BotoCoreError) as error:
            return skip(context, f"bucket '{store.bucket}' (BG_BUCKET): {error}")
        for reason in refused:
            context.log.info(reason)
        return skip(
            context, f"{counted(deleted, 'draft')} deleted that nobody changed for {settings.draft_days} days"
        )

    return sensor
