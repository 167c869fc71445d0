"""Reads S3 event notifications from an SQS queue: which upload dates to check, and when to delete a message.

An event only gives the date; its uploads are listed in S3, which includes everything that an event was sent for. So
events may come in any order, several times, or for objects that were overwritten or deleted since.

**When a message is deleted.** A tick of the sensor writes the dates and the messages' receipts into its cursor, which
Dagster stores together with the run requests of the tick. The next tick gets the stored cursor and first deletes
those messages. If a tick is lost, its cursor was not stored: the messages are received again, and because a date's
run key is derived from its uploads, no run is requested twice.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal
from urllib.parse import unquote_plus

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from bg_pipeline.aws.sqs import Message, Queue
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import parse_upload
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.uploads.changes import SensorCursor, SensorTick

MAX_BODY: Final = 262_144
"""Maximum length of a message in characters; an S3 event has about a thousand."""
MAX_RECEIVES: Final = 1000
"""Maximum number of receive calls in one tick."""
MAX_RECEIPTS: Final = 40_000
"""Maximum length of all receipts in the cursor, in characters: about 100 messages. Dagster stores the cursor in each
tick."""
CALM_SECONDS: Final = 30
"""Seconds after a run request in which its date is not requested again, so that many quick uploads become one run."""
POISON_RECEIVES: Final = 5
"""Number of receives after which a message that is not an event is deleted, if there is no dead-letter queue."""
MAX_TOLD: Final = 200
"""Maximum number of reported problems that are remembered."""


class _Name(BaseModel):
    name: str


class _Key(BaseModel):
    key: str


class _Where(BaseModel):
    bucket: _Name
    object: _Key


class _Record(BaseModel):
    source: Annotated[Literal["aws:s3"], Field(alias="eventSource")]
    name: Annotated[str, Field(alias="eventName")]
    s3: _Where


class _Records(BaseModel):
    """An S3 event notification; its keys are form-encoded."""

    Records: list[_Record]


class _TestEvent(BaseModel):
    """The message that S3 sends when notifications are configured."""

    Event: Literal["s3:TestEvent"]


class _BridgeEvent(BaseModel):
    """An S3 event from EventBridge; its keys are not encoded."""

    source: Literal["aws.s3"]
    kind: Annotated[str, Field(alias="detail-type")]
    detail: _Where


class _Notification(BaseModel):
    """The SNS envelope of a message, used unless raw delivery is on."""

    Type: Literal["Notification"]
    Message: str


_FORMS: Final = TypeAdapter[_Records | _TestEvent | _BridgeEvent | _Notification](
    _Records | _TestEvent | _BridgeEvent | _Notification
)


@dataclass(frozen=True, slots=True)
class CreatedObject:
    """An object that was created in a bucket."""

    bucket: str
    key: str


def created_objects(body: str) -> list[CreatedObject]:
    """The created objects in a message; empty for a test event, a deletion and other events.

    Raises ``ValueError`` with the reason if the message is not an S3 event.
    """
    if len(body) > MAX_BODY:
        raise ValueError(f"it has {len(body):,} characters, and an S3 event has at most {MAX_BODY:,}")
    try:
        event = _FORMS.validate_json(body)
    except ValidationError:
        raise ValueError("it is not an S3 event, neither a plain one nor from SNS or EventBridge") from None
    match event:
        case _Notification():
            return created_objects(event.Message)
        case _Records():
            return [
                CreatedObject(record.s3.bucket.name, unquote_plus(record.s3.object.key))
                for record in event.Records
                if record.name.startswith("ObjectCreated:")
            ]
        case _BridgeEvent() if event.kind == "Object Created":
            return [CreatedObject(event.detail.bucket.name, event.detail.object.key)]
    return []


class EventCursor(SensorCursor):
    """The cursor of the sensor that reads events.

    ``receipts`` are those of messages whose dates are in this cursor: in ``again``, or already requested. ``told``
    has the subjects of the newest `MAX_TOLD` problems that were reported.
    """

    receipts: list[str] = Field(default_factory=list)


@dataclass
class EventReader:
    """Reads the queue's messages into the cursor of one tick.

    ``tick`` uses the same cursor to check the dates afterwards. Reading ends when ``time_is_up`` returns True.
    """

    queue: Queue
    cursor: EventCursor
    tick: SensorTick
    time_is_up: Callable[[], bool]
    _kept_dates: set[UploadDate] = field(default_factory=set)

    def receive(self) -> None:
        """Deletes the messages whose receipts are in the stored cursor, then adds the dates of new messages to it.

        Errors of SQS are raised; dates added before stay in the cursor, and the other messages are received again.
        """
        self.queue.delete(self.cursor.receipts)
        self.cursor.receipts = []
        invalid: list[tuple[Message, str]] = []
        for _ in range(MAX_RECEIVES):
            messages = [] if self.time_is_up() else self.queue.receive()
            if not messages:
                break
            done = []
            for message in messages:
                try:
                    days = self._dates(created_objects(message.body))
                except ValueError as error:
                    invalid.append((message, str(error)))
                    continue
                for day in days:
                    self._add_date(day)
                if self._may_delete(message, days):
                    done.append(message.receipt)
            self.queue.delete(done)
        # Last, so that errors here do not keep other messages from being read.
        for message, reason in invalid:
            self._handle_invalid(message, reason)

    def _dates(self, objects: Iterable[CreatedObject]) -> set[UploadDate]:
        """The upload dates of the objects that are partitions; warns once about objects that are elsewhere."""
        days, first, last = set(), self.tick.first, self.tick.last
        for created in objects:
            folder = created.key.rpartition("/")[0]
            top = folder.partition("/")[0]
            upload = parse_upload(created.key)
            if created.bucket != self.tick.store.bucket:
                self._warn_once(
                    created.bucket, f"events of bucket {created.bucket!r} are ignored: it is not BG_BUCKET"
                )
            elif top != s3_keys.UPLOADS:
                self._warn_once(
                    top,
                    f"events for objects such as {created.key!r} are ignored: "
                    f"configure the bucket's notifications for the prefix '{s3_keys.UPLOADS}/' only",
                )
            elif created.key.endswith("/"):
                pass  # A folder marker; the folder is still empty.
            elif upload is None or not first <= upload.batch.date <= last:
                self._warn_once(
                    folder,
                    f"{created.key!r} is not in a batch of an upload date from {first} to {last}: it is not run",
                )
            else:
                days.add(upload.batch.date)
        return days

    def _add_date(self, day: UploadDate) -> None:
        """Makes the date due now, or `CALM_SECONDS` after its last run request."""
        when, requested = self.tick.now, self.cursor.dates.get(day)
        if requested is not None and 0 <= when - requested.at < CALM_SECONDS:
            when = requested.at + CALM_SECONDS
        self.cursor.again[day] = min(self.cursor.again.get(day, when), when)

    def _may_delete(self, message: Message, days: set[UploadDate]) -> bool:
        """Whether the message may be deleted now; if not, and if there is room, its receipt is kept in the cursor.

        When the cursor is full, delete a message only if kept messages cover all its dates: while those are in the
        queue, none of the dates can be lost.
        """
        if sum(map(len, self.cursor.receipts)) >= MAX_RECEIPTS or not days:
            return days <= self._kept_dates
        self.cursor.receipts.append(message.receipt)
        self._kept_dates |= days
        return False

    def _handle_invalid(self, message: Message, reason: str) -> None:
        """Leaves a message that is not an event to the dead-letter queue; without one, stores and deletes it."""
        self._warn_once(message.id, f"message {message.id} of queue {self.queue.url} is ignored: {reason}")
        if self.queue.has_dead_letters:
            return
        self._warn_once(
            self.queue.url,
            f"queue {self.queue.url} has no dead-letter queue: a message that is not an event is deleted after "
            f"{POISON_RECEIVES} receives, and stored under '{s3_keys.STATE}/poison/'",
        )
        if message.receives >= POISON_RECEIVES:
            data = message.body.encode(errors="replace")
            self.tick.store.write(s3_keys.poison_key(message.id), data, media_type="text/plain")
            self.queue.delete([message.receipt])

    def _warn_once(self, subject: str, sentence: str) -> None:
        """Logs a warning, once for each subject."""
        if subject not in self.cursor.told:
            self.tick.warn(sentence)
            self.cursor.told = [*self.cursor.told, subject][-MAX_TOLD:]
