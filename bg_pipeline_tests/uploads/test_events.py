"""What S3's event notifications say, and that no upload is lost whatever becomes of messages and ticks."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any, cast
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bg_pipeline.aws.sqs import HIDDEN_SECONDS, Message, Queue, region_of
from bg_pipeline.domain.batches import parse_upload
from bg_pipeline.settings import settings
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline.uploads.changes import RequestedRun, RunResult, SensorCursor, SensorTick
from bg_pipeline.uploads.events import (
    CALM_SECONDS,
    MAX_BODY,
    MAX_RECEIPTS,
    MAX_TOLD,
    POISON_RECEIVES,
    CreatedObject,
    EventCursor,
    EventReader,
    created_objects,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = "image-files/2026/11/21/101530/a bus+1%20é.png"


def record(key: str, name: str = "ObjectCreated:Put", bucket: str = "photos") -> dict[str, Any]:
    """An entry as S3 writes it (Amazon S3 user guide, "Event message structure")."""
    return {
        "eventVersion": "2.3",
        "eventSource": "aws:s3",
        "awsRegion": "eu-west-1",
        "eventTime": "2026-11-21T12:00:00.000Z",
        "eventName": name,
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": quote_plus(key, safe="/"), "size": 1, "eTag": "e", "sequencer": "0055AED6DCD"},
        },
    }


def plain(*keys: str, name: str = "ObjectCreated:Put", bucket: str = "photos") -> str:
    return json.dumps({"Records": [record(key, name, bucket) for key in keys]})


def through_sns(message: str) -> str:
    return json.dumps({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:…", "Message": message})


def from_bridge(key: str, kind: str = "Object Created") -> str:
    """An event as EventBridge sends it (Amazon S3 user guide, "EventBridge event message structure")."""
    detail = {"version": "0", "bucket": {"name": "photos"}, "object": {"key": key, "size": 1, "etag": "e"}}
    return json.dumps({"version": "0", "source": "aws.s3", "detail-type": kind, "detail": detail})


TEST_EVENT = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"})
FORMS = [plain, lambda key: through_sns(plain(key)), from_bridge, lambda key: through_sns(from_bridge(key))]


# What messages say


@pytest.mark.parametrize("form", FORMS, ids=["plain", "SNS", "EventBridge", "EventBridge and SNS"])
@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_each_form_gives_the_key_as_it_was_uploaded(form: Any, name: str) -> None:
    assert created_objects(form(f"image-files/2026/11/21/{name}")) == [
        CreatedObject("photos", f"image-files/2026/11/21/{name}")
    ]


def test_a_form_decoded_key_is_not_decoded_twice() -> None:
    assert created_objects(plain(KEY)) == created_objects(from_bridge(KEY)) == [CreatedObject("photos", KEY)]


@pytest.mark.parametrize(
    "name", ["Put", "Post", "Copy", "CompleteMultipartUpload"], ids=lambda name: f"ObjectCreated:{name}"
)
def test_every_way_to_create_an_object_counts(name: str) -> None:
    assert created_objects(plain(KEY, name=f"ObjectCreated:{name}")) == [CreatedObject("photos", KEY)]


def test_a_message_may_hold_several_events_of_several_kinds() -> None:
    events = [record("a"), record("b", "ObjectRemoved:Delete"), record("c", "ObjectCreated:Copy")]
    assert created_objects(json.dumps({"Records": events})) == [
        CreatedObject("photos", "a"),
        CreatedObject("photos", "c"),
    ]


@pytest.mark.parametrize(
    "body",
    [
        TEST_EVENT,
        through_sns(TEST_EVENT),
        plain(KEY, name="ObjectRemoved:Delete"),
        plain(KEY, name="ObjectRemoved:DeleteMarkerCreated"),
        plain(KEY, name="ObjectTagging:Put"),
        plain(KEY, name="LifecycleExpiration:Delete"),
        from_bridge(KEY, "Object Deleted"),
        from_bridge(KEY, "Object Restore Completed"),
        plain(),
    ],
)
def test_test_events_deletions_and_the_like_tell_of_no_upload(body: str) -> None:
    assert created_objects(body) == []


POISON = [
    "",
    "hello",
    "[]",
    "null",
    "1e999",
    "{}",
    '{"Records": [{}]}',
    json.dumps({"Records": [record(KEY), {"eventSource": "aws:sqs"}]}),
    json.dumps({"Type": "Notification", "Message": "hello"}),
    json.dumps({"Type": "SubscriptionConfirmation", "Message": "confirm", "SubscribeURL": "https://…"}),
    json.dumps({"source": "aws.ec2", "detail-type": "Object Created", "detail": {}}),
    "[" * 100_000,
    plain("x" * (MAX_BODY + 1)),
]


@pytest.mark.parametrize("body", POISON, ids=lambda body: body[:30])
def test_what_is_no_event_is_refused_with_a_reason(body: str) -> None:
    with pytest.raises(ValueError, match=r"it is not an S3 event|it has 262,\d+ characters"):
        created_objects(body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["Records", "Event", "Type", "Message", "source", "detail-type", "detail", "s3"])
            | st.text(),
            inner,
        )
    ),
)


@given(st.text() | JSON.map(json.dumps))
def test_no_message_does_more_than_be_refused(body: str) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(created_objects(body), list)


def test_the_region_of_a_queue_is_read_from_its_address() -> None:
    for region in ("eu-west-1", "us-gov-west-1", "ap-southeast-4"):
        assert region_of(f"https://sqs.{region}.amazonaws.com/123456789012/uploads") == region
        assert region_of(f"https://vpce-0a1-x.sqs.{region}.vpce.amazonaws.com/1/uploads") == region
        assert region_of(f"https://{region}.queue.amazonaws.com/123456789012/uploads") == region
    assert region_of("http://127.0.0.1:4566/000000000000/uploads.eu-west-1.fifo") is None


# What becomes of messages


@dataclass
class Held:
    """A message in the queue: from when on it can be received, and how often it was."""

    id: str
    body: str
    visible: float = 0.0
    receives: int = 0


class Line(Queue):
    """A queue in memory; receipts are as long as AWS's, and only the newest of a message deletes it."""

    def __init__(self, world: "World") -> None:
        self.url = "https://sqs.eu-west-1.amazonaws.com/123456789012/uploads"
        self.world = world
        self.held: dict[str, Held] = {}
        self.sent = 0

    def send(self, body: str) -> None:
        self.sent += 1
        self.held[f"m{self.sent}"] = Held(f"m{self.sent}", body)

    def receive(self) -> list[Message]:
        now = self.world.now.timestamp()
        found = [each for each in self.held.values() if each.visible <= now][:10]
        for each in found:
            each.visible, each.receives = now + HIDDEN_SECONDS, each.receives + 1
        return [
            Message(each.id, each.body, f"{each.id}:{each.receives}:".ljust(400, "x"), each.receives)
            for each in found
        ]

    def delete(self, receipts: Any) -> None:
        for receipt in receipts:
            name, receives, _ = receipt.split(":")
            if name in self.held and self.held[name].receives == int(receives):
                del self.held[name]

    has_dead_letters = False


class Photos:
    """A bucket in memory, as much of it as sensors use."""

    bucket = "photos"

    def __init__(self) -> None:
        self.objects: dict[str, ObjectInfo] = {}
        self.failing = False

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        if self.failing:
            raise ConnectionError(prefix)
        return (self.objects[key] for key in sorted(self.objects) if key.startswith(prefix))

    def folders(self, prefix: str) -> Iterator[str]:
        ends = (key.find("/", len(prefix)) for key in self.objects if key.startswith(prefix))
        found = {key[: end + 1] for key, end in zip(self.objects, ends, strict=False) if end >= 0}
        return iter(sorted(found))

    def write(self, key: str, data: bytes, *, media_type: str) -> str:
        self.objects[key] = ObjectInfo(key, len(data), data.decode(), NOON)
        return ""


@dataclass
class World:
    """Photos, their events, both sensors with their cursors, and Dagster's runs."""

    now: datetime = NOON
    photos: Photos = field(default_factory=Photos)
    told: list[str] = field(default_factory=list)
    runs: list[tuple[date, RequestedRun]] = field(default_factory=list)
    cursors: dict[str, str] = field(default_factory=dict)
    settle: int = 300

    def __post_init__(self) -> None:
        self.queue = Line(self)

    def later(self, seconds: float) -> "World":
        self.now += timedelta(seconds=seconds)
        return self

    def put(self, *names: str, day: str = "2026/11/21", batch: str = "101530", text: str = "1") -> None:
        for name in names:
            key = f"image-files/{day}/{batch}/{name}"
            self.photos.objects[key] = ObjectInfo(key, 1, text, self.now)
            self.queue.send(plain(key))

    def take(self, inbox: EventCursor, tick: SensorTick) -> None:
        EventReader(self.queue, inbox, tick, time_is_up=lambda: False).receive()

    def tick(self, *, sensor: str = "events", lost: bool = False) -> list[str]:
        """The dates a sensor asks for, as Dagster's daemon would take them up, or lose them with the cursor."""
        memory = (EventCursor if sensor == "events" else SensorCursor).read(self.cursors.get(sensor))
        tick = SensorTick(
            settings=settings(bucket="photos", settle_seconds=self.settle),
            store=cast(Store, self.photos),
            cursor=memory,
            now=self.now.timestamp(),
            first=date(2024, 1, 1),
            last=self.now.date() + timedelta(days=1),
            find_run=self._run,
            find_newest_request=self._asked,
            time_is_up=lambda: False,
            warn=self.told.append,
        )
        asked: list[tuple[date, RequestedRun]] = []
        try:
            if isinstance(memory, EventCursor):
                self.take(memory, tick)
            asked.extend(tick.requests_due() if sensor == "events" else tick.run_requests())
        finally:
            if not lost:
                self.cursors[sensor] = memory.model_dump_json()
                self.runs.extend(asked)
        return [str(day) for day, _ in asked]

    def _run(self, run_key: str) -> RunResult | None:
        found = [each.at for _, each in self.runs if each.run_key == run_key]
        return RunResult(finished=True, failed=False, started=found[-1], ended=found[-1]) if found else None

    def _asked(self, day: date) -> RequestedRun | None:
        found = [each for that, each in self.runs if that == day]
        return found[-1].model_copy() if found else None


@pytest.fixture
def world() -> World:
    return World()


def test_a_message_is_deleted_in_the_tick_after_the_one_that_asked(world: World) -> None:
    world.put("bus.png", "dog.png", "request.json")
    assert world.tick() == ["2026-11-21"]
    assert len(world.queue.held) == 3
    assert world.later(10).tick() == []
    assert world.queue.held == {}


def test_a_tick_that_is_lost_is_made_again_with_the_same_key(world: World) -> None:
    world.put("bus.png", "request.json")
    for _ in range(3):
        assert world.tick(lost=True) == ["2026-11-21"]
        assert len(world.queue.held) == 2
        assert world.later(10).tick(lost=True) == []  # Nobody else is given the messages yet.
        world.later(HIDDEN_SECONDS)
    assert world.tick() == ["2026-11-21"]
    assert world.later(10).tick() == []
    assert world.queue.held == {}


def test_a_burst_is_one_run_for_each_date(world: World) -> None:
    for batch in range(30):
        for day in ("2026/11/21", "2026/11/20", "2025/01/05"):
            world.put("bus.png", "dog.png", "request.json", day=day, batch=str(batch))
    assert sorted(world.tick()) == ["2025-01-05", "2026-11-20", "2026-11-21"]
    assert world.later(10).tick() == []
    assert world.queue.held == {}


def test_a_burst_that_goes_on_is_asked_for_once_in_half_a_minute(world: World) -> None:
    asked = []
    for second in range(0, 120, 10):
        world.put("bus.png", "request.json", batch=str(second))
        asked.append(len(world.tick()))
        world.later(10)
    assert asked == [1, 0, 0] * 4
    world.later(CALM_SECONDS).tick()
    assert len(world.runs) == 5
    assert world.queue.held == {}


def test_a_burst_larger_than_the_cursor_is_taken_in_one_tick(world: World) -> None:
    world.put(*(f"{number}.png" for number in range(5_000)), "request.json")
    assert world.tick() == ["2026-11-21"]
    kept = MAX_RECEIPTS // 400
    assert len(world.queue.held) == kept
    assert len(world.cursors["events"]) < MAX_RECEIPTS + 2_000
    world.later(10).tick()
    assert world.queue.held == {}


def test_a_date_that_only_the_rest_of_a_burst_names_keeps_its_messages(world: World) -> None:
    world.put(*(f"{number}.png" for number in range(1_000)), "request.json")
    world.put("bus.png", "request.json", day="2026/02/01")
    assert sorted(world.tick(lost=True)) == ["2026-02-01", "2026-11-21"]
    assert {"m1002", "m1003"} <= set(world.queue.held)
    assert sorted(world.later(HIDDEN_SECONDS).tick()) == ["2026-02-01", "2026-11-21"]
    world.later(HIDDEN_SECONDS).tick()
    world.later(HIDDEN_SECONDS).tick()
    assert world.queue.held == {}


def test_more_dates_than_one_tick_asks_for_are_asked_for_in_the_next(world: World) -> None:
    days = [f"2025/{month:02}/{day:02}" for month in (1, 2) for day in range(1, 21)]
    for day in days:
        world.put("bus.png", "request.json", day=day)
    assert [len(world.tick()), len(world.later(10).tick()), len(world.later(10).tick())] == [25, 15, 0]
    assert world.queue.held == {}


def test_an_upload_to_any_old_date_starts_that_date_every_time(world: World) -> None:
    for text in ("1", "2", "1", "2"):
        world.put("bus.png", "request.json", day="2024/01/01", text=text)
        assert world.tick() == ["2024-01-01"]
        for _ in range(100):
            assert world.later(60).tick() == []
        assert EventCursor.read(world.cursors["events"]) == EventCursor()
    assert len({asked.run_key for _, asked in world.runs}) == 4


def test_the_same_event_once_more_asks_for_nothing(world: World) -> None:
    world.put("bus.png", "request.json")
    assert world.tick() == ["2026-11-21"]
    for _ in range(20):
        world.queue.send(plain("image-files/2026/11/21/101530/bus.png"))
        assert world.later(60).tick() == []
    world.later(10).tick()
    assert world.queue.held == {}


def test_the_order_of_events_does_not_matter(world: World) -> None:
    world.put("bus.png", "request.json")
    world.queue.held = dict(reversed(world.queue.held.items()))
    del world.photos.objects["image-files/2026/11/21/101530/bus.png"]
    world.queue.held = {"m0": Held("m0", plain(KEY, name="ObjectRemoved:Delete"))} | world.queue.held
    assert world.tick() == ["2026-11-21"]
    assert world.later(600).tick() == []


def test_deletions_and_test_events_are_deleted_at_once(world: World) -> None:
    for body in (TEST_EVENT, plain(KEY, name="ObjectRemoved:Delete"), from_bridge(KEY, "Object Deleted")):
        world.queue.send(body)
    assert world.tick() == []
    assert world.queue.held == {}
    assert world.told == []


def test_a_folder_without_a_request_is_asked_for_when_it_has_been_quiet(world: World) -> None:
    world.put("bus.png", day="2025/06/01")
    assert world.tick() == []
    assert world.later(10).tick() == []
    assert world.queue.held == {}
    world.later(200).put("dog.png", day="2025/06/01")
    assert [world.tick(), world.later(299).tick(), world.later(1).tick()] == [[], [], ["2025-06-01"]]


def test_a_draft_waits_for_its_request_and_nothing_is_remembered_of_it(world: World) -> None:
    world.put("bus.png", "draft.json")
    assert [world.tick(), world.later(10).tick(), world.later(9_000).tick()] == [[], [], []]
    assert EventCursor.read(world.cursors["events"]) == EventCursor()
    world.put("request.json")
    assert world.tick() == ["2026-11-21"]


def test_uploads_that_s3_cannot_list_now_are_listed_by_the_next_tick(world: World) -> None:
    world.put("bus.png", "request.json", day="2025/06/01")
    world.photos.failing = True
    with pytest.raises(ConnectionError):
        world.tick()
    world.photos.failing = False
    assert world.later(10).tick() == ["2025-06-01"]


STRAYS = [
    "bus.png",
    "generated-image-files/2026/11/21/101530/bus.png",
    "image-files/bus.png",
    "image-files/2026/13/45/1/bus.png",
    "image-files/2026/11/21/bus.png",
    "image-files/2023/12/31/1/request.json",
    "image-files/2026/11/23/1/request.json",
]


@pytest.mark.parametrize("key", STRAYS)
def test_what_is_no_upload_is_told_once_and_dropped(world: World, key: str) -> None:
    for _ in range(3):
        for _ in range(15):
            world.queue.send(plain(key))
        assert world.later(600).tick() == []
        assert world.queue.held == {}
    (sentence,) = world.told
    assert repr(key) in sentence


def test_events_of_another_bucket_are_told_once_and_dropped(world: World) -> None:
    for _ in range(3):
        world.queue.send(plain(KEY, bucket="holidays"))
        assert world.tick() == []
    assert world.told == ["events of bucket 'holidays' are ignored: it is not BG_BUCKET"]


def test_markers_of_folders_are_nothing(world: World) -> None:
    for key in ("image-files/", "image-files/2026/", "image-files/2026/11/21/1/", "image-files/1999/"):
        world.queue.send(plain(key))
    assert [world.tick(), world.told, world.queue.held] == [[], [], {}]


def test_what_was_told_is_bounded(world: World) -> None:
    for number in range(3 * MAX_TOLD):
        world.queue.send(plain(f"image-files/{number}/bus.png"))
    world.tick()
    assert len(EventCursor.read(world.cursors["events"]).told) == MAX_TOLD


def test_poison_without_a_dead_letter_queue_is_told_kept_and_in_the_end_deleted(world: World) -> None:
    world.queue.send("hello")
    world.put("bus.png", "request.json")
    assert world.tick() == ["2026-11-21"]
    for _ in range(POISON_RECEIVES - 1):
        assert "m1" in world.queue.held
        world.later(HIDDEN_SECONDS).tick()
    assert world.queue.held == {}
    assert world.photos.objects["pipeline-state/poison/m1.txt"].etag == "hello"
    assert [line.split(" of queue ")[0].split(" https")[0] for line in world.told] == ["message m1", "queue"]


def test_much_poison_keeps_nothing_from_being_taken(world: World) -> None:
    for _ in range(500):
        world.queue.send("hello")
    world.put("bus.png", "request.json")
    assert world.tick() == ["2026-11-21"]


def test_both_sensors_together_ask_for_each_state_once(world: World) -> None:
    for step, text in enumerate("1213"):
        world.put("bus.png", "request.json", text=text)
        order = ("events", "poll") if step % 2 else ("poll", "events")
        asked = [world.tick(sensor=sensor) for sensor in order]
        assert asked == [["2026-11-21"], []]
        for _ in range(5):
            world.later(120)
            assert [world.tick(sensor=sensor) for sensor in order] == [[], []]
    assert world.queue.held == {}
    assert [asked.number for _, asked in world.runs] == [1, 2, 3, 4]


def test_a_request_that_dagster_dropped_is_made_twice_more_whatever_the_other_sensor_asked_before(
    world: World,
) -> None:
    world.put("bus.png", "request.json", text="1")
    assert world.tick(sensor="poll") == ["2026-11-21"]
    world.put("request.json", text="2")
    asked = []
    for _ in range(30):
        asked += world.later(300).tick()
        del world.runs[1:]
    assert asked == ["2026-11-21"] * 3


DAYS = st.sampled_from(["2026/11/22", "2026/11/21", "2026/11/20", "2024/02/29"])
STEPS = st.lists(
    st.tuples(st.just("put"), DAYS, st.sampled_from(["a.png", "request.json", "draft.json"]))
    | st.tuples(st.just("delete"), DAYS, st.just("a.png"))
    | st.tuples(st.sampled_from(["tick", "lost", "poll", "poll lost"]), st.just(""), st.just(""))
    | st.tuples(st.just("again"), DAYS, st.just(""))
    | st.tuples(st.just("later"), st.sampled_from(["1", "15", "200", "4000"]), st.just("")),
    max_size=40,
)


@examples(deadline=None)
@given(STEPS, st.booleans())
def test_whatever_is_lost_every_upload_is_asked_for_in_the_end_and_no_state_twice(
    steps: list[tuple[str, str, str]], polling: bool
) -> None:
    world = World()
    for number, (step, day, name) in enumerate(steps):
        match step:
            case "put":
                world.put(name, day=day, text=str(number))
            case "delete":
                world.photos.objects.pop(f"image-files/{day}/101530/a.png", None)
                world.queue.send(plain(f"image-files/{day}/101530/a.png", name="ObjectRemoved:Delete"))
            case "again":
                world.queue.send(plain(f"image-files/{day}/101530/a.png"))
            case "tick" | "lost":
                world.tick(lost=step == "lost")
            case "poll" | "poll lost" if polling:
                world.tick(sensor="poll", lost=step == "poll lost")
            case "later":
                world.later(int(day))
    for _ in range(6):
        world.later(HIDDEN_SECONDS).tick()
    assert world.queue.held == {}
    assert EventCursor.read(world.cursors["events"]).receipts == []
    runs: dict[date, list[RequestedRun]] = {}
    for when, asked in world.runs:
        runs.setdefault(when, []).append(asked)
    for states in runs.values():
        assert all(one.uploads != next.uploads for one, next in pairwise(states))
    for when in {upload.batch.date for upload in map(parse_upload, world.photos.objects) if upload}:
        prefix = f"image-files/{when:%Y/%m/%d}/101530/"
        inside = {
            each.key.removeprefix(prefix): each.modified.timestamp() for each in world.photos.list(prefix)
        }
        if "request.json" in inside or "draft.json" not in inside:
            inside.pop("draft.json", None)
            assert max(asked.at for asked in runs[when]) >= max(inside.values())
