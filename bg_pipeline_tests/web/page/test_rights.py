"""What visitors with different roles may do on the page, however long a tab was open."""

import io
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from streamlit.testing.v1 import AppTest

from bg_pipeline.authorization import Authorization
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person, Role, Via, local_person
from bg_pipeline.errors import NoSuchBatch, NotAllowed, PreconditionFailed, RequestError, UsageError
from bg_pipeline.review import State
from bg_pipeline.state import sign_ins
from bg_pipeline.state.audit import AuditLog
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.page import review_server, user
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.drafts import DraftService
from bg_pipeline.web.page.review_service import Address, ReviewService
from bg_pipeline.web.page.upload_server import UploadSessions
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import serving

ISSUER = "https://pool.example"
SECONDS = 60


def somebody(subject: str, *roles: Role, minutes: float = 1440) -> Person:
    until = datetime.now(UTC) + timedelta(minutes=minutes)
    return Person(subject, Via.PAGE, frozenset(roles), ISSUER, subject, until)


ADA, BOB = somebody("ada", Role.SUBMITTER), somebody("bob", Role.SUBMITTER)
CAROL, DAN = somebody("carol", Role.REVIEWER), somebody("dan", Role.PUBLISHER)
ROOT = somebody("root", Role.ADMIN)


@pytest.fixture
def bench(s3: Any, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    overrides = {"oidc_issuer": ISSUER, "oidc_client_id": "page", "submitter_groups": "studio"}
    return Bench(Store(s3, bucket), {**overrides, "reviewer_groups": "art", "review_share": 1.0})


@pytest.fixture
def batches(bench: Bench) -> BatchService:
    return BatchService(bench.settings(), bench.store)


@pytest.fixture
def drafts(bench: Bench, batches: BatchService) -> DraftService:
    return DraftService(bench.settings(), aws(), bench.store, on_change=batches.refresh)


def drafted(drafts: DraftService, person: Person = ADA) -> Batch:
    batch = drafts.start_draft(person)
    drafts.store_photo(batch, "a.jpg", io.BytesIO(photo(1)))
    return batch


def submitted(drafts: DraftService, **fields: Any) -> Batch:
    batch = drafted(drafts)
    data, _ = drafts.request(batch, ["a.jpg"], {"Prompt": "a beach", **fields}, {})
    drafts.submit(ADA, batch, data)
    return batch


def test_a_draft_is_its_owners(drafts: DraftService, batches: BatchService) -> None:
    batch = drafted(drafts)
    data, _ = drafts.request(batch, ["a.jpg"], {"Prompt": "a beach"}, {})
    for act in (
        lambda: drafts.resume_draft(BOB, batch),
        lambda: drafts.discard(BOB, batch),
        lambda: drafts.submit(BOB, batch, data),
        lambda: drafts.labels(BOB, batch, ["a.jpg"], lambda done: None),
        lambda: UploadSessions().open(drafts, BOB, batch),
    ):
        with pytest.raises(NoSuchBatch):
            act()
    assert [card.batch for card in batches.batches(ADA, batch.date)] == [batch]
    assert batches.batches(BOB, batch.date) == []
    assert [card.batch for card in batches.batches(CAROL, batch.date)] == [batch]
    with pytest.raises(NotAllowed):
        drafts.discard(CAROL, batch)
    assert drafts.discard(ROOT, batch) == 1


def test_a_manifest_copies_nothing_of_others(drafts: DraftService, bench: Bench) -> None:
    theirs, mine = drafted(drafts, ADA), drafted(drafts, BOB)
    drafts.store_photo(theirs, "b.jpg", io.BytesIO(photo(2)))
    table = f"source,prompt\ns3://{bench.store.bucket}/{theirs.upload_key('a.jpg')},a beach\n".encode()
    with pytest.raises(RequestError, match="does not belong"):
        drafts.from_manifest(BOB, mine, table, ["a.jpg"], {})
    backdrop = f"source,backdrop,task\na.jpg,{theirs.upload_key('b.jpg')},REPLACE\n".encode()
    with pytest.raises(RequestError, match="does not belong"):
        drafts.from_manifest(BOB, mine, backdrop, ["a.jpg"], {})
    drafts.from_manifest(ADA, theirs, backdrop, ["a.jpg"], {})


def test_each_role_does_its_part_of_a_batch(
    drafts: DraftService, batches: BatchService, bench: Bench
) -> None:
    batch = submitted(drafts)
    bench.run(batch.date)
    work = batches.results(ADA, batch).work
    items = batches.results(ADA, batch).items()
    with pytest.raises(NoSuchBatch):
        batches.results(BOB, batch)
    with pytest.raises(NoSuchBatch):
        batches.status(BOB, batch)
    for person in (ADA, DAN):
        with pytest.raises(NotAllowed):
            batches.acts.decide(person, work, items, State.APPROVED)
        with pytest.raises(NotAllowed):
            batches.redo(person, work, items, prompt="", seed=None)
    for person in (ADA, CAROL):
        with pytest.raises(NotAllowed):
            batches.acts.publish(person, work, batches.places(ADA, batch))
    assert bench.keys("reviews/") == bench.keys("published/") == []
    batches.acts.decide(CAROL, work, items, State.APPROVED)
    assert batches.acts.publish(DAN, work, batches.places(DAN, batch)).copied == 1


def test_a_sample_is_approved_by_reviewers_and_not_by_who_submitted_it(
    drafts: DraftService, batches: BatchService, bench: Bench
) -> None:
    batch = submitted(drafts, Sample=1)
    bench.run(batch.date)
    for person in (ADA, DAN):
        with pytest.raises(NotAllowed):
            batches.approve_sample(person, batch)
    with pytest.raises(NoSuchBatch):
        batches.approve_sample(BOB, batch)
    batches.approve_sample(CAROL, batch)
    assert bench.store.head(batch.approval_key) is not None


def test_an_open_upload_takes_nothing_after_the_end_of_the_sign_in(drafts: DraftService) -> None:
    sessions = UploadSessions()
    session = sessions.open(drafts, somebody("ada", Role.SUBMITTER, minutes=0.0))
    with pytest.raises(NotAllowed):
        session.store("1", "a.jpg", io.BytesIO(photo(1)))
    assert session.renew(ADA)
    assert session.store("1", "a.jpg", io.BytesIO(photo(1))).name == "a.jpg"
    assert not session.renew(BOB)


class Visitor:
    """Streamlit's `st.user` with these claims."""

    def __init__(self, **claims: Any) -> None:
        self._claims = {"is_logged_in": True, "iss": ISSUER, "sub": "ada", **claims}

    def get(self, name: str, default: Any = None) -> Any:
        return self._claims.get(name, default)

    def to_dict(self) -> dict[str, Any]:
        return dict(self._claims)


@pytest.mark.parametrize(
    ("claims", "roles"),
    [
        ({"cognito:groups": ["studio"]}, frozenset({Role.SUBMITTER})),
        ({"cognito:groups": "studio"}, frozenset({Role.SUBMITTER})),
        ({"cognito:groups": "studio art"}, frozenset()),
        ({"cognito:groups": ["Studio"]}, frozenset()),
        ({}, frozenset()),
    ],
)
def test_roles_are_those_of_the_groups_in_the_sign_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any], roles: frozenset[Role]
) -> None:
    now = datetime.now(UTC).timestamp()
    monkeypatch.setattr(user, "st", SimpleNamespace(user=Visitor(iat=now, email="ada@example", **claims)))
    visitor = user.visitor(bench.settings(), Authorization(bench.settings(), bench.store))
    assert (visitor.roles, visitor.name, visitor.subject) == (roles, "ada@example", "ada")


@pytest.mark.parametrize(
    "claims",
    [
        {"is_logged_in": False},
        {"iat": None},
        {"iat": "now"},
        {"iat": 0},
        {"iat": 1e300},
        {"iat": True},
        {"iat": (datetime.now(UTC) + timedelta(hours=1)).timestamp()},
        {"iat": (datetime.now(UTC) - timedelta(hours=12, minutes=1)).timestamp()},
        {"iss": "https://other.example"},
        {"sub": ""},
    ],
)
def test_a_sign_in_that_has_ended_or_is_of_another_pool_is_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any]
) -> None:
    said = {"iat": datetime.now(UTC).timestamp(), "cognito:groups": ["studio"], **claims}
    monkeypatch.setattr(user, "st", SimpleNamespace(user=Visitor(**said)))
    with pytest.raises(NotAllowed):
        user.visitor(bench.settings(), Authorization(bench.settings(), bench.store))


def at(monkeypatch: pytest.MonkeyPatch, minutes: float) -> None:
    """Puts the clock of the sign-ins ahead."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + timedelta(minutes=minutes)

    monkeypatch.setattr(sign_ins, "datetime", Ahead)


def test_a_sign_in_that_is_not_used_ends_for_every_act(
    drafts: DraftService, batches: BatchService, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = submitted(drafts, Sample=1, Images=[{"ImageName": "a.jpg"}])
    drafts.store_photo(batch, "b.jpg", io.BytesIO(photo(2)))
    bench.run(batch.date)
    claims = {"iat": datetime.now(UTC).timestamp(), "cognito:groups": ["studio", "art"], "sub": "carol"}
    monkeypatch.setattr(user, "st", SimpleNamespace(user=Visitor(**claims)))

    def visitor() -> Person:
        return user.visitor(bench.settings(), batches.acts.authorization)

    carol = visitor()
    carol.use_sign_in()
    uploads = UploadSessions().open(drafts, carol)
    sessions = review_server.ReviewSessions()
    monkeypatch.setattr(review_server, "sessions", sessions)
    review = sessions.open(ReviewService(bench.settings(), aws(), batches), carol)
    with serving(Starlette(routes=review_server.ROUTES)) as server:

        def lists() -> int:
            path, headers = f"{review_server.ADDRESS}/batches", {review_server.TOKEN: review.token}
            return server.get(path, headers=headers).status_code

        at(monkeypatch, 59)
        assert lists() == 200
        assert uploads.store("1", "a.jpg", io.BytesIO(photo(1))).name == "a.jpg"
        at(monkeypatch, 118)
        assert lists() == 200, "the upload was a use"
        at(monkeypatch, 120)
        assert lists() == 401, "the lists were none"
    with pytest.raises(NotAllowed, match="sign in again"):
        visitor()
    with pytest.raises(NotAllowed, match="ended"):
        uploads.store("2", "b.jpg", io.BytesIO(photo(2)))
    with pytest.raises(NotAllowed, match="ended"):
        batches.approve_sample(carol, batch)
    with pytest.raises(NotAllowed, match="ended"):
        drafts.start_draft(carol)
    assert bench.store.head(batch.approval_key) is None


def test_after_signing_out_a_copy_of_the_cookie_opens_nothing(
    batches: BatchService, drafts: DraftService, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    claims: dict[str, Any] = {"iat": datetime.now(UTC).timestamp(), "cognito:groups": ["studio"]}
    streamlit = SimpleNamespace(
        user=Visitor(**claims), session_state={}, logout=lambda: ended.append("cookie deleted")
    )
    monkeypatch.setattr(user, "st", streamlit)
    access = batches.acts.authorization
    thief = user.visitor(bench.settings(), Authorization(bench.settings(), bench.store))
    user._sign_out(bench.settings(), access)
    assert ended == ["cookie deleted"]
    with pytest.raises(NotAllowed):
        user.visitor(bench.settings(), access)
    at(monkeypatch, sign_ins.LOOK_SECONDS / 60)
    assert thief.expired
    later = Visitor(**{**claims, "iat": claims["iat"] + 1})
    monkeypatch.setattr(user, "st", SimpleNamespace(user=later))
    assert user.visitor(bench.settings(), access).subject == "ada", "a new sign-in"


def test_the_cookie_is_deleted_also_if_the_end_cannot_be_stored(
    batches: BatchService, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []
    streamlit = SimpleNamespace(
        user=Visitor(iat=datetime.now(UTC).timestamp()), session_state={}, logout=lambda: ended.append(1)
    )
    monkeypatch.setattr(user, "st", streamlit)

    def refuse(*_: Any, **more: Any) -> str:
        raise PreconditionFailed("no")

    monkeypatch.setattr(Store, "write_json", refuse)
    with pytest.raises(UsageError, match="sign out again"):
        user._sign_out(bench.settings(), batches.acts.authorization)
    assert ended == [1]


def _watch(batches: "BatchService", drafts: "DraftService") -> None:  # its text is run elsewhere
    from bg_pipeline.web.page import progress

    progress.show(batches, drafts, "", lambda draft: None)


def test_a_tab_that_was_left_open_approves_nothing_after_the_sign_in_has_ended(
    drafts: DraftService, batches: BatchService, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = submitted(drafts, Sample=1, Images=[{"ImageName": "a.jpg"}])
    drafts.store_photo(batch, "b.jpg", io.BytesIO(photo(2)))
    bench.run(batch.date)
    visitor = [CAROL]
    monkeypatch.setattr(user, "visitor", lambda *_: visitor[0])
    screen = AppTest.from_function(
        _watch, kwargs={"batches": batches, "drafts": drafts}, default_timeout=SECONDS
    ).run()
    assert not screen.exception
    visitor[0] = somebody("carol", Role.REVIEWER, minutes=-1)
    screen.run()
    assert not screen.exception
    assert not [button for button in screen.button if button.label in ("Run the rest", "Retry")]
    with pytest.raises(NotAllowed, match="sign in again"):
        batches.approve_sample(visitor[0], batch)


ANSWERS: dict[str, tuple[str, dict[str, int]]] = {
    "batches": ("GET", {}),
    "rows": ("GET", {"bob": 404}),
    "picture": ("GET", {"bob": 404}),
    "history": ("GET", {"bob": 404}),
    "decide": ("POST", {"ada": 403, "bob": 404, "dan": 403}),
    "redo": ("POST", {"ada": 403, "bob": 404, "dan": 403}),
    "quote": ("POST", {"bob": 404}),
    "mend": ("POST", {"ada": 403, "bob": 404, "dan": 403}),
    "quote-mended": ("POST", {"ada": 403, "bob": 404, "dan": 403}),
    # It reads nothing of a batch.
    "region": ("POST", {"ada": 403, "bob": 403, "dan": 403}),
    "publish": ("POST", {"ada": 403, "bob": 404, "carol": 403}),
    "zip": ("POST", {"bob": 404}),
    # Only what the same session decided can be undone.
    "undo": ("POST", {"ada": 422, "bob": 422, "dan": 422}),
    "zip/{ticket}": ("GET", dict.fromkeys(("ada", "bob", "carol", "dan", "root"), 403)),
}
"""The routes of the review in the browser, and whom they refuse with which status."""


def test_the_review_in_the_browser_is_for_who_may_and_refuses_everybody_else(
    drafts: DraftService, batches: BatchService, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = {route.path.removeprefix(f"{review_server.ADDRESS}/") for route in review_server.ROUTES}
    assert routes == set(ANSWERS)
    batch = submitted(drafts)
    bench.run(batch.date)
    sessions = review_server.ReviewSessions()
    monkeypatch.setattr(review_server, "sessions", sessions)
    service = ReviewService(bench.settings(), aws(), batches)
    (row,) = service.rows(CAROL, batch)["rows"]
    (listed,) = service.batches(ADA, 1)
    assert service.batches(BOB, 1) == []
    assert listed["batch"] == batch.path
    with serving(Starlette(routes=review_server.ROUTES)) as server:

        def call(person: Person, route: str) -> int:
            headers = {review_server.TOKEN: sessions.open(service, person).token}
            if ANSWERS[route][0] == "GET":
                query = {**{name: str(value) for name, value in row.items()}, "size": "small"}
                return server.get(
                    f"{review_server.ADDRESS}/{route}", params=query, headers=headers
                ).status_code
            body: dict[str, Any] = {"press": f"press of {person.name}", "batch": batch.path, "items": [row]}
            body |= {"of": ["p"], "state": "approved", "prompt": "a street", "mask": "", "pictures": 0}
            body |= {"x": 1, "y": 1, "reach": 5, "keep": True, "part": ""}
            return server.post(f"{review_server.ADDRESS}/{route}", body, headers=headers).status_code

        people = (ADA, BOB, DAN, CAROL, ROOT)
        refused = {
            (route, person.name): answers[person.name]
            for route, (_, answers) in ANSWERS.items()
            for person in people
            if person.name in answers
        }
        before = {found.key: found.etag for found in bench.store.list("")}
        by_name = {person.name: person for person in people}
        assert {(route, name): call(by_name[name], route) for route, name in refused} == refused
        assert {found.key: found.etag for found in bench.store.list("")} == before
        # `decide` comes first: a picture that is asked for again is not approved any more.
        for route in ("batches", "rows", "picture", "history", "quote", "decide"):
            assert call(CAROL, route) == 200, route
        assert call(DAN, "publish") == call(ADA, "zip") == 200
        (row,) = service.rows(CAROL, batch)["rows"]
        assert call(CAROL, "redo") == 200
    lines = [line for line in AuditLog(bench.store).records(batch.date, batch.date) if line.via == "page"]
    assert sorted((line.act, line.subject) for line in lines) == [
        ("Decide", "carol"),
        ("Publish", "dan"),
        ("Redo", "carol"),
        ("Submit", "ada"),
    ]


def test_decisions_that_are_taken_back_are_in_the_audit_log(
    drafts: DraftService, batches: BatchService, bench: Bench
) -> None:
    batch = submitted(drafts)
    bench.run(batch.date)
    service = ReviewService(bench.settings(), aws(), batches)
    (row,) = service.rows(CAROL, batch)["rows"]
    _, written = service.decide(CAROL, [Address.read(row)], State.APPROVED)
    with pytest.raises(NotAllowed):
        service.take_back(DAN, written)
    (present,), kept = service.take_back(CAROL, written)
    assert (present["state"], kept) == ("waiting", 0)
    lines = [line for line in AuditLog(bench.store).records(batch.date, batch.date) if line.via == "page"]
    assert [(line.act, line.subject) for line in sorted(lines, key=lambda line: line.at)] == [
        ("Submit", "ada"),
        ("Decide", "carol"),
        ("TakeBack", "carol"),
    ]


def test_a_photo_that_is_found_by_its_words_is_shown_to_who_may_see_it(
    drafts: DraftService, batches: BatchService
) -> None:
    batch = drafted(drafts)
    for small in (True, False):
        assert batches.photo(ADA, batch.path, "a.jpg", small=small)
        assert batches.photo(BOB, batch.path, "a.jpg", small=small) is None


def test_without_sign_in_this_machines_user_may_do_everything(
    bench: Bench, drafts: DraftService, batches: BatchService
) -> None:
    batch = drafted(drafts, local_person("me", Via.PAGE))
    assert bench.keys("pipeline-state/owners/") == []
    assert drafts.resume_draft(local_person("you", Via.PAGE), batch)[0].name == "a.jpg"
