"""The Dagster definitions: assets, checks, jobs, schedules, sensors and resources of the pipeline."""

from typing import Annotated, Any

import dagster as dg
from pydantic import Field

from bg_pipeline.defs.assets.custom_labels_window import custom_labels_window
from bg_pipeline.defs.assets.image_flow import image_flow
from bg_pipeline.defs.assets.raw_images import raw_images
from bg_pipeline.defs.checks import every_upload_has_a_report
from bg_pipeline.defs.jobs import jobs
from bg_pipeline.defs.partitions import upload_dates
from bg_pipeline.defs.resources import resources
from bg_pipeline.defs.schedules import custom_labels_hourly
from bg_pipeline.defs.sensors.custom_labels import custom_labels_guard
from bg_pipeline.defs.sensors.missing_reports import forgotten_uploads
from bg_pipeline.defs.sensors.notifications import notices
from bg_pipeline.defs.sensors.old_drafts import draft_expiry
from bg_pipeline.defs.sensors.uploads import new_uploads, upload_events
from bg_pipeline.domain.stages import REPORT
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import Settings, settings


def definitions(settings: Settings) -> dg.Definitions:
    """The pipeline with these settings.

    A ``key_prefix`` is put before asset keys, groups and job names, so that it can share a code location with others.
    """
    dates = upload_dates(settings)
    all_jobs = jobs(settings)
    upload_sensors = [new_uploads, upload_events] if settings.queue_url else [new_uploads]
    window_jobs = [custom_labels_window(settings)] if settings.custom_labels_arn else []
    report = dg.AssetKey([*([settings.key_prefix] if settings.key_prefix else []), REPORT])
    sends_notices = settings.sns_topic_arn or settings.webhook_url
    job_names = [job.name for job in [*all_jobs, *window_jobs]]
    return dg.Definitions(
        assets=[raw_images(settings, dates), image_flow(settings, dates)],
        asset_checks=[every_upload_has_a_report(settings, report)],
        jobs=[*all_jobs, *window_jobs],
        schedules=[custom_labels_hourly(settings, job) for job in window_jobs],
        sensors=[
            *(sensor(settings, dates, all_jobs[0]) for sensor in upload_sensors),
            custom_labels_guard(settings),
            forgotten_uploads(settings, report),
            *([draft_expiry(settings)] if settings.draft_days else []),
            *([notices(settings, dates, job_names, report)] if sends_notices else []),
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


class BackgroundChange(dg.Component, dg.Model, dg.Resolvable):
    """The pipeline as a component: ``type: bg_pipeline.BackgroundChange`` in a ``defs.yaml`` of your own project.

    ``settings`` are those of the README without ``BG_``, in lower case (``bucket``, ``regions``, ``max_cost_usd`` …);
    they override the environment of the code location. Secrets belong into the environment.
    """

    bucket: Annotated[
        str,
        dg.Resolver.default(description="S3 bucket for photos, results and the pipeline's state."),
    ]
    key_prefix: Annotated[
        str,
        dg.Resolver.default(
            description="Prefix of asset keys, group and jobs, to keep them apart from those of other code."
        ),
    ] = ""
    settings: Annotated[
        dict[str, Any],
        dg.Resolver.default(
            description="Other settings, by their names in lower case without BG_, such as max_cost_usd: 10."
        ),
    ] = Field(default_factory=dict)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions with these settings. Raises `SettingsError`, which names the setting."""
        if twice := self.settings.keys() & {"bucket", "key_prefix"}:
            raise SettingsError(f"settings: {', '.join(sorted(twice))} is an attribute of its own")
        return definitions(settings(bucket=self.bucket, key_prefix=self.key_prefix, **self.settings))


defs = definitions(settings())
