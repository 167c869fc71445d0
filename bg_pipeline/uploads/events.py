"""Uploads by event: which dates the S3 event notifications in a queue name, and when a message may go.

Only the date is taken from an event; what is there is asked of S3, whose listings hold everything that an event
was sent for. So it does not matter in which order events come, how often, or whether what they tell of was
overwritten or deleted since.

**When a message may go.** A tick of the sensor notes the dates in its memory, which Dagster stores together with
the runs that the tick asked for, and notes the receipts as well. A tick that is given such a memory knows that it
was stored, and deletes those messages first. A tick that is lost was never stored: its messages come back, and
since a date's run key says what it holds, nothing is asked for twice.
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
"""Characters of the longest message that is read; an S3 event has about a thousand."""
MAX_RECEIVES: Final = 1000
"""Calls for messages in one tick."""
MAX_RECEIPTS: Final = 40_000
"""Characters of receipts in the cursor, some 100 messages of AWS; Dagster stores the cursor with every tick."""
CALM_SECONDS: Final = 30
"""How long a date that was just asked for is not asked for again, so that a burst of uploads is one run."""
POISON_RECEIVES: Final = 5
"""How often a message that is no event is received before it is deleted, where there is no dead-letter queue."""
MAX_TOLD: Final = 200


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
    """What S3 sends; keys are encoded as in a form."""

    Records: list[_Record]


class _TestEvent(BaseModel):
    """What S3 sends when notifications are configured."""

    Event: Literal["s3:TestEvent"]


class _BridgeEvent(BaseModel):
    """What EventBridge sends; keys are plain."""

    source: Literal["aws.s3"]
    kind: Annotated[str, Field(alias="detail-type")]
    detail: _Where


class _Notification(BaseModel):
    """What SNS wraps a message in, unless it is told to deliver it raw."""

    Type: Literal["Notification"]
    Message: str


_FORMS: Final = TypeAdapter[_Records | _TestEvent | _BridgeEvent | _Notification](
    _Records | _TestEvent | _BridgeEvent | _Notification
)


@dataclass(frozen=True, slots=True)
class CreatedObject:
    """An object that came to a bucket."""

    bucket: str
    key: str


def created_objects(body: str) -> list[CreatedObject]:
    """The objects that a message says were created: none for a test event, a deletion and the like.

    A ``ValueError`` that says why where the message is no S3 event.
    """
    if len(body) > MAX_BODY:
        raise ValueError(f"it has {len(body):,} characters, an S3 event at most {MAX_BODY:,}")
    try:
        event = _FORMS.validate_json(body)
    except ValidationError:
        raise ValueError("it is no S3 event, neither a plain one nor one from SNS or EventBridge") from None
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
    """The cursor of the sensor that is told by events.

    ``receipts`` are of messages whose dates are in ``again``, or were asked for, in this same memory; ``told`` is
    whom and what was told of, the newest `MAX_TOLD`.
    """

    receipts: list[str] = Field(default_factory=list)


@dataclass
class EventReader:
    """What a tick takes from the queue into its memory.

    ``tick`` is what the dates are then asked of S3 with, over the same memory; ``time_is_up`` ends the taking.
    """

    queue: Queue
    cursor: EventCursor
    tick: SensorTick
    time_is_up: Callable[[], bool]
    _kept_dates: set[UploadDate] = field(default_factory=set)

    def receive(self) -> None:
        """Deletes the messages of the stored memory, then notes the date of every upload that messages tell of.

        Errors of SQS are raised; whatever was noted before stays noted, and the rest is received again.
        """
        self.queue.delete(self.cursor.receipts)
        self.cursor.receipts = []
        poison: list[tuple[Message, str]] = []
        for _ in range(MAX_RECEIVES):
            messages = [] if self.time_is_up() else self.queue.receive()
            if not messages:
                break
            done = []
            for message in messages:
                try:
                    days = self._dates(created_objects(message.body))
                except ValueError as reason:
                    poison.append((message, str(reason)))
                    continue
                for day in days:
                    self._add_date(day)
                if self._may_delete(message, days):
                    done.append(message.receipt)
            self.queue.delete(done)
        # Last, so that its errors keep nothing else from being taken.
        for message, why in poison:
            self._handle_invalid(message, why)

    def _dates(self, objects: Iterable[CreatedObject]) -> set[UploadDate]:
        """The partitions among the dates that objects were uploaded to; tells once of those that are elsewhere."""
        days, first, last = set(), self.tick.first, self.tick.last
        for each in objects:
            folder = each.key.rpartition("/")[0]
            top = folder.partition("/")[0]
            upload = parse_upload(each.key)
            if each.bucket != self.tick.store.bucket:
                self._warn_once(
                    each.bucket, f"events of bucket {each.bucket!r} are passed over: it is not BG_BUCKET"
                )
            elif top != s3_keys.UPLOADS:
                self._warn_once(
                    top,
                    f"events such as that of {each.key!r} are passed over: "
                    f"let the bucket notify of '{s3_keys.UPLOADS}/' only",
                )
            elif each.key.endswith("/"):
                pass  # The marker of a folder, which holds nothing yet.
            elif upload is None or not first <= upload.batch.date <= last:
                self._warn_once(
                    folder,
                    f"{each.key!r} is in no batch of an upload date from {first} to {last}: it is not run",
                )
            else:
                days.add(upload.batch.date)
        return days

    def _add_date(self, day: UploadDate) -> None:
        """The date is looked at now, or when a run that was just asked for is no longer new."""
        when, asked = self.tick.now, self.cursor.dates.get(day)
        if asked is not None and 0 <= when - asked.at < CALM_SECONDS:
            when = asked.at + CALM_SECONDS
        self.cursor.again[day] = min(self.cursor.again.get(day, when), when)

    def _may_delete(self, message: Message, days: set[UploadDate]) -> bool:
        """Whether the message may be deleted at once; its receipt is kept for the next tick where it may not.

        Of a burst that the cursor has no room for, those may go whose dates a message that is kept names too:
        while that one is in the queue, no date of theirs is forgotten.
        """
        if sum(map(len, self.cursor.receipts)) >= MAX_RECEIPTS or not days:
            return days <= self._kept_dates
        self.cursor.receipts.append(message.receipt)
        self._kept_dates |= days
        return False

    def _handle_invalid(self, message: Message, why: str) -> None:
        """Leaves a message that is no event to the dead-letter queue, or keeps and deletes it where there is none."""
        self._warn_once(message.id, f"message {message.id} of queue {self.queue.url} is passed over: {why}")
        if self.queue.has_dead_letters:
            return
        self._warn_once(
            self.queue.url,
            f"queue {self.queue.url} has no dead-letter queue: what is no event is deleted from it when it was "
            f"received {POISON_RECEIVES} times, and kept under '{s3_keys.STATE}/poison/'",
        )
        if message.receives >= POISON_RECEIVES:
            data = message.body.encode(errors="replace")
            self.tick.store.write(s3_keys.poison_key(message.id), data, media_type="text/plain")
            self.queue.delete([message.receipt])

    def _warn_once(self, subject: str, sentence: str) -> None:
        """Says a sentence to the log, once for each subject."""
        if subject not in self.cursor.told:
            self.tick.warn(sentence)
            self.cursor.told = [*self.cursor.told, subject][-MAX_TOLD:]
