"""The job of a Custom Labels window: one run starts the model, labels the photos of all waiting dates and stops it.

It is not a run of partitions, because the waiting dates need not be consecutive. It records a materialization for
each date and asset, as the runs of a date do.
"""

from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.custom_labels import window_run
from bg_pipeline.custom_labels.model import NotStarted
from bg_pipeline.defs.assets.metadata import Previews, day_metadata
from bg_pipeline.domain.stages import LABELS, PICTURES, STAGES
from bg_pipeline.errors import CallError, RunStopped, SettingsError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store, explain_s3_error

NAME = "custom_labels_window"


class WindowConfig(dg.Config):
    """The configuration of a run that is started by hand."""

    given_up: bool = False
    """Start the model also for photos that got no labels in all their attempts."""


def custom_labels_window(settings: Settings) -> dg.JobDefinition:
    """The job that starts the Custom Labels model, labels all waiting photos and stops the model."""
    prefix = [settings.key_prefix] if settings.key_prefix else []

    @dg.op(
        name="label_waiting_photos",
        out=dg.Out(dg.Nothing),
        description="Starts the model, labels what waits, stops the model.",
    )
    def window(
        context: dg.OpExecutionContext,
        config: WindowConfig,
        aws: dg.ResourceParam[Aws],
        bucket: dg.ResourceParam[Store],
    ) -> None:
        try:
            outcome = window_run.run(
                settings,
                aws,
                bucket,
                run_id=context.run_id,
                given_up=config.given_up,
                progress=lambda progress: context.log.info(progress.line()),
                note=context.log.info,
            )
        except (SettingsError, NotStarted, CallError, RunStopped) as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        except (ClientError, BotoCoreError) as error:
            raise dg.Failure(explain_s3_error(bucket, error), allow_retries=False) from None
        context.add_output_metadata(_metadata(bucket, outcome))
        if outcome.reason:
            context.log.info(f"Nothing was done: {outcome.reason}")
        failed_dates = [
            f"{day.date}" for day in outcome.days.values() if day.nothing_worked and not day.waits_for_window
        ]
        previews = Previews(bucket)
        for day in outcome.days.values():
            for name in STAGES:
                if name != PICTURES or not day.nothing_worked:
                    result = outcome.labels.get(day.date, day) if name == LABELS else day
                    context.log_event(
                        dg.AssetMaterialization(
                            dg.AssetKey([*prefix, name]),
                            partition=day.date.isoformat(),
                            metadata=day_metadata(previews, name, result),
                        )
                    )
        if failed_dates:
            raise dg.Failure(
                f"the model was stopped as planned, but on {', '.join(failed_dates)} no image has a picture; "
                "the reports list the cause of each",
                allow_retries=False,
            )

    @dg.job(
        name=f"{settings.key_prefix}_{NAME}" if settings.key_prefix else NAME,
        description="Starts the Custom Labels model if photos wait for it, brings all their dates up to date, "
        "and stops the model as soon as they have their labels.",
        executor_def=dg.in_process_executor,
    )
    def job() -> None:
        window()

    return job


def _metadata(store: Store, outcome: window_run.WindowOutcome) -> dict[str, Any]:
    if outcome.reason:
        return {"reason": outcome.reason}
    metadata: dict[str, Any] = {"dates": ", ".join(f"{day}" for day in outcome.days)}
    report = outcome.report
    if report is not None:
        metadata |= {
            "model": report.model,
            "started_by_this_pipeline": report.own,
            "hours": report.hours,
            "inference_units": report.units,
            "labelled": report.labelled,
            "failed": report.failed,
            "still_waiting": report.still_waiting,
            "window_report": dg.MetadataValue.path(f"s3://{store.bucket}/{outcome.report_key}"),
        }
        if report.cost_usd is not None:
            metadata["window_cost_usd"] = report.cost_usd
    return metadata
