"""What visitors with different roles see and may do on the screen *Review*: nothing of batches of others."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError
from streamlit.testing.v1 import AppTest

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person, Role, Via
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.state.audit import AuditLog, AuditRecord
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.page import user
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.drafts import DraftService
from bg_pipeline.web.page.review_server import ADDRESS, TOKEN, ReviewSession, ReviewSessions
from bg_pipeline.web.page.review_service import ReviewService
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo, photo_and_mask
from bg_pipeline_tests.web.serving import Caller

ISSUER = "https://pool.example"
SECONDS = 60
PRESS = {"press": "press number one"}
MENDED = {"mask": base64.b64encode(STORED.write_png(photo_and_mask(1)[1])).decode(), "pictures": 0}


def somebody(subject: str, *roles: Role) -> Person:
    until = datetime.now(UTC) + timedelta(days=1)
    return Person(subject, Via.PAGE, frozenset(roles), ISSUER, subject, until)


ADA, BOB = somebody("ada", Role.SUBMITTER), somebody("bob", Role.SUBMITTER)
CAROL, DAN = somebody("carol", Role.REVIEWER), somebody("dan", Role.PUBLISHER)


@pytest.fixture
def bench(s3: Any, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    overrides = {"oidc_issuer": ISSUER, "oidc_client_id": "page", "submitter_groups": "studio"}
    return Bench(Store(s3, bucket), {**overrides, "reviewer_groups": "art", "review_share": 1.0})


@pytest.fixture
def batches(bench: Bench) -> BatchService:
    return BatchService(bench.settings(), bench.store)


@pytest.fixture
def service(bench: Bench, batches: BatchService) -> ReviewService:
    return ReviewService(bench.settings(), aws(), batches)


@pytest.fixture
def batch(bench: Bench) -> Batch:
    """Two results of a batch that Ada submitted today."""
    drafts = DraftService(bench.settings(), aws(), bench.store)
    made = drafts.start_draft(ADA)
    for name in ("a.jpg", "b.jpg"):
        drafts.store_photo(made, name, io.BytesIO(photo(1)))
    data, _ = drafts.request(made, ["a.jpg", "b.jpg"], {"Prompt": "a beach"}, {})
    drafts.submit(ADA, made, data)
    bench.run(made.date)
    return made


class Visitor:
    """A browser in which somebody signed in."""

    def __init__(self, server: Caller, session: ReviewSession) -> None:
        self._server = server
        self.session = session

    def get(self, path: str, **query: Any) -> requests.Response:
        return self._server.get(f"{ADDRESS}/{path}", params=query, headers={TOKEN: self.session.token})

    def post(self, path: str, **body: Any) -> requests.Response:
        return self._server.post(f"{ADDRESS}/{path}", body, headers={TOKEN: self.session.token})

    def rows(self, batch: Batch) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get("rows", batch=batch.path).json()["rows"]
        return rows


Enter = Callable[[Person], Visitor]


@pytest.fixture
def enter(server: Caller, service: ReviewService, sessions: ReviewSessions) -> Enter:
    return lambda person: Visitor(server, sessions.open(service, person))


def audited(bench: Bench, batch: Batch) -> list[AuditRecord]:
    lines = AuditLog(bench.store).records(batch.date, batch.date)
    return [line for line in lines if line.via == "page" and line.act != "Submit"]


def changed(bench: Bench) -> list[str]:
    """What deciding, asking again and publishing would have written."""
    requests_there = [key for key in bench.keys("image-files/") if key.endswith("/request.json")]
    return [*bench.keys("reviews/"), *bench.keys("published/"), *requests_there[1:]]


CALLS: list[Callable[[Visitor, dict[str, Any]], requests.Response]] = [
    lambda visitor, row: visitor.get("rows", batch=row["batch"]),
    lambda visitor, row: visitor.get("rows", batch=row["batch"], version="0"),
    lambda visitor, row: visitor.get("picture", **row),
    lambda visitor, row: visitor.get("picture", **row, kind="before", size="small"),
    lambda visitor, row: visitor.get("picture", **row, kind="before", size="full"),
    lambda visitor, row: visitor.get("picture", **row, kind="mask"),
    lambda visitor, row: visitor.get("picture", **row, size="file"),
    lambda visitor, row: visitor.get("history", **row),
    lambda visitor, row: visitor.post("decide", **PRESS, items=[row], state="approved"),
    lambda visitor, row: visitor.post("quote", items=[row]),
    lambda visitor, row: visitor.post("redo", **PRESS, items=[row]),
    lambda visitor, row: visitor.get("picture", **row, kind="edit"),
    lambda visitor, row: visitor.get("picture", **row, kind="doubt"),
    lambda visitor, row: visitor.post("quote-mended", items=[row], **MENDED),
    lambda visitor, row: visitor.post("mend", **PRESS, items=[row], **MENDED),
    lambda visitor, row: visitor.post("publish", batch=row["batch"]),
    lambda visitor, row: visitor.post("zip", batch=row["batch"]),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_batch_of_somebody_else_does_not_exist(
    bench: Bench, batch: Batch, enter: Enter, call: Callable[[Visitor, dict[str, Any]], requests.Response]
) -> None:
    row = enter(ADA).rows(batch)[0]
    # Somebody else has had the pictures made small before, so they are in memory.
    assert enter(CAROL).get("picture", **row, kind="before", size="small").status_code == 200
    never = Batch(batch.date, "never")
    theirs = call(enter(BOB), row)
    none = call(enter(BOB), {**row, "batch": never.path, "origin": never.path})
    assert theirs.status_code == none.status_code == 404
    assert theirs.text.replace(batch.path, "X") == none.text.replace(never.path, "X")
    assert changed(bench) == []
    assert audited(bench, batch) == []


@pytest.mark.parametrize("path", ["decide", "redo", "mend", "quote-mended"])
def test_a_batch_of_ones_own_opens_no_other_one(bench: Bench, batch: Batch, enter: Enter, path: str) -> None:
    row = enter(ADA).rows(batch)[0]
    mine = bench.submit(1, day=batch.date, batch="mine")
    for stranger in (BOB, somebody("eve", Role.SUBMITTER)):
        answer = enter(stranger).post(
            path, **PRESS, **MENDED, items=[{**row, "batch": mine.path}], state="approved"
        )
        assert answer.status_code == 404
    assert bench.keys("reviews/") == []


def test_lists_have_only_what_a_person_may_see(
    bench: Bench, batch: Batch, batches: BatchService, enter: Enter
) -> None:
    stranger = bench.submit(1, day=batch.date, batch="from-s3")
    bench.run(batch.date)
    for _ in range(2):  # the second time from memory
        assert [each["batch"] for each in enter(ADA).get("batches").json()] == [batch.path]
        assert enter(BOB).get("batches").json() == []
        assert {each["batch"] for each in enter(CAROL).get("batches").json()} == {batch.path, stranger.path}
    for small in (True, False):
        assert batches.photo(ADA, batch.path, "a.jpg", small=small)
        assert batches.photo(BOB, batch.path, "a.jpg", small=small) is None


@pytest.mark.parametrize("person", [ADA, DAN])
def test_who_does_not_review_looks_and_decides_nothing(
    bench: Bench, batch: Batch, enter: Enter, person: Person
) -> None:
    visitor = enter(person)
    row = visitor.rows(batch)[0]
    assert visitor.get("picture", **row).status_code == 200
    for path in ("decide", "redo", "mend", "quote-mended"):
        answer = visitor.post(path, **PRESS, **MENDED, items=[row], state="approved")
        assert (answer.status_code, "role reviewer" in answer.text) == (403, True)
    answer = visitor.post("region", x=1, y=1, reach=1, keep=True, part="", mask="")
    assert (answer.status_code, "role reviewer" in answer.text) == (403, True)
    assert visitor.session.may() == {"review": False, "publish": person is DAN}
    assert changed(bench) == []
    assert audited(bench, batch) == []


@pytest.mark.parametrize("person", [ADA, CAROL])
def test_who_does_not_publish_publishes_nothing(
    bench: Bench, batch: Batch, enter: Enter, person: Person
) -> None:
    carol = enter(CAROL)
    carol.post("decide", **PRESS, items=carol.rows(batch), state="approved")
    answer = enter(person).post("publish", batch=batch.path)
    assert (answer.status_code, "role publisher" in answer.text) == (403, True)
    assert bench.keys("published/") == []
    assert enter(DAN).post("publish", batch=batch.path).json()["text"].startswith("2 results published")


def test_each_act_is_recorded_with_who_did_it(bench: Bench, batch: Batch, enter: Enter) -> None:
    carol, other = enter(CAROL), enter(somebody("cleo", Role.REVIEWER))
    rows = carol.rows(batch)
    carol.post("decide", press="the first press", items=rows, state="rejected", reason="blurred")
    late = other.post("decide", press="the second press", items=rows[:1], state="approved")
    assert "conflict" in late.json()["rows"][0]
    carol.post("undo", press="the third press", of=["the first press"])
    carol.post("decide", press="the fourth press", items=carol.rows(batch)[:1], state="approved")
    enter(DAN).post("publish", batch=batch.path)
    carol.post("redo", press="the fifth press", items=carol.rows(batch)[1:])
    lines = audited(bench, batch)
    assert [(line.act, line.subject, line.outcome) for line in lines] == [
        ("Decide", "carol", "Done"),
        ("Decide", "cleo", "Done"),
        ("TakeBack", "carol", "Done"),
        ("Decide", "carol", "Done"),
        ("Publish", "dan", "Done"),
        ("Redo", "carol", "Done"),
    ]
    decided, refused, taken_back, *_, redone = lines
    assert decided.details["Reason"] == "blurred"
    assert (decided.result["NotStored"], len(refused.result["NotStored"])) == ([], 1)
    assert [each["Key"] for each in taken_back.details["Results"]] == [
        each["Key"] for each in decided.details["Results"]
    ]
    assert redone.result["NewBatch"] != batch.path


def test_a_picture_that_was_made_again_belongs_to_who_submitted_the_first(
    bench: Bench, batch: Batch, batches: BatchService, enter: Enter
) -> None:
    carol = enter(CAROL)
    carol.post("redo", **PRESS, items=carol.rows(batch)[:1])
    bench.run(batch.date)
    row = enter(ADA).rows(batch)[0]
    assert row["batch"] != batch.path
    assert enter(ADA).get("picture", **row).status_code == 200
    assert enter(BOB).get("picture", **row).status_code == 404
    assert len(batches.batches(ADA, batch.date)) == 2


def test_without_its_line_in_the_audit_log_nothing_is_decided_or_undone(
    bench: Bench, batch: Batch, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    carol = enter(CAROL)
    carol.post("decide", press="the first press", items=carol.rows(batch)[:1], state="approved")
    before = {key: bench.store.read(key) for key in bench.keys("reviews/")}

    def denied(self: AuditLog, key: str, document: Any) -> bool:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    monkeypatch.setattr(AuditLog, "_append", denied)
    rows = carol.rows(batch)
    for path, body in (
        ("decide", {"items": rows, "state": "rejected"}),
        ("undo", {"of": ["the first press"]}),
        ("redo", {"items": rows}),
    ):
        assert carol.post(path, press=f"press for {path}", **body).status_code == 502
    assert {key: bench.store.read(key) for key in bench.keys("reviews/")} == before
    assert len([key for key in bench.keys("image-files/") if key.endswith("/request.json")]) == 1


def test_a_download_that_was_prepared_is_not_given_out_after_the_sign_in_has_ended(
    batch: Batch, enter: Enter, server: Caller
) -> None:
    carol, ada = enter(CAROL), enter(ADA)
    carol.post("decide", **PRESS, items=carol.rows(batch), state="approved")
    addresses = [ada.post("zip", batch=batch.path).json()["address"] for _ in range(2)]
    assert server.get(addresses[0]).status_code == 200
    ada.session.person = replace(ADA, until=datetime.now(UTC))
    assert server.get(addresses[1]).status_code == 403


def _look(reviews: "ReviewService") -> None:  # its text is run elsewhere
    from bg_pipeline.web.page import results

    results.show(reviews)


def test_a_session_is_that_of_the_visitor_and_of_the_present_sign_in(
    service: ReviewService, monkeypatch: pytest.MonkeyPatch, sessions: ReviewSessions
) -> None:
    visitor = [CAROL]
    monkeypatch.setattr(user, "visitor", lambda *_: visitor[0])
    screen = AppTest.from_function(_look, kwargs={"reviews": service}, default_timeout=SECONDS).run()
    assert not screen.exception
    first: ReviewSession = screen.session_state.review_session
    assert first.person == CAROL
    screen.run()
    assert screen.session_state.review_session is first
    visitor[0] = replace(CAROL, roles=frozenset({Role.PUBLISHER}))
    screen.run()
    assert screen.session_state.review_session.person == visitor[0]
    assert sessions.find(first.token) is None
    visitor[0] = replace(CAROL, roles=frozenset())
    screen.run()
    assert [each.message for each in screen.exception]
