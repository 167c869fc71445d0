"""The assets in Dagster: what is materialized, what fails, what a person sees of it."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
import pytest

from bg_pipeline.definitions import definitions
from bg_pipeline.local_aws.control_client import ControlClient
from bg_pipeline.partitions import upload_dates
from bg_pipeline.store import Store
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
    assets = [*(defs.assets or [])]
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
    failure = result.failure_data_for_node("image_flow")
    assert failure is not None
    assert failure.error is not None
    assert "there is no bucket" in failure.error.message
