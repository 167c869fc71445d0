"""The partitions of all assets: one per upload date (UTC)."""

import dagster as dg

from bg_pipeline.settings import Settings

BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=30)
"""The backfill policy of all assets: runs of 30 dates each, which share one rate limiter; a crash stops only one run.

All assets have the same policy, since Dagster refuses to run assets of different policies together in a range.
"""


def upload_dates(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Every date from ``BG_FIRST_DATE`` to tomorrow (UTC): time zones ahead of UTC are a day further."""
    return dg.DailyPartitionsDefinition(start_date=settings.first_date.isoformat(), end_offset=2)
