"""Runs that are executed again in Dagster: which dates they work on, and what they pay for."""

from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

import boto3
import dagster as dg
import pytest

from bg_pipeline.definitions import definitions
from bg_pipeline.defs.assets.image_flow import dates_left, occasion
from bg_pipeline.defs.partitions import upload_dates
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo

DAYS = [date(2026, 11, day) for day in (17, 18, 19)]
FROM_FAILURE = {"dagster/is_resume_retry": "true"}


def whole_date(bucket: str) -> dg.JobDefinition:
    """The job on a bench; Dagster makes it by the name of this function."""
    bench = Bench(Store(boto3.client("s3"), bucket))
    defs = definitions(bench.settings())
    own = {**(defs.resources or {}), "bucket": bench.store, "aws": aws()}
    return dg.Definitions(
        assets=defs.assets, jobs=defs.jobs, resources=own, executor=dg.in_process_executor
    ).resolve_job_def("whole_date")


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def execute(
    bench: Bench,
    instance: dg.DagsterInstance,
    parent: dg.JobExecutionResult | None = None,
    *,
    from_failure: bool = True,
    **config: Any,
) -> dg.JobExecutionResult:
    """A run over `DAYS`, or the re-execution of one, with the tags that Dagster gives it."""
    again: dg.ReexecutionOptions | None = None
    tags = {
        "dagster/asset_partition_range_start": DAYS[0].isoformat(),
        "dagster/asset_partition_range_end": DAYS[-1].isoformat(),
    }
    if parent is not None and from_failure:
        again = dg.ReexecutionOptions.from_failure(parent.run_id, instance)
        tags |= FROM_FAILURE
    elif parent is not None:
        again = dg.ReexecutionOptions(parent.run_id)
    return dg.execute_job(
        dg.build_reconstructable_job(__name__, "whole_date", (bench.store.bucket,)),
        instance,
        tags=tags,
        reexecution_options=again,
        run_config={"ops": {"image_flow": {"config": config}}} if config else None,
    )


def made(instance: dg.DagsterInstance, result: dg.JobExecutionResult, asset: str) -> list[str]:
    """The dates that a run materialized for an asset."""
    events: Sequence[Any] = instance.get_records_for_run(
        result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
    ).records
    return sorted(str(each.partition_key) for each in events if each.asset_key == dg.AssetKey(asset))


def test_a_reexecution_from_failure_works_on_what_failed_and_takes_nothing_else(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit(1, day=DAYS[0])
    bad = bench.submit({"a.jpg": b"<html>"}, day=DAYS[1])
    first = execute(bench, instance)
    assert not first.success
    assert made(instance, first, "generated_images") == ["2026-11-17", "2026-11-19"]
    new = bench.submit({"new.jpg": photo(7)}, batch="120000", day=DAYS[0])
    bench.put(bad.upload_key("a.jpg"), photo(1))

    second = execute(bench, instance, first)
    assert second.success
    for asset in ("labels", "captions", "generated_images", "status_report"):
        assert made(instance, second, asset) == ["2026-11-18"]
    assert bench.keys(f"{new.status_prefix}/") == []


def test_a_second_reexecution_leaves_what_either_run_before_it_did(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bad = [bench.submit({"a.jpg": b"<html>"}, day=day) for day in DAYS[:2]]
    first = execute(bench, instance)
    bench.put(bad[0].upload_key("a.jpg"), photo(1))
    second = execute(bench, instance, first)
    assert not second.success
    assert made(instance, second, "generated_images") == ["2026-11-17"]
    bench.put(bad[1].upload_key("a.jpg"), photo(2))
    third = execute(bench, instance, second)
    assert third.success
    assert made(instance, third, "generated_images") == ["2026-11-18"]


def test_a_reexecution_of_all_works_on_every_date(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.submit({"a.jpg": b"<html>"}, day=DAYS[1])
    first = execute(bench, instance)
    new = bench.submit({"new.jpg": photo(7)}, batch="120000", day=DAYS[0])
    second = execute(bench, instance, first, from_failure=False)
    assert made(instance, second, "generated_images") == ["2026-11-17", "2026-11-19"]
    assert len(bench.rows(new)) == 1


@dg.asset(partitions_def=upload_dates(settings()), backfill_policy=dg.BackfillPolicy.single_run())
def labels() -> dg.MaterializeResult[None]:
    return dg.MaterializeResult()


def after(instance: dg.DagsterInstance, parent_id: str) -> dg.DagsterRun:
    """The re-execution "from failure" of a run."""
    job = dg.Definitions(assets=[labels]).resolve_implicit_global_asset_job_def()
    return instance.create_run_for_job(job, parent_run_id=parent_id, root_run_id=parent_id, tags=FROM_FAILURE)


def test_what_the_repeated_run_did_not_make_is_left_and_where_it_made_all_everything_is(
    instance: dg.DagsterInstance,
) -> None:
    two, three = ([day.isoformat() for day in DAYS[:number]] for number in (2, 3))
    killed = instance.create_run_for_job(
        dg.Definitions(assets=[labels]).resolve_implicit_global_asset_job_def()
    )
    assert dates_left(instance, after(instance, killed.run_id), three, [labels.key]) == three
    tags = {"dagster/asset_partition_range_start": two[0], "dagster/asset_partition_range_end": two[1]}
    parent = dg.materialize([labels], tags=tags, instance=instance)
    child = after(instance, parent.run_id)
    assert dates_left(instance, child, three, [labels.key]) == three[2:]
    assert dates_left(instance, child, three, [labels.key, dg.AssetKey("captions")]) == three
    # Something else than a date had failed.
    assert dates_left(instance, child, two, [labels.key]) == two


def test_a_run_that_repeats_nothing_has_all_dates_left(instance: dg.DagsterInstance) -> None:
    parent = dg.materialize([labels], partition_key=DAYS[0].isoformat(), instance=instance)
    job = dg.Definitions(assets=[labels]).resolve_implicit_global_asset_job_def()
    child = instance.create_run_for_job(job, parent_run_id=parent.run_id, root_run_id=parent.run_id)
    keys = [day.isoformat() for day in DAYS]
    assert dates_left(instance, child, keys, [labels.key]) == keys


def test_a_refresh_is_the_occasion_of_the_run_that_was_first(instance: dg.DagsterInstance) -> None:
    first = after(instance, "0")
    alone = instance.create_run_for_job(
        dg.Definitions(assets=[labels]).resolve_implicit_global_asset_job_def()
    )
    assert occasion(first) == "0"
    assert occasion(alone) == alone.run_id
