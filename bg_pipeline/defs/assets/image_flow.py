"""Labels, captions, pictures and reports of an upload date: four assets, made by one multi-asset step.

One step, so that an image can be painted before all others are labelled; each asset can still be made alone. A failed
image is a row in the report and a warning. A date on which nothing worked is a failed partition; its report is
written.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, Final

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import Field

from bg_pipeline import pipeline
from bg_pipeline.aws.clients import Aws
from bg_pipeline.defs.assets.metadata import Previews, causes_table, day_metadata, failure_metadata
from bg_pipeline.defs.automation import follow_updates, freshness
from bg_pipeline.defs.checks import check_results, check_specs
from bg_pipeline.defs.partitions import BACKFILL
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES, REPORT, STAGES
from bg_pipeline.errors import NothingUsable, RunStopped, SettingsError, StorageFailed
from bg_pipeline.quality.checks import RunOutcome
from bg_pipeline.rate_limits.calls import DayQuotaExhausted
from bg_pipeline.run.date_result import DateResult, Progress
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store, explain_s3_error

INCOMPLETE_TAG: Final = ".dagster/bg_pipeline_left"
"""The tag of a run that left work which a repetition may do soon; its value is the run's own id. The UI hides it."""
GROUP_TAG: Final = ".dagster/bg_pipeline_group"
"""The tag of the runs that a sensor requests at once for one date (``BG_RUNS_PER_DATE``); its value is the run key of
the first one. They share one ``BG_MAX_COST_USD``."""
HELPER_TAG: Final = ".dagster/bg_pipeline_helper"
"""The tag of all runs of a group but the first, which alone makes the partition green."""
_TEMPORARY_ERRORS: Final = {
    StorageFailed.code,
    RunStopped.__name__,
    DayQuotaExhausted.__name__,
    NothingUsable.__name__,
}
"""Errors of rows that were not tried for a reason that may pass: S3, credentials, a quota, access to models."""
_FROM_FAILURE_TAGS: Final = ("dagster/is_resume_retry", "dagster/is_asset_resume_retry")


class FlowConfig(dg.Config):
    """The configuration of a run, in addition to its dates."""

    refresh: list[str] = Field(
        [], description="Assets to make and pay for again, although their results are stored."
    )
    retry: bool = Field(
        False,
        description="Also retry what failed for a lasting reason, and calls that may have been billed twice. "
        "What is stored is not paid for again.",
    )


def image_flow(settings: Settings, dates: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The four assets made from the raw images."""
    prefix = [settings.key_prefix] if settings.key_prefix else []
    group = f"{settings.key_prefix}_images" if settings.key_prefix else "images"

    def spec(name: str, kinds: set[str], deps: list[str], description: str) -> dg.AssetSpec:
        return dg.AssetSpec(
            dg.AssetKey([*prefix, name]),
            deps=[dg.AssetKey([*prefix, dep]) for dep in deps],
            group_name=group,
            kinds=kinds,
            description=description,
            owners=settings.asset_owners,
            freshness_policy=freshness(settings),
            automation_condition=follow_updates(settings),
            skippable=True,
        )

    specs = [
        spec(LABELS, {"aws", "json"}, ["raw_images"], "What Rekognition sees in each photo, and where."),
        spec(
            CAPTIONS, {"aws", "json"}, ["raw_images", LABELS], "A description of each photo by Amazon Nova."
        ),
        spec(PICTURES, {"aws", "image"}, [LABELS, CAPTIONS], "Each photo's subject on its new background."),
        spec(
            REPORT, {"json", "csv"}, [PICTURES], "What became of each image asked for, with cause and cost."
        ),
    ]

    @dg.multi_asset(
        name=f"{settings.key_prefix}_image_flow" if settings.key_prefix else "image_flow",
        specs=specs,
        check_specs=check_specs(lambda name: dg.AssetKey([*prefix, name])),
        can_subset=True,
        partitions_def=dates,
        backfill_policy=BACKFILL,
    )
    def image_flow(
        context: dg.AssetExecutionContext,
        config: FlowConfig,
        aws: dg.ResourceParam[Aws],
        bucket: dg.ResourceParam[Store],
    ) -> Iterator[Any]:
        unknown = set(config.refresh) - set(STAGES)
        if unknown:
            raise dg.Failure(
                f"refresh: {', '.join(sorted(unknown))} is not among {', '.join(STAGES)}", allow_retries=False
            )
        selected = {key.path[-1]: key for key in context.selected_asset_keys}
        keys = dates_left(context.instance, context.run, context.partition_keys, selected.values())
        if len(keys) < len(context.partition_keys):
            context.log.info(
                f"Only {', '.join(keys)}: the re-executed run brought the other dates up to date"
            )
        latest: list[Progress] = []

        def log_progress(progress: Progress) -> None:
            context.log.info(progress.line())
            latest[:] = [progress]

        try:
            days = pipeline.run(
                settings,
                [date.fromisoformat(key) for key in keys],
                aws=aws,
                store=bucket,
                stages=selected,
                again=config.refresh,
                retry=config.retry,
                run_id=context.run.run_id,
                occasion=occasion(context.run),
                asked_at=asked_at(context.instance, context.run),
                cap_group=cap_group(context.run),
                by=f"Dagster run {context.run.run_id}",
                progress=log_progress,
                # Once each: a back-fill of 30 dates would repeat the same notes.
                note=cache(context.log.info),
            )
        except (SettingsError, RunStopped) as error:
            if isinstance(error, StorageFailed):
                mark_incomplete(context)
            raise dg.Failure(str(error), allow_retries=False) from None
        except (ClientError, BotoCoreError) as error:
            mark_incomplete(context)
            raise dg.Failure(explain_s3_error(bucket, error), allow_retries=False) from None
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
            # Dagster counts an interrupted run as failed, even if its reports were written.
            mark_incomplete(context)
            raise
        if any(day.problems or day.checks.errors.keys() & _TEMPORARY_ERRORS for day in days.values()):
            mark_incomplete(context)
        if first_run_counts(context.instance, context.run):
            context.log.info(
                "This run helped another one, which waits for the last image and materializes the assets"
            )
            return
        outcome = RunOutcome(settings, aws, bucket, list(days.values()), latest[-1] if latest else None)
        yield from _events(context, outcome, selected)

    return image_flow


def occasion(run: dg.DagsterRun) -> str:
    """The id for which a refresh or a retry is paid once: that of the first run, however often it is re-executed."""
    return run.root_run_id or run.run_id


def cap_group(run: dg.DagsterRun) -> str:
    """The group of runs that share one cap; a re-execution has a cap of its own."""
    group = run.tags.get(GROUP_TAG, "")
    return f"{group}:{run.run_id}" if group and run.parent_run_id else group


def first_run_counts(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether a run is a helper, and the first run of its group has succeeded or goes on.

    The first run ends after the last image, whoever processed it. If it failed, a helper took its place.
    """
    if HELPER_TAG not in run.tags or run.parent_run_id:
        return False
    first = instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": run.tags[HELPER_TAG]}), limit=1)
    return any(each.status == dg.DagsterRunStatus.SUCCESS or not each.is_finished for each in first)


def asked_at(instance: dg.DagsterInstance, run: dg.DagsterRun) -> datetime | None:
    """When a run was created, which may be long before it starts; None if Dagster has no record of it."""
    record = instance.get_run_record_by_id(run.run_id)
    return None if record is None else record.create_timestamp.astimezone(UTC)


def dates_left(
    instance: dg.DagsterInstance, run: dg.DagsterRun, keys: Sequence[str], assets: Iterable[dg.AssetKey]
) -> list[str]:
    """The partitions that a run works on: all, or, in a re-execution "from failure", those that failed.

    A partition failed if the parent run, or one of the runs that it re-executed from failure itself, did not
    materialize all ``assets`` for it. If no partition failed, something else did, and all are worked on.
    """
    missing = {(asset, key) for asset in assets for key in keys}
    current: dg.DagsterRun | None = run
    while current is not None and _is_from_failure(current) and current.parent_run_id:
        events = instance.get_records_for_run(
            current.parent_run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
        ).records
        missing -= {(event.asset_key, event.partition_key) for event in events}
        current = instance.get_run_by_id(current.parent_run_id)
    left = {key for _, key in missing}
    return [key for key in keys if key in left] or list(keys)


def _is_from_failure(run: dg.DagsterRun) -> bool:
    return any(run.tags.get(tag) == "true" for tag in _FROM_FAILURE_TAGS)


def mark_incomplete(context: dg.AssetExecutionContext) -> None:
    """Tags the run, so that the sensor that asked for it asks again: what stopped it may pass."""
    run_id = context.run.run_id
    # The value is the run's id because a re-execution inherits the tag: it only counts for the run it names.
    context.instance.add_run_tags(run_id, {INCOMPLETE_TAG: run_id})


def _events(
    context: dg.AssetExecutionContext, outcome: RunOutcome, selected: dict[str, dg.AssetKey]
) -> Iterator[Any]:
    """Yields materializations in lineage order and check results; raises `dg.Failure` if a date failed."""
    order = [name for name in STAGES if name in selected]
    previews, days = Previews(outcome.store), outcome.days
    failures = {day.date: reason for day in days if (reason := _failure(day, selected))}
    incomplete = len(days) < len(context.partition_keys)
    if incomplete or failures or any(_waits(day, name) for day in days for name in order):
        # A `MaterializeResult` would mark every date of the range as materialized.
        for name in order:
            for day in days:
                if _is_made(day, name, failed=day.date in failures):
                    yield dg.AssetMaterialization(
                        selected[name],
                        partition=day.date.isoformat(),
                        metadata=day_metadata(previews, name, day),
                    )
                elif day.date in failures:
                    # A failed partition has no materialization; this is what its page shows.
                    cause = failures[day.date]
                    yield dg.AssetObservation(
                        selected[name],
                        partition=day.date.isoformat(),
                        description=cause,
                        metadata=failure_metadata(previews, name, day, cause),
                    )
            yield from check_results(outcome, selected[name], context.selected_asset_check_keys)
        if failures:
            raise dg.Failure(
                "; ".join(f"{day}: {reason}" for day, reason in failures.items()),
                metadata={"failed_dates": causes_table(failures)},
                allow_retries=False,
            )
        return
    for name in order:
        for day in days:
            context.add_asset_metadata(
                day_metadata(previews, name, day),
                asset_key=selected[name],
                partition_key=day.date.isoformat(),
            )
        yield dg.MaterializeResult(asset_key=selected[name])
        yield from check_results(outcome, selected[name], context.selected_asset_check_keys)


def _is_made(day: DateResult, name: str, *, failed: bool) -> bool:
    if name == REPORT:
        # A date on which nothing worked has a report, too.
        return not day.problems
    return not (failed or _waits(day, name))


def _waits(day: DateResult, name: str) -> bool:
    """Whether an asset has neither results nor failures yet, because it waits for a Custom Labels window."""
    if name == PICTURES:
        return day.waits_for_window
    return day.waiting[name] > 0 and not day.made[name]


def _failure(day: DateResult, selected: dict[str, dg.AssetKey]) -> str:
    """Why a date's partition failed; empty if it did not."""
    if problems := day.problems:
        return "; ".join(problems)
    if PICTURES not in selected:
        stages = [stage for stage in (LABELS, CAPTIONS) if stage in selected]
        empty = [
            stage for stage in stages if day.failed[stage] and not (day.made[stage] or _waits(day, stage))
        ]
        return f"no image has its {' or '.join(empty)}; {day.stopped}".strip("; ") if empty else ""
    if not day.nothing_worked or day.waits_for_window:
        return ""
    causes = {row.Cause for row in day.failed_rows}
    return (
        f"none of {day.images} images has a picture ({'; '.join(sorted(causes)[:3])}); "
        "the report lists the cause of each"
    )
