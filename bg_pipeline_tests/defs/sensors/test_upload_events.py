"""The sensor that is told by events, as Dagster evaluates it, on the stand-in's S3, SNS, EventBridge and SQS."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import dagster as dg
import pytest
from botocore.config import Config

from bg_pipeline.aws.sqs import Message, Queue
from bg_pipeline.definitions import definitions
from bg_pipeline.defs.dagster_home import prepare
from bg_pipeline.defs.resources import resources
from bg_pipeline.settings import settings
from bg_pipeline.uploads.events import POISON_RECEIVES
from bg_pipeline_tests.pictures import photo

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

pytestmark = pytest.mark.dates

OLD = "2024-02-29"


@pytest.fixture(scope="module")
def sqs(s3: "S3Client") -> "SQSClient":
    return boto3.client("sqs")


@pytest.fixture(autouse=True)
def _nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, one process, knows at once whether a queue is empty."""
    monkeypatch.setattr("bg_pipeline.aws.sqs.WAIT_SECONDS", 0)


@pytest.fixture
def queue(sqs: "SQSClient") -> "Held":
    """A new, empty queue."""
    return new_queue(sqs)


def new_queue(sqs: "SQSClient", dead_letters: str = "") -> "Held":
    redrive = json.dumps({"deadLetterTargetArn": dead_letters, "maxReceiveCount": "3"})
    name = f"uploads-{uuid.uuid4().hex[:12]}"
    made = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive} if dead_letters else {})
    return Held(sqs, made["QueueUrl"])


class Held(Queue):
    """A queue whose messages a test need not wait for to come back."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        super().__init__(client, url)
        self.received: dict[str, Message] = {}

    def receive(self) -> list[Message]:
        found = super().receive()
        self.received |= {message.id: message for message in found}
        return found

    def come_back(self) -> None:
        """What was received and not deleted can be received again, as after the time it is hidden."""
        for message in self.received.values():
            with contextlib.suppress(self.client.exceptions.ReceiptHandleIsInvalid):
                self.client.change_message_visibility(
                    QueueUrl=self.url, ReceiptHandle=message.receipt, VisibilityTimeout=0
                )
        self.received.clear()

    @property
    def arn(self) -> str:
        answer = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])
        return answer["Attributes"]["QueueArn"]

    def sizes(self) -> tuple[int, int]:
        """How many messages can be received, and how many are hidden."""
        answer = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])["Attributes"]
        hidden = answer["ApproximateNumberOfMessagesNotVisible"]
        return int(answer["ApproximateNumberOfMessages"]), int(hidden)

    def holds(self, number: int) -> bool:
        return self.sizes() == (number, 0)

    def send(self, body: str) -> None:
        self.client.send_message(QueueUrl=self.url, MessageBody=body)


class Sensors:
    """Both sensors of the real definitions, with a cursor each, an instance, and a clock that runs ahead."""

    def __init__(self, bucket: str, queue: Queue, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.queue = queue
        chosen = settings(bucket=bucket, queue_url=queue.url)
        self.repository = definitions(chosen).get_repository_def()
        self.resources = resources(bucket, (), 10) | {"queue": queue}
        self.cursors: dict[str, str | None] = {}
        self.told: list[str] = []

    def tick(self, name: str = "upload_events", *, lost: bool = False) -> Any:
        """One tick; what it asks for succeeds at once, unless Dagster loses all of it."""
        sensor = self.repository.get_sensor_def(name)
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(name),
            repository_def=self.repository,
            resources={key: self.resources[key] for key in sensor.required_resource_keys},
        ) as context:
            data = sensor.evaluate_tick(context)
        if not lost:
            self.cursors[name] = data.cursor
            for request in data.run_requests or []:
                self.instance.create_run_for_job(
                    self.repository.get_job("whole_date"),
                    status=dg.DagsterRunStatus.SUCCESS,
                    tags={**request.tags, "dagster/run_key": str(request.run_key)},
                )
        return data

    def asked(self, name: str = "upload_events", *, lost: bool = False) -> list[str]:
        return [str(request.partition_key) for request in self.tick(name, lost=lost).run_requests or []]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def sensors(bucket: str, queue: Held, instance: dg.DagsterInstance) -> Sensors:
    return Sensors(bucket, queue, instance)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Events come some moments after what they tell of."""
    patience = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.02)


def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def upload(s3: "S3Client", bucket: str, *names: str, day: str = OLD, folder: str = "10:15:30") -> None:
    for name in names:
        key = f"image-files/{day.replace('-', '/')}/{folder}/{name}"
        s3.put_object(Bucket=bucket, Key=key, Body=uuid.uuid4().bytes)


def notify(s3: "S3Client", bucket: str, **targets: Any) -> None:
    """Makes the bucket notify a queue or a topic of all that happens in it, as its owner would."""
    events = {"Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    configuration = {kind: [{**target, **events}] for kind, target in targets.items() if target}
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={**configuration, **{k: v for k, v in targets.items() if not v}},  # type: ignore[typeddict-item]
    )


# Through every way that S3 has


def direct(s3: "S3Client", bucket: str, queue: Held) -> None:
    notify(s3, bucket, QueueConfigurations={"QueueArn": queue.arn})


def through_sns(s3: "S3Client", bucket: str, queue: Held) -> None:
    sns = boto3.client("sns")
    topic = sns.create_topic(Name=f"uploads-{bucket}")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.arn)
    notify(s3, bucket, TopicConfigurations={"TopicArn": topic})


def through_sns_raw(s3: "S3Client", bucket: str, queue: Held) -> None:
    sns = boto3.client("sns")
    topic = sns.create_topic(Name=f"raw-{bucket}")["TopicArn"]
    raw = {"RawMessageDelivery": "true"}
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue.arn, Attributes=raw)
    notify(s3, bucket, TopicConfigurations={"TopicArn": topic})


def through_event_bridge(s3: "S3Client", bucket: str, queue: Held) -> None:
    bridge: Any = boto3.client("events")
    pattern = {"source": ["aws.s3"], "detail": {"bucket": {"name": [bucket]}}}
    bridge.put_rule(Name=bucket, EventPattern=json.dumps(pattern))
    bridge.put_targets(Rule=bucket, Targets=[{"Id": "queue", "Arn": queue.arn}])
    notify(s3, bucket, EventBridgeConfiguration={})


@pytest.mark.parametrize("way", [direct, through_sns, through_sns_raw, through_event_bridge])
def test_an_upload_to_an_old_date_starts_that_date(
    sensors: Sensors, s3: "S3Client", bucket: str, queue: Held, way: Callable[..., None]
) -> None:
    way(s3, bucket, queue)
    test_events = 0 if way is through_event_bridge else 1
    upload(s3, bucket, "a bus+1%20é.png", "dögs & cats/dog.png", "request.json")
    until(lambda: queue.holds(test_events + 3))
    (request,) = sensors.tick().run_requests
    assert request.partition_key == OLD
    assert queue.sizes() == (0, 3)
    assert sensors.tick().skip_message == "no event named a date with new uploads"
    assert queue.sizes() == (0, 0)
    s3.delete_object(Bucket=bucket, Key=f"image-files/{OLD.replace('-', '/')}/10:15:30/a bus+1%20é.png")
    until(lambda: queue.holds(1))
    assert sensors.asked() == []
    assert queue.sizes() == (0, 0)


# What a lost tick leaves


def test_a_tick_that_dagster_lost_is_made_again_with_the_same_keys(
    sensors: Sensors, s3: "S3Client", bucket: str, queue: Held
) -> None:
    direct(s3, bucket, queue)
    upload(s3, bucket, "bus.png", "request.json")
    day = today()
    upload(s3, bucket, "bus.png", "request.json", day=day)
    until(lambda: queue.holds(5))
    keys = []
    for _ in range(3):
        queue.come_back()
        keys.append({request.run_key for request in sensors.tick(lost=True).run_requests})
        assert queue.sizes() == (0, 4)
    assert keys[0] == keys[1] == keys[2]
    queue.come_back()
    assert sorted(sensors.asked()) == [OLD, day]
    assert sensors.asked() == []
    assert queue.sizes() == (0, 0)


def test_a_message_that_comes_twice_asks_once(
    sensors: Sensors, s3: "S3Client", bucket: str, queue: Held
) -> None:
    direct(s3, bucket, queue)
    upload(s3, bucket, "bus.png", "request.json")
    until(lambda: queue.holds(3))
    assert sensors.asked() == [OLD]
    queue.come_back()  # Their receipts in the cursor are then no longer good.
    queue.receive()
    queue.come_back()
    assert [sensors.asked() for _ in range(3)] == [[], [], []]
    queue.come_back()
    assert [sensors.asked() for _ in range(2)] == [[], []]
    assert queue.sizes() == (0, 0)


# Both sensors


def test_both_sensors_ask_for_a_date_once(sensors: Sensors, s3: "S3Client", bucket: str, queue: Held) -> None:
    direct(s3, bucket, queue)
    numbers, day = [], today()
    for first, second in (("new_uploads", "upload_events"), ("upload_events", "new_uploads")) * 2:
        upload(s3, bucket, "bus.png", "request.json", day=day)
        until(lambda: queue.sizes()[0] >= 2)
        (request,) = sensors.tick(first).run_requests
        numbers.append(str(request.run_key).rpartition(":")[2])
        assert [sensors.asked(second), sensors.asked(first)] == [[], []]
        sensors.cursors.pop("upload_events")  # Nor does it matter that one forgets.
        queue.come_back()
        assert [sensors.asked("upload_events") for _ in range(2)] == [[], []]
    assert numbers == ["1", "2", "3", "4"]


def test_two_pipelines_beside_each_other_do_not_take_over_each_others_requests(
    bucket: str, s3: "S3Client", queue: Held, instance: dg.DagsterInstance
) -> None:
    day = today()
    upload(s3, bucket, "bus.png", "request.json", day=day)
    one = Sensors(bucket, queue, instance)
    assert one.asked("new_uploads") == [day]
    other = Sensors(bucket, queue, instance)
    other.repository = definitions(settings(bucket=bucket, key_prefix="other")).get_repository_def()
    (request,) = other.tick("new_uploads", lost=True).run_requests
    assert request.partition_key == day


# Poison


def test_poison_goes_to_the_dead_letter_queue_and_is_reported_once(
    s3: "S3Client",
    bucket: str,
    sqs: "SQSClient",
    instance: dg.DagsterInstance,
    capfd: pytest.CaptureFixture[str],
) -> None:
    dead = new_queue(sqs)
    queue = new_queue(sqs, dead.arn)
    sensors = Sensors(bucket, queue, instance)
    direct(s3, bucket, queue)
    queue.send("hello")
    upload(s3, bucket, "bus.png", "request.json")
    until(lambda: queue.holds(4))
    assert sensors.asked() == [OLD]
    for _ in range(3):
        queue.come_back()
        assert sensors.asked() == []
    assert [message.body for message in dead.receive()] == ["hello"]
    assert queue.sizes() == (0, 0)
    told = [line for line in capfd.readouterr().err.splitlines() if "WARNING" in line]
    assert len(told) == 1
    assert "it is not an S3 event" in told[0]


def test_poison_without_a_dead_letter_queue_is_kept_in_the_bucket(
    sensors: Sensors, s3: "S3Client", bucket: str, queue: Held
) -> None:
    queue.send("hällo")
    for _ in range(POISON_RECEIVES):
        assert queue.sizes()[0] == 1
        assert sensors.asked() == []
        queue.come_back()
    assert queue.sizes() == (0, 0)
    (kept,) = s3.list_objects_v2(Bucket=bucket, Prefix="pipeline-state/poison/")["Contents"]
    assert s3.get_object(Bucket=bucket, Key=kept["Key"])["Body"].read().decode() == "hällo"


# Reasons to skip


def test_a_queue_that_is_not_there_is_a_reason_to_skip(
    sensors: Sensors, sqs: "SQSClient", queue: Held
) -> None:
    sensors.resources["queue"] = Queue(sqs, f"{queue.url}-gone")
    message = sensors.tick().skip_message
    assert message.startswith(f"queue {queue.url}-gone (BG_QUEUE_URL) could not be read; the next tick")
    assert "NonExistentQueue" in message


def test_a_queue_that_cannot_be_reached_keeps_no_older_date_from_being_asked_for(
    sensors: Sensors, s3: "S3Client", bucket: str, queue: Held
) -> None:
    direct(s3, bucket, queue)
    upload(s3, bucket, "bus.png", "request.json", day="2019-01-01")
    sensors.tick()
    upload(s3, bucket, "bus.png", "request.json")
    assert sensors.cursors["upload_events"] is not None
    cursor = json.loads(sensors.cursors["upload_events"])
    sensors.cursors["upload_events"] = json.dumps({**cursor, "again": {OLD: 0}, "receipts": []})
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1)
    client = boto3.client("sqs", endpoint_url="http://127.0.0.1:9", config=config)
    sensors.resources["queue"] = Queue(client, "http://127.0.0.1:9/000000000000/uploads")
    assert sensors.asked() == [OLD]
    assert "Could not connect" in str(sensors.tick().skip_message)


def test_a_bucket_that_is_not_there_loses_no_date(
    s3: "S3Client", queue: Held, instance: dg.DagsterInstance
) -> None:
    bucket = f"later-{uuid.uuid4().hex}"
    sensors = Sensors(bucket, queue, instance)
    record = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {
            "bucket": {"name": bucket},
            "object": {"key": f"image-files/{OLD.replace('-', '/')}/1/request.json"},
        },
    }
    queue.send(json.dumps({"Records": [record]}))
    assert "could not be listed" in str(sensors.tick().skip_message)
    s3.create_bucket(Bucket=bucket)
    upload(s3, bucket, "bus.png", "request.json")
    assert sensors.asked() == [OLD]


def test_a_bucket_that_is_not_named_is_a_reason_to_skip(queue: Held, instance: dg.DagsterInstance) -> None:
    assert Sensors("", queue, instance).tick().skip_message.startswith("BG_BUCKET is not set")


def test_a_first_date_to_come_is_a_reason_to_skip(sensors: Sensors, bucket: str, queue: Held) -> None:
    first = datetime.now(UTC).date() + timedelta(days=9)
    later = settings(bucket=bucket, queue_url=queue.url, first_date=first)
    sensors.repository = definitions(later).get_repository_def()
    assert "is in the future" in sensors.tick().skip_message


# Definitions


def test_the_sensor_is_there_only_with_a_queue_and_stopped_until_somebody_turns_it_on(queue: Held) -> None:
    def names(**overrides: Any) -> list[str]:
        repository = definitions(settings(bucket="photos", **overrides)).get_repository_def()
        return sorted(sensor.name for sensor in repository.sensor_defs)

    assert "upload_events" not in names()
    assert "upload_events" in names(queue_url=queue.url)
    repository = definitions(settings(bucket="photos", queue_url=queue.url)).get_repository_def()
    assert repository.get_sensor_def("upload_events").default_status == dg.DefaultSensorStatus.STOPPED
    dg.Definitions.validate_loadable(definitions(settings(bucket="photos", queue_url=queue.url)))


def test_the_real_resource_reads_the_queue(
    s3: "S3Client", bucket: str, queue: Held, instance: dg.DagsterInstance
) -> None:
    sensors = Sensors(bucket, queue, instance)
    sensors.resources = resources(bucket, (), 10, queue.url)
    direct(s3, bucket, queue)
    upload(s3, bucket, "bus.png", "request.json")
    until(lambda: queue.holds(3))
    assert sensors.asked() == [OLD]


# With the real daemon


@contextlib.contextmanager
def daemon(home: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Dagster's daemon, killed in the end if it was not before."""
    command = [sys.executable, "-m", "dagster._daemon", "run", "-w", str(home / "workspace.yaml")]
    with (home / "daemon.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_daemon_that_is_killed_as_soon_as_it_asked_runs_each_date_once_and_leaves_no_message(
    s3: "S3Client", bucket: str, queue: Held, tmp_path: Path
) -> None:
    direct(s3, bucket, queue)
    own = {"BG_BUCKET": bucket, "BG_QUEUE_URL": queue.url, "DAGSTER_HOME": str(tmp_path)}
    environment = os.environ | own
    prepare(tmp_path)
    start = ["sensor", "start", "--start-all", "-w", str(tmp_path / "workspace.yaml")]
    subprocess.run(
        [sys.executable, "-m", "dagster", *start], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    dates = [OLD, today()]
    for number, day in enumerate(dates):
        prefix = f"image-files/{day.replace('-', '/')}/{number}"
        request = json.dumps({"Id": f"batch-{number}", "Prompt": "a sunny beach"})
        s3.put_object(Bucket=bucket, Key=f"{prefix}/a bus+1.jpg", Body=photo(number))
        s3.put_object(Bucket=bucket, Key=f"{prefix}/request.json", Body=request.encode())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        with daemon(tmp_path, environment):
            until(lambda: instance.get_runs_count() > 0, 90)
        with daemon(tmp_path, environment):
            until(lambda: queue.sizes() == (0, 0), 90)
            finished = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
            until(lambda: instance.get_runs_count(dg.RunsFilter(statuses=finished)) >= 2, 90)
        asked = [run for run in instance.get_runs() if run.parent_run_id is None]
    assert sorted(run.tags["dagster/partition"] for run in asked) == dates
