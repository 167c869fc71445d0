"""What the sensor remembers and decides, on a bucket in memory that counts its listings."""

import bisect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError
from botocore.hooks import HierarchicalEmitter
from hypothesis import example, given
from hypothesis import strategies as st

from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.changes import (
    BACK_OFF,
    MAX_RUNS,
    MAX_TOLD,
    OLDER_SECONDS,
    RunResult,
    SensorCursor,
    SensorTick,
    settings_digest,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
TODAY = NOON.date()
FOLDER = "image-files/2026/11/21/101530"


class Listings:
    """The one call of S3 that is made, over objects in memory; pages of 1,000 like the real one's."""

    meta = SimpleNamespace(events=HierarchicalEmitter())

    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, datetime]] = {}
        self._keys: list[str] | None = None
        self.prefixes: list[str] = []
        self.failing = ""

    def put(self, key: str, text: str, modified: datetime) -> None:
        if key not in self.objects:
            self._keys = None
        self.objects[key] = (text, modified)

    def delete(self, key: str) -> None:
        del self.objects[key]
        self._keys = None

    def list_objects_v2(self, **request: str) -> dict[str, Any]:
        prefix, delimiter = request["Prefix"], request.get("Delimiter", "")
        self.prefixes.append(prefix)
        if self.failing and prefix.startswith(self.failing):
            raise ClientError(
                {"Error": {"Code": "SlowDown", "Message": "Please reduce your request rate."}},
                "ListObjectsV2",
            )
        if self._keys is None:
            self._keys = sorted(self.objects)
        keys = self._keys
        place = bisect.bisect_left(keys, request.get("ContinuationToken", prefix))
        contents: list[dict[str, Any]] = []
        folders: list[dict[str, Any]] = []
        while place < len(keys) and keys[place].startswith(prefix):
            if len(contents) + len(folders) == 1000:
                page = {"IsTruncated": True, "NextContinuationToken": keys[place]}
                return {**page, "Contents": contents, "CommonPrefixes": folders}
            key = keys[place]
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            if end >= 0:
                folders.append({"Prefix": key[: end + 1]})
                place = bisect.bisect_left(keys, key[:end] + chr(ord(delimiter) + 1))
                continue
            tag, modified = self.objects[key]
            contents.append({"Key": key, "Size": 1, "ETag": f'"{tag}"', "LastModified": modified})
            place += 1
        return {"IsTruncated": False, "Contents": contents, "CommonPrefixes": folders}


@dataclass
class Watch:
    """The sensor without Dagster: a bucket, a clock, the runs there were, and a cursor kept as text."""

    bucket: Listings = field(default_factory=Listings)
    settings: Settings = field(default_factory=lambda: settings(bucket="photos"))
    now: datetime = NOON
    cursor: str = ""
    runs: dict[str, RunResult] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    looks: int = 1_000_000

    def put(self, *names: str, folder: str = FOLDER, text: str = "1") -> None:
        for name in names:
            self.bucket.put(f"{folder}/{name}", text, self.now)

    def report(self, name: str = "101530", day: str = "2026/11/21") -> None:
        self.bucket.put(f"status-report-files/{day}/{name}/status_report_1.json", "r", self.now)

    def later(self, seconds: float) -> "Watch":
        self.now += timedelta(seconds=seconds)
        return self

    def ended(self, *, failed: bool, cancelled: bool = False, left: bool = False) -> None:
        """The newest run that was asked for started a minute ago and ends now; without this it succeeds."""
        now = self.now.timestamp()
        self.runs[self.keys[-1]] = RunResult(True, failed, now - 60, now, cancelled, left)

    def tick(self) -> list[str]:
        """The dates that are asked for, as Dagster's daemon would take them up."""
        self.bucket.prefixes.clear()
        memory = SensorCursor.read(self.cursor)
        left = iter(range(self.looks))
        tick = SensorTick(
            settings=self.settings,
            store=Store(cast(Any, self.bucket), "photos"),
            cursor=memory,
            now=self.now.timestamp(),
            first=self.settings.first_date,
            last=self.now.date() + timedelta(days=1),
            find_run=self.runs.get,
            time_is_up=lambda: next(left, None) is None,
            warn=self.told.append,
        )
        asked = []
        try:
            for day, each in tick.run_requests():
                asked.append(str(day))
                self.keys.append(each.run_key)
                self.ended(failed=False)
        finally:
            self.cursor = memory.model_dump_json()
        return asked


@pytest.fixture
def watch() -> Watch:
    return Watch()


# What is asked for


def test_a_batch_is_asked_for_once_when_its_request_has_come(watch: Watch) -> None:
    watch.put("bus.png", "dog.png")
    assert watch.tick() == []
    watch.put("request.json")
    assert watch.tick() == ["2026-11-21"]
    assert watch.tick() == []
    assert watch.later(86_400).tick() == []


def test_several_batches_of_a_date_are_one_run(watch: Watch) -> None:
    for hour in range(5):
        watch.put("bus.png", "request.json", folder=f"image-files/2026/11/21/{hour}")
    assert watch.tick() == ["2026-11-21"]


def test_the_same_state_has_the_same_run_key(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.cursor = ""  # the daemon crashed before it kept the cursor
    watch.tick()
    assert watch.keys[0] == watch.keys[1]
    assert watch.keys[0].startswith("2026-11-21:")


@pytest.mark.parametrize(
    "change",
    [
        lambda watch: watch.put("new.png"),
        lambda watch: watch.put("bus.png", text="2"),
        lambda watch: watch.put("request.json", text="2"),
        lambda watch: watch.put("bus.png", "request.json", folder="image-files/2026/11/21/another"),
        lambda watch: watch.put("approved.json"),
    ],
    ids=[
        "an image came",
        "an image was overwritten",
        "its request was overwritten",
        "a batch came",
        "its sample was approved",
    ],
)
def test_what_comes_later_is_asked_for_with_another_key(
    watch: Watch, change: Callable[[Watch], None]
) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    change(watch)
    assert watch.tick() == ["2026-11-21"]
    assert watch.tick() == []
    assert watch.keys[0] != watch.keys[1]


def test_the_same_bytes_once_more_are_no_change(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.later(60).put("bus.png", "request.json")
    assert watch.tick() == []


def test_a_state_that_comes_back_is_asked_for_again(watch: Watch) -> None:
    for prompt in ("london", "paris", "london", "paris"):
        watch.later(60).put("bus.png", "request.json", text=prompt)
        assert watch.tick() == ["2026-11-21"]
    assert len(set(watch.keys)) == 4


def test_a_draft_is_left_alone_until_its_request_comes(watch: Watch) -> None:
    watch.put("bus.png", "draft.json")
    assert watch.later(40_000).tick() == []
    watch.put("request.json")
    assert watch.tick() == ["2026-11-21"]


def test_a_folder_without_a_request_is_asked_for_when_it_has_been_quiet(watch: Watch) -> None:
    watch.put("bus.png")
    assert watch.tick() == []
    watch.later(200).put("dog.png")
    assert watch.later(299).tick() == []
    assert watch.later(1).tick() == ["2026-11-21"]
    assert watch.tick() == []


def test_a_complete_batch_does_not_wait_for_a_folder_that_settles_beside_it(watch: Watch) -> None:
    watch.put("bus.png", folder="image-files/2026/11/21/settling")
    watch.put("bus.png", "request.json")
    assert watch.tick() == ["2026-11-21"]
    assert watch.later(30).tick() == []
    assert watch.later(270).tick() == ["2026-11-21"]


def test_a_folder_that_settles_once_more_is_asked_for_once_more(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.put("bus.png", folder="image-files/2026/11/21/quiet")
    watch.later(300)
    assert watch.tick() == ["2026-11-21"]
    watch.put("dog.png", folder="image-files/2026/11/21/quiet")
    assert [watch.tick(), watch.later(30).tick()] == [[], []]
    assert watch.later(270).tick() == ["2026-11-21"]


def test_folder_markers_alone_are_nothing(watch: Watch) -> None:
    watch.bucket.put("image-files/2026/11/21/", "", NOON)
    watch.bucket.put("image-files/2026/11/21/101530/", "", NOON)
    watch.bucket.put("image-files/2026/11/21/101530/dogs/", "", NOON)
    assert [watch.tick(), watch.later(3600).tick()] == [[], []]


# Deletions


@pytest.mark.parametrize("gone", [["bus.png"], ["request.json"], ["dog.png", "cat.png"], None])
def test_deletions_trigger_nothing(watch: Watch, gone: list[str] | None) -> None:
    watch.put("bus.png", "cat.png", "dog.png", "request.json")
    watch.tick()
    for key in [f"{FOLDER}/{name}" for name in gone] if gone else list(watch.bucket.objects):
        watch.bucket.delete(key)
    assert [watch.tick() for _ in range(3)] == [[], [], []]
    assert [watch.later(300).tick() for _ in range(20)] == [[]] * 20


def test_what_comes_after_a_deletion_is_asked_for(watch: Watch) -> None:
    watch.put("bus.png", "cat.png", "dog.png", "request.json")
    watch.tick()
    watch.bucket.delete(f"{FOLDER}/dog.png")
    watch.bucket.delete(f"{FOLDER}/cat.png")
    watch.tick()
    watch.put("new.png")
    assert watch.tick() == ["2026-11-21"]


def test_what_comes_together_with_a_deletion_is_asked_for(watch: Watch) -> None:
    watch.put("bus.png", "cat.png", "dog.png", "request.json")
    watch.tick()
    watch.bucket.delete(f"{FOLDER}/dog.png")
    watch.bucket.delete(f"{FOLDER}/cat.png")
    watch.later(60).put("request.json", text="2")
    assert watch.tick() == ["2026-11-21"]


# Settings


def test_settings_that_change_results_ask_again_also_after_a_deletion(watch: Watch) -> None:
    watch.put("bus.png", "dog.png", "request.json")
    watch.tick()
    watch.bucket.delete(f"{FOLDER}/dog.png")
    watch.settings = settings(bucket="photos", default_prompt="a beach")
    assert watch.tick() == ["2026-11-21"]
    assert watch.tick() == []
    watch.settings = settings(bucket="photos")
    assert watch.tick() == ["2026-11-21"]
    assert len(set(watch.keys)) == 3


def test_settings_that_change_no_result_ask_for_nothing() -> None:
    plain = settings_digest(settings(bucket="photos"))
    assert (
        settings_digest(settings(bucket="photos", quota_titan_v2_rpm=10, open_dates=5, log_level="DEBUG"))
        == plain
    )
    assert settings_digest(settings(bucket="photos", postgres_url="postgresql://host/name")) == plain
    assert settings_digest(settings(bucket="others")) != plain
    assert settings_digest(settings(bucket="photos", image_models=("stability",))) != plain


# Which dates


def test_an_idle_tick_lists_each_open_date_once_whatever_else_there_is(watch: Watch) -> None:
    for number in range(100_000):
        watch.bucket.put(f"image-files/2026/10/{number % 30 + 1:02}/{number}/bus.png", "1", NOON)
    watch.tick()
    watch.cursor = SensorCursor(looked=NOON.timestamp()).model_dump_json()
    assert watch.later(30).tick() == []
    assert watch.bucket.prefixes == [
        f"image-files/{day}/" for day in ("2026/11/22", "2026/11/21", "2026/11/20")
    ]


def test_an_open_date_costs_one_listing_for_a_thousand_objects(watch: Watch) -> None:
    watch.put(*(f"{number}.png" for number in range(2_999)), "request.json")
    assert watch.tick() == ["2026-11-21"]
    watch.tick()
    assert len(watch.bucket.prefixes) == 3 + 2


@pytest.mark.parametrize(("wanted", "days"), [(1, ["21"]), (2, ["22", "21"]), (4, ["22", "21", "20", "19"])])
def test_the_open_dates_are_the_newest_partitions(watch: Watch, wanted: int, days: list[str]) -> None:
    watch.settings = settings(bucket="photos", open_dates=wanted)
    watch.tick()
    watch.later(30).tick()
    assert watch.bucket.prefixes == [f"image-files/2026/11/{day}/" for day in days]


def test_older_dates_are_looked_at_every_hour(watch: Watch) -> None:
    old = "image-files/2026/10/25/1"
    watch.put("bus.png", "request.json", folder=old)
    assert watch.tick() == ["2026-10-25"]
    assert watch.later(600).tick() == []
    watch.put("dog.png", folder=old)
    assert watch.later(OLDER_SECONDS - 601).tick() == []
    assert watch.later(1).tick() == ["2026-10-25"]


def test_dates_before_the_look_back_are_left_to_a_backfill(watch: Watch) -> None:
    for day in ("2026/10/21", "2026/05/01", "2025/11/21"):
        watch.put("bus.png", "request.json", folder=f"image-files/{day}/1")
    assert watch.tick() == []
    assert watch.told == []
    watch.put("bus.png", "request.json", folder="image-files/2026/10/22/1")
    assert watch.later(OLDER_SECONDS).tick() == ["2026-10-22"]


def test_the_hourly_look_opens_only_the_years_and_months_it_needs(watch: Watch) -> None:
    for year in range(2024, 2027):
        for month in range(1, 12):
            watch.put("bus.png", "request.json", folder=f"image-files/{year}/{month:02}/05/1")
    watch.tick()
    assert watch.bucket.prefixes == [
        *("image-files/", "image-files/2024/", "image-files/2024/01/"),
        *("image-files/2026/", "image-files/2026/10/", "image-files/2026/11/"),
        *("image-files/2026/11/22/", "image-files/2026/11/21/", "image-files/2026/11/20/"),
        "image-files/2026/11/05/",
    ]


def test_an_older_folder_that_settles_is_looked_at_when_it_is_due(watch: Watch) -> None:
    watch.put("bus.png", folder="image-files/2026/11/01/1")
    assert watch.tick() == []
    assert watch.later(200).tick() == []
    assert watch.bucket.prefixes[-1] == "image-files/2026/11/20/"
    assert watch.later(100).tick() == ["2026-11-01"]


STRAYS = [
    "image-files/foo/bus.png",
    "image-files//bus.png",
    "image-files/2026/13/45/1/bus.png",
    "image-files/2026/11/31/1/request.json",
    "image-files/2026/1/5/1/bus.png",
    "image-files/2023/12/31/1/request.json",
    "image-files/2026/11/23/1/request.json",
    "image-files/9999/01/01/1/request.json",
    "image-files/2026/11/..\n/request.json",
]


def test_folders_that_are_no_partition_are_told_once(watch: Watch) -> None:
    for key in STRAYS:
        watch.bucket.put(key, "1", NOON)
    watch.put("bus.png", "request.json")
    assert watch.tick() == ["2026-11-21"]
    assert len(watch.told) == len(STRAYS)
    assert (
        "'image-files/2023/' is not an upload date from 2024-01-01 to 2026-11-22: nothing in it is run"
        in watch.told
    )
    assert watch.later(OLDER_SECONDS).tick() == []
    assert len(watch.told) == len(STRAYS)


def test_the_month_of_the_first_date_is_read_to_tell_of_its_earlier_days(watch: Watch) -> None:
    watch.settings = settings(bucket="photos", first_date=date(2024, 6, 10))
    watch.put("request.json", folder="image-files/2024/06/09/1")
    watch.put("request.json", folder="image-files/2024/05/31/1")
    watch.put("request.json", folder="image-files/2024/06/10/1")
    assert watch.tick() == []
    assert [line.split("'")[1] for line in watch.told] == ["image-files/2024/05/", "image-files/2024/06/09/"]


def test_objects_that_are_in_no_batch_are_passed_over(watch: Watch) -> None:
    for key in ("image-files/bus.png", "image-files/2026/bus.png", "image-files/2026/11/21/bus.png"):
        watch.bucket.put(key, "1", NOON)
    watch.put("bus.png", "request.json")
    assert watch.tick() == ["2026-11-21"]
    assert watch.told == []


def test_the_cursor_stays_small(watch: Watch) -> None:
    for number in range(1_000):
        watch.bucket.put(f"image-files/stray-{number}/bus.png", "1", NOON)
        watch.put("bus.png", "request.json", folder=f"image-files/2026/11/21/{number}")
    for days in range(60):
        watch.put(
            "bus.png", "request.json", folder=f"image-files/{TODAY - timedelta(days):%Y/%m/%d}/1", text="x"
        )
    while watch.tick():
        watch.later(1)
    memory = json.loads(watch.cursor)
    assert len(memory["dates"]) == 31
    assert len(memory["told"]) == MAX_TOLD
    assert len(watch.cursor) < 12_000
    watch.later(86_400 * 100).tick()
    assert json.loads(watch.cursor)["dates"] == {}


# What became of the runs


def test_a_run_under_way_is_waited_for(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.runs[watch.keys[-1]] = RunResult(False, False, NOON.timestamp(), NOON.timestamp())
    assert watch.later(86_000).tick() == []


def test_a_run_that_succeeded_is_not_asked_for_again(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.ended(failed=False)
    assert [watch.tick(), watch.later(3000).tick()] == [[], []]
    assert not any(prefix.startswith("status-report-files") for prefix in watch.bucket.prefixes)


@pytest.mark.parametrize(
    "end",
    [
        {"failed": False, "cancelled": True},
        {"failed": True, "left": True},
        {"failed": False, "left": True},
    ],
    ids=["cancelled", "failed and says that it left something", "succeeded and says so"],
)
def test_a_run_that_left_something_is_asked_for_twice_more_whatever_it_reported(
    watch: Watch, end: dict[str, bool]
) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    for wait in BACK_OFF:
        watch.report()
        watch.ended(**end)
        assert watch.later(wait - 1).tick() == []
        assert watch.later(1).tick() == ["2026-11-21"]
    watch.ended(**end)
    assert [watch.later(3_600).tick() for _ in range(5)] == [[]] * 5
    assert len(set(watch.keys)) == 3


def test_what_a_cancelled_run_left_is_done_when_the_next_run_succeeds(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.ended(failed=False, cancelled=True)
    assert watch.later(BACK_OFF[0]).tick() == ["2026-11-21"]
    watch.ended(failed=False)
    assert [watch.later(3_600).tick() for _ in range(5)] == [[]] * 5


def test_a_cancelled_run_whose_uploads_are_gone_leaves_nothing(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.ended(failed=False, cancelled=True)
    for key in list(watch.bucket.objects):
        watch.bucket.delete(key)
    assert [watch.later(1800).tick() for _ in range(3)] == [[]] * 3


def test_a_run_that_ended_without_a_report_is_asked_for_twice_more(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    for wait in BACK_OFF:
        watch.ended(failed=True)
        assert watch.later(wait - 1).tick() == []
        assert watch.later(1).tick() == ["2026-11-21"]
    watch.ended(failed=True)
    assert [watch.later(3_600).tick() for _ in range(10)] == [[]] * 10
    assert len(set(watch.keys)) == 3
    assert watch.told == [
        "2026-11-21: 3 runs ended too early; see their logs. "
        "The date is requested again when its uploads or the settings change"
    ]


def test_a_run_that_dagster_does_not_know_counts_as_ended(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.runs.clear()
    assert watch.later(299).tick() == []
    assert watch.later(1).tick() == ["2026-11-21"]


def test_a_date_that_failed_with_a_report_is_asked_for_again_only_when_it_changes(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.later(60).report()
    watch.ended(failed=True)
    assert [watch.later(600).tick() for _ in range(5)] == [[]] * 5
    watch.put("request.json", text="2")
    assert watch.tick() == ["2026-11-21"]
    watch.later(60).report()
    watch.ended(failed=True)
    assert watch.later(600).tick() == []
    watch.settings = settings(bucket="photos", default_prompt="a beach")
    assert watch.tick() == ["2026-11-21"]


def test_the_reports_of_a_date_are_listed_once_and_only_after_a_bad_end(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.later(60).report()
    watch.ended(failed=True)
    listed = []
    for _ in range(30):
        watch.later(30).tick()
        listed += [prefix for prefix in watch.bucket.prefixes if prefix.startswith("status-report-files")]
    assert listed == ["status-report-files/2026/11/21/"]


@pytest.mark.parametrize("reported", ["another batch", "before the upload", "before the run"])
def test_a_report_of_something_else_is_no_report(watch: Watch, reported: str) -> None:
    if reported == "before the upload":
        watch.report()
        watch.later(600)
    watch.put("bus.png", "request.json")
    if reported == "before the run":
        watch.report()
        watch.later(600)
    watch.tick()
    if reported == "another batch":
        watch.report("other")
    watch.later(120).ended(failed=True)
    assert watch.later(300).tick() == ["2026-11-21"]


def test_a_date_whose_uploads_were_all_deleted_is_given_up(watch: Watch) -> None:
    watch.put("bus.png", "request.json")
    watch.tick()
    watch.ended(failed=True)
    for key in list(watch.bucket.objects):
        watch.bucket.delete(key)
    assert [watch.later(1800).tick() for _ in range(3)] == [[]] * 3


def test_an_older_date_whose_run_crashed_is_asked_for_before_the_hour(watch: Watch) -> None:
    watch.put("bus.png", "request.json", folder="image-files/2026/11/01/1")
    assert watch.tick() == ["2026-11-01"]
    watch.ended(failed=True)
    assert watch.later(30).tick() == []
    watch.runs[watch.keys[-1]] = RunResult(False, False, NOON.timestamp(), NOON.timestamp())
    later = [watch.later(30).tick() for _ in range(20)]
    assert later == [[]] * 20
    watch.ended(failed=True)
    assert ["2026-11-01"] in [watch.later(60).tick() for _ in range(12)]


# Budgets and errors


def test_more_dates_than_a_tick_may_ask_for_wait_for_the_next(watch: Watch) -> None:
    for days in range(31):
        watch.put("bus.png", "request.json", folder=f"image-files/{TODAY - timedelta(days):%Y/%m/%d}/1")
    first = watch.tick()
    assert len(first) == MAX_RUNS
    assert first[:3] == ["2026-11-21", "2026-11-20", "2026-11-19"]
    assert len(watch.later(30).tick()) == 31 - MAX_RUNS
    assert watch.later(30).tick() == []
    assert len(set(watch.keys)) == 31


def test_dates_that_a_tick_has_no_time_for_come_first_in_the_next(watch: Watch) -> None:
    for days in range(10):
        watch.put("bus.png", "request.json", folder=f"image-files/{TODAY - timedelta(days):%Y/%m/%d}/1")
    watch.looks = 4
    ticks = [watch.later(30).tick() for _ in range(12)]
    asked = [day for tick in ticks for day in tick]
    assert sorted(asked) == sorted({str(TODAY - timedelta(days)) for days in range(10)})
    assert all(len(tick) < 4 for tick in ticks)


def test_a_date_too_large_for_a_tick_starves_no_other(watch: Watch) -> None:
    for number in range(100):
        watch.put("bus.png", "request.json", folder=f"image-files/2026/11/21/{number}")
    watch.put("bus.png", "request.json", folder="image-files/2026/11/20/1")
    watch.put("bus.png", "request.json", folder="image-files/2026/11/02/1")
    watch.looks = 20
    asked = [day for _ in range(6) for day in watch.later(30).tick()]
    assert sorted(asked) == ["2026-11-02", "2026-11-20"]
    assert set(watch.told) == {
        "2026-11-21 has more uploads than this tick has time to list; the next tick tries again. "
        "If this repeats, run the date with `bg-pipeline run --date 2026-11-21`"
    }


def test_an_error_of_s3_forgets_nothing(watch: Watch) -> None:
    for day in ("2026/11/21", "2026/11/10", "2026/11/05"):
        watch.put("bus.png", "request.json", folder=f"image-files/{day}/1")
    watch.bucket.failing = "image-files/2026/11/10/"
    with pytest.raises(ClientError):
        watch.tick()
    assert [key[:10] for key in watch.keys] == ["2026-11-21"]
    watch.bucket.failing = ""
    assert watch.later(30).tick() == ["2026-11-10", "2026-11-05"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.text() | JSON.map(json.dumps) | JSON.map(lambda value: json.dumps({"version": 1, "dates": value})))
def test_a_cursor_that_cannot_be_read_is_an_empty_memory(cursor: str) -> None:
    watch = Watch(cursor=cursor)
    watch.put("bus.png", "request.json")
    assert watch.tick() == ["2026-11-21"]


NAMES = st.sampled_from(["a.png", "b.png", "c.png"])
STEPS = st.lists(
    st.tuples(st.just("put"), NAMES, st.sampled_from("123"))
    | st.tuples(st.just("delete"), NAMES, st.just(""))
    | st.tuples(st.just("tick"), st.just(""), st.just("")),
    max_size=20,
)


@example(
    [
        ("put", "a.png", "1"),
        ("put", "c.png", "1"),
        ("tick", "", ""),
        ("delete", "a.png", ""),
        ("put", "c.png", "2"),
        ("put", "c.png", "1"),
    ]
)
@given(STEPS)
def test_whatever_happens_the_newest_uploads_are_asked_for_and_deletions_are_not(
    steps: list[tuple[str, str, str]],
) -> None:
    watch = Watch()
    watch.put("request.json")
    watch.tick()
    seen, written = _content(watch.bucket.objects), False
    for step, name, text in [*steps, ("tick", "", "")]:
        watch.later(2)
        match step:
            case "put" if watch.bucket.objects.get(f"{FOLDER}/{name}", ("", NOON))[0] != text:
                watch.put(name, text=text)
                written = True
            case "delete" if f"{FOLDER}/{name}" in watch.bucket.objects:
                watch.bucket.delete(f"{FOLDER}/{name}")
            case "tick":
                content = _content(watch.bucket.objects)
                asked = bool(watch.tick())
                assert asked or not content - seen
                # A photo that was put back as it had been, beside a deletion, may be asked for: that costs nothing.
                assert not asked or content - seen or written
                seen, written = content, False
    assert len(watch.keys) == len(set(watch.keys))


def _content(objects: Mapping[str, tuple[str, datetime]]) -> set[tuple[str, str]]:
    return {(key, tag) for key, (tag, _) in objects.items()}
