"""The whole system on one screen, in lineage order."""

import dagster as dg

from bg_pipeline.assets.custom_labels_window import custom_labels_window
from bg_pipeline.assets.image_flow import image_flow
from bg_pipeline.assets.raw_images import raw_images
from bg_pipeline.jobs import jobs
from bg_pipeline.partitions import upload_dates
from bg_pipeline.resources import resources
from bg_pipeline.schedules import custom_labels_guard, custom_labels_hourly
from bg_pipeline.sensors import new_uploads, upload_events
from bg_pipeline.settings import Settings, settings


def definitions(settings: Settings) -> dg.Definitions:
    """The pipeline with these settings; with ``key_prefix`` it lives beside other code."""
    dates = upload_dates(settings)
    all_jobs = jobs(settings)
    sensors = [new_uploads, upload_events] if settings.queue_url else [new_uploads]
    windows = [custom_labels_window(settings)] if settings.custom_labels_arn else []
    return dg.Definitions(
        assets=[raw_images(settings, dates), image_flow(settings, dates)],
        jobs=[*all_jobs, *windows],
        schedules=[custom_labels_hourly(settings, window) for window in windows],
        sensors=[
            *(sensor(settings, dates, all_jobs[0]) for sensor in sensors),
            custom_labels_guard(settings),
        ],
        resources=resources(
            settings.bucket, settings.regions, max(10, settings.max_concurrency), settings.queue_url
        ),
        executor=dg.in_process_executor,
    )


defs = definitions(settings())
