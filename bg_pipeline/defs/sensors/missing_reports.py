"""The sensor that looks for uploads without a report, also while nothing runs."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.defs.checks import EVERY_UPLOAD
from bg_pipeline.defs.sensors import NO_BUCKET, skip
from bg_pipeline.quality.checks import uploads_without_report
from bg_pipeline.quality.missing_reports import find_unreported_uploads
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store

EVERY_SECONDS: Final = 3600
TICK_SECONDS: Final = 35.0


def forgotten_uploads(
    settings: Settings, report: dg.AssetKey, *, clock: Callable[[], float] = time.time
) -> dg.SensorDefinition:
    """The sensor that makes the check `EVERY_UPLOAD` of the asset ``report`` every hour, without a run.

    It is on by default, since it spends nothing. Each tick begins with the newest date; its result says which dates
    it had no time for.
    """

    @dg.sensor(
        name="forgotten_uploads",
        required_resource_keys={"bucket"} if settings.bucket else set(),
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Looks for uploads older than {settings.stale_hours:g} hours that are in no report.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        if not settings.bucket:
            return skip(context, NO_BUCKET)
        store: Store = context.resources.bucket
        deadline = time.monotonic() + TICK_SECONDS
        now = datetime.fromtimestamp(clock(), UTC)
        try:
            uploads = find_unreported_uploads(
                store, settings, now, time_is_up=lambda: time.monotonic() > deadline
            )
        except (ClientError, BotoCoreError) as error:
            return skip(context, f"bucket '{store.bucket}' (BG_BUCKET) could not be read: {error}")
        result = uploads_without_report(settings, uploads)
        context.log.info(result.description)
        evaluation = dg.AssetCheckEvaluation(
            asset_key=report,
            check_name=EVERY_UPLOAD,
            passed=result.passed,
            severity=dg.AssetCheckSeverity.WARN,
            description=result.description,
            metadata=result.figures,
        )
        return dg.SensorResult(asset_events=[evaluation], skip_reason=result.description)

    return sensor
