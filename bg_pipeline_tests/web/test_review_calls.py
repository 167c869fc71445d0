"""The calls that list, follow, review and publish batches, the labels of a photo, and one form of ids."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
import requests

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import PUBLISHED
from bg_pipeline.errors import SettingsError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web import batch_lists
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import DATE, Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import Caller, problem, served

pytestmark = pytest.mark.dates
PATH = f"/batches/{DATE}/101530"


@pytest.fixture
def bench(bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(aws().s3(bucket), bucket))


@pytest.fixture
def api(bench: Bench) -> Iterator[Caller]:
    with served(bench.settings(review_share=1.0), bench.store) as caller:
        yield caller


@pytest.fixture
def reviewed(bench: Bench) -> Bench:
    """A batch of two photos whose results wait for review."""
    bench.submit(2)
    bench.run()
    return bench


def listed(api: Caller, **query: Any) -> list[str]:
    answer = api.get("/batches", params=query)
    assert answer.status_code == 200, answer.text
    return [batch["Batch"] for batch in answer.json()["Batches"]]


def test_batches_of_a_range_are_listed_page_by_page(api: Caller, bench: Bench) -> None:
    days = [date(2025, 12, 31), date(2026, 1, 1), date(2026, 3, 1)]
    for day in days:
        for name in ("a", "b & ü"):
            bench.submit(1, day=day, batch=name, Id="x")
    expected = [Batch(day, name).path for day in days for name in ("a", "b & ü")]
    window = {"from": "2025-12-01", "to": "2026-12-31"}
    assert listed(api, **window) == expected
    assert listed(api, **{**window, "to": "2026-01-01"}) == expected[:4]
    pages, after = [], ""
    while True:
        page = api.get("/batches", params={**window, "limit": 4, "after": after}).json()
        pages.append([batch["Batch"] for batch in page["Batches"]])
        after = page["Next"]
        if not after:
            break
    assert pages == [expected[:4], expected[4:]]
    assert listed(api, **window, state="Reported") == []


def test_without_dates_the_open_ones_are_listed_drafts_included(api: Caller, bench: Bench) -> None:
    today = datetime.now(UTC).date()
    bench.put(Batch(today, "draft").draft_key, b"{}")
    bench.submit(1, day=today - timedelta(60), batch="old")
    (found,) = api.get("/batches").json()["Batches"]
    assert (found["Batch"], found["State"]) == (Batch(today, "draft").path, "Draft")


@pytest.mark.parametrize(
    "query", [{"from": "2026-02-02", "to": "2026-02-01"}, {"after": "x"}, {"limit": 0}, {"state": "Lost"}]
)
def test_a_list_that_cannot_be_is_refused(api: Caller, query: dict[str, Any]) -> None:
    assert problem(api.get("/batches", params=query)) == (422, "InvalidRequest")


def test_what_an_answer_calls_a_batch_works_in_every_path(api: Caller, reviewed: Bench) -> None:
    answer = api.get(PATH).json()
    assert api.get(f"/batches/{answer['Batch']}").json() == answer
    assert api.get(f"/batches/{answer['Batch']}/report").status_code == 200
    assert problem(api.get("/batches/2026/02/31/x"))[0] in (404, 422)
    assert problem(api.get("/batches/2026/02/01/"))[0] == 404


def test_results_are_reviewed_and_published(api: Caller, reviewed: Bench) -> None:
    queue = api.get(f"{PATH}/review?state=waiting").json()
    first = queue["Items"][0]
    assert (queue["Waiting"], queue["Approved"]) == (2, 0)
    assert requests.get(first["Result"]["Url"], timeout=10).ok
    decided = api.post(
        f"{PATH}/review",
        {
            "Decisions": [
                {
                    "Result": first["Result"]["Key"],
                    "Decision": "approve",
                    "ResultETag": first["ResultETag"],
                },
                {"Result": "photo-1.jpg", "Decision": "reject", "Reason": "too dark"},
            ]
        },
    )
    assert decided.status_code == 200, decided.text
    assert [(item["State"], item["Reason"]) for item in decided.json()["Items"]] == [
        ("approved", ""),
        ("rejected", "too dark"),
    ]
    assert "by this machine" in decided.json()["Items"][0]["Why"]
    done = api.post(f"{PATH}/publish", {}).json()
    assert (done["DeliveredNow"], done["Waiting"]) == (1, 0)
    assert [key.rpartition("/")[2] for key in reviewed.keys(f"{PUBLISHED}/")] == ["photo-0.jpg"]
    assert api.post(f"{PATH}/publish", {}).json()["DeliveredBefore"] == 1


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        ({"Result": "photo-1.jpg", "Decision": "approve", "ResultETag": "old"}, (409, "ResultReplaced")),
        ({"Result": "nothing.jpg", "Decision": "approve"}, (422, "InvalidRequest")),
        ({"Result": "photo-0.jpg", "Decision": "reject"}, (422, "InvalidRequest")),
        ({"Result": "photo-1.jpg", "Decision": "maybe"}, (422, "InvalidRequest")),
        ({"Result": "photo-1.jpg", "Decision": "reject", "Reason": "x" * 1001}, (422, "InvalidRequest")),
    ],
)
def test_of_decisions_with_a_wrong_one_none_is_stored(
    api: Caller, reviewed: Bench, decision: dict[str, str], expected: tuple[int, str]
) -> None:
    good = {"Result": "photo-0.jpg", "Decision": "approve"}
    assert problem(api.post(f"{PATH}/review", {"Decisions": [good, decision]})) == expected
    assert reviewed.keys("reviews/") == []


def test_another_picture_is_asked_for_once(api: Caller, reviewed: Bench, control: ControlClient) -> None:
    wanted = {"Results": ["photo-0.jpg"], "Prompt": "a quiet street"}
    answer = api.post(f"{PATH}/redo", wanted)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["Images"], answer.json()["PaidPictures"]) == (1, 1)
    assert api.post(f"{PATH}/redo", wanted).json()["Batch"] == answer.json()["Batch"]
    assert api.get(answer.headers["location"]).json()["State"] == "Waiting"
    assert problem(api.post(f"{PATH}/redo", {**wanted, "Prompt": "another"})) == (409, "NotRedone")
    assert problem(api.post(f"{PATH}/redo", {"Results": ["nothing"]})) == (422, "InvalidRequest")


def test_a_picture_that_was_made_again_is_delivered_in_the_place_of_its_original(
    api: Caller, reviewed: Bench
) -> None:
    new = api.post(f"{PATH}/redo", {"Results": ["photo-0.jpg"], "Prompt": "a quiet street"}).json()["Batch"]
    approve = {"Decisions": [{"Result": "photo-1.jpg", "Decision": "approve"}]}
    api.post(f"{PATH}/review", approve)
    reviewed.run(DATE, datetime.now(UTC).date())
    assert api.post(f"{PATH}/publish", {}).json()["Waiting"] == 1
    again = {"Decisions": [{"Result": "photo-0.jpg", "Decision": "approve"}]}
    assert api.post(f"/batches/{new}/review", again).status_code == 200
    done = api.post(f"{PATH}/publish", {}).json()
    assert (done["DeliveredNow"], done["DeliveredBefore"], done["Waiting"]) == (1, 1, 0)
    published = reviewed.keys(f"{PUBLISHED}/")
    assert [key.removeprefix(f"{PUBLISHED}/") for key in published] == [
        f"{Batch(DATE, '101530').path}/{name}" for name in ("photo-0.jpg", "photo-1.jpg")
    ]
    (made,) = [key for key in reviewed.keys("generated-image-files/") if key.endswith(f"{new}/photo-0.jpg")]
    result, copy = reviewed.store.read(made), reviewed.store.read(published[0])
    assert result is not None
    assert copy is not None
    assert result.data == copy.data


@pytest.mark.parametrize("call", ["review", "publish", "redo", "events", "labels?image=a.jpg"])
def test_a_batch_that_is_not_there_is_not_found(api: Caller, call: str) -> None:
    path = f"/batches/{DATE}/nothing/{call}"
    answer = {
        "redo": lambda: api.post(path, {"Results": ["a"]}),
        "publish": lambda: api.post(path, {}),
    }.get(call, lambda: api.get(path))()
    assert problem(answer)[0] == 404


def test_labels_of_one_photo_are_paid_for_once_and_the_run_uses_them(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    batch = Batch(datetime.now(UTC).date(), "draft")
    bench.put(batch.draft_key, b"{}")
    bench.put(batch.upload_key("a.jpg"), photo(1))
    path = f"/batches/{batch.path}/labels"
    answer = api.post(path, {"ImageName": "a.jpg"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["Usable"]
    assert api.post(path, {"ImageName": "a.jpg"}).json() == answer.json()
    assert len(control.paid(operation="DetectLabels")) == 1
    assert problem(api.post(path, {"ImageName": "b.jpg"})) == (422, "NotUploaded")
    nowhere = f"/batches/{batch.date}/nothing/labels"
    assert problem(api.post(nowhere, {"ImageName": "a.jpg"})) == (404, "NoSuchBatch")
    bench.put(batch.upload_key("page.jpg"), b"<html>")
    assert problem(api.post(path, {"ImageName": "page.jpg"}))[0] == 422
    bench.put(batch.request_key, json.dumps({"Id": "a", "Prompt": "x"}).encode())
    bench.run(batch.date)
    assert len(control.paid(operation="DetectLabels")) == 1
    stored = api.get(f"{path}?image=a.jpg")
    assert stored.json()["Usable"] == answer.json()["Usable"]


def test_the_workflows_own_request_is_one_call(api: Caller, bench: Bench) -> None:
    batch = bench.submit(2, requested=False)
    request = {
        "Id": "621fa85a-38bb-4d98-a656-93bbbcf5477f",
        "S3Bucket": bench.store.bucket,
        "InputS3Prefix": batch.input_prefix,
        "OutputS3Prefix": batch.output_prefix,
        "StatusS3Prefix": batch.status_prefix,
        "Prompt": "london city background",
        "NegativePrompt": "low quality, low resolution",
        "Mode": "PRECISE",
        "Images": [{"ImageName": "photo-0.jpg", "Labels": "Bus, Person"}, {"ImageName": "photo-1.jpg"}],
    }
    answer = api.post("/batches", request)
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"Id": request["Id"], "Batch": batch.path, "Images": 2, "PaidPictures": 2}
    assert api.post("/batches", request).status_code == 202, "sent again it changes nothing"
    assert problem(api.post("/batches", {**request, "Prompt": "y"})) == (409, "AlreadySubmitted")
    result = bench.run()
    assert result.images == 2
    elsewhere = {**request, "InputS3Prefix": "image-files/2025/11/20"}
    assert problem(api.post("/batches", elsewhere)) == (422, "RequestError")
    typo = {**request, "Promt": "x"}
    answer = api.post("/batches", typo)
    assert problem(answer) == (422, "RequestError")
    assert answer.json()["Errors"][0]["Field"] == "Promt"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b'{"Files": 1}', b"\xff"])
def test_a_body_that_is_neither_is_refused(api: Caller, body: bytes) -> None:
    answer = api("POST", "/batches", data=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == (422, "InvalidRequest")


def read_events(api: Caller, path: str, seen: list[tuple[str, Any]]) -> None:
    with requests.get(f"{api.address}{path}", stream=True, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind = ""
        for line in answer.iter_lines():
            text = line.decode()
            if text.startswith("event: "):
                kind = text.removeprefix("event: ")
            elif text.startswith("data: "):
                seen.append((kind, json.loads(text.removeprefix("data: "))))


def test_a_batch_is_followed_until_it_is_done(
    api: Caller, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lists, "EVENT_SECONDS", 0.05)
    bench.submit(1)
    seen: list[tuple[str, Any]] = []
    follower = threading.Thread(target=read_events, args=(api, f"{PATH}/events", seen))
    follower.start()
    bench.run()
    follower.join(30)
    assert not follower.is_alive()
    assert seen[0][0] == "status"
    assert (seen[-1][0], seen[-1][1]["State"]) == ("end", "Reported")
    assert seen[-1][1]["Counts"] == {"Succeeded": 1}


def test_a_stream_ends_when_its_draft_is_discarded_and_more_than_some_are_refused(
    api: Caller, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_lists, "EVENT_SECONDS", 0.05)
    monkeypatch.setattr(batch_lists, "MOST_STREAMS", 1)
    batch = Batch(datetime.now(UTC).date(), "draft")
    bench.put(batch.draft_key, b"{}")
    seen: list[tuple[str, Any]] = []
    follower = threading.Thread(target=read_events, args=(api, f"/batches/{batch.path}/events", seen))
    follower.start()
    while not seen:
        follower.join(0.01)
    assert problem(api.get(f"/batches/{batch.path}/events")) == (503, "Busy")
    assert api("DELETE", f"/batches/{batch.path}").status_code == 204
    follower.join(30)
    assert seen[-1][0] == "problem"
    assert seen[-1][1]["status"] == 404


def test_an_open_stream_does_not_keep_the_server_from_ending(bench: Bench) -> None:
    batch = Batch(datetime.now(UTC).date(), "draft")
    bench.put(batch.draft_key, b"{}")
    with served(bench.settings(), bench.store) as api:
        path = f"{api.address}/batches/{batch.path}/events"
        answer = requests.get(path, stream=True, timeout=60)
        assert next(answer.iter_lines()).startswith(b"retry:")
        ending = time.monotonic()
    assert time.monotonic() - ending < 20, "the draft is never finished"
    answer.close()


def test_the_root_leads_to_the_documentation(api: Caller) -> None:
    answer = api.get("/")
    assert answer.url.endswith("/docs")
    assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize("origins", ["*", "shop.example.com", "https://shop.example.com/page", "null"])
def test_what_is_no_origin_is_refused_as_a_setting(bench: Bench, origins: str) -> None:
    with pytest.raises(SettingsError, match="BG_API_ALLOWED_ORIGINS"):
        bench.settings(api_allowed_origins=origins)


def test_only_named_sites_may_call_from_a_browser(bench: Bench) -> None:
    shop, other = "https://shop.example.com", "https://evil.example.com"
    from_browser = {"Origin": shop, "Sec-Fetch-Site": "cross-site"}
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
    with served(bench.settings(api_allowed_origins=f"{shop}, https://b.example"), bench.store) as api:
        preflight = api("OPTIONS", "/batches", headers={**from_browser, **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == shop
        answer = api.get("/batches", headers=from_browser)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, shop)
        foreign = api.get("/batches", headers={**from_browser, "Origin": other})
        assert problem(foreign) == (403, "Foreign")
        assert "access-control-allow-origin" not in foreign.headers
        assert api("OPTIONS", "/batches", headers={**asked, "Origin": other}).status_code == 400
    with served(bench.settings(), bench.store) as api:
        assert problem(api.get("/batches", headers=from_browser)) == (403, "Foreign")
