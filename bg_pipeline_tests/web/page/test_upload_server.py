"""Photos that the page's browser sends one by one: stored once, named apart, refused with the reason."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from bg_pipeline.domain.people import local_person
from bg_pipeline.errors import UsageError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.page import upload_server
from bg_pipeline.web.page.drafts import DraftService
from bg_pipeline.web.page.upload_server import UploadSession, UploadSessions
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import Caller, serving


@pytest.fixture
def drafts(s3, bucket, control: ControlClient) -> DraftService:
    control.switch(canned=True)
    bench = Bench(Store(s3, bucket))
    return DraftService(bench.settings(api_max_upload_mb=1), aws(), bench.store)


@pytest.fixture
def session(drafts: DraftService, monkeypatch: pytest.MonkeyPatch) -> UploadSession:
    sessions = UploadSessions()
    monkeypatch.setattr(upload_server, "sessions", sessions)
    return sessions.open(drafts, local_person("ann"))


@pytest.fixture
def browser() -> Iterator[Caller]:
    with serving(
        Starlette(routes=[Route(upload_server.ADDRESS, upload_server.receive_photo, methods=["POST"])])
    ) as caller:
        yield caller


def send(
    browser: Caller, session: UploadSession, name: str, data: bytes, upload: str = "", **headers: str
) -> Any:
    sent = {"X-Upload-Token": session.token, "X-Upload-Id": upload, **headers}
    return browser("POST", upload_server.ADDRESS, params={"name": name}, data=data, headers=sent)


def test_a_photo_is_stored_as_it_was_sent_and_shown_small(
    drafts: DraftService, session: UploadSession, browser: Caller
) -> None:
    answer = send(browser, session, "Schuhe & Söhne.jpg", photo(1))
    assert (answer.status_code, answer.text) == (200, "Schuhe & Söhne.jpg")
    stored = drafts.store.read(session.batch.upload_key("Schuhe & Söhne.jpg"))
    assert stored is not None
    assert stored.data == photo(1)
    assert session.photos["Schuhe & Söhne.jpg"].small


def test_two_photos_of_one_name_are_both_kept(
    drafts: DraftService, session: UploadSession, browser: Caller
) -> None:
    assert [send(browser, session, "a.jpg", photo(number)).text for number in (1, 2)] == ["a.jpg", "a 2.jpg"]
    stored = drafts.store.read(session.batch.upload_key("a 2.jpg"))
    assert stored is not None
    assert stored.data == photo(2)


def test_a_photo_that_is_sent_again_because_its_answer_was_lost_is_stored_once(
    drafts: DraftService, session: UploadSession, browser: Caller
) -> None:
    assert [send(browser, session, "a.jpg", photo(1), "one").text for _ in range(2)] == ["a.jpg", "a.jpg"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: session.store("two", "b.jpg", io.BytesIO(photo(2))).name, range(4)))
    assert found == ["b.jpg"] * 4
    assert list(session.photos) == ["a.jpg", "b.jpg"]


def test_photos_that_arrive_at_once_all_have_names_of_their_own(session: UploadSession) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda number: session.store(f"{number}", "a.jpg", io.BytesIO(photo(number))), range(8))
        )
    assert len(session.photos) == 8


@pytest.mark.parametrize(
    ("name", "size", "status", "said"),
    [("request.json", 10, 422, "rename it"), ("", 10, 422, "rename it"), ("a.jpg", 1_000_001, 413, "1 MB")],
)
def test_what_cannot_be_taken_is_refused_in_a_sentence_and_not_stored(
    drafts: DraftService,
    session: UploadSession,
    browser: Caller,
    name: str,
    size: int,
    status: int,
    said: str,
) -> None:
    answer = send(browser, session, name, b"x" * size)
    assert answer.status_code == status
    assert said in answer.text
    assert session.photos == {}
    assert [found.key for found in drafts.store.list("image-files/") if "draft" not in found.key] == []


def test_a_body_that_is_longer_than_it_says_is_cut_off(session: UploadSession, browser: Caller) -> None:
    parts = (b"x" * 100_000 for _ in range(20))
    sent = {"X-Upload-Token": session.token}
    answer = browser("POST", upload_server.ADDRESS, params={"name": "a.jpg"}, data=parts, headers=sent)
    assert answer.status_code == 413
    assert session.photos == {}


def test_nobody_without_a_token_of_an_open_lot_can_store_anything(
    drafts: DraftService, session: UploadSession, browser: Caller
) -> None:
    assert send(browser, session, "a.jpg", photo(1), **{"X-Upload-Token": "guessed"}).status_code == 403
    assert list(drafts.store.list("")) == []
    upload_server.sessions.close(session)
    assert send(browser, session, "a.jpg", photo(1)).status_code == 403
    with pytest.raises(UsageError, match="submitted already"):
        session.store("late", "a.jpg", io.BytesIO(photo(1)))


def test_a_photo_that_is_taken_away_leaves_its_name_to_another(
    drafts: DraftService, session: UploadSession
) -> None:
    session.store("one", "a.jpg", io.BytesIO(photo(1)))
    session.remove("a.jpg")
    assert drafts.store.read(session.batch.upload_key("a.jpg")) is None
    assert session.store("two", "a.jpg", io.BytesIO(photo(2))).name == "a.jpg"


def test_only_so_many_lots_are_remembered_those_in_use_first(
    drafts: DraftService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_server, "MAX_SESSIONS", 2)
    sessions = UploadSessions()
    first, second = sessions.open(drafts, local_person("ann")), sessions.open(drafts, local_person("ann"))
    assert sessions.find(first.token) is first
    sessions.open(drafts, local_person("ann"))
    assert sessions.find(first.token) is first
    assert sessions.find(second.token) is None
