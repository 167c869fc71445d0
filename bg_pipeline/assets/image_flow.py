"""Labels, captions, pictures and reports of an upload date: four assets, made by one flow.

They are one step, so that an image need not wait for the labels of all others before it is painted; each can
still be made alone. A failed image is a row of the report and a warning; a date on which nothing worked is a
failed partition, with its report written.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import Field

from bg_pipeline import pipeline
from bg_pipeline.assets.metadata import day_metadata
from bg_pipeline.aws import Aws
from bg_pipeline.checks import check_results, check_specs
from bg_pipeline.errors import RunStopped, SettingsError
from bg_pipeline.flow.engine import Day, Progress
from bg_pipeline.flow.stages import CAPTIONS, LABELS, PICTURES, REPORT, STAGES
from bg_pipeline.inspection.judgments import Ran
from bg_pipeline.partitions import BACKFILL
from bg_pipeline.settings import Settings
from bg_pipeline.store import Store


class FlowConfig(dg.Config):
    """What a run may be told beside its dates."""

    refresh: list[str] = Field(
        [], description="Assets whose stored answers do not count: they are made, and paid for, again."
    )
    retry: bool = Field(
        False,
        description="Also try again what failed for a lasting reason, and once more what may have been billed twice; "
        "what is stored is not paid for again.",
    )


def image_flow(settings: Settings, dates: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The four assets that follow the raw images."""
    prefix = [settings.key_prefix] if settings.key_prefix else []
    group = f"{settings.key_prefix}_images" if settings.key_prefix else "images"

    def spec(name: str, kinds: set[str], deps: list[str], description: str) -> dg.AssetSpec:
        return dg.AssetSpec(
            dg.AssetKey([*prefix, name]),
            deps=[dg.AssetKey([*prefix, dep]) for dep in deps],
            group_name=group,
            kinds=kinds,
            description=description,
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
                f"refresh: {', '.join(sorted(unknown))} is none of {', '.join(STAGES)}", allow_retries=False
            )
        selected = {key.path[-1]: key for key in context.selected_asset_keys}
        latest: list[Progress] = []

        def tell(progress: Progress) -> None:
            context.log.info(progress.line())
            latest[:] = [progress]

        try:
            days = pipeline.run(
                settings,
                [date.fromisoformat(key) for key in context.partition_keys],
                aws=aws,
                store=Store(aws.s3(bucket.bucket), bucket.bucket),
                stages=selected,
                again=config.refresh,
                retry=config.retry,
                run_id=context.run.run_id,
                progress=tell,
                note=context.log.info,
            )
        except (SettingsError, RunStopped, ClientError, BotoCoreError) as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        ran = Ran(settings, aws, bucket, list(days.values()), latest[-1] if latest else None)
        yield from _events(context, ran, selected)

    return image_flow


def _events(context: dg.AssetExecutionContext, ran: Ran, selected: dict[str, dg.AssetKey]) -> Iterator[Any]:
    """What happened, in Dagster's words: materializations in lineage order, checks, a failure if one is due."""
    order = [name for name in STAGES if name in selected]
    store, days = ran.store, ran.days
    bad = {day.date: reason for day in days if (reason := _failure(day, selected))}
    if bad or any(_waits(day, name) for day in days for name in order):
        # One result for each asset would mark every date of the range as materialized.
        for name in order:
            for day in days:
                if name == REPORT or not (day.date in bad or _waits(day, name)):
                    yield dg.AssetMaterialization(
                        selected[name],
                        partition=day.date.isoformat(),
                        metadata=day_metadata(store, name, day),
                    )
            yield from check_results(ran, selected[name], context.selected_asset_check_keys)
        if bad:
            raise dg.Failure(
                "; ".join(f"{day}: {reason}" for day, reason in bad.items()), allow_retries=False
            )
        return
    for name in order:
        for day in days:
            context.add_asset_metadata(
                day_metadata(store, name, day), asset_key=selected[name], partition_key=day.date.isoformat()
            )
        yield dg.MaterializeResult(asset_key=selected[name])
        yield from check_results(ran, selected[name], context.selected_asset_check_keys)


def _waits(day: Day, name: str) -> bool:
    """Whether there is nothing of an asset yet, because a Custom Labels window makes it: neither made nor failed."""
    if name == PICTURES:
        return day.waits
    return day.waiting[name] > 0 and not day.made[name]


def _failure(day: Day, selected: dict[str, dg.AssetKey]) -> str:
    """Why a date's partition is a failed one; empty if it is not."""
    if PICTURES not in selected:
        stages = [stage for stage in (LABELS, CAPTIONS) if stage in selected]
        empty = [
            stage for stage in stages if day.failed[stage] and not (day.made[stage] or _waits(day, stage))
        ]
        return f"no image got its {' or '.join(empty)}; {day.stopped}".strip("; ") if empty else ""
    if not day.nothing_worked or day.waits:
        return ""
    causes = {row.Cause for row in day.troubled}
    return (
        f"none of {day.images} images has a picture ({'; '.join(sorted(causes)[:3])}); "
        "the report tells each one's cause"
    )
