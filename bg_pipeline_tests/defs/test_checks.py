"""The asset checks: what passes, what does not, and what a person is told to do about it."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from bg_pipeline.definitions import definitions
from bg_pipeline.defs.checks import every_upload_has_a_report
from bg_pipeline.defs.partitions import upload_dates
from bg_pipeline.defs.sensors.missing_reports import forgotten_uploads
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.rows import Row, Status, complete_row
from bg_pipeline.domain.s3_keys import spend_key
from bg_pipeline.domain.text import listed
from bg_pipeline.imaging.fidelity import MAX_SUBJECT_CHANGED
from bg_pipeline.quality import checks
from bg_pipeline.quality.checks import RunOutcome
from bg_pipeline.quality.missing_reports import (
    UnreportedUploads,
    find_unreported_uploads,
    unreported,
)
from bg_pipeline.reports.report import JsonWriter
from bg_pipeline.run.date_result import DateResult, Progress, ResultChecks
from bg_pipeline.settings import settings
from bg_pipeline.state.leases import Leases
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.clocks import stop_clock
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.dates

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
NOON = datetime(2130, 11, 25, 12, tzinfo=UTC)
"""A time later than any at which these tests run: what they upload is long settled, and older than any limit."""
TODAY = NOON.date()


@pytest.fixture
def bench(s3, bucket, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


class Checked:
    """A run of a job over a date, and its checks by name."""

    def __init__(
        self,
        bench: Bench,
        instance: dg.DagsterInstance,
        job: str = "whole_date",
        day: date = DATE,
        **overrides: Any,
    ) -> None:
        repository = definitions(bench.settings(**overrides)).get_repository_def()
        self.result = repository.get_job(job).execute_in_process(
            partition_key=day.isoformat(), instance=instance, raise_on_error=False
        )
        self.checks = {check.check_name: check for check in self.result.get_asset_check_evaluations()}

    def words(self, name: str) -> str:
        return self.checks[name].description or ""


def failed(checked: Checked) -> set[str]:
    return {name for name, check in checked.checks.items() if not check.passed}


# A run's own checks


def test_after_a_good_run_every_check_passes_and_names_the_date(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit(2)
    checked = Checked(bench, instance)
    assert checked.result.success
    assert failed(checked) == set()
    assert set(checked.checks) == {
        *("every_image_succeeded", "subject_unchanged", "results_open", "within_cost", "models_live_on"),
        *("report_complete", "every_upload_has_a_report"),
    }
    for name in checked.checks.keys() - {"every_upload_has_a_report"}:
        assert DATE.isoformat() in checked.words(name), name
    assert checked.checks["subject_unchanged"].metadata["measured"].value == 2
    assert checked.checks["results_open"].metadata["results"].value == 2
    run_usd: Any = checked.checks["within_cost"].metadata["run_usd"].value
    assert run_usd > 0


def test_images_without_success_are_a_warning_that_says_what_to_do(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit({"bad.jpg": b"<html>", "good.jpg": photo(1)})
    checked = Checked(bench, instance)
    assert checked.result.success
    assert failed(checked) == {"every_image_succeeded"}
    assert checked.checks["every_image_succeeded"].severity == WARN
    words = checked.words("every_image_succeeded")
    assert words.startswith(f"Without a picture that passed: 1 of 2 images, on {DATE} (1). See the table")


def test_a_date_where_nothing_worked_is_checked_as_well(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.submit({"bad.jpg": b"<html>"})
    checked = Checked(bench, instance)
    assert not checked.result.success
    assert failed(checked) == {"every_image_succeeded"}
    assert checked.checks["report_complete"].passed


def test_a_report_that_lacks_an_image_fails_the_run_and_keeps_the_date(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(3)
    whole = JsonWriter.write

    def all_but_the_first(writer: JsonWriter, row: Row) -> None:
        if row.ImageName != "photo-0.jpg":
            whole(writer, row)

    monkeypatch.setattr(JsonWriter, "write", all_but_the_first)
    checked = Checked(bench, instance)
    assert not checked.result.success
    assert failed(checked) == {"report_complete"}
    assert checked.checks["report_complete"].severity == ERROR
    assert f"photo-0.jpg of {DATE}" in checked.words("report_complete")
    found = instance.get_status_by_partition(
        dg.AssetKey("status_report"), [DATE.isoformat()], upload_dates(bench.settings())
    )
    assert [state.value for state in (found or {}).values() if state] == ["MATERIALIZED"]


def test_a_result_that_somebody_deletes_during_the_run_is_an_error(bench: Bench) -> None:
    batch = bench.submit(2)
    gone = f"{batch.output_prefix}/photo-1.jpg"

    class Deleting(Store):
        def in_bucket(self, bucket: str) -> Store:
            return self

        def write(self, key: str, data: Any, **conditions: Any) -> str:
            if s3_keys.is_report(key):  # the results were stored and read back before it
                self.delete(gone)
            return super().write(key, data, **conditions)

    bench.store = Deleting(bench.store.client, bench.store.bucket)
    judged = checks.results_open(ran(bench, bench.run()))
    assert not judged.passed
    assert f"{gone} ({DATE})" in judged.description
    assert judged.figures == {"results": 2, "lost": 1}


def test_only_the_checks_of_what_was_asked_for_are_made(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.submit(1)
    assert set(Checked(bench, instance, "labels_only").checks) == set()
    Checked(bench, instance)
    assert set(Checked(bench, instance, "report_only").checks) == {
        "report_complete",
        "every_upload_has_a_report",
    }


def test_a_cap_that_stopped_the_run_is_a_warning_with_the_cap(
    bench: Bench, instance: dg.DagsterInstance
) -> None:
    bench.submit(4)
    checked = Checked(bench, instance, max_cost_usd=0.03, max_concurrency=1)
    assert "within_cost" in failed(checked)
    words = checked.words("within_cost")
    assert "of 0.03 (BG_MAX_COST_USD)" in words
    assert f"Images were skipped because of a cap on {DATE}" in words


def test_a_check_that_cannot_be_made_is_told_and_costs_the_run_nothing(
    bench: Bench, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.submit(1)
    Checked(bench, instance)
    stop_clock(monkeypatch, NOON, checks)
    bench.put(spend_key(TODAY), b"this is no record of spending")
    checked = Checked(bench, instance)
    assert checked.result.success
    assert failed(checked) == {"within_cost"}
    assert checked.words("within_cost").startswith(f"This could not be checked for {DATE}: ")


# Judgments


def ran(bench: Bench, *days: DateResult, spent: float = 0.0, **overrides: Any) -> RunOutcome:
    progress = Progress(done=1, found=1, failed=0, seconds=1.0, cost_usd=spent, refused=0)
    chosen = bench.settings(**overrides)
    return RunOutcome(chosen, aws(*chosen.regions), bench.store, days, progress)


def test_a_subject_that_changed_is_named_with_how_much(bench: Bench) -> None:
    inspection = ResultChecks()
    for image, changed in (("a.jpg", 0.0), ("dog.jpg", 3 * MAX_SUBJECT_CHANGED), ("b.jpg", None)):
        row = complete_row(Row(Id="1", ImageName=image, Status=Status.SUCCEEDED))
        inspection.add(row, Entry(image, outputs=[{"Number": 1, "SubjectChanged": changed}]))
    judged = checks.subject_unchanged(ran(bench, DateResult(DATE, checks=inspection)))
    assert not judged.passed
    assert f"dog.jpg of {DATE} (3.0%)" in judged.description
    assert judged.figures == {"measured": 2, "most_changed": 0.03}


def test_spending_near_a_cap_is_told_before_the_cap_is_reached(bench: Bench) -> None:
    assert checks.within_cost(ran(bench, DateResult(DATE), spent=7.9, max_cost_usd=10.0)).passed
    judged = checks.within_cost(ran(bench, DateResult(DATE), spent=8.1, max_cost_usd=10.0))
    assert not judged.passed
    assert "this run: 8.10 USD of 10.00 (BG_MAX_COST_USD), 81%" in judged.description
    assert "Raise BG_MAX_COST_USD before" in judged.description


def test_a_model_near_its_end_is_a_warning_with_its_successors(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, NOON, checks)
    end = TODAY + timedelta(days=45)
    control.model("amazon.titan-image-generator-v2:0", lifecycle="LEGACY", end_of_life=end.isoformat())
    judged = checks.models_live_on(ran(bench, DateResult(DATE)))
    assert not judged.passed
    assert (
        f"titan-v2 (amazon.titan-image-generator-v2:0) in us-east-1 ends on {end}, in 45"
        in judged.description
    )
    assert "next in BG_IMAGE_MODELS: nova-canvas, stability" in judged.description
    assert judged.figures == {"days_left": 45}
    alone = checks.models_live_on(ran(bench, DateResult(DATE), image_models="titan-v2"))
    assert "name its successor in BG_IMAGE_MODELS" in alone.description


def test_a_model_that_ends_later_or_is_not_in_use_is_no_warning(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, NOON, checks)
    end = TODAY + timedelta(days=100)
    control.model("amazon.titan-image-generator-v2:0", lifecycle="LEGACY", end_of_life=end.isoformat())
    control.model("amazon.nova-canvas-v1:0", lifecycle="RETIRED", end_of_life="2026-09-30")
    judged = checks.models_live_on(ran(bench, DateResult(DATE)))
    assert judged.passed
    assert judged.figures == {"days_left": 100}


def test_a_model_that_gets_dearer_is_a_warning(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, NOON, checks)
    end, dearer = TODAY + timedelta(days=200), TODAY + timedelta(days=20)
    control.model(
        "amazon.titan-image-generator-v2:0",
        lifecycle="LEGACY",
        legacy_since="2026-06-01",
        extended_access=dearer.isoformat(),
        end_of_life=end.isoformat(),
    )
    judged = checks.models_live_on(ran(bench, DateResult(DATE)))
    assert not judged.passed
    assert f"at a higher price than the table's, from {dearer}" in judged.description
    assert "legacy since 2026-06-01" in judged.description


def test_no_model_that_can_be_used_is_told(bench: Bench, control: ControlClient) -> None:
    control.model("amazon.titan-image-generator-v2:0", lifecycle="RETIRED")
    control.model("amazon.nova-pro-v1:0", lifecycle="RETIRED")
    judged = checks.models_live_on(
        ran(bench, DateResult(DATE), image_models="titan-v2", caption_models="us.amazon.nova-pro-v1:0")
    )
    assert not judged.passed
    assert "`bg-pipeline doctor` shows the reasons" in judged.description


def test_a_scene_model_alone_is_not_enough_and_its_end_is_a_warning(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_clock(monkeypatch, NOON, checks)
    end = TODAY + timedelta(days=10)
    control.model("stability.stable-image-ultra-v1:1", lifecycle="LEGACY", end_of_life=end.isoformat())
    west: dict[str, Any] = {"regions": "us-west-2", "image_models": "titan-v2"}
    judged = checks.models_live_on(ran(bench, DateResult(DATE), **west))
    assert "stable-image-ultra (stability.stable-image-ultra-v1:1) in us-west-2 ends on" in judged.description
    assert "next in BG_SCENE_MODELS: stable-image-core" in judged.description
    control.model("amazon.titan-image-generator-v2:0", lifecycle="RETIRED")
    judged = checks.models_live_on(ran(bench, DateResult(DATE), **west, caption_models=""))
    assert "No configured model can be used" in judged.description


def test_many_names_are_counted() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([f"{n}" for n in range(8)]) == "0, 1, 2, 3, 4 and 3 more"


# Uploads without a report


def waiting(bench: Bench, *, day: date = DATE) -> list[str]:
    found = unreported(bench.store, bench.settings(), day, before=NOON)
    return [each.batch.name for each in found]


def test_an_upload_waits_until_its_report_is_written(bench: Bench) -> None:
    bench.submit(1, batch="1")
    bench.submit(1, batch="2", requested=False)
    assert waiting(bench) == ["1", "2"]
    bench.run()
    assert waiting(bench) == []


def test_a_folder_that_is_still_prepared_is_not_waiting(bench: Bench) -> None:
    batch = Batch(DATE, "draft")
    bench.put(batch.upload_key("a.jpg"), photo(1))
    bench.put(batch.upload_key("draft.json"), b"{}")
    bench.put(Batch(DATE, "empty").upload_key("notes.json"), b"{}")
    assert waiting(bench) == []


def test_a_photo_that_came_after_the_report_waits_again(bench: Bench) -> None:
    batch = bench.submit(1, requested=False)
    bench.run()
    bench.put(batch.upload_key("late.jpg"), photo(7))
    assert waiting(bench) == [batch.name]
    bench.run()
    assert waiting(bench) == []


def test_a_changed_request_waits_again_and_what_nobody_asked_for_does_not(bench: Bench) -> None:
    batch = bench.submit(1, Images=[{"ImageName": "photo-0.jpg"}])
    bench.run()
    bench.put(batch.upload_key("nobody-asked.jpg"), photo(7))
    assert waiting(bench) == []
    bench.submit(0, Prompt="a forest", Images=[{"ImageName": "photo-0.jpg"}])
    assert waiting(bench) == [batch.name]


def test_a_report_in_a_place_of_the_requests_own_is_found(bench: Bench) -> None:
    bench.submit(1, StatusS3Prefix="status-report-files/mine")
    assert waiting(bench) == ["101530"]
    bench.run()
    assert waiting(bench) == []


def test_images_that_failed_or_were_skipped_are_in_the_report(bench: Bench) -> None:
    bench.submit({"bad.jpg": b"<html>", "good.jpg": photo(1)}, batch="1")
    bench.submit(1, batch="2", requested=False)
    bench.run(default_prompt="")
    assert waiting(bench) == []


def test_uploads_younger_than_the_limit_and_days_without_uploads_are_green(bench: Bench) -> None:
    settings = bench.settings()
    batch = bench.submit(1, day=datetime.now(UTC).date())
    (request,) = bench.store.list(batch.request_key)
    limit = timedelta(hours=settings.stale_hours)
    assert find_unreported_uploads(
        bench.store, settings, request.modified + limit + timedelta(minutes=1)
    ).batches
    judged = checks.uploads_without_report(
        settings, find_unreported_uploads(bench.store, settings, request.modified + limit)
    )
    assert judged.passed
    assert "older than 24 hours has its report" in judged.description


def test_a_forgotten_upload_is_named_with_its_date_and_what_makes_up_for_it(bench: Bench) -> None:
    batch = bench.submit(1, day=TODAY)
    judged = checks.uploads_without_report(
        bench.settings(), find_unreported_uploads(bench.store, bench.settings(), NOON)
    )
    assert not judged.passed
    assert batch.path in judged.description
    assert f"`bg-pipeline run --date {TODAY}`" in judged.description
    assert judged.figures == {"without_report": 1, "being_worked_on": 0}


def test_uploads_before_the_look_back_are_left_alone(bench: Bench) -> None:
    bench.submit(1, day=TODAY - timedelta(days=40))
    assert find_unreported_uploads(bench.store, bench.settings(), NOON).batches == []
    assert len(find_unreported_uploads(bench.store, bench.settings(lookback_days=60), NOON).batches) == 1


def test_a_batch_in_a_runs_hands_is_not_forgotten(bench: Bench) -> None:
    batch = bench.submit(1, day=TODAY)
    with Leases(bench.store, "run-1") as leases:
        assert leases.acquire(batch.lease_key) is not None
        looked = find_unreported_uploads(bench.store, bench.settings(), NOON)
    assert [each.run for each in looked.batches] == ["run-1"]
    judged = checks.uploads_without_report(bench.settings(), looked)
    assert judged.passed
    assert judged.figures == {"without_report": 0, "being_worked_on": 1}


def test_a_look_back_without_time_says_how_far_it_came(bench: Bench) -> None:
    for back in (0, 1, 2):
        bench.submit(1, day=TODAY - timedelta(days=back))
    answers = iter([False, True])
    looked = find_unreported_uploads(bench.store, bench.settings(), NOON, time_is_up=lambda: next(answers))
    assert [each.batch.date for each in looked.batches] == [TODAY]
    words = checks.uploads_without_report(bench.settings(), looked).description
    assert words.startswith("1 batch, complete")
    assert looked.reached == TODAY
    passed = checks.uploads_without_report(bench.settings(), UnreportedUploads(looked.first, looked.reached))
    assert f"since {TODAY} (there was no time to look back to {looked.first})" in passed.description


@pytest.mark.parametrize(
    ("today", "months"),
    [
        (date(2130, 11, 25), 1),
        (date(2130, 11, 30), 2),  # tomorrow is looked at as well
        (date(2130, 12, 31), 2),
        (date(2131, 1, 1), 2),
        (date(2131, 2, 28), 2),
        (date(2132, 2, 28), 1),
        (date(2132, 2, 29), 2),
    ],
)
def test_an_idle_look_back_is_one_call_for_each_month_and_two_for_each_date_with_uploads(
    bench: Bench, today: date, months: int
) -> None:
    for back in (0, 1):
        bench.submit(1, day=today - timedelta(days=back))
    bench.run(today - timedelta(days=1), today)
    calls: list[str] = []
    bench.store.client.meta.events.register(
        "before-call.s3", lambda model, **_: calls.append(model.name), unique_id="counted"
    )
    try:
        store = Store(bench.store.client, bench.store.bucket, use_obstore=False)
        now = datetime(today.year, today.month, today.day, 23, 59, tzinfo=UTC)
        find_unreported_uploads(store, bench.settings(lookback_days=20), now)
    finally:
        bench.store.client.meta.events.unregister("before-call.s3", unique_id="counted")
    assert calls == ["ListObjectsV2"] * (months + 2 * 2)


def test_an_error_of_s3_fails_the_check_with_a_sentence(bench: Bench, instance: dg.DagsterInstance) -> None:
    gone = Store(bench.store.client, "no-such-bucket-anywhere")
    check = every_upload_has_a_report(bench.settings(), dg.AssetKey("status_report"))
    job = dg.define_asset_job("checks", dg.AssetSelection.checks(check))
    made = dg.Definitions(asset_checks=[check], jobs=[job], resources={"bucket": gone})
    result = made.resolve_job_def("checks").execute_in_process(instance=instance)
    assert result.success
    (evaluation,) = result.get_asset_check_evaluations()
    assert not evaluation.passed
    assert "could not be checked: there is no bucket 'no-such-bucket-anywhere'" in str(evaluation.description)


def test_the_sensor_makes_the_check_without_a_run(bench: Bench, instance: dg.DagsterInstance) -> None:
    bench.submit(1, day=TODAY)
    report = dg.AssetKey("status_report")
    sensor = forgotten_uploads(bench.settings(), report, clock=NOON.timestamp)
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING

    def tick() -> Any:
        with dg.build_sensor_context(instance=instance, resources={"bucket": bench.store}) as context:
            data = sensor.evaluate_tick(context)
        (evaluation,) = data.asset_events
        instance.report_runless_asset_event(evaluation)
        return evaluation

    found = tick()
    assert (found.asset_key, found.check_name) == (report, "every_upload_has_a_report")
    assert (found.passed, found.severity) == (False, WARN)
    bench.run(TODAY)
    assert tick().passed


def test_without_a_bucket_the_sensor_says_so(instance: dg.DagsterInstance) -> None:
    definition = definitions(settings(bucket="")).get_repository_def()
    with dg.build_sensor_context(instance=instance, repository_def=definition) as context:
        data = definition.get_sensor_def("forgotten_uploads").evaluate_tick(context)
    assert "BG_BUCKET is not set" in str(data.skip_message)
