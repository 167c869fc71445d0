"""The pipeline from Python, without Dagster."""

from pathlib import Path

import pytest

import bg_pipeline
from bg_pipeline.errors import RequestError, SettingsError, UsageError
from bg_pipeline.imaging.signing import Signing, manifest_of
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.certificates import certificate
from bg_pipeline_tests.pictures import photo


def test_photos_are_submitted_run_and_reported(bucket: str, control: ControlClient, tmp_path: Path) -> None:
    control.switch(canned=True)
    (tmp_path / "shoe.jpg").write_bytes(photo(1))
    shop = bg_pipeline.Pipeline(bucket=bucket, quota_titan_v2_rpm=6000)
    batch = shop.submit([tmp_path], Prompt="a beach", Ref="SKU 7")
    days = shop.run([batch.date])
    assert days[batch.date].counts == {"Succeeded": 1}
    (row,) = shop.report(batch)
    assert (row.ImageName, row.Status, row.Ref) == ("shoe.jpg", "Succeeded", "SKU 7")


def test_a_wrong_request_field_is_refused_before_anything_is_uploaded(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "shoe.jpg").write_bytes(photo(1))
    shop = bg_pipeline.Pipeline(bucket=bucket)
    with pytest.raises(RequestError, match="Mode"):
        shop.submit([tmp_path], Prompt="a beach", Mode="EXACT")
    assert list(shop.store.list("")) == []


def test_missing_settings_and_files_are_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="BG_BUCKET"):
        _ = bg_pipeline.Pipeline(bucket="").store
    with pytest.raises(UsageError, match=r"nothing\.jpg"):
        bg_pipeline.Pipeline(bucket=bucket).submit([tmp_path / "nothing.jpg"], Prompt="x")


def test_a_manifest_can_be_submitted_instead_of_photos(
    bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    (tmp_path / "a.jpg").write_bytes(photo())
    (tmp_path / "catalogue.csv").write_text("source,ref\na.jpg,SKU 7\n")
    shop = bg_pipeline.Pipeline(bucket=bucket, quota_titan_v2_rpm=6000)
    batch = shop.submit(manifest=tmp_path / "catalogue.csv", Prompt="a beach")
    shop.run([batch.date])
    assert [(row.ImageName, row.Ref, row.Status) for row in shop.report(batch)] == [
        ("a.jpg", "SKU 7", "Succeeded")
    ]
    with pytest.raises(RequestError, match="line 2, column prompt"):
        shop.submit(manifest=tmp_path / "catalogue.csv")


def test_a_report_is_read_from_the_requested_prefix_and_belongs_to_the_current_request(
    bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    (tmp_path / "shoe.jpg").write_bytes(photo(1))
    shop = bg_pipeline.Pipeline(bucket=bucket, quota_titan_v2_rpm=6000)
    batch = shop.submit([tmp_path], Id="a", Prompt="a beach", StatusS3Prefix="status-report-files/spring")
    shop.run([batch.date])
    assert [row.Id for row in shop.report(batch)] == ["a"]
    shop.store.write_json(batch.request_key, {"Id": "b", "Prompt": "a street"})
    with pytest.raises(UsageError, match="no report yet"):
        shop.report(batch)
    shop.run([batch.date])
    assert [row.Id for row in shop.report(batch)] == ["b"]


def test_a_sample_can_be_approved_and_failed_images_retried(
    bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    for name, data in {"a.jpg": b"no photo", "b.jpg": photo(1), "c.jpg": photo(2)}.items():
        (tmp_path / name).write_bytes(data)
    shop = bg_pipeline.Pipeline(bucket=bucket, quota_titan_v2_rpm=6000)
    batch = shop.submit([tmp_path], Prompt="a beach", Sample=2)
    shop.run([batch.date])
    shop.approve_sample(batch, by="ann")
    assert shop.run([batch.date])[batch.date].counts == {"Failed": 1, "Succeeded": 2}
    again = shop.retry(batch)
    assert again is not None
    shop.store.write(batch.upload_key("a.jpg"), photo(3), media_type="image/jpeg")
    shop.run([again.date])
    assert [(row.ImageName, row.Status) for row in shop.report(again)] == [("a.jpg", "Succeeded")]
    assert shop.retry(again) is None


def test_with_a_bad_certificate_nothing_is_paid_and_with_a_good_one_results_are_signed(
    bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    (tmp_path / "shoe.jpg").write_bytes(photo(1))
    old, good = certificate(tmp_path / "old", days=-1), certificate(tmp_path / "good")

    def shop(signing: Signing) -> bg_pipeline.Pipeline:
        return bg_pipeline.Pipeline(
            bucket=bucket,
            quota_titan_v2_rpm=6000,
            c2pa_certificate=signing.certificate,
            c2pa_key=signing.key,
        )

    batch = shop(old).submit([tmp_path / "shoe.jpg"], Prompt="a beach")
    with pytest.raises(SettingsError, match="expired on"):
        shop(old).run([batch.date])
    assert not [each for each in shop(old).store.list("pipeline-state/") if "calls" in each.key]
    shop(good).run([batch.date])
    (row,) = shop(good).report(batch)
    assert row.Status == "Succeeded"
    stored = shop(good).store.read(row.Results[0])
    assert stored is not None
    manifest = manifest_of(stored.data, "jpeg")
    assert manifest["validation_state"] == "Valid"
    shop(good).run([batch.date])
    assert shop(good).store.read(row.Results[0]).data == stored.data
