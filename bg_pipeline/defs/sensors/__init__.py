"""The sensors: uploads start runs, people hear what came of them, forgotten uploads are told."""

from typing import Final

import dagster as dg

NO_BUCKET: Final = "BG_BUCKET is not set: name the S3 bucket that holds the photos"


def skip(context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, reason: str) -> dg.SkipReason:
    """The end of a tick that did nothing, told in the log as well."""
    context.log.info(reason)
    return dg.SkipReason(reason)
