"""The pipeline from Python, without Dagster."""

import asyncio
import os
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

import bg_pipeline
from bg_pipeline.acts import RESULTS_PER_LINE, Acts
from bg_pipeline.domain.people import local_person
from bg_pipeline.errors import RequestError, SettingsError, UsageError
from bg_pipeline.imaging.signing import Signing, manifest_of
from bg_pipeline.review import State, this_user
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.state.audit import AuditLog
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


def test_a_batch_is_planned_followed_reviewed_published_and_brought_home(
    bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(photo(number))
    shop = bg_pipeline.Pipeline(bucket=bucket, quota_titan_v2_rpm=6000, review_share=1.0)
    uploaded: list[str] = []
    batch = shop.submit([tmp_path / "photos"], name="spring", progress=uploaded.append, Prompt="a beach")
    assert batch.name == "spring"
    assert sorted(uploaded) == ["0.jpg", "1.jpg"]
    with pytest.raises(UsageError, match="choose another name"):
        shop.submit([tmp_path / "photos"], name="spring", Prompt="a beach")
    plan = shop.plan([batch.date])
    assert (plan.due, plan.notes) == (2, [])
    assert plan.worst_usd is not None
    assert plan.worst_usd > 0
    assert control.paid() == []
    assert shop.status(batch).State == "Waiting"
    shop.run([batch.date], only=[batch])
    assert shop.status(batch).Counts == {"Succeeded": 2}
    assert [each.Batch for each in shop.batches(batch.date - timedelta(9), batch.date)] == [batch.path]
    assert [item.state for item in shop.review(batch)] == ["waiting", "waiting"]
    shop.approve(batch, ["0.jpg"], by="ann")
    shop.reject(batch, ["1.jpg"], by="ann", reason="too dark")
    with pytest.raises(UsageError, match=r"nothing\.jpg"):
        shop.approve(batch, ["0.jpg", "nothing.jpg"], by="ann")
    assert shop.publish(batch).copied == 1
    assert [image.ImageName for image in shop.captions([batch.date])] == ["0.jpg", "1.jpg"]
    files = shop.download(batch, tmp_path / "home", approved=True)
    assert [(file.image, file.complete) for file in files] == [("0.jpg", True)]
    assert shop.redo(batch, ["1.jpg"], by="ann", prompt="a street") != batch


@pytest.mark.parametrize("name", ["a/b", "..", "", " x"])
def test_names_that_lead_elsewhere_are_refused(bucket: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1))
    shop = bg_pipeline.Pipeline(bucket=bucket)
    if name:
        with pytest.raises(UsageError, match="cannot be a batch's name"):
            shop.submit([tmp_path / "a.jpg"], name=name, Prompt="x")
    assert list(shop.store.list("")) == []


def test_the_same_is_there_for_asyncio(bucket: str, control: ControlClient, tmp_path: Path) -> None:
    control.switch(canned=True)
    (tmp_path / "a.jpg").write_bytes(photo(1))
    threads: set[int] = set()

    async def work() -> None:
        shop = bg_pipeline.AsyncPipeline(bucket=bucket, quota_titan_v2_rpm=6000)
        batch = await shop.submit(
            [tmp_path / "a.jpg"], progress=lambda name: threads.add(threading.get_ident()), Prompt="a beach"
        )
        days = await shop.run([batch.date], progress=lambda progress: threads.add(threading.get_ident()))
        assert days[batch.date].counts == {"Succeeded": 1}
        assert (await shop.status(batch)).State == "Reported"
        (file,) = await shop.download(batch, tmp_path / "home")
        assert file.complete
        with pytest.raises(UsageError, match="no batch"):
            await shop.status(type(batch)(batch.date, "nothing"))

    asyncio.run(work())
    assert threads == {threading.get_ident()}, "callbacks come in the event loop"


def test_every_method_of_the_pipeline_is_there_for_asyncio() -> None:
    methods = {name for name in vars(bg_pipeline.Pipeline) if not name.startswith("_")}
    assert methods - vars(bg_pipeline.AsyncPipeline).keys() == {"store"}


def test_a_cancelled_run_makes_no_further_call_and_waits_for_those_under_way(
    bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    control.latency({"operation": "InvokeModel", "seconds": 0.5})
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(photo(number))

    async def work() -> None:
        shop = bg_pipeline.AsyncPipeline(bucket=bucket, quota_titan_v2_rpm=60_000, max_concurrency=2)
        batch = await shop.submit([tmp_path], Prompt="a beach")
        running = asyncio.ensure_future(shop.run([batch.date]))
        while len(control.paid(operation="InvokeModel")) < 2:
            await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        paid = len(control.paid(operation="InvokeModel"))
        assert paid < 12
        made = [row for row in await shop.report(batch) if row.CostUSD]
        await asyncio.sleep(1)
        assert len(control.paid(operation="InvokeModel")) == paid
        assert len([row for row in made if row.Results]) >= 1
        await shop.run([batch.date])
        assert len(control.paid(operation="InvokeModel")) == 12

    asyncio.run(work())


@pytest.mark.slow
def test_without_an_account_the_stand_in_is_used_while_a_block_lasts(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1))
    before = dict(os.environ)
    with bg_pipeline.Pipeline.local(tmp_path / "state") as shop:
        assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1")
        batch = shop.submit([tmp_path / "a.jpg"], Prompt="a beach")
        shop.run([batch.date])
        assert shop.status(batch).Counts == {"Succeeded": 1}
    assert dict(os.environ) == before

    async def again() -> None:
        async with bg_pipeline.AsyncPipeline.local(tmp_path / "state") as shop:
            assert (await shop.status(batch)).Counts == {"Succeeded": 1}, "its state is kept"

    asyncio.run(again())
    assert dict(os.environ) == before


def test_what_is_done_from_python_has_audit_lines_with_the_persons_name(
    bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(photo(number))
    shop = bg_pipeline.Pipeline(bucket=bucket, quota_titan_v2_rpm=6000, review_share=1.0)
    batch = shop.submit([tmp_path], Prompt="a beach", name="spring")
    with pytest.raises(UsageError, match="there is a batch"):
        shop.submit([tmp_path], Prompt="a beach", name="spring")
    shop.run([batch.date])
    (approved,) = shop.approve(batch, ["0.jpg"], by="ann", reason="good")
    assert approved.by == "ann"
    shop.reject(batch, ["1.jpg"], by="bob")
    assert shop.publish(batch, by="eve").copied == 1
    shop.redo(batch, ["1.jpg"], by="dan", prompt="a street")
    for act in (shop.approve, shop.reject, shop.redo):
        with pytest.raises(UsageError, match="name the person"):
            act(batch, ["0.jpg"], by=" ")
    days = (batch.date - timedelta(1), batch.date + timedelta(1))
    lines = sorted(AuditLog(shop.store).records(*days), key=lambda line: line.at)
    assert [(line.act, line.name, line.outcome) for line in lines if line.via == "local"] == [
        ("Submit", this_user(), "Done"),
        ("Decide", "ann", "Done"),
        ("Decide", "bob", "Done"),
        ("Publish", "eve", "Done"),
        ("Redo", "dan", "Done"),
    ]


def test_of_many_decisions_with_an_impossible_one_none_is_stored(
    bucket: str, control: ControlClient, tmp_path: Path
) -> None:
    control.switch(canned=True)
    (tmp_path / "0.jpg").write_bytes(photo(0))
    shop = bg_pipeline.Pipeline(bucket=bucket, quota_titan_v2_rpm=6000)
    batch = shop.submit([tmp_path], Prompt="a beach")
    shop.run([batch.date])
    (item,) = shop.review(batch)
    acts, work = Acts(shop.settings, shop.store), open_batch(shop.store, shop.settings, batch)
    many = [item] * RESULTS_PER_LINE + [replace(item, key="", etag="")]
    for decide in (acts.decide, acts.decide_as_seen):
        with pytest.raises(UsageError, match="has no result"):
            decide(local_person("ann"), work, many, State.REJECTED)
    assert list(shop.store.list("reviews/")) == []
