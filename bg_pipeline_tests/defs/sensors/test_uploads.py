"""The sensor as Dagster evaluates it, on the stand-in's S3."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import dagster as dg
import pytest
from botocore.config import Config

from bg_pipeline.defs.assets.image_flow import GROUP_TAG, HELPER_TAG, INCOMPLETE_TAG
from bg_pipeline.defs.partitions import upload_dates
from bg_pipeline.defs.resources import resources
from bg_pipeline.defs.sensors.uploads import new_uploads
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.scripted_s3 import CUT, STALL, scripted_s3

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

pytestmark = pytest.mark.dates

DATES = upload_dates(settings())


@dg.asset(partitions_def=DATES)
def raw_images(context: dg.AssetExecutionContext) -> None:
    """Fails where the run is tagged so."""
    if "crash" in context.run.tags:
        raise dg.Failure("crashed", allow_retries=False)


@dg.asset(partitions_def=DATES, deps=[raw_images])
def status_report() -> None:
    pass


WHOLE_DATE = dg.define_asset_job("whole_date", selection=[raw_images, status_report])


class Told(logging.Handler):
    """What a log was told."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Sensor:
    """The sensor on a bucket, with a cursor, an instance, and a clock that runs ahead by ``late`` seconds."""

    def __init__(self, photos: Any, instance: dg.DagsterInstance, **overrides: Any) -> None:
        self.late = 0.0
        self.log = Told()
        self.cursor: str | None = None
        self.instance = instance
        self.photos = photos
        self.definition = new_uploads(
            settings(**overrides), DATES, WHOLE_DATE, clock=lambda: time.time() + self.late
        )
        self.definitions = dg.Definitions(
            assets=[raw_images, status_report],
            jobs=[WHOLE_DATE],
            sensors=[self.definition],
            resources={"bucket": photos},
        )

    def tick(self) -> Any:
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=self.definitions.get_repository_def(),
            resources=dict.fromkeys(self.definition.required_resource_keys, self.photos),
        ) as context:
            context.log.addHandler(self.log)
            data = self.definition.evaluate_tick(context)
        self.cursor = data.cursor
        return data

    def asked(self) -> list[str]:
        return [str(request.partition_key) for request in self.tick().run_requests or []]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def sensor(s3: "S3Client", bucket: str, instance: dg.DagsterInstance) -> Sensor:
    return Sensor(Store(s3, bucket), instance, bucket=bucket)


@pytest.fixture
def today() -> str:
    """The date on which the test began: one that the sensor looks at, also if midnight passes meanwhile."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


Upload = Callable[..., None]


@pytest.fixture
def upload(s3: "S3Client", bucket: str, today: str) -> Upload:
    """Uploads files of these names: ``upload(*names, folder=…, day=…)``, by default under today."""

    def put(*names: str, folder: str = "101530", day: str = today) -> None:
        for name in names:
            key = f"image-files/{day.replace('-', '/')}/{folder}/{name}"
            s3.put_object(Bucket=bucket, Key=key, Body=b"this is neither JSON nor a picture")

    return put


def run(sensor: Sensor, request: dg.RunRequest, **tags: str) -> None:
    """What the daemon makes of a request."""
    dg.materialize(
        [raw_images, status_report],
        partition_key=request.partition_key,
        tags={**request.tags, "dagster/run_key": str(request.run_key), **tags},
        instance=sensor.instance,
        raise_on_error=False,
    )


def test_it_is_stopped_until_somebody_turns_it_on(sensor: Sensor) -> None:
    assert sensor.definition.name == "new_uploads"
    assert sensor.definition.default_status == dg.DefaultSensorStatus.STOPPED
    assert sensor.definition.minimum_interval_seconds == 30
    dg.Definitions.validate_loadable(sensor.definitions)


def test_it_asks_for_one_run_of_a_date_with_uploads(sensor: Sensor, upload: Upload, today: str) -> None:
    assert sensor.tick().skip_message.startswith("no upload date changed: ")
    for folder in ("1", "2"):
        upload("a bus+1.png", "request.json", folder=folder)
    (request,) = sensor.tick().run_requests or []
    assert request.partition_key == today
    assert str(request.run_key).startswith(f"{today}:")
    # What a person sees of the tags; Dagster hides those with this prefix.
    shown = {name: value for name, value in request.tags.items() if not name.startswith(".dagster/")}
    shown = {name: value for name, value in shown.items() if not name.startswith("dagster/")}
    assert shown == {"bg_pipeline/batches": "1, 2", "bg_pipeline/uploads": "4 objects"}
    assert sensor.asked() == []


def test_what_it_cannot_use_stops_nothing(
    sensor: Sensor, s3: "S3Client", bucket: str, upload: Upload, today: str
) -> None:
    for key in (
        "image-files/foo/bus.png",
        "image-files/2026/13/45/1/request.json",
        f"image-files/{today.replace('-', '/')}/bus.png",
        f"image-files/{today.replace('-', '/')}/empty/",
    ):
        s3.put_object(Bucket=bucket, Key=key, Body=b"")
    to_come = f"{date.fromisoformat(today) + timedelta(days=9)}"
    for day in ("2019-01-01", to_come):
        upload("bus.png", "request.json", day=day)
    upload("bus.png", "draft.json", folder="draft")
    upload("bus.png", folder="settling")
    assert sensor.asked() == []
    upload("request.json")
    assert sensor.asked() == [today]


def test_a_folder_without_a_request_is_asked_for_when_it_is_quiet(
    sensor: Sensor, upload: Upload, today: str
) -> None:
    upload("bus.png")
    sensor.late = 290
    assert sensor.asked() == []
    sensor.late = 310
    assert sensor.asked() == [today]


def test_a_deletion_triggers_nothing(
    sensor: Sensor, s3: "S3Client", bucket: str, upload: Upload, today: str
) -> None:
    upload("bus.png", "dog.png", "request.json")
    (request,) = sensor.tick().run_requests or []
    run(sensor, request)
    s3.delete_object(Bucket=bucket, Key=f"image-files/{today.replace('-', '/')}/101530/dog.png")
    assert [sensor.asked(), sensor.asked()] == [[], []]


def test_a_tick_that_dagster_lost_is_made_again_with_the_same_keys(sensor: Sensor, upload: Upload) -> None:
    upload("bus.png", "request.json")
    first = [request.run_key for request in sensor.tick().run_requests or []]
    sensor.cursor = None
    assert [request.run_key for request in sensor.tick().run_requests or []] == first


def test_a_run_that_crashed_is_asked_for_twice_more(sensor: Sensor, upload: Upload) -> None:
    upload("bus.png", "request.json")
    keys = set()
    for late in (301, 2_102, 4_000):
        (request,) = sensor.tick().run_requests or []
        keys.add(request.run_key)
        run(sensor, request, crash="yes")
        assert sensor.asked() == []
        sensor.late = late
    assert [sensor.asked(), sensor.asked()] == [[], []]
    assert len(keys) == 3


def test_a_run_that_failed_with_a_report_is_not_asked_for_again(
    sensor: Sensor, s3: "S3Client", bucket: str, upload: Upload, today: str
) -> None:
    upload("bus.png", "request.json")
    (request,) = sensor.tick().run_requests or []
    run(sensor, request, crash="yes")
    report = f"status-report-files/{today.replace('-', '/')}/101530/status_report_1.json"
    s3.put_object(Bucket=bucket, Key=report, Body=b"[]")
    for late in (301, 2_000, 4_000):
        sensor.late = late
        assert sensor.asked() == []
    upload("dog.png")
    assert sensor.asked() == [today]


def test_what_a_cancelled_run_left_is_asked_for_again_although_it_reported(
    sensor: Sensor, upload: Upload, today: str, s3: "S3Client", bucket: str
) -> None:
    upload("bus.png", "request.json")
    (request,) = sensor.tick().run_requests or []
    job = sensor.definitions.resolve_implicit_global_asset_job_def()
    cancelled = sensor.instance.create_run_for_job(
        job, tags={**request.tags, "dagster/run_key": str(request.run_key)}
    )
    report = f"status-report-files/{today.replace('-', '/')}/101530/status_report_1.json"
    s3.put_object(Bucket=bucket, Key=report, Body=b"[]")
    sensor.instance.report_run_canceled(cancelled)
    waits = sensor.tick()
    assert not waits.run_requests
    assert f"{today}: its run ended too early; it can be requested again in" in waits.skip_message
    sensor.late = 301
    (again,) = sensor.tick().run_requests or []
    assert again.tags["bg_pipeline/attempt"] == "2"
    run(sensor, again)
    sensor.late = 4_000
    assert sensor.asked() == []


@pytest.mark.parametrize("of", ["itself", "the run that it repeats"])
def test_a_run_that_says_it_left_something_is_asked_for_again(
    sensor: Sensor, upload: Upload, today: str, s3: "S3Client", bucket: str, of: str
) -> None:
    upload("bus.png", "request.json")
    (request,) = sensor.tick().run_requests or []
    run(sensor, request)
    (ended,) = sensor.instance.get_runs()
    sensor.instance.add_run_tags(
        ended.run_id, {INCOMPLETE_TAG: ended.run_id if of == "itself" else "another"}
    )
    sensor.late = 301
    assert sensor.asked() == ([today] if of == "itself" else [])


def test_each_tick_tells_the_log_what_it_asked_for_or_why_nothing(
    sensor: Sensor, upload: Upload, today: str, s3: "S3Client", bucket: str
) -> None:
    sensor.tick()
    upload("bus.png", "request.json")
    (request,) = sensor.tick().run_requests or []
    sensor.tick()
    run(sensor, request)
    upload("dog.png", folder="settling")
    sensor.tick()
    first, *others = sensor.log.messages
    assert re.fullmatch(
        r"no upload date changed: \S{10} to \S{10} were listed, older ones once an hour", first
    )
    assert others == [
        f"asked for a run of {today}, attempt 1: 1 batch (101530)",
        f"{first}; {today}: Dagster has no run for it; it can be requested again in 300 s",
        f"{first}; {today}: a folder without a request waits until uploads to it have ended",
    ]


def test_a_run_under_way_is_waited_for(sensor: Sensor, upload: Upload) -> None:
    upload("bus.png", "request.json")
    (request,) = sensor.tick().run_requests or []
    job = sensor.definitions.resolve_implicit_global_asset_job_def()
    sensor.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={"dagster/run_key": str(request.run_key)}
    )
    for late in (301, 4_000):
        sensor.late = late
        assert sensor.asked() == []


def test_an_idle_tick_is_one_call_for_each_open_date(
    sensor: Sensor, bucket: str, s3: "S3Client", upload: Upload, today: str
) -> None:
    for number in range(20):
        upload("bus.png", day=f"{date.fromisoformat(today) - timedelta(days=number + 5)}")
    upload("bus.png", "request.json")
    (request,) = sensor.tick().run_requests or []
    run(sensor, request)
    sensor.tick()
    calls: list[str] = []
    client = boto3.client("s3")
    client.meta.events.register("before-call.s3", lambda model, **_: calls.append(model.name))
    counted = Sensor(Store(client, bucket, use_obstore=False), sensor.instance, bucket=bucket)
    counted.cursor = sensor.cursor
    assert counted.asked() == []
    assert calls == ["ListObjectsV2"] * 3


def test_a_bucket_that_is_not_there_is_a_reason_to_skip(s3: "S3Client", instance: dg.DagsterInstance) -> None:
    sensor = Sensor(Store(s3, "no-such-bucket-anywhere"), instance, bucket="no-such-bucket-anywhere")
    data = sensor.tick()
    assert data.run_requests == []
    assert data.skip_message is not None
    assert data.skip_message.startswith("bucket 'no-such-bucket-anywhere' (BG_BUCKET) could not be listed")
    assert "NoSuchBucket" in data.skip_message


def test_an_s3_that_cannot_be_reached_is_a_reason_to_skip(bucket: str, instance: dg.DagsterInstance) -> None:
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1)
    client = boto3.client("s3", endpoint_url="http://127.0.0.1:9", config=config)
    message = Sensor(Store(client, bucket), instance, bucket=bucket).tick().skip_message
    assert message is not None
    assert "could not be listed" in message


def test_an_s3_whose_answers_stall_or_are_cut_is_a_reason_to_skip(instance: dg.DagsterInstance) -> None:
    with scripted_s3(read_timeout=0.2) as scripted:
        scripted.answers = [(200, STALL), (200, CUT), (200, STALL)]
        message = Sensor(Store(scripted.client, "shop"), instance, bucket="shop").tick().skip_message
    assert message is not None
    assert message.startswith("bucket 'shop' (BG_BUCKET) could not be listed; the next tick tries again: ")


def test_missing_credentials_are_a_reason_to_skip(
    bucket: str, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    client = boto3.session.Session().client("s3")
    message = Sensor(Store(client, bucket), instance, bucket=bucket).tick().skip_message
    assert message is not None
    assert "Unable to locate credentials" in message


def test_a_bucket_that_is_not_named_is_a_reason_to_skip(instance: dg.DagsterInstance) -> None:
    sensor = Sensor(resources("", (), 10)["bucket"], instance)
    data = sensor.tick()
    assert data.skip_message == "BG_BUCKET is not set: name the S3 bucket that holds the photos"
    assert sensor.log.messages == [data.skip_message]


def test_a_first_date_to_come_is_a_reason_to_skip(s3: "S3Client", bucket: str) -> None:
    later = settings(bucket=bucket, first_date=datetime.now(UTC).date() + timedelta(days=9))
    definition = new_uploads(later, upload_dates(later), [raw_images])
    with dg.build_sensor_context(resources={"bucket": Store(s3, bucket)}) as context:
        assert "is in the future" in str(definition.evaluate_tick(context).skip_message)


def test_a_large_date_gets_several_runs_of_which_the_first_is_the_one_that_is_asked_for_again(
    s3: "S3Client", bucket: str, instance: dg.DagsterInstance, upload: Upload, today: str
) -> None:
    sensor = Sensor(Store(s3, bucket), instance, bucket=bucket, runs_per_date=3, part_images=2)
    upload("a.png", "b.png", "c.png", "d.png", "e.png", "request.json")
    first, *helpers = sensor.tick().run_requests or []
    assert [request.partition_key for request in (first, *helpers)] == [today] * 3
    assert [str(request.run_key) for request in helpers] == [f"{first.run_key}+2", f"{first.run_key}+3"]
    assert [request.tags["bg_pipeline/run"] for request in (first, *helpers)] == [
        "1 of 3",
        "2 of 3",
        "3 of 3",
    ]
    assert {request.tags[GROUP_TAG] for request in (first, *helpers)} == {first.run_key}
    assert [request.tags.get(HELPER_TAG) for request in (first, *helpers)] == [None, *[first.run_key] * 2]
    run(sensor, helpers[0])
    run(sensor, first, crash="yes")
    sensor.late += 400
    again = sensor.tick().run_requests or []
    assert [request.tags["bg_pipeline/attempt"] for request in again] == ["2"] * 3


def test_a_date_of_one_part_gets_one_run_with_the_tags_of_always(
    s3: "S3Client", bucket: str, instance: dg.DagsterInstance, upload: Upload
) -> None:
    upload("a.png", "request.json")
    many = Sensor(Store(s3, bucket), instance, bucket=bucket, runs_per_date=3)
    one = Sensor(Store(s3, bucket), instance, bucket=bucket)
    (request,), (usual,) = many.tick().run_requests or [], one.tick().run_requests or []
    assert (request.run_key, request.tags.keys()) == (usual.run_key, usual.tags.keys())
