"""What Dagster may decide by itself: automation conditions instead of the sensor, and how fresh assets should be."""

from datetime import timedelta

import dagster as dg

from bg_pipeline.settings import Settings


def follow_updates(settings: Settings) -> "dg.AutomationCondition[dg.AssetKey] | None":
    """With BG_AUTOMATION_CONDITIONS: an asset follows its inputs, for every upload date and not only the newest.

    When ``raw_images`` of a date was materialized, by whatever, the other assets of that date are requested together.
    The sensor Dagster calls ``default_automation_condition_sensor`` has to be on. None without the setting.
    """
    if not settings.automation_conditions:
        return None
    # `eager` looks at the newest time window only, and would miss photos that are uploaded for an earlier date.
    return (
        dg.AutomationCondition.eager()
        .without(dg.AutomationCondition.in_latest_time_window())
        .with_label("follow_updates")
    )


def freshness(settings: Settings) -> dg.FreshnessPolicy | None:
    """With BG_FRESH_HOURS: an asset that was not materialized for any date for so long fails its freshness."""
    if not settings.fresh_hours:
        return None
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=settings.fresh_hours))
