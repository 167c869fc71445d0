"""The upload date: one partition a day, read as UTC."""

import dagster as dg

from bg_pipeline.settings import Settings

# One policy for every asset: Dagster refuses to run assets of different policies together in a range.
BACKFILL = dg.BackfillPolicy.multi_run(max_partitions_per_run=30)
"""A back-fill makes a run of 30 dates: one gate paces them all, and a crash costs no more than their rest."""


def upload_dates(settings: Settings) -> dg.DailyPartitionsDefinition:
    """Every date from ``BG_FIRST_DATE`` to tomorrow, so that places ahead of UTC have their day."""
    return dg.DailyPartitionsDefinition(start_date=settings.first_date.isoformat(), end_offset=2)
