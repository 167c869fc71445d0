"""The asset of the uploaded photos of a date."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Final

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.defs.automation import freshness
from bg_pipeline.defs.partitions import BACKFILL
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store, explain_s3_error
from bg_pipeline.uploads.listing import batches

MAX_FAILED_DATES: Final = 3
"""If the first dates cannot be listed, S3 is taken to be unreachable after this number; the others are not tried."""


def raw_images(settings: Settings, dates: dg.DailyPartitionsDefinition) -> dg.AssetsDefinition:
    """The asset of the uploads. Its materialization lists them and changes nothing."""

    @dg.asset(
        key=[*([settings.key_prefix] if settings.key_prefix else []), "raw_images"],
        group_name=f"{settings.key_prefix}_images" if settings.key_prefix else "images",
        partitions_def=dates,
        backfill_policy=BACKFILL,
        kinds={"s3", "image"},
        owners=settings.asset_owners,
        freshness_policy=freshness(settings),
        description="The uploaded photos of a date, in batches: one folder each.",
    )
    def raw_images(
        context: dg.AssetExecutionContext, bucket: dg.ResourceParam[Store]
    ) -> Iterator[dg.MaterializeResult[None]]:
        failed: dict[str, str] = {}
        listed = 0
        for key in context.partition_keys:
            try:
                metadata = _metadata(settings, bucket, date.fromisoformat(key))
            except (ClientError, BotoCoreError) as error:
                failed[key] = explain_s3_error(bucket, error)
                if not listed and len(failed) == MAX_FAILED_DATES:
                    break
                continue
            listed += 1
            context.add_asset_metadata(metadata, partition_key=key)
        for key, reason in failed.items():
            context.log.error(f"{key}: {reason}")
        if failed and (not listed or len(context.job_def.nodes) == 1):
            raise dg.Failure(
                "; ".join(f"{key}: {reason}" for key, reason in failed.items()), allow_retries=False
            )
        for key, reason in failed.items():
            # A failure here would stop the run for the other dates too; the downstream assets fail for this date.
            context.add_asset_metadata({"not_listed": reason}, partition_key=key)
        yield dg.MaterializeResult()

    return raw_images


def _metadata(settings: Settings, store: Store, day: date) -> dict[str, dg.MetadataValue | int | str]:
    uploads = list(batches(store, day))
    now = datetime.now(UTC)
    rows = [
        dg.TableRecord(
            {
                "batch": each.batch.name,
                "images": len(each.images),
                "megabytes": round(sum(image.size for image in each.images.values()) / 1e6, 2),
                "state": _state(each.request is not None, each.complete(settings.settle_seconds, now)),
            }
        )
        for each in uploads
    ]
    return {
        "dagster/row_count": sum(len(each.images) for each in uploads),
        "batches": dg.MetadataValue.table(rows, schema=_SCHEMA) if rows else "none",
        "bytes": sum(image.size for each in uploads for image in each.images.values()),
        "prefix": dg.MetadataValue.path(f"s3://{store.bucket}/image-files/{day:%Y/%m/%d}/"),
    }


def _state(requested: bool, complete: bool) -> str:
    if requested:
        return "requested"
    return "complete, without a request" if complete else "still being uploaded"


def _columns(names: Sequence[tuple[str, str]]) -> dg.TableSchema:
    return dg.TableSchema([dg.TableColumn(name, type) for name, type in names])


_SCHEMA = _columns([("batch", "string"), ("images", "int"), ("megabytes", "float"), ("state", "string")])
