"""Reviewing in the browser: a decision counts for what was seen, once, by who signed in; redoes are paid for once."""

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from PIL import Image

from bg_pipeline import review
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.people import Person, Via, local_person
from bg_pipeline.imaging import read_header
from bg_pipeline.run.batch_work import open_batch
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.page.batches import BatchService
from bg_pipeline.web.page.review_server import ADDRESS, TOKEN, ReviewSession, ReviewSessions
from bg_pipeline.web.page.review_service import Address, ReviewService
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import Caller


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(s3, bucket), {"review_share": 1.0})


@pytest.fixture
def service(bench: Bench) -> ReviewService:
    return ReviewService(bench.settings(), aws(), BatchService(bench.settings(), bench.store))


@pytest.fixture
def batch(bench: Bench) -> Batch:
    """Three results of today, which all wait for a person."""
    made = bench.submit(3, day=datetime.now(UTC).date())
    bench.run(made.date)
    return made


class Reviewer:
    """A browser with the review component of one person."""

    def __init__(self, server: Caller, session: ReviewSession) -> None:
        self._server = server
        self.session = session
        self._presses = 0

    def get(self, path: str, **query: Any) -> requests.Response:
        return self._server.get(f"{ADDRESS}/{path}", params=query, headers={TOKEN: self.session.token})

    def post(self, path: str, **body: Any) -> requests.Response:
        self._presses += 1
        press = {"press": f"{self.session.person.name}-press-{self._presses}"}
        return self._server.post(f"{ADDRESS}/{path}", {**press, **body}, headers={TOKEN: self.session.token})

    def rows(self, batch: Batch) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get("rows", batch=batch.path).json()["rows"]
        return rows

    def decide(self, rows: list[dict[str, Any]], state: str = "approved", **more: Any) -> requests.Response:
        return self.post("decide", items=rows, state=state, **more)


def somebody(name: str) -> Person:
    return local_person(name, Via.PAGE)


@pytest.fixture
def ann(server: Caller, service: ReviewService, sessions: ReviewSessions) -> Reviewer:
    return Reviewer(server, sessions.open(service, somebody("ann")))


@pytest.fixture
def bob(server: Caller, service: ReviewService, sessions: ReviewSessions) -> Reviewer:
    return Reviewer(server, sessions.open(service, somebody("bob")))


def states(bench: Bench, batch: Batch) -> list[str]:
    return [item.state.value for item in _items(bench, batch)]


def _items(bench: Bench, batch: Batch) -> list[review.Item]:
    return review.items(open_batch(bench.store, bench.settings(), batch), bench.settings())


def requests_of(bench: Bench) -> list[str]:
    return [key for key in bench.keys("image-files/") if key.endswith("/request.json")]


# Decisions


def test_a_decision_bears_the_name_of_the_session_and_not_one_that_the_browser_sends(
    bench: Bench, batch: Batch, ann: Reviewer
) -> None:
    row = ann.rows(batch)[0]
    answer = ann.decide([{**row, "by": "bob"}], "rejected", reason="blurred", by="bob")
    (changed,) = answer.json()["rows"]
    assert (changed["state"], changed["id"]) == ("rejected", row["id"])
    (decided,) = [item for item in _items(bench, batch) if item.decision]
    assert decided.decision is not None
    assert (decided.decision.by, decided.decision.reason) == ("ann", "blurred")


def test_of_two_people_who_decide_about_the_same_at_once_the_first_one_counts_and_the_second_is_told(
    bench: Bench, batch: Batch, ann: Reviewer, bob: Reviewer
) -> None:
    seen_by_ann, seen_by_bob = ann.rows(batch), bob.rows(batch)
    assert ann.decide(seen_by_ann[:2], "rejected").ok
    answer = bob.decide(seen_by_bob).json()["rows"]
    assert ["conflict" in row for row in answer] == [False, True, True]
    refused = [row for row in answer if "conflict" in row]
    assert all("rejected by ann" in row["conflict"] for row in refused)
    assert [row["state"] for row in refused] == ["rejected"] * 2
    assert states(bench, batch) == ["rejected", "rejected", "approved"]
    # Bob has seen it now: his next press is one about ann's decision.
    assert "conflict" not in bob.decide(refused[:1]).json()["rows"][0]
    assert states(bench, batch) == ["approved", "rejected", "approved"]


def test_of_many_at_the_same_moment_one_is_stored(
    bench: Bench, batch: Batch, service: ReviewService, server: Caller, sessions: ReviewSessions
) -> None:
    people = [Reviewer(server, sessions.open(service, somebody(f"person {number}"))) for number in range(6)]
    row = people[0].rows(batch)[0]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda person: person.decide([row]).json()["rows"][0], people))
    assert sum("conflict" not in answer for answer in answers) == 1
    document = bench.store.read_json(s3_keys.review_key(_items(bench, batch)[0].key))
    assert "Earlier" not in document


def test_a_result_that_was_made_again_meanwhile_is_not_decided_about(
    bench: Bench, batch: Batch, ann: Reviewer
) -> None:
    rows = ann.rows(batch)
    bench.put(batch.upload_key("photo-0.jpg"), photo(9))
    bench.run(batch.date)
    again = ann.rows(batch)
    assert again[0]["etag"] != rows[0]["etag"]
    answer = ann.decide(rows[:1]).json()["rows"]
    assert answer[0]["conflict"].startswith("it was made again")
    assert answer[0]["etag"] == again[0]["etag"]
    assert states(bench, batch) == ["waiting"] * 3
    assert ann.get("picture", **rows[0], kind="after").status_code == 404


def test_a_press_whose_answer_was_lost_is_carried_out_once(bench: Bench, batch: Batch, ann: Reviewer) -> None:
    rows = ann.rows(batch)
    first = ann.post("decide", press="the same press", items=rows[:1], state="approved")
    second = ann.post("decide", press="the same press", items=rows[:1], state="approved")
    assert first.json() == second.json()
    document = bench.store.read_json(s3_keys.review_key(_items(bench, batch)[0].key))
    assert "Earlier" not in document
    # Also in a new session, as after a reload: the same decision again is no conflict and is not stored twice.
    assert "conflict" not in ann.decide(rows[:1]).json()["rows"][0]
    assert "Earlier" not in bench.store.read_json(s3_keys.review_key(_items(bench, batch)[0].key))


def test_a_late_repetition_does_not_bring_back_what_was_undone(
    bench: Bench, batch: Batch, ann: Reviewer
) -> None:
    row = ann.rows(batch)[0]
    ann.post("decide", press="press number one", items=[row], state="approved")
    ann.post("undo", of=["press number one"])
    assert "conflict" in ann.decide([row]).json()["rows"][0]
    assert states(bench, batch) == ["waiting"] * 3


def test_undo_takes_back_one_press_and_leaves_what_others_decided_since(
    bench: Bench, batch: Batch, ann: Reviewer, bob: Reviewer
) -> None:
    ann.post("decide", press="press number one", items=ann.rows(batch), state="rejected")
    bob.decide(bob.rows(batch)[:1], "approved")
    answer = ann.post("undo", of=["press number one"]).json()
    assert answer["kept"] == 1
    assert states(bench, batch) == ["approved", "waiting", "waiting"]
    assert [row["state"] for row in answer["rows"]] == ["approved", "waiting", "waiting"]
    assert ann.post("undo", of=["a press that never was"]).status_code == 422


def test_undo_brings_back_the_decision_of_who_decided_before(
    bench: Bench, batch: Batch, ann: Reviewer, bob: Reviewer
) -> None:
    bob.decide(bob.rows(batch)[:1], "approved", reason="good light")
    ann.post("decide", press="press number one", items=ann.rows(batch)[:1], state="rejected")
    ann.post("undo", of=["press number one"])
    decision = _items(bench, batch)[0].decision
    assert decision is not None
    assert (decision.state.value, decision.by, decision.reason) == ("approved", "bob", "good light")
    history = ann.get("history", **ann.rows(batch)[0]).json()
    assert [(each["Decision"], each["By"], "TakenBackAt" in each) for each in history] == [
        ("approved", "bob", False),
        ("rejected", "ann", True),
    ]


def test_a_rejection_that_was_undone_takes_nothing_published_away(
    bench: Bench, batch: Batch, ann: Reviewer
) -> None:
    ann.decide(ann.rows(batch)[:1])
    assert ann.post("publish", batch=batch.path).json()["text"].startswith("1 result published")
    ann.post("decide", press="press number one", items=ann.rows(batch)[:1], state="rejected")
    ann.post("undo", of=["press number one"])
    assert "0 results published, 1 were" in ann.post("publish", batch=batch.path).json()["text"]
    assert len([key for key in bench.keys("published/") if key.endswith(".jpg")]) == 1


def test_a_session_that_has_ended_decides_nothing_and_says_to_sign_in(
    bench: Bench, batch: Batch, ann: Reviewer
) -> None:
    rows = ann.rows(batch)
    ended = datetime.now(UTC) - timedelta(seconds=1)
    ann.session.person = replace(ann.session.person, until=ended)
    for answer in (ann.decide(rows), ann.get("rows", batch=batch.path), ann.post("redo", items=rows)):
        assert answer.status_code == 401
        assert "sign in again" in answer.text
    assert states(bench, batch) == ["waiting"] * 3
    assert len(requests_of(bench)) == 1


def test_without_a_token_of_an_open_session_nothing_is_shown_or_done(
    bench: Bench, batch: Batch, ann: Reviewer, sessions: ReviewSessions
) -> None:
    rows = ann.rows(batch)
    sessions.close(ann.session)
    for answer in (ann.decide(rows), ann.get("picture", **rows[0]), ann.get("batches"), ann.post("zip")):
        assert answer.status_code == 403
    assert states(bench, batch) == ["waiting"] * 3


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"items": []},
        {"items": [{"batch": "nowhere", "image": "a.jpg", "number": 1}], "state": "approved"},
        {"items": [{"batch": "2026/11/30/x", "image": "a.jpg", "number": "one"}], "state": "approved"},
        {"items": "all", "state": "approved"},
        {"items": [{"batch": "2026/11/30/x", "image": "a.jpg", "number": 1}], "state": "waiting"},
        {
            "items": [{"batch": "2026/11/30/x", "image": "a.jpg", "number": 1}],
            "state": "approved",
            "press": 1,
        },
    ],
)
def test_a_request_that_makes_no_sense_is_refused_in_a_sentence(ann: Reviewer, body: dict[str, Any]) -> None:
    answer = ann.post("decide", **body)
    assert answer.status_code == 422
    assert "Traceback" not in answer.text


# Other pictures


def test_another_picture_has_a_price_and_is_asked_for_once(
    bench: Bench, batch: Batch, ann: Reviewer, control: ControlClient
) -> None:
    rows = ann.rows(batch)
    quote = ann.post("quote", items=rows[:2]).json()
    assert quote["pictures"] == 2
    assert quote["usd"] > 0
    assert quote["atWorst"] >= quote["usd"]
    paid = len(control.paid(operation="InvokeModel"))
    with ThreadPoolExecutor(2) as pool:  # a double click
        answers = list(pool.map(lambda _: ann.post("redo", press="one press", items=rows[:1]), range(2)))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["rows"][0]["remaking"]
    assert len(requests_of(bench)) == 2
    bench.run(batch.date)
    # A repetition that comes after the new picture exists, from the same page or from another one, pays nothing.
    ann.post("redo", press="one press", items=rows[:1])
    late = ann.post("redo", items=rows[:1]).json()["rows"]
    assert "conflict" in late[0]
    bench.run(batch.date)
    assert len(requests_of(bench)) == 2
    assert len(control.paid(operation="InvokeModel")) == paid + 1


def test_other_pictures_on_a_scene_have_the_price_of_the_new_scene(bench: Bench) -> None:
    day = datetime.now(UTC).date()
    # The models that paint scenes are there only.
    bench.overrides |= {"regions": "us-west-2", "quota_stable_image_ultra_rpm": 60_000}
    batch = bench.submit(2, day=day, Scene="a table", Prompt=None, Subject="SALIENT")
    bench.run(day)
    settings = bench.settings()
    service = ReviewService(settings, aws("us-west-2"), BatchService(settings, bench.store))
    ann = somebody("ann")
    addresses = [Address.read(row) for row in service.rows(ann, batch)["rows"]]
    price = facts_of("STABLE_IMAGE_ULTRA", "stability.stable-image-ultra-v1:1").cost(images=1)
    assert price
    both, one = service.quote(ann, addresses), service.quote(ann, addresses[:1])
    # Two photos of one scene may have two aspects.
    assert (both["pictures"], both["usd"], both["atWorst"]) == (2, 2 * price, 2 * price)
    assert (one["pictures"], one["usd"]) == (1, price)


def test_two_people_who_want_another_picture_of_the_same_get_one(
    bench: Bench, batch: Batch, ann: Reviewer, bob: Reviewer
) -> None:
    rows = ann.rows(batch)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda person: person.post("redo", items=rows[:1]), [ann, bob]))
    assert len(requests_of(bench)) == 2


def test_the_new_picture_stands_in_the_place_of_the_original_in_list_zip_and_publication(
    bench: Bench, batch: Batch, ann: Reviewer, control: ControlClient
) -> None:
    control.switch(canned=False)  # canned pictures are all the same
    rows = ann.rows(batch)
    ann.post("redo", items=rows[1:2], prompt="a dark forest", seed=7)
    bench.run(batch.date)
    again = ann.rows(batch)
    assert [row["place"] for row in again] == [row["place"] for row in rows]
    new = again[1]
    assert (new["state"], new["file"], new["prompt"]) == ("waiting", rows[1]["file"], "a dark forest")
    assert new["batch"] != batch.path
    assert [each["etag"] for each in new["earlier"]] == [rows[1]["etag"]]
    old, made = (ann.get("picture", **each, size="file").content for each in (new["earlier"][0], new))
    assert old != made
    # In the list of batches the new batch is no second one.
    assert [each["batch"] for each in ann.get("batches", days=2).json()] == [batch.path]
    assert ann.decide(again).ok
    address = ann.post("zip", batch=batch.path).json()["address"]
    data = ann._server.get(address)
    with zipfile.ZipFile(io.BytesIO(data.content)) as pack:
        assert sorted(pack.namelist()) == sorted(row["file"] for row in rows)
        assert pack.read(rows[1]["file"]) == made
    assert ann._server.get(address).status_code == 403, "the address works once"
    ann.post("publish", batch=batch.path)
    prefix = s3_keys.published_key(batch.output_prefix)
    published = {key for key in bench.keys("published/") if key.endswith(".jpg")}
    assert published == {f"{prefix}/{row['file']}" for row in rows}
    content = bench.store.read(f"{prefix}/{rows[1]['file']}")
    assert content is not None
    assert content.data == made
    assert "0 results published, 3 were" in ann.post("publish", batch=batch.path).json()["text"]
    # A rejection of the new picture takes its copy away.
    ann.decide(ann.rows(batch)[1:2], "rejected")
    ann.post("publish", batch=batch.path)
    assert bench.store.head(f"{prefix}/{rows[1]['file']}") is None


def test_a_new_picture_that_is_made_again_stands_in_the_same_place(
    bench: Bench, batch: Batch, ann: Reviewer
) -> None:
    for rounds in (1, 2):
        ann.post("redo", items=ann.rows(batch)[:1])
        bench.run(batch.date)
        row = ann.rows(batch)[0]
        assert len(row["earlier"]) == rounds
        assert row["state"] == "waiting"
    assert len(ann.rows(batch)) == 3


def test_each_of_several_pictures_of_a_photo_is_replaced_by_its_own(bench: Bench, ann: Reviewer) -> None:
    day = datetime.now(UTC).date()
    batch = bench.submit(1, day=day, Prompt=None, Prompts=["a beach", "a forest"], Variants=2)
    bench.run(day)
    rows = ann.rows(batch)
    assert [row["prompt"] for row in rows] == ["a beach", "a beach", "a forest", "a forest"]
    ann.post("redo", items=[rows[1], rows[2]])
    bench.run(day)
    again = ann.rows(batch)
    assert [len(row["earlier"]) for row in again] == [0, 1, 1, 0]
    assert [row["prompt"] for row in again] == ["a beach", "a beach", "a forest", "a forest"]
    assert len({row["id"] for row in again}) == 4


def test_an_attempt_that_gives_no_picture_leaves_the_original_and_says_why(
    bench: Bench, batch: Batch, ann: Reviewer, control: ControlClient
) -> None:
    ann.post("redo", items=ann.rows(batch)[:1])
    control.fault(operation="InvokeModel", code="ValidationException", message="no", times=9)
    bench.run(batch.date)
    row = ann.rows(batch)[0]
    assert (row["state"], row["remaking"], row["batch"]) == ("rejected", "", batch.path)
    assert row["failed"]


# Lists and pictures


def test_a_list_that_did_not_change_is_not_sent_again(batch: Batch, ann: Reviewer) -> None:
    version = ann.get("rows", batch=batch.path).json()["version"]
    assert ann.get("rows", batch=batch.path, version=version).status_code == 204
    ann.decide(ann.rows(batch)[:1])
    assert ann.get("rows", batch=batch.path, version=version).status_code == 200


def test_waiting_results_of_the_last_days_are_found_over_midnight(bench: Bench, ann: Reviewer) -> None:
    today = datetime.now(UTC).date()
    yesterday = today.fromordinal(today.toordinal() - 1)
    for day in (yesterday, today):
        bench.submit(1, day=day, batch=f"b-{day}")
        bench.run(day)
    assert [each["batch"] for each in ann.get("batches", days=7).json()] == [
        Batch(day, f"b-{day}").path for day in (today, yesterday)
    ]
    assert [each["title"] for each in ann.get("batches", days=1).json()] == ["a sunny beach"]


def test_results_are_listed_while_a_changed_setting_has_the_next_run_look_at_them_again(
    bench: Bench, batch: Batch, ann: Reviewer
) -> None:
    changed = bench.settings(mask_sources="cut-out")
    service = ReviewService(changed, aws(), BatchService(changed, bench.store))
    (card,) = service._batches.batches(ann.session.person, batch.date)
    assert card.done == 0
    assert [each["batch"] for each in service.batches(ann.session.person, 2)] == [batch.path]


@pytest.mark.parametrize(("size", "side"), [("small", 192), ("large", 1200), ("full", 640)])
@pytest.mark.parametrize("kind", ["before", "after"])
def test_pictures_come_in_the_size_that_is_needed(
    bench: Bench, ann: Reviewer, size: str, side: int, kind: str
) -> None:
    day = datetime.now(UTC).date()
    batch = bench.submit({"a.jpg": photo(1, size=(640, 480))}, day=day)
    bench.run(day)
    answer = ann.get("picture", **ann.rows(batch)[0], kind=kind, size=size)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert max(read_header(answer.content).size) == min(side, 640)
    assert ("no-store" in answer.headers["cache-control"]) is (size != "small")


def test_the_mask_is_sent_as_a_layer_that_is_clear_over_what_is_kept(
    bench: Bench, batch: Batch, ann: Reviewer
) -> None:
    answer = ann.get("picture", **ann.rows(batch)[0], kind="mask")
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as layer:
        alpha = layer.getchannel("A").tobytes()
    assert min(alpha) == 0
    assert alpha[0] > 100, "the corner is background"


def test_a_photo_without_a_result_is_shown_and_can_only_be_made_again_which_is_paid_once(
    bench: Bench, ann: Reviewer, bob: Reviewer
) -> None:
    day = datetime.now(UTC).date()
    batch = bench.submit({"plain.jpg": photo(1, background="#808080")}, day=day, Subject="FACES")
    bench.run(day)
    (row,) = ann.rows(batch)
    assert (row["etag"], row["state"]) == ("", "waiting")
    assert ann.get("picture", **row, kind="before").status_code == 200
    assert ann.get("picture", **row, kind="after").status_code == 404
    assert "conflict" in ann.decide([row]).json()["rows"][0]
    assert ann.post("redo", items=[row]).json()["rows"][0]["remaking"]
    assert ann.rows(batch)[0]["remaking"]
    # Another person, and another press that knows nothing of the first, lead to the same batch.
    bob.post("redo", items=[row])
    assert len(requests_of(bench)) == 2
    bench.run(day)
    assert ann.rows(batch)[0]["failed"], "there is still no face in it"
    # A press that comes late, after the new batch has its report, is refused: it saw none of that.
    late = ann.post("redo", items=[row]).json()["rows"][0]
    assert "conflict" in late
    assert len(requests_of(bench)) == 2
    assert not ann.post("redo", items=ann.rows(batch)).json()["rows"][0].get("conflict")
    assert len(requests_of(bench)) == 3


def test_a_zip_of_nothing_is_a_sentence(batch: Batch, ann: Reviewer) -> None:
    answer = ann.post("zip", batch=batch.path)
    assert (answer.status_code, answer.text) == (422, "no result of this batch is approved yet")


def test_a_result_is_unpacked_nowhere_but_in_its_folder(bench: Bench, ann: Reviewer) -> None:
    day = datetime.now(UTC).date()
    batch = bench.submit({"../../tmp/slip.jpg": photo(1)}, day=day)
    bench.run(day)
    ann.decide(ann.rows(batch))
    data = ann._server.get(ann.post("zip", batch=batch.path).json()["address"])
    with zipfile.ZipFile(io.BytesIO(data.content)) as pack:
        assert pack.namelist() == ["%2E%2E/%2E%2E/tmp/slip.jpg"]
