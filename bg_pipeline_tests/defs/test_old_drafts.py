"""Drafts that nobody submits are deleted after the days that the operator has set, and nothing else is."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from bg_pipeline.definitions import definitions
from bg_pipeline.defs.sensors import old_drafts
from bg_pipeline.defs.sensors.old_drafts import draft_expiry
from bg_pipeline.domain.batches import Batch
from bg_pipeline.settings import settings
from bg_pipeline.state.audit import AuditLog
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.closing_drafts import Submission
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.dates


@pytest.fixture
def bench(s3: Any, bucket: str) -> Bench:
    return Bench(Store(s3, bucket))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def today() -> date:
    return datetime.now(UTC).date()


def draft(bench: Bench, name: str, day: date) -> Batch:
    batch = bench.submit({"a.jpg": photo(1)}, batch=name, day=day, requested=False)
    bench.put(batch.draft_key, b"{}")
    return batch


def tick(bench: Bench, instance: dg.DagsterInstance, *, in_days: float, days: int = 7) -> str:
    """The sentence of a tick so many days from now."""
    later = (datetime.now(UTC) + timedelta(in_days)).timestamp()
    sensor = draft_expiry(bench.settings(draft_days=days), clock=lambda: later)
    with dg.build_sensor_context(instance=instance, resources={"bucket": bench.store}) as context:
        return str(sensor.evaluate_tick(context).skip_message)


def test_a_draft_that_nobody_changed_for_the_days_is_deleted_with_a_line_in_the_audit_log(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    old = draft(bench, "old", today())
    submitted = bench.submit(1, batch="submitted", day=today())
    half = bench.submit(1, batch="half", day=today())
    bench.put(half.draft_key, b"{}")
    folder = bench.submit(1, batch="from-s3", day=today(), requested=False)
    before = set(bench.keys("image-files"))
    assert tick(bench, instance, in_days=6.9) == "0 drafts deleted that nobody changed for 7 days"
    assert set(bench.keys("image-files")) == before
    assert tick(bench, instance, in_days=7.1) == "1 draft deleted that nobody changed for 7 days"
    gone = before - set(bench.keys("image-files"))
    assert gone == {old.upload_key("a.jpg"), old.draft_key}
    assert {submitted.request_key, half.request_key, folder.upload_key("photo-0.jpg")} <= before - gone
    (line,) = AuditLog(bench.store).records(today() - timedelta(1), today() + timedelta(1))
    assert (line.act, line.via, line.name, line.batch) == ("Discard", "run", "BG_DRAFT_DAYS", old.path)


def test_a_draft_that_was_changed_meanwhile_stays(bench: Bench, instance: dg.DagsterInstance) -> None:
    """Its upload date is old, but somebody dropped another photo today."""
    batch = draft(bench, "old", today() - timedelta(7))
    assert tick(bench, instance, in_days=0).startswith("0 drafts")
    assert bench.store.head(batch.draft_key) is not None


def test_one_that_is_being_submitted_stays_and_the_others_go(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    busy, other = draft(bench, "busy", today()), draft(bench, "other", today())
    assert Submission(bench.store, busy).begin()
    assert tick(bench, instance, in_days=7.1).startswith("1 draft deleted")
    assert bench.store.head(busy.upload_key("a.jpg")) is not None
    assert bench.store.head(other.upload_key("a.jpg")) is None


def test_a_tick_that_was_missed_for_days_is_made_up_for(bench: Bench, instance: dg.DagsterInstance) -> None:
    batch = draft(bench, "old", today())
    assert tick(bench, instance, in_days=7 + old_drafts.DAYS_BACK - 1).startswith("1 draft")
    assert bench.store.head(batch.draft_key) is None


def test_a_tick_ends_in_time(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        draft(bench, f"old-{number}", today())
    monkeypatch.setattr(old_drafts, "TICK_SECONDS", -1.0)
    assert tick(bench, instance, in_days=7.1).startswith("0 drafts")


def test_an_error_of_s3_is_said(bench: Bench, instance: dg.DagsterInstance) -> None:
    gone = Store(bench.store.client, "no-such-bucket-anywhere")
    sensor = draft_expiry(bench.settings(draft_days=7))
    with dg.build_sensor_context(instance=instance, resources={"bucket": gone}) as context:
        assert "no-such-bucket-anywhere" in str(sensor.evaluate_tick(context).skip_message)


def test_without_the_setting_there_is_no_such_sensor() -> None:
    def names(days: int) -> set[str]:
        made = definitions(settings(bucket="photos", draft_days=days)).get_repository_def()
        return {sensor.name for sensor in made.sensor_defs}

    assert "draft_expiry" not in names(0)
    assert "draft_expiry" in names(30)
