"""The background-removal call: keys in, links to transparent PNGs out, and every refusal with its own status."""

import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import requests
from PIL import Image

from bg_pipeline.domain.batches import parse_upload
from bg_pipeline.domain.rows import Status
from bg_pipeline.reports.report import Report
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web import single_photo_jobs
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.clocks import stop_clock
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import Caller, problem, served

pytestmark = pytest.mark.dates

FROM_HERE = {"X-BG-Client": "test"}
NO_FREE_MASK = {"mask_sources": ("cut-out",)}


@pytest.fixture
def bench(s3, bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(aws().s3(bucket), bucket))


@pytest.fixture
def api(bench: Bench) -> Iterator[Caller]:
    with served(bench.settings(**NO_FREE_MASK), bench.store) as caller:
        yield caller


def test_a_key_gives_a_transparent_png_with_a_link_of_an_hour(api: Caller, bench: Bench) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    answer = api.get("/image-bg-removal?input_key=inputs/cat.jpg", headers=FROM_HERE)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    (result,) = document["Results"]
    assert re.fullmatch(r"outputs/cat_bg_removed_\d{8}_\d{6}\.png", result["Result"]["Key"])
    assert result["Status"] in ("Succeeded", "NeedsReview")
    assert document["statusCode"] == 200
    assert document["body"] == result["Result"]["Url"]
    assert "X-Amz-Expires=3600" in document["body"]
    stored = requests.get(document["body"], timeout=10)
    assert stored.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(stored.content)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGBA")
        assert picture.getchannel("A").getextrema()[0] == 0


def test_the_misspelt_path_of_the_original_works_too(api: Caller, bench: Bench) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    assert api.get("/image-bg-removeal?input_key=inputs/cat.jpg", headers=FROM_HERE).status_code == 200


def test_with_the_setting_the_earlier_systems_call_works_as_its_clients_send_it(bench: Bench) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    path = "/image-bg-removeal?input_key=inputs/cat.jpg"
    with served(bench.settings(**NO_FREE_MASK, api_removal_by_url=True), bench.store) as api:
        answer = api.get(path)
        assert answer.status_code == 200, answer.text
        assert answer.json()["statusCode"] == 200
        assert answer.json()["body"].startswith("http")
        # What a browser sends for a picture, a link or a script on another web site.
        for mode in ("no-cors", "navigate", "cors"):
            foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": mode}
            assert problem(api.get(path, headers=foreign)) == (403, "Foreign")


@pytest.mark.parametrize(
    ("accept", "members"),
    [
        ("*/*", {"type", "title", "status", "detail", "statusCode", "body"}),
        ("application/problem+json", {"type", "title", "status", "detail", "statusCode", "body"}),
        ("application/json, application/problem+json;q=0.5", {"type", "title", "status", "detail"}),
        ("application/json", {"statusCode", "body"}),
        ("application/json;q=0.9, text/plain", {"statusCode", "body"}),
        ("application/json, application/problem+json;q=0", {"statusCode", "body"}),
    ],
)
def test_its_errors_have_the_form_that_the_caller_accepts(
    api: Caller, accept: str, members: set[str]
) -> None:
    answer = api.get("/image-bg-removeal?input_key=inputs/none.jpg", headers={**FROM_HERE, "Accept": accept})
    assert answer.status_code == 404
    document = answer.json()
    assert members <= document.keys()
    assert ("type" in document) == ("type" in members)
    assert document["statusCode"] == 404
    assert document["body"].startswith("Error: S3 object 'inputs/none.jpg' does not exist in bucket")
    form = "problem+json" if "type" in members else "json"
    assert answer.headers["content-type"] == f"application/{form}"


def test_other_paths_answer_with_problem_documents_only(api: Caller) -> None:
    answer = api.get("/batches/2025-01-01/none", headers={"Accept": "application/json"})
    assert problem(answer) == (404, "NoSuchBatch")
    assert "statusCode" not in answer.json()


def test_a_get_without_the_header_that_no_foreign_page_can_send_is_refused(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    answer = api.get("/image-bg-removal?input_key=inputs/cat.jpg")
    assert problem(answer) == (422, "InvalidRequest")
    assert "x-bg-client" in answer.json()["detail"].lower()
    assert control.paid() == []


def test_several_keys_are_one_call_and_each_tells_its_own_end(api: Caller, bench: Bench) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    bench.put("other/cat.png", photo(2, format="PNG"))
    bench.put("inputs/notes.txt", b"not a picture")
    keys = ["inputs/cat.jpg", "inputs/missing.jpg", "other/cat.png", "inputs/notes.txt"]
    answer = api.post("/image-bg-removal", {"Keys": keys})
    assert answer.status_code == 207
    results = answer.json()["Results"]
    assert [result["Key"] for result in results] == keys
    cat, missing, other, notes = results
    assert cat["Result"]["Key"] != other["Result"]["Key"], (
        "two photos of one name do not overwrite each other"
    )
    assert (missing["Problem"]["status"], missing["Result"]) == (404, None)
    assert (notes["Problem"]["status"], notes["Problem"]["type"]) == (422, "urn:bg-pipeline:NotAnImage")


def test_the_old_name_of_the_field_is_understood(api: Caller, bench: Bench) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    assert api.post("/image-bg-removal", {"input_key": "inputs/cat.jpg"}).status_code == 200


@pytest.mark.parametrize(
    ("key", "expected", "sentence"),
    [
        ("inputs/missing.jpg", (404, "NotFound"), "S3 object 'inputs/missing.jpg' does not exist in bucket"),
        ("inputs/notes.txt", (422, "NotAnImage"), "'inputs/notes.txt' in bucket"),
        ("inputs/empty.jpg", (422, "EmptyFile"), "empty"),
        ("inputs/large.jpg", (413, "TooLarge"), "BG_API_MAX_UPLOAD_MB"),
        ("inputs/", (422, "NotAnImage"), "folder"),
        ("inputs/../secret.jpg", (422, "BadName"), "'..'"),
        ("pipeline-state/answers/cut-out/ab/abc", (403, "KeyNotAllowed"), "the pipeline itself"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused_with_its_own_status(
    api: Caller, bench: Bench, control: ControlClient, key: str, expected: tuple[int, str], sentence: str
) -> None:
    bench.put("inputs/notes.txt", b"not a picture")
    bench.put("inputs/empty.jpg", b"")
    bench.put("inputs/large.jpg", b"x" * 31_000_000 if "large" in key else b"x")
    answer = api.post("/image-bg-removal", {"Keys": [key]})
    assert problem(answer) == expected
    assert sentence in answer.json()["detail"]
    assert control.calls() == []
    assert bench.keys("image-files/") == []


def test_a_bucket_that_is_gone_is_told_as_such(bench: Bench) -> None:
    with served(bench.settings(), bench.store.in_bucket("no-such-bucket-anywhere")) as api:
        assert problem(api.post("/image-bg-removal", {"Keys": ["cat.jpg"]})) == (404, "NoSuchBucket")


def test_the_models_refusal_is_told_in_its_own_words(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    control.fault(operation="InvokeModel", action="block", where="image", times=0)
    answer = api.post("/image-bg-removal", {"Keys": ["inputs/cat.jpg"]})
    status, _ = problem(answer)
    assert status == 422
    assert "inputs/cat.jpg" in answer.json()["detail"]


def test_a_service_that_is_down_is_a_503_that_may_be_tried_again(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    control.fault(operation="InvokeModel", code="ServiceUnavailableException", times=0)
    answer = api.post("/image-bg-removal", {"Keys": ["inputs/cat.jpg"]})
    assert problem(answer) == (503, "ServiceUnavailableException")
    assert answer.headers["retry-after"]
    control.reset()
    control.switch(canned=True)
    assert api.post("/image-bg-removal", {"Keys": ["inputs/cat.jpg"]}).status_code == 200


def test_a_cap_that_is_reached_is_told_with_its_name(bench: Bench) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    with served(bench.settings(**NO_FREE_MASK, max_cost_usd=0.001), bench.store) as api:
        answer = api.post("/image-bg-removal", {"Keys": ["inputs/cat.jpg"]})
    assert answer.status_code == 503
    assert "BG_MAX_COST_USD" in answer.json()["detail"]


def test_what_the_process_spent_on_earlier_calls_counts_under_the_cap(
    bench: Bench, control: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    today = datetime.now(UTC)
    stop_clock(monkeypatch, today, single_photo_jobs)
    for number in range(3):
        bench.put(f"inputs/{number}.jpg", photo(number))
    with served(bench.settings(**NO_FREE_MASK, max_cost_usd=0.025), bench.store) as api:
        ends = [
            api.post("/image-bg-removal", {"Keys": [f"inputs/{number}.jpg"]}).status_code
            for number in range(3)
        ]
        assert ends == [200, 200, 503]
        assert len(control.paid(operation="InvokeModel")) == 2
        stop_clock(monkeypatch, today + timedelta(days=1), single_photo_jobs)
        assert api.post("/image-bg-removal", {"Keys": ["inputs/2.jpg"]}).status_code == 200


def test_the_same_photo_is_paid_for_once_under_whatever_key(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    bench.put("inputs/again.jpg", photo(1))
    for key in ("inputs/cat.jpg", "inputs/cat.jpg", "inputs/again.jpg"):
        assert api.post("/image-bg-removal", {"Keys": [key]}).status_code == 200
    assert len(control.paid(operation="InvokeModel")) == 1


def test_a_call_repeated_with_its_idempotency_key_has_the_same_result(api: Caller, bench: Bench) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    bench.put("inputs/dog.jpg", photo(2))
    asked, named = {"Keys": ["inputs/cat.jpg"]}, {"Idempotency-Key": "order-17"}
    first = api.post("/image-bg-removal", asked, headers=named).json()
    bench.store.delete("inputs/cat.jpg")
    second = api.post("/image-bg-removal", asked, headers=named).json()
    assert first["Results"][0]["Result"]["Key"] == second["Results"][0]["Result"]["Key"]
    assert len(bench.keys("outputs/")) == 1
    other = api.post("/image-bg-removal", {"Keys": ["inputs/dog.jpg"]}, headers=named)
    assert problem(other) == (422, "IdempotencyKeyReused")


def test_calls_at_once_with_one_idempotency_key_are_one_order(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    bench.put("inputs/cat.jpg", photo(1))

    def call(_: int) -> str:
        headers = {"Idempotency-Key": "twice"}
        answer = api.post("/image-bg-removal", {"Keys": ["inputs/cat.jpg"]}, headers=headers)
        return answer.json()["Results"][0]["Result"]["Key"]

    with ThreadPoolExecutor(4) as callers:
        results = set(callers.map(call, range(4)))
    assert len(results) == 1
    assert bench.keys("outputs/") == list(results)
    assert len(control.paid(operation="InvokeModel")) == 1


def test_a_call_that_takes_too_long_says_so_and_the_work_goes_on(
    bench: Bench, control: ControlClient
) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    control.fault(operation="InvokeModel", action="delay", seconds=2)
    asked, named = {"Keys": ["inputs/cat.jpg"]}, {"Idempotency-Key": "slow"}
    with served(bench.settings(**NO_FREE_MASK, api_wait_seconds=0.2), bench.store) as api:
        answer = api.post("/image-bg-removal", asked, headers=named)
        assert problem(answer) == (504, "StillWorking")
    with served(bench.settings(**NO_FREE_MASK), bench.store) as api:
        assert api.post("/image-bg-removal", asked, headers=named).status_code == 200
    assert len(control.paid(operation="InvokeModel")) == 1


def test_no_link_and_no_token_gets_into_a_log(
    api: Caller, bench: Bench, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    bench.put("inputs/cat.jpg", photo(1))
    for path in ("/image-bg-removal?input_key=inputs/cat.jpg", "/image-bg-removal?input_key=none.jpg"):
        api.get(path, headers={**FROM_HERE, "Authorization": "Bearer secret-token"})
    told = caplog.text + "".join(capfd.readouterr())
    assert "/image-bg-removal" in told
    assert "X-Amz" not in told
    assert "secret-token" not in told


def test_an_order_is_a_batch_with_a_report_like_any_other(api: Caller, bench: Bench) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    api.post("/image-bg-removal", {"Keys": ["inputs/cat.jpg"]})
    (request,) = [key for key in bench.keys("image-files/") if key.endswith("request.json")]
    _, year, month, day, name, _ = request.split("/")
    assert name.startswith("api-")
    reports = bench.keys(f"status-report-files/{year}/{month}/{day}/{name}/")
    assert any(key.endswith(".csv") for key in reports)


def _data(bench: Bench, key: str) -> bytes:
    content = bench.store.read(key)
    assert content is not None
    return content.data


def test_what_the_content_policy_refuses_is_told_apart_from_what_fails(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    bench.put("inputs/dog.jpg", photo(2))
    control.fault(operation="InvokeModel", action="block", where="image", times=1)
    blocked = api.post("/image-bg-removal", {"Keys": ["inputs/cat.jpg"]})
    words = "Malformed input request, please reformat your input and try again."
    control.fault(operation="InvokeModel", code="ValidationException", message=words, times=1)
    failed = api.post("/image-bg-removal", {"Keys": ["inputs/dog.jpg"]})
    assert problem(failed) == (422, "ValidationException")
    assert words in failed.json()["detail"]
    status, code = problem(blocked)
    assert status == 422
    assert code != "NoSubject"
    reports = [
        key for key in bench.keys("status-report-files/") if key.endswith(".json") and "/status_" in key
    ]
    rows = [row for key in reports for row in Report.read(_data(bench, key)).rows]
    assert {row.ImageName: row.Status for row in rows} == {
        "inputs/cat.jpg": Status.BLOCKED,
        "inputs/dog.jpg": Status.FAILED,
    }


def test_an_answer_tells_all_that_was_billed_for_it_whatever_runs_later(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    bench.put("inputs/cat.jpg", photo(1))
    (told,) = api.post("/image-bg-removal", {"Keys": ["inputs/cat.jpg"]}).json()["Results"]
    (request,) = [key for key in bench.keys("image-files/") if key.endswith("request.json")]
    day = parse_upload(request)
    assert day is not None
    bench.run(day.batch.date)
    assert [call["operation"] for call in control.paid()] == ["InvokeModel"]
    assert told["CostUSD"] == pytest.approx(0.012)
