"""The whole system on one screen, in lineage order."""

import dagster as dg

from bg_pipeline.defs.assets.custom_labels_window import custom_labels_window
from bg_pipeline.defs.assets.image_flow import image_flow
from bg_pipeline.defs.assets.raw_images import raw_images
from bg_pipeline.defs.checks import every_upload_has_a_report
from bg_pipeline.defs.jobs import jobs
from bg_pipeline.defs.partitions import upload_dates
from bg_pipeline.defs.resources import resources
from bg_pipeline.defs.schedules import custom_labels_guard, custom_labels_hourly
from bg_pipeline.defs.sensors.missing_reports import forgotten_uploads
from bg_pipeline.defs.sensors.notifications import notices
from bg_pipeline.defs.sensors.uploads import new_uploads, upload_events
from bg_pipeline.domain.stages import REPORT
from bg_pipeline.settings import Settings, settings


def definitions(settings: Settings) -> dg.Definitions:
    """The pipeline with these settings; with ``key_prefix`` it lives beside other code."""
    dates = upload_dates(settings)
    all_jobs = jobs(settings)
    sensors = [new_uploads, upload_events] if settings.queue_url else [new_uploads]
    windows = [custom_labels_window(settings)] if settings.custom_labels_arn else []
    report = dg.AssetKey([*([settings.key_prefix] if settings.key_prefix else []), REPORT])
    told = settings.sns_topic_arn or settings.webhook_url
    reporting = [job.name for job in [*all_jobs, *windows]]
    return dg.Definitions(
        assets=[raw_images(settings, dates), image_flow(settings, dates)],
        asset_checks=[every_upload_has_a_report(settings, report)],
        jobs=[*all_jobs, *windows],
        schedules=[custom_labels_hourly(settings, window) for window in windows],
        sensors=[
            *(sensor(settings, dates, all_jobs[0]) for sensor in sensors),
            custom_labels_guard(settings),
            forgotten_uploads(settings, report),
            *([notices(settings, dates, reporting, report)] if told else []),
        ],
        resources=resources(
            settings.bucket,
            settings.regions,
            max(10, settings.max_concurrency),
            settings.queue_url,
            use_obstore=settings.use_obstore,
        ),
        executor=dg.in_process_executor,
    )


defs = definitions(settings())
