"""The sensors: they ask for runs of new uploads, send notices, and find forgotten uploads and running models."""

from typing import Final

import dagster as dg

NO_BUCKET: Final = "BG_BUCKET is not set: name the S3 bucket that holds the photos"


def skip(context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, reason: str) -> dg.SkipReason:
    """Logs why a tick does nothing, and returns it as the tick's skip reason."""
    context.log.info(reason)
    return dg.SkipReason(reason)
