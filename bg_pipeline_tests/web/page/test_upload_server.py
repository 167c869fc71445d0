"""Photos that the page's browser sends one by one: stored once, named apart, refused with the reason."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import local_person
from bg_pipeline.errors import UsageError
from bg_pipeline.masks.conventions import STORED
from bg_pipeline.state.audit import AuditLog
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.listing import find_draft
from bg_pipeline.web.page import upload_server
from bg_pipeline.web.page.drafts import DraftService, stored_wishes
from bg_pipeline.web.page.upload_server import UploadSession, UploadSessions
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo, photo_and_mask
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


def test_a_named_draft_has_all_its_photos_masks_and_wishes_under_its_name(
    drafts: DraftService, session: UploadSession, browser: Caller
) -> None:
    for name in ("a.jpg", "Schuhe & Söhne.jpg"):
        send(browser, session, name, photo(1))
    before = session.batch
    _, matte = photo_and_mask(1)
    mask = drafts.mask(before, "a.jpg", STORED.write_png(matte))
    session.wishes["Photos"] = {"a.jpg": {"MaskKey": mask, "Subject": "MASK"}}
    session.keep_wishes()
    session.rename("spring & summer")
    batch = session.batch
    assert (batch.date, batch.name) == (before.date, "spring & summer")
    assert list(drafts.store.list(f"{before.input_prefix}/")) == []
    assert sorted(find_draft(drafts.store, batch).images) == ["Schuhe & Söhne.jpg", "a.jpg"]
    key = session.wishes["Photos"]["a.jpg"]["MaskKey"]
    assert key.startswith(batch.input_prefix)
    assert drafts.store.read(key) is not None
    session.keep_wishes()
    assert stored_wishes(drafts.store, batch) == session.wishes
    assert send(browser, session, "b.jpg", photo(2)).status_code == 200
    data, _ = drafts.request(batch, ["a.jpg", "b.jpg"], {"Prompt": "a beach"}, session.wishes["Photos"])
    drafts.submit(session.person, batch, data)
    assert drafts.store.head(batch.request_key) is not None
    (line,) = [
        line for line in AuditLog(drafts.store).records(batch.date, batch.date) if line.act == "Rename"
    ]
    assert (line.batch, line.result["NewBatch"]) == (before.path, batch.path)


@pytest.mark.parametrize("name", ["a/b", ".hidden", " ", "x" * 101, "bell\a", "api-123456-0123456789abcdef"])
def test_a_name_that_submit_refuses_is_refused_and_nothing_moves(
    drafts: DraftService, session: UploadSession, browser: Caller, name: str
) -> None:
    send(browser, session, "a.jpg", photo(1))
    before = sorted(each.key for each in drafts.store.list(""))
    with pytest.raises(UsageError, match="cannot be named"):
        session.rename(name)
    assert sorted(each.key for each in drafts.store.list("")) == before


def test_a_name_that_is_taken_is_refused_and_nothing_moves(
    drafts: DraftService, session: UploadSession, browser: Caller
) -> None:
    send(browser, session, "a.jpg", photo(1))
    taken = Batch(session.batch.date, "spring")
    drafts.store.write(taken.request_key, b"{}", media_type="application/json")
    before = session.batch
    with pytest.raises(UsageError, match="already"):
        session.rename("spring")
    assert session.batch == before
    assert sorted(find_draft(drafts.store, before).images) == ["a.jpg"]
    assert [each.key for each in drafts.store.list(f"{taken.input_prefix}/")] == [taken.request_key]


def test_of_two_drafts_that_want_one_name_at_once_one_has_it(
    drafts: DraftService, session: UploadSession, browser: Caller
) -> None:
    other = upload_server.sessions.open(drafts, local_person("bob"))
    for each in (session, other):
        send(browser, each, "a.jpg", photo(1))

    def named(each: UploadSession) -> bool:
        try:
            each.rename("spring")
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(named, [session, other])) == [False, True]
    assert all(sorted(find_draft(drafts.store, each.batch).images) == ["a.jpg"] for each in (session, other))


def test_a_photo_that_changes_while_its_draft_is_named_is_not_lost(
    drafts: DraftService, session: UploadSession, browser: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(browser, session, "a.jpg", photo(1))
    before, copy = session.batch, Store.copy

    def late(store: Store, source: str, target: str, **more: Any) -> str:
        store.write(source, photo(3), media_type="image/jpeg")
        return copy(store, source, target, **more)

    monkeypatch.setattr(Store, "copy", late)
    with pytest.raises(UsageError, match="changed meanwhile"):
        session.rename("spring")
    assert session.batch == before
    stored = drafts.store.read(before.upload_key("a.jpg"))
    assert stored is not None
    assert stored.data == photo(3)
    assert list(drafts.store.list(f"{Batch(before.date, 'spring').input_prefix}/")) == []


def test_photos_that_arrive_while_a_draft_is_named_are_in_the_named_one(
    drafts: DraftService, session: UploadSession, browser: Caller
) -> None:
    send(browser, session, "a.jpg", photo(1))
    with ThreadPoolExecutor(5) as pool:
        sent = [pool.submit(send, browser, session, f"{number}.jpg", photo(number)) for number in range(4)]
        pool.submit(session.rename, "spring").result()
        assert {each.result().status_code for each in sent} == {200}
    assert session.batch.name == "spring"
    assert len(find_draft(drafts.store, session.batch).images) == 5
