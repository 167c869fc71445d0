"""What any version of the program has stored is read: as it was written, by a newer program, and with less in it."""

import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from bg_pipeline.budget.limits import SharedCap, read_spending
from bg_pipeline.custom_labels.waiting_dates import RetryBudget, WaitingBatch, date_markers
from bg_pipeline.custom_labels.window import read_record
from bg_pipeline.defs.sensors.custom_labels import ModelSightings
from bg_pipeline.domain import requests, s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.people import local_person
from bg_pipeline.errors import PreconditionFailed, RequestError
from bg_pipeline.notifications.delivery import Notifier
from bg_pipeline.notifications.messages import Notification
from bg_pipeline.notifications.pending_runs import NotificationCursor
from bg_pipeline.reports.report import Report
from bg_pipeline.review import Reviews
from bg_pipeline.review.publishing import _published
from bg_pipeline.settings import settings
from bg_pipeline.state.answers import AnswerStore
from bg_pipeline.state.batch_parts import Parts
from bg_pipeline.state.claimed_prefixes import claim
from bg_pipeline.state.claims import parse_call_claim
from bg_pipeline.state.follow_ups import FollowUps
from bg_pipeline.state.leases import holder_of
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.state.thumbnails import Thumbnails
from bg_pipeline.storage.object_store import ObjectContent, ObjectInfo, Store
from bg_pipeline.uploads.changes import RequestedRun, SensorCursor
from bg_pipeline.web.single_photo_jobs import idempotent_batch

FOLDER = Path(__file__).parent / "fixtures" / "stored"
ARN = "arn:aws:rekognition:us-east-1:123456789012:project/shoes/version/shoes.1/1700000000000"
BATCH = Batch(date(2026, 11, 20), "101530")
RESULT = "generated-image-files/spring/bus_1.jpg"
THEN = datetime(2026, 11, 20, tzinfo=UTC)
NEWER = {"AddedByANewerProgram": {"and": ["more", 1]}}


class OneObject:
    """A bucket in which one document lies under every key."""

    bucket = "photos"

    def __init__(self, data: bytes, metadata: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.metadata = metadata or {}

    def read(self, key: str) -> ObjectContent:
        return ObjectContent(self.data, "etag", "", self.metadata, THEN)

    def read_json(self, key: str) -> Any:
        return json.loads(self.data)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        key = s3_keys.review_key(RESULT) if prefix.startswith("reviews/") else s3_keys.waiting_key(BATCH.date)
        yield ObjectInfo(key, len(self.data), "etag", THEN)

    def write(self, key: str, data: bytes, **_: Any) -> str:
        self.data = data
        return "etag"

    def write_json(self, key: str, document: Any, **_: Any) -> str:
        raise PreconditionFailed(f"{key} is there")


def store_of(data: bytes, metadata: Mapping[str, str] | None = None) -> Store:
    return cast("Store", OneObject(data, metadata))


def ledger_entries(data: bytes) -> list[Entry]:
    whole = ObjectInfo(BATCH.ledger_key("ledger.jsonl.gz"), len(data), "etag", THEN)
    entries = list(Ledger.read(store_of(data), BATCH, [whole]).entries())
    for entry in entries:
        # What a newer program says of an output is left in it and looked at by nobody.
        entry.outputs = [{key: out[key] for key in out if key not in NEWER} for out in entry.outputs]
    return entries


def claimed_by_its_own_batch(data: bytes) -> bool:
    try:
        claim(store_of(data), BATCH, "generated-image-files/spring", "OutputS3Prefix")
    except RequestError:
        return False
    return True


class NothingSent:
    name = "webhook"

    def send(self, notice: Notification) -> None:
        raise AssertionError("it was told before")


def told_before(data: bytes) -> bool:
    state = json.loads((FOLDER / "v1" / "notice.json").read_bytes())["State"]
    outbox = Notifier(
        settings(),
        store_of(data),
        [NothingSent()],
        lambda store, key: pytest.fail("no link is needed"),
        print,
    )
    return outbox._notify(lambda sender: "key", state, lambda: cast("Notification", object())) == set()


def answer_of(data: bytes) -> Any:
    metadata = {"answer": json.dumps(json.loads(data))}
    return AnswerStore(store_of(b"picture", metadata), "me").find("picture", "0" * 64)


def chances(data: bytes) -> list[bool]:
    chances = RetryBudget(store_of(data), ARN)
    return [chances.left(WaitingBatch(BATCH, image, "print", tried=True)) for image in ("bus.jpg", "dog.jpg")]


@dataclass(frozen=True)
class Kind:
    """A kind of document: what reads it, and the fields without which it is none, at any depth.

    ``maps`` are the fields, by name, that hold names of other things and no fields; "" is the document itself.
    """

    read: Callable[[bytes], Any]
    needed: frozenset[str] = frozenset()
    maps: frozenset[str] = field(default=frozenset())


KINDS = {
    "report.json": Kind(lambda data: Report.read(data).rows, frozenset({"Id", "ImageName", "Status", "Key"})),
    "ledger.jsonl.gz": Kind(
        ledger_entries,
        frozenset({"image", "made_for", "status", "Status"}),
        frozenset({"stages", "files", "names"}),
    ),
    "ledger_segment.jsonl.gz": Kind(
        ledger_entries, frozenset({"image"}), frozenset({"stages", "files", "names"})
    ),
    "ledger_part_segment.jsonl.gz": Kind(
        ledger_entries, frozenset({"image"}), frozenset({"stages", "files", "names"})
    ),
    "parts.json": Kind(
        lambda data: Parts.read(store_of(data), BATCH),
        frozenset({"Version", "Holder", "Generation", "Digest", "Starts", "Contents"}),
    ),
    "answer_picture.metadata.json": Kind(answer_of, frozenset({"model"})),
    "answer_labels.metadata.json": Kind(answer_of, frozenset({"model"})),
    "answer_captions.metadata.json": Kind(answer_of, frozenset({"model"})),
    "call.json": Kind(parse_call_claim),
    "lease.json": Kind(
        lambda data: holder_of(store_of(data), "key"), frozenset({"Since", "Renewed", "Process", "Token"})
    ),
    "decision.json": Kind(
        lambda data: [
            decision
            for _, decision in Reviews(store_of(data)).of([RESULT], "generated-image-files/spring").values()
            if decision
        ],
        frozenset({"Result", "ResultETag", "Decision"}),
    ),
    "published.json": Kind(_published, frozenset({"ETag"}), frozenset({""})),
    "retry_mark.json": Kind(lambda data: FollowUps.read(store_of(data), "key").newest, frozenset({"Batch"})),
    "output_prefix_owner.json": Kind(claimed_by_its_own_batch, frozenset({"Batch"})),
    "spending_of_a_batch.json": Kind(
        lambda data: read_spending(store_of(data), "key")[0].total,
        frozenset({"SettledMicroUsd", "ClaimedMicroUsd"}),
        frozenset({"ClaimedMicroUsd"}),
    ),
    "spending_of_a_day.json": Kind(
        lambda data: read_spending(store_of(data), "key")[0].total,
        frozenset({"SettledMicroUsd", "ClaimedMicroUsd"}),
        frozenset({"ClaimedMicroUsd"}),
    ),
    "notice.json": Kind(told_before, frozenset({"State"})),
    "waiting.json": Kind(lambda data: list(date_markers(store_of(data)))),
    "chances.json": Kind(chances, maps=frozenset({""})),
    "window.json": Kind(
        lambda data: read_record(store_of(data), "key")[0], frozenset({"Model", "Run", "Units", "Opened"})
    ),
    "idempotency.json": Kind(
        lambda data: idempotent_batch(
            store_of(data), local_person("ann"), "key-1", {"Prompt": "a beach"}, BATCH
        )
    ),
    "sensor_cursor.json": Kind(
        lambda data: SensorCursor.read(data.decode()),
        frozenset(RequestedRun.model_fields) - {"done"},
        frozenset({"dates", "again"}),
    ),
    "sensor_asked.json": Kind(
        RequestedRun.model_validate_json, frozenset(RequestedRun.model_fields) - {"done"}
    ),
    "notices_cursor.json": Kind(
        lambda data: NotificationCursor.read(data.decode(), 0.0),
        frozenset({"since", "run_id", "day"}),
        frozenset({"seen"}),
    ),
    "guard_cursor.json": Kind(
        ModelSightings.model_validate_json, frozenset({"etag", "looks", "since"}), frozenset({""})
    ),
}

NOT_READ_BACK = {
    *("draft.json", "approved.json"),  # that they are there says everything
    *("labels.json", "caption.json", "provenance.json", "report.csv", "window_report.json"),  # for people
    *("answer_labels.json", "answer_captions.json"),  # bodies of answers
    *("request.json", "retry.json", "thumbnails.jsonl"),  # with tests of their own
}

VERSIONS = sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir())
STORED = [
    pytest.param(KINDS[file.name], file, id=f"{version}-{file.name}")
    for version in VERSIONS
    for file in sorted((FOLDER / version).iterdir())
    if file.name in KINDS
]


def changed(file: Path, change: Callable[[Any], Any]) -> bytes:
    """The document with what ``change`` makes of its JSON, line by line where it is a packed ledger."""
    data = file.read_bytes()
    if file.suffix != ".gz":
        return json.dumps(change(json.loads(data))).encode()
    lines = [json.dumps(change(json.loads(line))).encode() for line in gzip.decompress(data).splitlines()]
    return gzip.compress(b"\n".join(lines))


def with_more(document: Any, maps: frozenset[str], name: str = "") -> Any:
    """The document with a field that nobody knows in each of its objects but the ``maps``."""
    if isinstance(document, list):
        return [with_more(each, maps, name) for each in document]
    if not isinstance(document, dict):
        return document
    more = {} if name in maps else NEWER
    return {key: with_more(value, maps, below(name, key, maps)) for key, value in document.items()} | more


def below(name: str, key: str, maps: frozenset[str]) -> str:
    return "a member" if name in maps else key


def without(document: Any, field: str) -> Any:
    """The document without a field, wherever it has it."""
    if isinstance(document, list):
        return [without(each, field) for each in document]
    if not isinstance(document, dict):
        return document
    return {key: without(value, field) for key, value in document.items() if key != field}


def fields_in(document: Any, maps: frozenset[str], name: str = "") -> set[str]:
    """The names of the fields at any depth."""
    if isinstance(document, list):
        return set().union(*(fields_in(each, maps, name) for each in document))
    if not isinstance(document, dict):
        return set()
    own = set() if name in maps else set(document)
    return own.union(*(fields_in(value, maps, below(name, key, maps)) for key, value in document.items()))


def test_every_stored_document_is_read_by_a_test() -> None:
    for version in VERSIONS:
        names = {file.name for file in (FOLDER / version).iterdir()}
        assert names == KINDS.keys() | NOT_READ_BACK


@pytest.mark.parametrize(("kind", "file"), STORED)
def test_a_stored_document_is_understood(kind: Kind, file: Path) -> None:
    assert kind.read(file.read_bytes())


@pytest.mark.parametrize(("kind", "file"), STORED)
def test_what_a_newer_program_has_added_changes_nothing(kind: Kind, file: Path) -> None:
    more = changed(file, partial(with_more, maps=kind.maps))
    assert more != file.read_bytes()
    assert kind.read(more) == kind.read(file.read_bytes())


@pytest.mark.parametrize(("kind", "file"), STORED)
def test_what_is_missing_has_a_default(kind: Kind, file: Path) -> None:
    data = file.read_bytes()
    lines = gzip.decompress(data).splitlines()[1:] if file.suffix == ".gz" else [data]
    names = set().union(*(fields_in(json.loads(line), kind.maps) for line in lines))
    assert kind.needed <= names
    for name in names - kind.needed:
        assert kind.read(changed(file, partial(without, field=name))), name


# What is special about some


def stored(name: str) -> bytes:
    return (FOLDER / "v1" / name).read_bytes()


def read_request(data: bytes) -> requests.BatchRequest:
    return requests.read(data, bucket="photos", batch=BATCH)


def test_a_stored_request_is_understood_and_one_with_an_unknown_field_is_refused_by_its_name() -> None:
    """A program that does not know a field must not pay for something else than what was asked for."""
    assert read_request(stored("request.json")).Sample == 2
    assert read_request(stored("retry.json")).RetryOf == "621fa85a-38bb-4d98-a656-93bbbcf5477f"
    newer = json.dumps({**json.loads(stored("request.json")), "Weather": "rain"}).encode()
    with pytest.raises(RequestError, match="Weather"):
        read_request(newer)


def test_a_stored_report_has_its_rows() -> None:
    report = Report.read(stored("report.json"))
    assert [(row.ImageName, row.Status.value, len(row.Outputs)) for row in report] == [
        ("bus.jpg", "Succeeded", 2),
        ("dog.jpg", "Succeeded", 2),
        ("torn.jpg", "Failed", 1),
    ]
    assert report.cost_usd == pytest.approx(0.039492)


def test_a_row_needs_no_more_than_its_image_and_its_status() -> None:
    (row,) = Report.read(b'[{"Id": "a", "ImageName": "cat.jpg", "Status": "Blocked"}]')
    assert (row.Results, row.Outputs, row.CostUSD, row.Seed) == ((), (), 0.0, None)


def test_a_stored_ledger_has_its_entries() -> None:
    torn, dog, bus = ledger_entries(stored("ledger.jsonl.gz"))
    assert (torn.image, torn.stages["labels"].error) == ("torn.jpg", "NotAnImage")
    assert dog.names == {"1": "dog_1.jpg.png", "2": "dog_2.jpg.webp"}
    assert [output["CostUSD"] for output in bus.outputs] == [0.012, 0.012]


def test_an_output_of_a_ledger_that_says_little_has_every_field() -> None:
    entry = {"image": "cat.jpg", "outputs": [{"Status": "Succeeded"}, {"Key": "torn"}]}
    text = b"\n".join([b'{"Version": 1}', json.dumps(entry).encode()])
    (cat,) = ledger_entries(gzip.compress(text))
    known = {
        key for entry in ledger_entries(stored("ledger.jsonl.gz")) for out in entry.outputs for key in out
    }
    (output,) = cat.outputs
    assert output.keys() == known
    assert (output["Number"], output["Key"], output["CostUSD"]) == (1, "", 0.0)


def test_a_stage_of_which_nothing_is_told_counts_as_not_done() -> None:
    entry = {"image": "cat.jpg", "stages": {"labels": {"status": "Succeeded"}, "captions": {"made_for": "x"}}}
    text = b"\n".join([b'{"Version": 1}', b'{"picture": "no image"}', b"7", json.dumps(entry).encode()])
    (cat,) = ledger_entries(gzip.compress(text))
    assert cat.stages == {}


def test_a_foreign_object_is_no_answer() -> None:
    for metadata in ({}, {"answer": "[]"}, {"answer": "7"}, {"answer": "{"}, {"answer": "{}"}):
        assert AnswerStore(store_of(b"", metadata), "me").find("picture", "0" * 64) is None


def test_a_decision_without_its_writer_still_rejects() -> None:
    document = json.loads(stored("decision.json"))
    short = json.dumps({name: document[name] for name in ("Result", "ResultETag", "Decision")}).encode()
    ((_, decision),) = Reviews(store_of(short)).of([RESULT], "generated-image-files/spring").values()
    assert decision is not None
    assert decision.state == "rejected"


def test_what_was_published_is_remembered_beside_an_entry_of_a_newer_program() -> None:
    newer = json.dumps({**json.loads(stored("published.json")), "Version": 2, "Other": {"a": 1}}).encode()
    assert _published(newer) == _published(stored("published.json"))


def test_what_a_newer_program_wrote_of_spending_stays_when_this_one_writes() -> None:
    kept = OneObject(json.dumps({**json.loads(stored("spending_of_a_day.json")), "Payments": [1]}).encode())
    cap = SharedCap("day", "BG_MAX_COST_USD_PER_DAY", 10, "", cast("Store", kept), "key")
    cap.take(100, "TITAN_V2")
    cap.close()
    document = json.loads(kept.data)
    assert (document["Payments"], document["SettledMicroUsd"], document["Version"]) == ([1], 100, 1)


def test_stored_thumbnails_are_read_with_more_in_their_lines() -> None:
    for more in ([], ["more"]):
        (line,) = stored("thumbnails.jsonl").splitlines()
        key, etag, text = json.loads(line)
        thumbnails = Thumbnails(store_of(json.dumps([key, etag, text, *more]).encode()), BATCH)
        thumbnails.load()
        assert thumbnails.get(key, etag)


def test_bodies_of_stored_answers_have_what_is_read_from_them() -> None:
    assert json.loads(stored("answer_labels.json"))["Labels"]
    assert json.loads(stored("answer_captions.json"))["Caption"]
    assert io.BytesIO(stored("report.csv")).readline().startswith(b'"Id","ImageName","Ref","Status"')
