"""The assets in Dagster: what is materialized, what fails, what a person sees of it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from bg_pipeline import pipeline
from bg_pipeline.aws.clients import Aws
from bg_pipeline.definitions import definitions
from bg_pipeline.defs.assets.image_flow import GROUP_TAG, HELPER_TAG, INCOMPLETE_TAG
from bg_pipeline.defs.partitions import upload_dates
from bg_pipeline.defs.resources import resources
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import StorageFailed
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_local_aws.launcher import LocalAws
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.pictures import photo

LINEAGE = ["raw_images", "labels", "captions", "generated_images", "status_report"]
MODEL = "arn:aws:rekognition:us-east-1:000000000000:project/shop/version/mugs.1/1700000000001"


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


class Waiting(Bench):
    """A bench whose labels come from a Custom Labels model."""

    def settings(self, **overrides: Any) -> Any:
        return super().settings(**{"custom_labels_arn": MODEL, **overrides})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def materialize(
    bench: Bench,
    instance: dg.DagsterInstance,
    days: list[date],
    selection: list[str] | None = None,
    **config: Any,
) -> dg.ExecuteInProcessResult:
    defs = definitions(bench.settings())
    assets: Any = [*(defs.assets or [])]
    tags = {
        "dagster/asset_partition_range_start": days[0].isoformat(),
        "dagster/asset_partition_range_end": days[-1].isoformat(),
    }
    return dg.materialize(
        assets,
        selection=selection,
        instance=instance,
        partition_key=days[0].isoformat() if len(days) == 1 else None,
        tags=tags if len(days) > 1 else None,
        resources={"bucket": bench.store, "aws": aws()},
        run_config={"ops": {"image_flow": {"config": config}}} if config else None,
        raise_on_error=False,
    )


def status(bench: Bench, instance: dg.DagsterInstance, asset: str, days: list[date]) -> dict[str, str]:
    found = instance.get_status_by_partition(
        dg.AssetKey(asset), [day.isoformat() for day in days], upload_dates(bench.settings())
    )
    return {day: state.value if state else "" for day, state in (found or {}).items()}


def metadata(result: dg.ExecuteInProcessResult, asset: str) -> dict[str, Any]:
    (event,) = [
        each.step_materialization_data.materialization
        for each in result.get_asset_materialization_events()
        if each.asset_key == dg.AssetKey(asset)
    ]
    return {
        name: value.records if isinstance(value, dg.TableMetadataValue) else value.value
        for name, value in event.metadata.items()
    }


def test_definitions_load_with_and_without_a_key_prefix(bench: Bench) -> None:
    for prefix in ("", "shop"):
        defs = definitions(bench.settings(key_prefix=prefix))
        dg.Definitions.validate_loadable(defs)
        keys = {key.to_user_string() for key in defs.resolve_all_asset_keys()}
        assert keys == {f"{prefix}/{name}" if prefix else name for name in LINEAGE}


def test_the_lineage_goes_from_raw_images_to_the_status_report(bench: Bench) -> None:
    graph = definitions(bench.settings()).resolve_asset_graph()
    parents = {name: {key.path[-1] for key in graph.get(dg.AssetKey(name)).parent_keys} for name in LINEAGE}
    assert parents["labels"] == {"raw_images"}
    assert "labels" in parents["captions"]
    assert parents["generated_images"] == {"labels", "captions"}
    assert parents["status_report"] == {"generated_images"}


def test_a_date_is_materialized_with_counts_cost_and_previews(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit(3)
    result = materialize(bench, instance, [DATE])
    assert result.success
    assert {status(bench, instance, name, [DATE])[DATE.isoformat()] for name in LINEAGE} == {"MATERIALIZED"}
    pictures = metadata(result, "generated_images")
    assert pictures["status_Succeeded"] == 3
    assert pictures["cost_usd"] > 0
    assert pictures["preview"].count("data:image/jpeg;base64,") == 6
    assert metadata(result, "raw_images")["dagster/row_count"] == 3


def test_failed_images_are_a_table_with_their_cause_and_a_warning(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit({"bad.jpg": b"<html>", "good.jpg": photo(1)})
    result = materialize(bench, instance, [DATE])
    assert result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    check = checks["every_image_succeeded"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert DATE.isoformat() in (check.description or "")
    (row,) = metadata(result, "generated_images")["failures"]
    assert (row.data["image"], row.data["error"]) == ("bad.jpg", "NotAnImage")


def test_a_date_where_nothing_worked_is_red_and_has_its_report(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    batch = bench.submit({"bad.jpg": b"<html>"})
    result = materialize(bench, instance, [DATE])
    assert not result.success
    assert status(bench, instance, "generated_images", [DATE])[DATE.isoformat()] == "FAILED"
    assert status(bench, instance, "status_report", [DATE])[DATE.isoformat()] == "MATERIALIZED"
    assert bench.rows(batch)["bad.jpg"].Error == "NotAnImage"


def test_one_bad_date_of_a_range_is_red_and_the_others_are_green(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    days = [date(2025, 11, day) for day in (17, 18, 19)]
    bench.submit(1, day=days[0])
    bench.submit({"bad.jpg": b"x"}, day=days[1])
    materialize(bench, instance, days)
    assert list(status(bench, instance, "generated_images", days).values()) == [
        "MATERIALIZED",
        "FAILED",
        "MATERIALIZED",  # a date without uploads is green
    ]
    assert set(status(bench, instance, "status_report", days).values()) == {"MATERIALIZED"}


def test_a_date_that_waits_for_the_custom_labels_window_is_neither_red_nor_green(
    bench: Bench, instance: dg.DagsterInstance, control: ControlClient
) -> None:
    control.custom_model(MODEL, start_seconds=60, stop_seconds=0.1, labels=["Mug"])
    days = [date(2025, 11, day) for day in (17, 18)]
    bench.submit(2, day=days[0])
    bench.submit(1, day=days[1], Subject="SALIENT")
    waits = Waiting(bench.store)
    result = materialize(waits, instance, days)
    assert result.success
    assert list(status(waits, instance, "generated_images", days).values()) == ["", "MATERIALIZED"]
    assert set(status(waits, instance, "status_report", days).values()) == {"MATERIALIZED"}


def test_one_bad_file_among_photos_that_wait_makes_no_date_red(
    bench: Bench, instance: dg.DagsterInstance, control: ControlClient
) -> None:
    control.custom_model(MODEL, start_seconds=60, stop_seconds=0.1, labels=["Mug"])
    batch = bench.submit(2)
    bench.put(batch.upload_key("page.jpg"), b"<html>404</html>")
    waits = Waiting(bench.store)
    assert materialize(waits, instance, [DATE]).success
    assert status(waits, instance, "generated_images", [DATE]) == {str(DATE): ""}
    assert status(waits, instance, "captions", [DATE]) == {str(DATE): "MATERIALIZED"}


def test_labels_alone_that_wait_for_the_window_are_neither_red_nor_green(
    bench: Bench, instance: dg.DagsterInstance, control: ControlClient
) -> None:
    control.custom_model(MODEL, start_seconds=60, stop_seconds=0.1, labels=["Mug"])
    bench.submit(2)
    waits = Waiting(bench.store)
    assert materialize(waits, instance, [DATE], ["labels"]).success
    assert status(waits, instance, "labels", [DATE]) == {str(DATE): ""}


def test_captions_alone_make_nothing_else(
    bench: Bench, instance: dg.DagsterInstance, control: ControlClient
) -> None:
    bench.submit(2)
    assert materialize(bench, instance, [DATE], ["captions"]).success
    assert [call["operation"] for call in control.paid()] == ["Converse"] * 2
    assert status(bench, instance, "labels", [DATE]) == {}


def test_refresh_pays_again_and_an_unknown_asset_in_it_is_refused(
    bench: Bench, instance: dg.DagsterInstance, control: ControlClient
) -> None:
    bench.submit(1)
    materialize(bench, instance, [DATE])
    control.mark()
    materialize(bench, instance, [DATE], refresh=["captions"])
    assert [call["operation"] for call in control.paid()] == ["Converse"]
    assert not materialize(bench, instance, [DATE], refresh=["pictures"]).success


def test_a_missing_bucket_is_a_failure_with_a_sentence(bench: Bench, instance: dg.DagsterInstance) -> None:
    gone = Bench(Store(bench.store.client, "no-such-bucket-anywhere"))
    result = materialize(gone, instance, [DATE], ["labels"])
    assert not result.success
    assert "there is no bucket" in sentence(result, "image_flow")


def sentence(result: dg.ExecuteInProcessResult, step: str) -> str:
    """Why a step failed, in its own words and with no other error's traceback."""
    failure = result.failure_data_for_node(step)
    assert failure is not None
    assert failure.user_failure_data is not None
    assert failure.error is not None
    assert failure.error.cause is None
    assert "botocore" not in failure.error.to_string()
    return str(failure.user_failure_data.description)


@contextmanager
def unlisted(bench: Bench, day: date) -> Iterator[None]:
    """S3 refuses to list the uploads of a date."""

    def refuse(params: dict[str, Any], **_: Any) -> None:
        if str(params["query_string"].get("prefix", "")).startswith(f"image-files/{day:%Y/%m/%d}/"):
            raise ClientError({"Error": {"Code": "SlowDown", "Message": "Reduce your rate"}}, "ListObjectsV2")

    events = bench.store.client.meta.events
    events.register("before-call.s3.ListObjectsV2", refuse, unique_id="unlisted")
    try:
        yield
    finally:
        events.unregister("before-call.s3.ListObjectsV2", unique_id="unlisted")


@pytest.mark.parametrize(("asset", "step"), [("raw_images", "raw_images"), ("labels", "image_flow")])
def test_an_error_of_s3_is_a_failure_with_a_sentence(
    bench: Bench, instance: dg.DagsterInstance, asset: str, step: str
) -> None:
    with unlisted(bench, DATE):
        told = sentence(materialize(bench, instance, [DATE], [asset]), step)
    assert told.startswith((f"{DATE}: ", f"S3 (bucket '{bench.store.bucket}', BG_BUCKET) does not do"))
    assert "SlowDown" in told


def test_a_date_that_cannot_be_listed_is_named_and_keeps_no_other_from_being_worked_on(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    days = [date(2026, 11, day) for day in (17, 18)]
    bench.submit(1, day=days[0])
    with unlisted(bench, days[1]):
        alone = materialize(bench, instance, days, ["raw_images"])
        both = materialize(bench, instance, days, ["raw_images", "labels"])
    assert sentence(alone, "raw_images").startswith("2026-11-18: a request to S3 failed")
    assert not both.success
    assert [event.step_key for event in both.get_step_success_events()] == ["raw_images"]
    assert "image_flow" in {event.step_key for event in both.all_events if event.is_step_start}


def test_where_no_date_can_be_listed_the_range_is_given_up_soon(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    gone = Bench(Store(bench.store.client, "no-such-bucket-anywhere"))
    days = [date(2026, 11, 1) + timedelta(number) for number in range(20)]
    told = sentence(materialize(gone, instance, days, ["raw_images", "labels"]), "raw_images")
    assert told.count("there is no bucket 'no-such-bucket-anywhere'") == 3


def test_the_flow_works_on_the_bucket_resource_and_makes_no_other(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(1)
    monkeypatch.setattr(Aws, "s3", None)
    assert materialize(bench, instance, [DATE]).success


def change_days(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[date, Any]], None]) -> None:
    """Has a run of the flow end with other days than it did."""
    run = pipeline.run

    def changed(*args: Any, **named: Any) -> dict[date, Any]:
        days = run(*args, **named)
        change(days)
        return days

    monkeypatch.setattr(pipeline, "run", changed)


def test_a_date_with_a_batch_that_could_not_be_reported_is_red_and_the_others_are_green(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [date(2026, 11, day) for day in (17, 18, 19)]
    for day in days:
        bench.submit(1, day=day)

    def spoil(made: dict[date, Any]) -> None:
        made[days[1]].problems = ["batch 101530: its report could not be written"]

    change_days(monkeypatch, spoil)
    result = materialize(bench, instance, days)
    assert sentence(result, "image_flow") == "2026-11-18: batch 101530: its report could not be written"
    for asset in ("generated_images", "status_report"):
        assert list(status(bench, instance, asset, days).values()) == [
            "MATERIALIZED",
            "FAILED",
            "MATERIALIZED",
        ]
    assert instance.get_runs()[0].tags[INCOMPLETE_TAG] == result.run_id


@pytest.mark.parametrize("error", [StorageFailed("S3 is away"), ReadTimeoutError(endpoint_url="x")])
def test_a_run_that_s3_ended_says_that_it_left_something(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    result = materialize(bench, instance, [DATE], ["labels"])
    assert not result.success
    assert instance.get_runs()[0].tags[INCOMPLETE_TAG] == result.run_id


@pytest.mark.parametrize("signal", [KeyboardInterrupt, dg.DagsterExecutionInterruptedError])
def test_a_run_whose_process_is_ended_says_that_it_left_something(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, signal: type[BaseException]
) -> None:
    def end(*_: Any, **__: Any) -> None:
        raise signal

    monkeypatch.setattr(pipeline, "run", end)
    assert not materialize(bench, instance, [DATE], ["labels"]).success
    (run,) = instance.get_runs()
    assert run.tags[INCOMPLETE_TAG] == run.run_id


@pytest.mark.parametrize(
    ("error", "left"),
    [
        ("S3", True),
        ("RunStopped", True),
        ("DayQuotaExhausted", True),
        ("CapReached", False),
        ("NotAnImage", False),
    ],
)
def test_a_run_leaves_what_was_stopped_by_something_that_passes_and_no_more(
    bench: Bench,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    error: str,
    left: bool,
) -> None:
    def stop(*_: Any, **__: Any) -> dict[date, DateResult]:
        day = DateResult(DATE, images=1, counts=Counter({Status.SKIPPED: 1}))
        day.checks.errors[error] += 1
        return {DATE: day}

    monkeypatch.setattr(pipeline, "run", stop)
    materialize(bench, instance, [DATE], ["generated_images"])
    (run,) = instance.get_runs()
    assert (run.tags.get(INCOMPLETE_TAG) == run.run_id) is left


def test_a_run_that_did_all_there_was_leaves_nothing(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.submit({"bad.jpg": b"<html>"})
    materialize(bench, instance, [DATE])
    assert INCOMPLETE_TAG not in instance.get_runs()[0].tags


def test_a_refresh_and_a_retry_are_the_occasion_of_their_run(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def run(*_: Any, **named: Any) -> dict[date, Any]:
        asked.append((named["occasion"], named["retry"]))
        return {}

    monkeypatch.setattr(pipeline, "run", run)
    result = materialize(bench, instance, [DATE], ["labels"], retry=True)
    assert asked == [(result.run_id, True)]


def test_previews_that_cannot_be_read_fail_no_date(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(1)

    class Away(Store):
        def read(self, key: str) -> None:
            raise ReadTimeoutError(endpoint_url="x")

    def read_nothing_more(made: dict[date, Any]) -> None:
        monkeypatch.setattr(bench.store, "read", Away(bench.store.client, bench.store.bucket).read)

    change_days(monkeypatch, read_nothing_more)
    result = materialize(bench, instance, [DATE])
    assert result.success
    assert "ReadTimeoutError" in metadata(result, "generated_images")["preview"]


@pytest.mark.parametrize(("in_a_run", "seconds"), [(False, 6), (True, 60)])
def test_the_buckets_client_has_a_connection_for_each_thread_and_is_quicker_to_give_up_in_a_tick(
    bench: Bench, in_a_run: bool, seconds: int
) -> None:
    found: list[Store] = []

    @dg.op
    def look(bucket: dg.ResourceParam[Store]) -> None:
        found.append(bucket)

    @dg.job
    def job() -> None:
        look()

    made = resources(bench.store.bucket, (), 77)["bucket"]
    if in_a_run:
        job.execute_in_process(resources={"bucket": made})
    else:
        with dg.build_resources({"bucket": made}) as opened:
            found.append(opened.bucket)
    (store,) = found
    config: Any = store.client.meta.config
    assert (config.max_pool_connections, config.read_timeout) == (77, seconds)


def test_the_region_of_a_bucket_is_asked_for_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    s3, asked = Aws.s3, list[str]()

    def counted(aws: Aws, bucket: str) -> Any:
        asked.append(bucket)
        return s3(aws, bucket)

    monkeypatch.setattr(Aws, "s3", counted)
    for _ in range(3):
        with dg.build_resources({"bucket": resources(bench.store.bucket, (), 10)["bucket"]}) as opened:
            assert opened.bucket.head("nothing") is None
    assert asked == [bench.store.bucket]


def test_a_bucket_that_is_not_there_is_an_error_of_the_first_call(stand_in: LocalAws) -> None:
    with dg.build_resources({"bucket": resources("no-such-bucket-anywhere", (), 10)["bucket"]}) as opened:
        store = opened.bucket
    with pytest.raises(ClientError, match="NoSuchBucket"):
        list(store.list(""))


def run_of_a_group(bench: Bench, instance: dg.DagsterInstance, **tags: str) -> list[str]:
    """The assets that a run with these tags materializes."""
    assets: Any = [*(definitions(bench.settings()).assets or [])]
    result = dg.materialize(
        assets,
        instance=instance,
        partition_key=f"{DATE}",
        tags=tags,
        resources={"bucket": bench.store, "aws": aws()},
        raise_on_error=False,
    )
    assert result.success
    return [event.asset_key.path[-1] for event in result.get_asset_materialization_events()]


def test_only_the_first_of_several_runs_of_a_date_materializes_it(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit(2)
    first = {"dagster/run_key": "key", GROUP_TAG: "key"}
    helper = {"dagster/run_key": "key+2", GROUP_TAG: "key", HELPER_TAG: "key"}
    assert run_of_a_group(bench, instance, **first) == LINEAGE
    assert run_of_a_group(bench, instance, **helper) == ["raw_images"]


def test_a_helper_takes_the_place_of_a_first_run_that_failed_or_is_gone(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit(2)
    helper = {GROUP_TAG: "key", HELPER_TAG: "key"}
    assert run_of_a_group(bench, instance, **helper) == LINEAGE

    @dg.asset
    def broken() -> None:
        raise dg.Failure("crashed", allow_retries=False)

    dg.materialize([broken], instance=instance, tags={"dagster/run_key": "key"}, raise_on_error=False)
    assert run_of_a_group(bench, instance, **helper) == LINEAGE
