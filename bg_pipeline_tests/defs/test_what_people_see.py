"""What people see in Dagster: previews, plots, the page of a failed date, tags, owners, automation and freshness."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from bg_pipeline.definitions import definitions
from bg_pipeline.defs.assets import metadata as asset_metadata
from bg_pipeline.errors import SettingsError
from bg_pipeline.imaging.annotated import with_boxes
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench
from bg_pipeline_tests.defs.test_assets import LINEAGE, materialize, metadata
from bg_pipeline_tests.pictures import photo

PICTURE = "data:image/jpeg;base64,"


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_labels_and_captions_are_seen_on_their_own_assets(bench: Bench, instance: dg.DagsterInstance) -> None:
    batch = bench.submit(2)
    result = materialize(bench, instance, [DATE], ["labels", "captions"])
    assert result.success
    labels, captions = metadata(result, "labels"), metadata(result, "captions")
    assert (labels["images"], labels["done"]) == (2, 2)
    assert labels["preview"].count(PICTURE) == 2
    document = bench.store.read_json(batch.labels_key("photo-0.jpg"))
    with_box = [label["Name"] for label in document["Labels"] if label["Instances"]]
    assert with_box
    assert with_box[0] in labels["preview"]
    assert captions["preview"].count(PICTURE) == 2
    caption = bench.store.read_json(batch.caption_key("photo-0.jpg"))["Caption"]
    assert caption.split()[0] in captions["preview"]


def test_boxes_are_drawn_where_they_are_and_hostile_ones_are_left_out() -> None:
    from io import BytesIO

    from PIL import Image

    plain = BytesIO()
    Image.new("RGB", (200, 100), "white").save(plain, "JPEG", quality=95)
    drawn = with_boxes(
        plain.getvalue(),
        [
            ("Dog", (0.25, 0.2, 0.5, 0.6)),
            ("Nan", (float("nan"), 0, 1, 1)),
            ("Huge", (-1e9, -1e9, 1e300, 1e300)),
            ("None", (0.5, 0.5, 0, 0)),
            ("x" * 10_000, (0.9, 0.9, 0.05, 0.05)),
        ],
    )
    with Image.open(BytesIO(drawn)) as picture:
        assert picture.size == (200, 100)
        assert min(picture.convert("L").crop((48, 40, 53, 70)).tobytes()) < 128, "the left edge of the dog"
        assert min(picture.convert("L").crop((70, 40, 130, 70)).tobytes()) > 200, "nothing inside"


def test_text_of_a_model_cannot_become_markup_or_a_link() -> None:
    hostile = "a | b\n![x](http://evil.example.com) <img src=x> **bold** https://evil.example.com a@b.co `c`"
    text = asset_metadata._text(hostile)
    assert "\n" not in text
    assert "://" not in text
    assert "<img" not in text
    assert "![x](" not in text
    assert all(text[at - 1] == "\\" for at, char in enumerate(text) if char in "|*`[]")
    assert len(asset_metadata._text("x" * 10_000)) < 600


def test_plots_are_of_the_date_and_not_of_a_run_that_had_nothing_to_do(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit(2)
    first = metadata(materialize(bench, instance, [DATE]), "generated_images")
    second = metadata(materialize(bench, instance, [DATE]), "generated_images")
    for name in ("cost_usd", "images", "status_Succeeded", "cost_usd_per_success", "maybe_billed_usd"):
        assert first[name] == second[name], name
    assert first["cost_usd"] == first["run_cost_usd"] > 0
    assert (second["run_cost_usd"], second["run_images"]) == (0, 0)
    third = metadata(materialize(bench, instance, [DATE], ["labels"]), "labels")
    assert (third["done"], third["run_made"]) == (2, 0)


def test_a_failed_date_shows_its_cause_its_table_and_its_report(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit({"a.jpg": b"<html>", "b.jpg": b"<html>"})
    good = DATE + timedelta(1)
    bench.submit(1, day=good)
    result = materialize(bench, instance, [DATE, good])
    assert not result.success
    (record,) = instance.fetch_observations(
        dg.AssetRecordsFilter(dg.AssetKey("generated_images"), asset_partitions=[f"{DATE}"]), limit=5
    ).records
    observation = record.event_log_entry.asset_observation
    assert observation is not None
    seen: Any = observation.metadata
    assert "none of 2 images has a picture" in seen["cause"].value
    assert [row.data["image"] for row in seen["failures"].records] == ["a.jpg", "b.jpg"]
    assert "status_report_" in seen["report"].value
    assert "bg-pipeline report 2025/11/20/101530" in seen["report"].value
    failure = next(event for event in result.all_events if event.is_step_failure)
    table: Any = failure.step_failure_data.user_failure_data.metadata["failed_dates"]
    assert [row.data["date"] for row in table.records] == [f"{DATE}"]
    assert not instance.fetch_observations(
        dg.AssetRecordsFilter(dg.AssetKey("generated_images"), asset_partitions=[f"{good}"]), limit=5
    ).records


def test_the_same_note_is_logged_once_a_run(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    days = [DATE + timedelta(number) for number in range(3)]
    for day in days:
        bench.submit(1, day=day)
    result = materialize(bench, instance, days)
    messages = [record.user_message for record in instance.all_logs(result.run_id) if record.level == 20]
    said = [message for message in messages if "using " in message]
    assert len(said) == len(set(said))


def test_owners_kinds_descriptions_and_freshness_are_set(bench: Bench) -> None:
    defs = definitions(bench.settings(asset_owners="team:photos,ann@example.com", fresh_hours=48))
    for name in LINEAGE:
        spec = defs.resolve_assets_def(name).get_asset_spec(dg.AssetKey(name))
        assert list(spec.owners) == ["team:photos", "ann@example.com"]
        assert spec.description
        assert spec.kinds
        assert spec.freshness_policy is not None
    plain = definitions(bench.settings()).resolve_assets_def("labels").get_asset_spec(dg.AssetKey("labels"))
    assert list(plain.owners) == []
    assert (plain.freshness_policy, plain.automation_condition) == (None, None)


@pytest.mark.parametrize("owner", ["photos", "team:", "a b@c.de", "team:a b"])
def test_owners_that_dagster_would_refuse_are_named(owner: str) -> None:
    with pytest.raises(SettingsError, match="BG_ASSET_OWNERS"):
        settings(asset_owners=owner)


def test_with_automation_conditions_an_old_date_follows_its_photos_and_no_other_date_does(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    defs = definitions(bench.settings(automation_conditions=True))
    others = [dg.AssetKey(name) for name in LINEAGE if name != "raw_images"]
    before = dg.evaluate_automation_conditions(defs=defs, instance=instance)
    assert before.total_requested == 0
    bench.submit(1)
    materialize(bench, instance, [DATE], ["raw_images"])
    after = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=before.cursor)
    assert {key: after.get_requested_partitions(key) for key in others} == {
        key: {f"{DATE}"} for key in others
    }
    once = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=after.cursor)
    assert once.total_requested == 0


def test_the_whole_runs_of_the_sensor_cause_no_further_run_under_automation_conditions(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    defs = definitions(bench.settings(automation_conditions=True))
    before = dg.evaluate_automation_conditions(defs=defs, instance=instance)
    bench.submit(1)
    assert materialize(bench, instance, [DATE]).success
    after = dg.evaluate_automation_conditions(defs=defs, instance=instance, cursor=before.cursor)
    assert after.total_requested == 0


def test_a_preview_of_damaged_labels_shows_the_photo(bench: Bench, instance: dg.DagsterInstance) -> None:
    batch = bench.submit({"a.jpg": photo(1)})
    assert materialize(bench, instance, [DATE], ["labels"]).success
    for damaged in (b"{", b"[]", json.dumps({"Labels": [{"Instances": 1}]}).encode()):
        bench.put(batch.labels_key("a.jpg"), damaged)
        again = materialize(bench, instance, [DATE], ["labels"])
        assert again.success
        assert metadata(again, "labels")["preview"].count(PICTURE) == 1


def test_a_thumbnail_with_boxes_stays_small() -> None:
    small = thumbnail(photo(1, size=(3000, 2000)), 240)
    drawn = with_boxes(small, [(f"Label {number}", (0.01 * number, 0.1, 0.5, 0.5)) for number in range(20)])
    assert len(drawn) < 20_000
