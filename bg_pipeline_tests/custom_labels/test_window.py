"""The window of a Custom Labels model: its start, the waiting photos, and its stop in every case."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from bg_pipeline.budget.limits import CapReached
from bg_pipeline.custom_labels import orphaned_models as guard_module
from bg_pipeline.custom_labels import waiting_dates, window, window_run
from bg_pipeline.custom_labels.model import NotStarted
from bg_pipeline.custom_labels.orphaned_models import OrphanedModelCheck, stop_orphaned_models
from bg_pipeline.definitions import definitions
from bg_pipeline.defs.assets.custom_labels_window import custom_labels_window
from bg_pipeline.defs.dagster_home import prepare
from bg_pipeline.defs.sensors.custom_labels import custom_labels_guard
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.rows import Status
from bg_pipeline.errors import ModelUnavailable, PreconditionFailed
from bg_pipeline.run.date_result import Progress
from bg_pipeline.state import model_stopped
from bg_pipeline.state.leases import Leases, holder_of
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo

pytestmark = pytest.mark.dates

MODEL = "arn:aws:rekognition:us-east-1:000000000000:project/shop/version/mugs.1/1700000000001"
OTHER = MODEL.replace("mugs.1", "mugs.2")
PROJECT = "arn:aws:rekognition:us-east-1:000000000000:project/shop/1735689600000"
TODAY = datetime.now(UTC).date()
"""The date of these tests' uploads; the look-back also covers it if midnight passes during a test."""


class Shop(Bench):
    """A bench with a Custom Labels model, and window runs over it."""

    def settings(self, **overrides: Any) -> Any:
        mine = {"custom_labels_arn": MODEL, "custom_labels_start_minutes": 0.2, "lookback_days": 3}
        return super().settings(**{**mine, **overrides})

    def window(
        self,
        run_id: str = "window",
        *,
        given_up: bool = False,
        tell: Callable[[], None] = lambda: None,
        **overrides: Any,
    ) -> window_run.WindowOutcome:
        def progress(_: Progress) -> None:
            tell()

        return window_run.run(
            self.settings(**overrides),
            aws(),
            self.store,
            run_id=run_id,
            given_up=given_up,
            progress=progress,
            note=self.notes.append,
        )

    def guard(self, seen: Any = None, **more: Any) -> OrphanedModelCheck:
        return OrphanedModelCheck(self.store, aws(), seen or {}, **more)

    def reports(self) -> list[dict[str, Any]]:
        return [self.store.read_json(key) for key in self.keys(f"{s3_keys.WINDOWS}/reports/")]

    def spent(self) -> dict[str, Any]:
        """The sum of all days' spending documents, because midnight may pass during a test."""
        days = [self.store.read_json(key) for key in self.keys(f"{s3_keys.STATE}/spend/days/")]
        assert days
        return {
            "ClaimedMicroUsd": {run: usd for day in days for run, usd in day["ClaimedMicroUsd"].items()},
            "SettledMicroUsd": sum(day["SettledMicroUsd"] for day in days),
        }

    def starts(self) -> list[str]:
        return [key for key in self.keys(f"{s3_keys.WINDOWS}/models/") if key.endswith("/start.json")]


@pytest.fixture
def shop(s3, bucket, control: ControlClient, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setattr(window, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(window, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(window, "CLOSE_SECONDS", 5.0)
    control.switch(canned=True)
    control.custom_model(MODEL, start_seconds=0.2, stop_seconds=0.1, labels=["Mug"])
    return Shop(Store(s3, bucket))


@pytest.fixture
def state(rekognition) -> Callable[..., str]:
    def look(version: str = "mugs.1") -> str:
        found = rekognition.describe_project_versions(ProjectArn=PROJECT, VersionNames=[version])
        return found["ProjectVersionDescriptions"][0]["Status"]

    return look


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    patience = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < patience
        time.sleep(0.02)


def operations(control: ControlClient, *names: str) -> list[str]:
    return [call["operation"] for call in control.calls() if not names or call["operation"] in names]


# Without a window


def test_a_photo_waits_for_a_stopped_model_and_its_row_says_so(shop: Shop, control: ControlClient) -> None:
    batch = shop.submit(2, day=TODAY)
    day = shop.run(TODAY)
    assert day.counts == {Status.SKIPPED: 2}
    for row in shop.rows(batch).values():
        assert row.Error == model_stopped.WAITS_FOR_WINDOW
        assert "custom_labels_window" in row.Cause
        assert row.Caption
    assert shop.keys("image-labels/") == []
    assert [mark.date for mark in waiting_dates.date_markers(shop.store)] == [TODAY]
    assert "DetectLabels" not in operations(control)


def test_a_stopped_model_is_not_called_for_every_photo(shop: Shop, control: ControlClient) -> None:
    shop.submit(30, day=TODAY)
    shop.run(TODAY, stages=("labels",), max_concurrency=2)
    assert len(operations(control, "DetectCustomLabels")) <= 2


def test_a_photo_that_needs_no_labels_does_not_wait(shop: Shop) -> None:
    shop.submit(1, day=TODAY, Subject="SALIENT")
    assert shop.run(TODAY).counts == {Status.SUCCEEDED: 1}


def test_a_model_that_is_switched_on_labels_no_finished_photo_again_whose_pictures_use_no_labels(
    shop: Shop, control: ControlClient
) -> None:
    shop.submit(1, day=TODAY, batch="salient", Subject="SALIENT")
    named = [{"ImageName": "photo-0.jpg", "Labels": "Mug"}]
    shop.submit(1, day=TODAY, batch="named", Images=named)
    shop.run(TODAY, custom_labels_arn="")
    control.mark()
    assert window_run.find_labels_due(shop.store, shop.settings()).empty_reason
    assert shop.run(TODAY).counts == {Status.SUCCEEDED: 2}
    assert "DetectCustomLabels" not in operations(control)
    # The rest by request.
    shop.run(TODAY, again=("labels",))
    assert "DetectCustomLabels" in operations(control)


def test_an_undecodable_file_does_not_wait_for_the_model(shop: Shop) -> None:
    batch = shop.submit({"bad.jpg": b"<html>"}, day=TODAY)
    shop.run(TODAY)
    assert shop.rows(batch)["bad.jpg"].Status == Status.FAILED
    assert window_run.find_labels_due(shop.store, shop.settings()).empty_reason


def test_a_run_uses_a_model_started_by_somebody_else_and_leaves_it_on(
    shop: Shop, control: ControlClient, rekognition, state
) -> None:
    rekognition.start_project_version(ProjectVersionArn=MODEL, MinInferenceUnits=1)
    until(lambda: state() == "RUNNING")
    batch = shop.submit(1, day=TODAY)
    assert shop.run(TODAY).counts == {Status.SUCCEEDED: 1}
    labels = shop.store.read_json(batch.labels_key("photo-0.jpg"))
    assert labels["Model"] == f"rekognition:DetectCustomLabels {MODEL}"
    assert [label["Name"] for label in labels["Labels"]] == ["Mug"]
    assert state() == "RUNNING"


# A window


def test_a_window_labels_waiting_photos_stops_the_model_and_then_finishes_the_dates(
    shop: Shop, control: ControlClient, state
) -> None:
    yesterday = TODAY - timedelta(days=1)
    batch = shop.submit(2, day=TODAY)
    shop.submit({"other.jpg": photo(7)}, day=yesterday)
    shop.run(TODAY)
    outcome = shop.window()
    assert {day: dict(found.counts) for day, found in outcome.days.items()} == {
        yesterday: {Status.SUCCEEDED: 1},
        TODAY: {Status.SUCCEEDED: 2},
    }
    assert shop.rows(batch)["photo-0.jpg"].Labels == "Mug"
    calls = operations(control)
    assert calls.index("StopProjectVersion") < calls.index("InvokeModel")
    assert calls.index("StopProjectVersion") > max(
        n for n, name in enumerate(calls) if name == "DetectCustomLabels"
    )
    assert state() in ("STOPPING", "STOPPED")
    assert shop.starts() == []
    assert list(waiting_dates.date_markers(shop.store)) == []


def test_a_window_reports_hours_and_cost_and_counts_them_under_the_days_cap(shop: Shop) -> None:
    shop.submit(1, day=TODAY)
    outcome = shop.window(custom_labels_units=2)
    (report,) = shop.reports()
    assert report["Own"]
    assert (report["Labelled"], report["StillWaiting"], report["EndedBy"]) == (1, 0, "run")
    assert report["Dates"] == [TODAY.isoformat()]
    assert report["CostUSD"] == pytest.approx(report["Hours"] * 2 * 4.0, abs=0.001)
    assert outcome.report.cost_usd == report["CostUSD"]
    spent = shop.spent()
    assert spent["ClaimedMicroUsd"] == {}
    assert spent["SettledMicroUsd"] >= report["CostUSD"] * 1e6


def test_report_rows_contain_each_photos_share_of_the_windows_cost(shop: Shop) -> None:
    again = {"photo-0.jpg": photo(0), "other.jpg": photo(7)}
    first, second = shop.submit(2, day=TODAY), shop.submit(again, day=TODAY, batch="second")
    outcome = shop.window(custom_labels_units=5)
    (report,) = shop.reports()

    def costs() -> dict[tuple[str, str], float]:
        return {
            (batch.name, name): row.CostUSD or 0.0
            for batch in (first, second)
            for name, row in shop.rows(batch).items()
        }

    told = costs()
    labels = {
        (batch.name, entry.image): sum(
            paid.usd or 0.0 for paid in entry.payments.values() if paid.operation == "CUSTOM_LABELS_WINDOW"
        )
        for batch in (first, second)
        for entry in Ledger.read(
            shop.store, batch, list(shop.store.list(f"{batch.ledger_prefix}/"))
        ).entries()
    }
    share = report["CostUSD"] / 3
    # The one that costs nothing has the labels of a photo that is the same.
    assert sorted(labels.values()) == pytest.approx([0, share, share, share])
    assert all(told[image] > part - 1e-6 for image, part in labels.items())  # rows are rounded to so much
    (day,) = outcome.days.values()
    assert day.total.cost_usd == pytest.approx(sum(told.values()), abs=1e-5)
    assert day.spent.cost_usd == pytest.approx(sum(told.values()), abs=1e-5)
    shop.run(TODAY)
    assert costs() == told


def test_labels_below_the_configured_confidence_are_not_requested(shop: Shop, control: ControlClient) -> None:
    control.custom_model(MODEL, labels=["Mug"])  # the stand-in is sure of them by 90
    batch = shop.submit(1, day=TODAY, Subject="SALIENT")
    shop.window(custom_labels_confidence=95)
    assert shop.store.read_json(batch.labels_key("photo-0.jpg"))["Labels"] == []


def test_another_model_or_confidence_makes_the_labels_again(shop: Shop, control: ControlClient) -> None:
    shop.submit(1, day=TODAY)
    shop.window()
    assert shop.window().reason
    assert not shop.window(custom_labels_confidence=80).reason
    control.custom_model(OTHER, labels=["Cup"])
    shop.window(custom_labels_arn=OTHER)
    assert len(operations(control, "DetectCustomLabels")) == 3


def test_nothing_is_started_when_nothing_waits(shop: Shop, control: ControlClient) -> None:
    outcome = shop.window()
    assert outcome.reason == "no photo waits for the Custom Labels model"
    assert operations(control) == []


def test_photos_that_come_while_the_model_is_on_are_labelled_in_the_same_window(
    shop: Shop, control: ControlClient
) -> None:
    shop.submit(1, day=TODAY)
    come = threading.Event()

    def tell() -> None:
        if not come.is_set():
            come.set()
            shop.submit({"late.jpg": photo(5)}, day=TODAY, batch="late")

    shop.window(tell=tell)
    assert len(operations(control, "StartProjectVersion")) == 1
    assert shop.reports()[0]["Labelled"] == 2


def test_an_older_date_is_labelled_after_a_run_found_the_model_stopped(shop: Shop) -> None:
    old = TODAY - timedelta(days=200)
    shop.submit(1, day=old)
    assert shop.window().reason
    shop.run(old)
    assert shop.window().days[old].counts == {Status.SUCCEEDED: 1}


class Forgetful(Store):
    """A store that loses the response to each write of a window's record, as if boto3 had repeated it."""

    def write(self, key: str, data: bytes, **conditions: Any) -> str:
        etag = super().write(key, data, **conditions)
        if key.endswith("/start.json"):
            raise PreconditionFailed("the client sent it twice")
        return etag


def test_a_window_continues_if_responses_to_its_record_writes_are_lost(
    shop: Shop, control: ControlClient, state: Callable[..., str]
) -> None:
    shop.store = Forgetful(shop.store.client, shop.store.bucket)
    shop.submit(2, day=TODAY)
    assert shop.window().days[TODAY].counts == {Status.SUCCEEDED: 2}
    assert operations(control).count("StartProjectVersion") == 1
    assert state() == "STOPPED"
    assert shop.starts() == []
    assert [report["EndedBy"] for report in shop.reports()] == ["run"]


def test_a_sample_that_waits_for_approval_does_not_keep_the_model_starting(shop: Shop) -> None:
    shop.submit(3, day=TODAY, Sample=1)
    assert shop.window().days[TODAY].counts == {Status.SUCCEEDED: 1, Status.SKIPPED: 2}
    assert shop.window().reason


def test_the_running_model_does_not_wait_for_a_batch_of_another_run(
    shop: Shop, control: ControlClient
) -> None:
    busy = shop.submit(1, day=TODAY, batch="busy")
    with Leases(shop.store, "somebody") as leases, leases.acquire(busy.lease_key):
        assert shop.window().reason
        free = shop.submit({"a.jpg": photo(9)}, day=TODAY, batch="free")
        stopped = threading.Event()

        def give_back_when_stopped() -> None:
            until(lambda: "StopProjectVersion" in operations(control))
            stopped.set()
            leases.close()

        other = threading.Thread(target=give_back_when_stopped)
        other.start()
        shop.window()
        other.join()
    assert stopped.is_set()
    assert shop.rows(free)["a.jpg"].Status == Status.SUCCEEDED


def test_a_photo_that_never_gets_labels_does_not_keep_starting_the_model(
    shop: Shop, control: ControlClient
) -> None:
    shop.submit(1, day=TODAY, Subject="SALIENT")
    control.fault(
        operation="DetectCustomLabels", action="error", code="InternalServerError", status=500, times=0
    )
    for _ in range(waiting_dates.RETRIES_PER_DATE):
        assert not shop.window(attempts=1).reason
    outcome = shop.window(attempts=1)
    assert "1 that got no labels in 3 windows" in outcome.reason
    assert len(operations(control, "StartProjectVersion")) == waiting_dates.RETRIES_PER_DATE
    control.reset()
    control.switch(canned=True)
    control.custom_model(MODEL)
    assert shop.window(given_up=True).days[TODAY].counts == {Status.SUCCEEDED: 1}


# Starts that go wrong


def test_a_failed_start_is_an_error_and_touches_no_batch(shop: Shop, control: ControlClient, state) -> None:
    control.custom_model(MODEL, fails=True)
    batch = shop.submit(1, day=TODAY)
    with pytest.raises(NotStarted, match=r"FAILED \(The model failed to start\.\)"):
        shop.window()
    assert state() == "FAILED"
    assert shop.starts() == []
    assert shop.keys(f"{batch.ledger_prefix}/") == []
    with Leases(shop.store, "next") as leases:
        assert leases.acquire(s3_keys.window_key(MODEL, "lease")) is not None


def test_the_error_for_the_quota_of_running_models_says_what_to_do(
    shop: Shop, control: ControlClient, rekognition
) -> None:
    for name in ("a", "b"):
        arn = MODEL.replace("mugs.1", name)
        control.custom_model(arn)
        rekognition.start_project_version(ProjectVersionArn=arn, MinInferenceUnits=1)
    shop.submit(1, day=TODAY)
    with pytest.raises(NotStarted, match="quota of running Custom Labels models"):
        shop.window()
    assert shop.starts() == []
    assert shop.reports() == []


def test_the_error_for_a_missing_model_names_its_setting(shop: Shop, control: ControlClient) -> None:
    shop.submit(1, day=TODAY)
    with pytest.raises(ModelUnavailable, match="BG_CUSTOM_LABELS_ARN"):
        shop.window(custom_labels_arn=MODEL.replace("project/shop", "project/nowhere"))
    assert operations(control, "StartProjectVersion") == []


def test_a_start_that_takes_too_long_is_given_up_and_the_guard_stops_it_when_it_can(
    shop: Shop, control: ControlClient, state, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "CLOSE_SECONDS", 0.1)
    control.custom_model(MODEL, start_seconds=1.5)
    shop.submit(1, day=TODAY)
    with pytest.raises(NotStarted, match="still STARTING"):
        shop.window(custom_labels_start_minutes=0.005)
    assert len(shop.starts()) == 1
    (line,) = shop.guard().check()
    assert "not stopped yet" in line
    until(lambda: state() == "RUNNING")
    (line,) = shop.guard().check()
    assert "it is off now" in line
    assert state() in ("STOPPING", "STOPPED")
    assert shop.starts() == []
    assert shop.reports()[0]["EndedBy"] == "guard"


def test_a_start_whose_response_is_lost_is_still_stopped_by_its_run(
    shop: Shop, control: ControlClient, state
) -> None:
    control.fault(operation="StartProjectVersion", action="reset", after_work=True, times=1)
    shop.submit(1, day=TODAY)
    assert shop.window().report.own
    assert state() in ("STOPPING", "STOPPED")


def test_a_refused_start_costs_nothing_and_leaves_no_record(shop: Shop, control: ControlClient) -> None:
    control.fault(operation="StartProjectVersion", action="error", code="AccessDeniedException", status=400)
    shop.submit(1, day=TODAY)
    with pytest.raises(ModelUnavailable):
        shop.window()
    assert shop.starts() == []
    assert shop.spent()["SettledMicroUsd"] == 0


def test_a_cap_without_room_for_the_models_time_starts_nothing(shop: Shop, control: ControlClient) -> None:
    shop.submit(1, day=TODAY)
    with pytest.raises(CapReached, match="BG_MAX_COST_USD_PER_DAY"):
        shop.window(max_cost_usd_per_day=0.1)
    assert operations(control, "StartProjectVersion") == []
    assert shop.starts() == []


def test_a_cap_that_is_reached_while_the_model_is_on_stops_it(
    shop: Shop, control: ControlClient, state, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "RESERVATION_HOURS", 0.1 / 3600)
    control.custom_model(MODEL, start_seconds=5)
    shop.submit(1, day=TODAY)
    with pytest.raises(CapReached, match="BG_MAX_COST_USD"):
        shop.window(max_cost_usd=0.001, max_cost_usd_per_day=0)
    assert "CapReached" not in operations(control)
    assert state() in ("STOPPING", "STOPPED")


# Whose model it is


def test_a_model_that_somebody_else_started_is_used_and_left_on(
    shop: Shop, control: ControlClient, rekognition, state
) -> None:
    rekognition.start_project_version(ProjectVersionArn=MODEL, MinInferenceUnits=1)
    shop.submit(1, day=TODAY)
    outcome = shop.window()
    assert outcome.days[TODAY].counts == {Status.SUCCEEDED: 1}
    assert (outcome.report.own, outcome.report.cost_usd) == (False, 0.0)
    assert shop.guard().check() == []
    assert state() == "RUNNING"
    assert len(operations(control, "StartProjectVersion")) == 1


def test_a_second_concurrent_window_does_nothing(shop: Shop, control: ControlClient) -> None:
    control.custom_model(MODEL, start_seconds=1)
    shop.submit(2, day=TODAY)
    outcomes = {}

    def go(run_id: str) -> None:
        outcomes[run_id] = shop.window(run_id)

    threads = [threading.Thread(target=go, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (refused,) = [outcome.reason for outcome in outcomes.values() if outcome.reason]
    assert "owns the window" in refused
    assert len(operations(control, "StartProjectVersion")) == 1
    assert len(operations(control, "StopProjectVersion")) == 1
    assert len(operations(control, "DetectCustomLabels")) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_aborted_run_stops_the_model_and_the_next_run_finishes_its_dates(
    shop: Shop, control: ControlClient, state, error: type[BaseException]
) -> None:
    batch = shop.submit(2, day=TODAY)

    def tell() -> None:
        raise error

    with pytest.raises(error):
        shop.window(tell=tell)
    assert state() in ("STOPPING", "STOPPED")
    assert shop.starts() == []
    assert len(operations(control, "DetectCustomLabels")) == 2
    outcome = shop.window("second")
    assert outcome.report is None  # the labels are there: no model is needed
    assert shop.rows(batch)["photo-1.jpg"].Status == Status.SUCCEEDED
    assert shop.window("third").reason


def test_a_stop_that_fails_is_tried_again(shop: Shop, control: ControlClient, state) -> None:
    control.fault(
        operation="StopProjectVersion", action="error", code="InternalServerError", status=500, times=2
    )
    shop.submit(1, day=TODAY)
    shop.window()
    assert state() in ("STOPPING", "STOPPED")


def test_the_next_window_takes_over_a_model_left_on_by_a_dead_run(
    shop: Shop, control: ControlClient, rekognition, state
) -> None:
    rekognition.start_project_version(ProjectVersionArn=MODEL, MinInferenceUnits=1)
    opened = datetime.now(UTC) - timedelta(hours=1)
    left = window.WindowRecord(model=MODEL, run="dead", units=1, opened=opened, accepted=True)
    shop.store.write_json(s3_keys.window_key(MODEL, "start"), left.model_dump(mode="json", by_alias=True))
    shop.submit(1, day=TODAY)
    outcome = shop.window()
    assert state() in ("STOPPING", "STOPPED")
    assert len(operations(control, "StartProjectVersion")) == 1
    assert outcome.report.cost_usd == pytest.approx(4.0, abs=0.1)


# The guard


def test_the_guard_does_not_stop_the_model_of_a_live_run(
    shop: Shop, control: ControlClient, state, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    shop.submit(1, day=TODAY)
    outcome = shop.window(tell=lambda: looked.extend(shop.guard().check()))
    assert "run window" in looked[0]
    assert outcome.days[TODAY].counts == {Status.SUCCEEDED: 1}


def test_the_guard_takes_a_run_on_another_machine_for_dead_only_after_several_checks(
    shop: Shop, rekognition, state
) -> None:
    rekognition.start_project_version(ProjectVersionArn=MODEL, MinInferenceUnits=1)
    until(lambda: state() == "RUNNING")
    record = window.WindowRecord(model=MODEL, run="far", units=1, opened=datetime.now(UTC), accepted=True)
    shop.store.write_json(s3_keys.window_key(MODEL, "start"), record.model_dump(mode="json", by_alias=True))
    key = s3_keys.window_key(MODEL, "lease")
    with Leases(shop.store, "far") as leases:
        lease = leases.acquire(key)
        assert lease is not None
        content = shop.store.read(key)
        assert content is not None
        elsewhere = content.data.replace(b'"Process": "', b'"Process": "elsewhere-')
        shop.store.write(key, elsewhere, media_type="application/json")
    seen: Any = {}
    # The machine slept for an hour after the first look.
    for now, dead in ((1000.0, False), (4600.0, False), (4630.0, True)):
        guard = shop.guard(seen, clock=lambda now=now: now)
        guard.check()
        seen = guard.seen
        assert (state() != "RUNNING") == dead
    assert shop.starts() == []


def test_the_guard_reports_an_invalid_record(shop: Shop) -> None:
    shop.put(s3_keys.window_key(MODEL, "start"), b"torn")
    (line,) = shop.guard().check()
    assert "not a valid record of a start" in line


def test_the_guard_deletes_the_record_of_a_start_that_never_happened_only_after_a_while(
    shop: Shop, state
) -> None:
    for ago, remains in ((0, 1), (window.CERTAIN_SECONDS + 5, 0)):
        opened = datetime.now(UTC) - timedelta(seconds=ago)
        record = window.WindowRecord(model=MODEL, run="dead", units=1, opened=opened)
        shop.store.write_json(
            s3_keys.window_key(MODEL, "start"), record.model_dump(mode="json", by_alias=True)
        )
        shop.guard().check()
        assert len(shop.starts()) == remains


def test_a_starting_model_of_a_dead_run_is_stopped_before_the_last_process_ends(
    shop: Shop, control: ControlClient, rekognition, state, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard_module, "POLL_SECONDS", 0.05)
    control.custom_model(MODEL, start_seconds=5.0, stop_seconds=0.1)
    rekognition.start_project_version(ProjectVersionArn=MODEL, MinInferenceUnits=1)
    record = window.WindowRecord(model=MODEL, run="dead", units=1, opened=datetime.now(UTC), accepted=True)
    shop.store.write_json(s3_keys.window_key(MODEL, "start"), record.model_dump(mode="json", by_alias=True))
    lines: list[str] = []
    stop_orphaned_models(shop.store, aws(), 0, lines.append)
    assert "STILL ON" in lines[-1]
    stop_orphaned_models(shop.store, aws(), 60, lines.append)
    assert "it is off now" in lines[-1]
    assert state() in ("STOPPING", "STOPPED")
    assert len(set(lines)) >= len(lines) - 1, "what does not change is told once"


def test_the_model_of_a_live_run_elsewhere_is_not_waited_for(shop: Shop) -> None:
    record = window.WindowRecord(model=MODEL, run="other", units=1, opened=datetime.now(UTC), accepted=True)
    shop.store.write_json(s3_keys.window_key(MODEL, "start"), record.model_dump(mode="json", by_alias=True))
    lines: list[str] = []
    with Leases(shop.store, "other") as leases:
        assert leases.acquire(s3_keys.window_key(MODEL, "lease"))
        stop_orphaned_models(shop.store, aws(), 20, lines.append)
    assert len(lines) == 1
    assert "run other" in lines[0]


_KILLED = """
import sys
from bg_pipeline import pipeline
from bg_pipeline.custom_labels import window, window_run
from bg_pipeline.settings import settings
window.POLL_SECONDS = 0.05
configured = settings()
aws = pipeline.make_aws(configured)
def progress(_):
    print("at work", flush=True)
    sys.stdin.read()
window_run.run(configured, aws, pipeline.open_bucket(configured, aws), run_id="killed", progress=progress)
"""


def _killed_run(shop: Shop) -> subprocess.Popen[str]:
    environment = os.environ | {
        "BG_BUCKET": shop.store.bucket,
        "BG_CUSTOM_LABELS_ARN": MODEL,
        "BG_SETTLE_SECONDS": "0",
        "BG_LOOKBACK_DAYS": "2",
    }
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _KILLED],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process


@pytest.mark.slow
def test_a_model_whose_run_was_killed_is_stopped_by_the_guard(shop: Shop, state) -> None:
    shop.submit(1, day=TODAY)
    with _killed_run(shop) as process:
        assert state() == "RUNNING"
        assert "run killed" in shop.guard().check()[0]
        assert state() == "RUNNING"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert "it is off now" in shop.guard().check()[0]
    assert state() in ("STOPPING", "STOPPED")
    assert shop.guard().check() == []
    outcome = shop.window("next")
    assert outcome.days[TODAY].counts == {Status.SUCCEEDED: 1}


@pytest.mark.slow
def test_a_run_that_is_interrupted_stops_its_model_before_it_ends(shop: Shop, state) -> None:
    shop.submit(1, day=TODAY)
    with _killed_run(shop) as process:
        process.send_signal(signal.SIGINT)
        process.wait()
    assert state() in ("STOPPING", "STOPPED")
    assert shop.starts() == []


# In Dagster


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def tick(shop: Shop, instance: dg.DagsterInstance, **overrides: Any) -> Any:
    repository = definitions(shop.settings(**overrides)).get_repository_def()
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime.now(UTC), resources={"bucket": shop.store}
    ) as context:
        return repository.get_schedule_def("custom_labels_hourly").evaluate_tick(context)


def run_job(shop: Shop, instance: dg.DagsterInstance, **overrides: Any) -> dg.ExecuteInProcessResult:
    job = custom_labels_window(shop.settings(**overrides))
    return job.execute_in_process(
        instance=instance,
        resources={"bucket": shop.store, "aws": aws()},
        raise_on_error=False,
    )


def test_with_a_model_the_schedule_exists_but_is_off_and_the_guard_is_on(shop: Shop) -> None:
    for prefix in ("", "other"):
        repository = definitions(shop.settings(key_prefix=prefix)).get_repository_def()
        (schedule,) = repository.schedule_defs
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
        assert schedule.cron_schedule == "0 * * * *"
        assert (
            repository.get_sensor_def("custom_labels_guard").default_status == dg.DefaultSensorStatus.RUNNING
        )
    without = definitions(shop.settings(custom_labels_arn="")).get_repository_def()
    assert without.schedule_defs == []
    assert without.has_sensor_def("custom_labels_guard")


def test_the_schedule_skips_with_the_reason_or_requests_one_run(
    shop: Shop, instance: dg.DagsterInstance, control: ControlClient
) -> None:
    assert tick(shop, instance).skip_message == "no photo waits for the Custom Labels model"
    shop.submit(1, day=TODAY)
    assert len(tick(shop, instance).run_requests) == 1
    with Leases(shop.store, "hourly-9") as leases:
        leases.acquire(s3_keys.window_key(MODEL, "lease"))
        assert "run hourly-9" in tick(shop, instance).skip_message
    assert "BG_BUCKET" in tick(shop, instance, bucket="").skip_message
    assert operations(control) == []


def test_a_window_in_dagster_has_metadata_with_each_date_and_its_cost(
    shop: Shop, instance: dg.DagsterInstance
) -> None:
    shop.submit(1, day=TODAY)
    result = run_job(shop, instance)
    assert result.success
    (output,) = [event for event in result.all_events if event.is_step_success or event.is_successful_output][
        :1
    ]
    metadata: Any = output.step_output_data.metadata
    assert metadata["window_cost_usd"].value > 0
    assert metadata["labelled"].value == 1
    assert metadata["window_report"].value.startswith(
        f"s3://{shop.store.bucket}/pipeline-state/window/reports/"
    )
    for name in ("labels", "captions", "generated_images", "status_report"):
        assert instance.get_materialized_partitions(dg.AssetKey(name)) == {TODAY.isoformat()}
    event = instance.get_latest_materialization_event(dg.AssetKey("labels"))
    labels: Any = event.asset_materialization.metadata
    assert (labels["run_made"].value, labels["done"].value) == (1, 1)


def test_a_window_that_cannot_open_fails_the_run_with_a_clear_message(
    shop: Shop, instance: dg.DagsterInstance, control: ControlClient
) -> None:
    control.custom_model(MODEL, fails=True)
    shop.submit(1, day=TODAY)
    result = run_job(shop, instance)
    assert not result.success
    failure = result.failure_data_for_node("label_waiting_photos")
    assert "FAILED" in failure.error.message


def test_a_date_on_which_nothing_worked_fails_the_run_and_keeps_its_report(
    shop: Shop, instance: dg.DagsterInstance
) -> None:
    shop.submit(1, day=TODAY, Prompt="blockme", Subject="SALIENT")
    result = run_job(shop, instance)
    assert not result.success
    assert instance.get_materialized_partitions(dg.AssetKey("generated_images")) == set()
    assert instance.get_materialized_partitions(dg.AssetKey("status_report")) == {TODAY.isoformat()}


def test_a_window_ended_by_an_s3_error_fails_with_a_clear_message(
    shop: Shop, instance: dg.DagsterInstance
) -> None:
    job = custom_labels_window(shop.settings())
    gone = Store(shop.store.client, "no-such-bucket-anywhere")
    result = job.execute_in_process(
        instance=instance, resources={"bucket": gone, "aws": aws()}, raise_on_error=False
    )
    failure = result.failure_data_for_node("label_waiting_photos")
    assert failure is not None
    assert failure.user_failure_data is not None
    assert "there is no bucket 'no-such-bucket-anywhere'" in str(failure.user_failure_data.description)


def test_a_schedule_that_cannot_reach_s3_says_so(shop: Shop, instance: dg.DagsterInstance) -> None:
    shop.store = Store(shop.store.client, "no-such-bucket-anywhere")
    assert "could not be read" in str(tick(shop, instance).skip_message)


def test_the_guard_in_dagster_keeps_its_sightings_and_skips_with_a_message(
    shop: Shop, instance: dg.DagsterInstance, rekognition, state
) -> None:
    sensor = custom_labels_guard(shop.settings())

    def look(cursor: str | None) -> Any:
        with dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"bucket": shop.store, "aws": aws()}
        ) as context:
            return sensor.evaluate_tick(context)

    quiet = look(None)
    assert "no Custom Labels model" in quiet.skip_message
    assert (
        "BG_BUCKET"
        in custom_labels_guard(shop.settings(bucket=""))
        .evaluate_tick(dg.build_sensor_context(instance=instance))
        .skip_message
    )
    rekognition.start_project_version(ProjectVersionArn=MODEL, MinInferenceUnits=1)
    until(lambda: state() == "RUNNING")
    record = window.WindowRecord(model=MODEL, run="dead", units=1, opened=datetime.now(UTC), accepted=True)
    shop.store.write_json(s3_keys.window_key(MODEL, "start"), record.model_dump(mode="json", by_alias=True))
    stopped = look("no cursor of ours")
    assert "run dead had left" in stopped.skip_message
    assert state() in ("STOPPING", "STOPPED")


@contextlib.contextmanager
def daemon(shop: Shop, home: Path) -> Iterator[dg.DagsterInstance]:
    """Dagster's real daemon over the shop, with its guard on as it is by default."""
    prepare(home)
    environment = os.environ | {
        "BG_BUCKET": shop.store.bucket,
        "BG_CUSTOM_LABELS_ARN": MODEL,
        "BG_SETTLE_SECONDS": "0",
        "BG_LOOKBACK_DAYS": "2",
        "DAGSTER_HOME": str(home),
    }
    workspace = str(home / "workspace.yaml")
    command = [
        sys.executable,
        "-m",
        "bg_pipeline.cli.child_process",
        sys.executable,
        "-m",
        "dagster._daemon",
        "run",
    ]
    with (home / "daemon.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-w", workspace],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    launch = [sys.executable, "-m", "dagster", "job", "launch", "-w", workspace, "-j", "custom_labels_window"]
    # Dagster's retry of a crashed run would take the model over and stop it as well.
    launch += ["--tags", '{"dagster/max_retries": "0"}']
    try:
        subprocess.run(launch, env=environment, stdout=subprocess.DEVNULL, check=True)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield instance
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def worker(shop: Shop) -> int:
    """The process of the run that owns the window, after it has started the model."""
    until(lambda: len(shop.starts()) == 1, 90)
    holder = holder_of(shop.store, s3_keys.window_key(MODEL, "lease"))
    assert holder is not None
    return holder.pid


@pytest.mark.slow
def test_a_run_that_a_person_terminates_in_dagster_stops_the_model(
    shop: Shop, control: ControlClient, state, tmp_path: Path
) -> None:
    control.custom_model(MODEL, start_seconds=5)
    shop.submit(1, day=TODAY)
    with daemon(shop, tmp_path) as instance:
        worker(shop)
        (run,) = instance.get_runs()
        instance.run_launcher.terminate(run.run_id)
        until(lambda: instance.get_run_by_id(run.run_id).is_finished, 60)
        assert state() in ("STOPPING", "STOPPED")
        assert shop.starts() == []
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.CANCELED


@pytest.mark.slow
def test_a_model_left_on_by_a_killed_worker_is_stopped_by_the_guard_in_the_daemon(
    shop: Shop, control: ControlClient, state, tmp_path: Path
) -> None:
    control.custom_model(MODEL, start_seconds=5)
    shop.submit(1, day=TODAY)
    with daemon(shop, tmp_path):
        os.kill(worker(shop), signal.SIGKILL)
        until(lambda: state() == "RUNNING")
        until(lambda: shop.starts() == [], 120)
    assert state() in ("STOPPING", "STOPPED")
    assert [report["EndedBy"] for report in shop.reports()] == ["guard"]
