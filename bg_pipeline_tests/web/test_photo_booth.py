"""The photo-booth calls: an upload that overwrites nothing, pictures at once, or an order to be asked for."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

import bg_pipeline
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.run.engine import Engine
from bg_pipeline.storage.object_store import Store
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import Caller, problem, served

PORTRAIT = (Path(bg_pipeline.__file__).parent / "demo_photos" / "astronaut.jpg").read_bytes()
"""A person whom the stand-in finds; it looks for faces only while its pictures are not canned."""


@pytest.fixture
def bench(bucket: str, control: ControlClient) -> Bench:
    return Bench(Store(aws().s3(bucket), bucket), {"quota_detect_faces_tps": 1000})


@pytest.fixture
def api(bench: Bench) -> Iterator[Caller]:
    with served(bench.settings(), bench.store) as caller:
        yield caller


def put(place: dict[str, str], data: bytes) -> requests.Response:
    return requests.put(place["UploadURL"], data, headers={"Content-Type": place["ContentType"]}, timeout=30)


def test_an_upload_has_a_key_of_its_own_and_five_minutes(api: Caller, bench: Bench) -> None:
    asked = {"type": "photo", "filename": "me.jpg", "contentType": "image/jpeg", "size": 3}
    first, second = (api.post("/upload", asked).json() for _ in range(2))
    assert first["Key"] != second["Key"]
    assert first["Key"].startswith("photo/")
    assert first["Key"].endswith("/me.jpg")
    assert (first["Expires"], first["ContentType"], first["Bucket"]) == (
        300,
        "image/jpeg",
        bench.store.bucket,
    )
    assert "X-Amz-Expires=300" in first["UploadURL"]
    assert put(first, b"one").ok
    assert put(second, b"two").ok
    assert bench.store.read(first["Key"]).data == b"one"


def test_an_upload_with_put_is_of_the_size_that_was_said(api: Caller) -> None:
    place = api.post("/upload", {"Filename": "me.jpg", "ContentType": "image/jpeg", "Size": 3}).json()
    assert "content-length" in parse_qs(urlsplit(place["UploadURL"]).query)["X-Amz-SignedHeaders"][0].split(
        ";"
    )


def test_an_upload_is_a_form_with_a_limit_or_a_put_as_the_old_clients_send_it(bench: Bench) -> None:
    with served(bench.settings(api_max_upload_mb=1), bench.store) as api:
        place = api.post("/upload", {"Filename": "me.jpg", "ContentType": "image/jpeg"}).json()
        too_large = {"Filename": "me.jpg", "ContentType": "image/jpeg", "Size": 1_000_001}
        assert problem(api.post("/upload", too_large)) == (413, "TooLarge")
    assert "content-length" not in parse_qs(urlsplit(place["UploadURL"]).query)["X-Amz-SignedHeaders"][0]
    assert place["MaxBytes"] == 1_000_000
    policy = json.loads(base64.b64decode(place["Fields"]["policy"]))
    assert ["content-length-range", 1, 1_000_000] in policy["conditions"]
    sent = [
        requests.post(place["Url"], data=place["Fields"], files={"file": ("any", data)}, timeout=30)
        for data in (b"x" * 1_000_001, b"photo")
    ]
    assert [answer.ok for answer in sent] == [False, True]
    assert bench.store.read(place["Key"]).data == b"photo"


@pytest.mark.parametrize("name", ["..", "../", ".hidden", "folder/", "notes.json"])
def test_a_file_name_that_is_no_photos_is_refused(api: Caller, name: str) -> None:
    asked = {"Filename": name, "ContentType": "image/jpeg"}
    assert problem(api.post("/upload", asked)) == (422, "NotAnImage")


def test_only_photos_are_taken(api: Caller) -> None:
    asked = {"Filename": "me.svg", "ContentType": "text/html"}
    assert problem(api.post("/upload", asked)) == (422, "InvalidRequest")


def test_what_is_no_photo_goes_to_docs_and_the_answer_has_the_old_form_too(api: Caller, bench: Bench) -> None:
    asked = {"type": "doc", "filename": "a/b/terms.json", "contentType": "application/json"}
    place = api.post("/upload", asked).json()
    assert place["Key"].startswith("docs/")
    assert place["Key"].endswith("/terms.json")
    assert place["statusCode"] == 200
    old = json.loads(place["body"])
    assert old == {name: value for name, value in place.items() if name not in ("statusCode", "body")}
    assert put(old, b"{}").ok
    assert bench.store.read(old["Key"]).data == b"{}"
    assert problem(api.post("/upload", {**asked, "filename": ".."})) == (422, "BadName")


def test_the_links_of_an_order_come_alive_without_being_asked_for(api: Caller, bench: Bench) -> None:
    bench.put("photo/me.jpg", PORTRAIT)
    answer = api.post("/photo-api", {"key": "photo/me.jpg", "id": "guest-7"})
    assert answer.status_code == 202, answer.text
    links = json.loads(answer.json()["url_generated"])
    deadline = time.monotonic() + 60
    while not all(requests.get(link, timeout=10).ok for link in links):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(links) == 3


def test_links_live_as_long_as_the_setting_says(bench: Bench) -> None:
    bench.put("photo/me.jpg", PORTRAIT)
    with served(bench.settings(api_link_seconds=86_400), bench.store) as api:
        answer = api.post("/photo-api", {"key": "photo/me.jpg"}).json()
    assert "X-Amz-Expires=86400" in answer["url_original"]


def test_a_photo_gets_three_backgrounds_with_links_and_the_old_names(api: Caller, bench: Bench) -> None:
    asked_upload = {"Filename": "me.jpg", "ContentType": "image/jpeg", "Size": len(PORTRAIT)}
    place = api.post("/upload", asked_upload).json()
    put(place, PORTRAIT)
    asked = {"requestId": "r-1", "bucket": place["Bucket"], "key": place["Key"], "id": "guest-7"}
    answer = api.post("/photo", asked)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert [picture["Key"].rpartition("/")[2] for picture in made["Generated"]] == [
        "photo_guest-7_1.jpeg",
        "photo_guest-7_2.jpeg",
        "photo_guest-7_3.jpeg",
    ]
    links = json.loads(made["url_generated"])
    assert links == [picture["Url"] for picture in made["Generated"]]
    assert made["url_original"] == made["Original"]["Url"]
    assert made["time_taken"] == str(made["Seconds"])
    for link in [made["url_original"], *links]:
        stored = requests.get(link, timeout=10)
        assert stored.ok
        assert stored.content[:3] == b"\xff\xd8\xff"
    assert requests.get(made["url_original"], timeout=10).content == PORTRAIT


def test_a_photo_without_a_face_is_answered_with_the_reason(api: Caller, bench: Bench) -> None:
    bench.put("photo/x/stone.jpg", photo(1))
    answer = api.post("/photo", {"Key": "photo/x/stone.jpg"})
    assert problem(answer) == (422, "NoSubject")
    assert "no face was found" in answer.json()["detail"]


def test_an_order_answers_before_it_is_worked_on_and_can_be_asked_for(
    api: Caller, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put("photo/x/me.jpg", PORTRAIT)
    answered, run = threading.Event(), Engine.run

    def run_later(engine: Engine, dates: Sequence[date]) -> dict[date, DateResult]:
        assert answered.wait(30)
        return run(engine, dates)

    monkeypatch.setattr(Engine, "run", run_later)
    answer = api.post("/photo-api", {"Key": "photo/x/me.jpg", "Prompts": ["a beach", "a forest"]})
    assert answer.status_code == 202
    order = answer.json()
    assert order["Status"] in ("Waiting", "Working")
    answered.set()
    promised = [picture["Key"] for picture in order["Generated"]]
    assert len(promised) == 2
    assert answer.headers["location"] == f"/photo-api/{order['Id']}"
    deadline = time.monotonic() + 60
    while (found := api.get(answer.headers["location"]).json())["Status"] in ("Waiting", "Working"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert [picture["Key"] for picture in found["Generated"]] == promised
    for picture in found["Generated"]:
        assert requests.get(picture["Url"], timeout=10).ok


def test_an_order_that_its_process_did_not_finish_is_finished_by_any_run(bench: Bench) -> None:
    bench.put("photo/x/me.jpg", PORTRAIT)
    with served(bench.settings(max_cost_usd=0.0001), bench.store) as api:
        order = api.post("/photo-api", {"Key": "photo/x/me.jpg", "Prompts": ["a beach"]}).json()
    bench.run(date.fromisoformat(order["Id"][:8]))
    with served(bench.settings(), bench.store) as api:
        found = api.get(f"/photo-api/{order['Id']}").json()
    assert found["Generated"][0]["Url"], found


def test_the_same_request_id_is_the_same_order(api: Caller, bench: Bench) -> None:
    bench.put("photo/x/me.jpg", PORTRAIT)
    asked = {"Key": "photo/x/me.jpg", "RequestId": "r-9", "Prompts": ["a beach"]}
    assert api.post("/photo-api", asked).json()["Id"] == api.post("/photo-api", asked).json()["Id"]


def test_a_picture_that_could_not_be_made_says_why_beside_those_that_could(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    bench.put("photo/x/me.jpg", PORTRAIT)
    control.fault(operation="InvokeModel", action="block", match="forbidden", times=0)
    answer = api.post("/photo", {"Key": "photo/x/me.jpg", "Prompts": ["a beach", "a forbidden place"]})
    assert answer.status_code == 200, answer.text
    beach, place = answer.json()["Generated"]
    assert beach["Url"]
    assert (place["Status"], place["Url"]) == ("Blocked", None)
    assert place["Cause"]


@pytest.mark.parametrize(
    "order", ["x", "20261121-101530-0123456789abcdef", "20261399-101530-0123456789abcdef"]
)
def test_an_order_that_nobody_made_is_not_found(api: Caller, order: str) -> None:
    assert problem(api.get(f"/photo-api/{order}")) == (404, "NoSuchOrder")


def test_a_bucket_that_was_not_allowed_is_refused(api: Caller) -> None:
    answer = api.post("/photo", {"Key": "a.jpg", "Bucket": "somebody-elses"})
    assert problem(answer) == (403, "BucketNotAllowed")


def test_a_photo_that_is_not_there_costs_nothing(api: Caller, bench: Bench, control: ControlClient) -> None:
    assert problem(api.post("/photo-api", {"Key": "photo/none.jpg"})) == (404, "NotFound")
    assert control.calls() == []
    assert bench.keys("image-files/") == []
