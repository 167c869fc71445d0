"""Attacks on the API that somebody with a token could try: every answer is a problem, and nothing is left behind."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import requests

from bg_pipeline.domain.people import ALL_ROLES, Person, Via
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.limits import BodyLimit
from bg_pipeline.web.problems import Problem
from bg_pipeline_local_aws.control_client import ControlClient
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.pictures import photo
from bg_pipeline_tests.web.serving import Caller, problem, served

pytestmark = pytest.mark.dates


@pytest.fixture
def bench(bucket: str, control: ControlClient) -> Bench:
    control.switch(canned=True)
    return Bench(Store(aws().s3(bucket), bucket))


@pytest.fixture
def api(bench: Bench) -> Iterator[Caller]:
    with served(bench.settings(api_requests_per_minute=10_000), bench.store) as caller:
        yield caller


def raw(api: Caller, request: bytes) -> bytes:
    """Sends bytes as they are and returns the whole answer; empty if the server closed the connection."""
    host, _, port = api.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except (TimeoutError, ConnectionResetError):
            pass
    return answer


DATES = [
    "2026-11-20",
    "0001-01-01",
    "9999-12-31",
    "2026-02-30",
    "20261120",
    "1764547200",
    "-1",
    "1e9",
    "today",
    "2026-W01-1",
]
NAMES = [
    "x",
    "..",
    ".",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fpipeline-state",
    "a%2fb",
    "%00",
    "%0d%0aX-Evil:%201",
    "%ed%a0%80",
    "%ff",
    "%E2%80%AEgnp",
    "a" * 799,
    "a" * 3000,
    "request.json",
    ";rm",
    "%25",
    "%F0%9F%98%80",
    "+",
    "*",
    "~",
]


@pytest.mark.parametrize("day", DATES)
def test_no_name_of_a_batch_breaks_anything(api: Caller, bench: Bench, day: str) -> None:
    before = bench.keys("")
    for name in NAMES:
        for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/retry"), ("DELETE", "")):
            answer = api(method, f"/batches/{day}/{name}{path}")
            if method == "GET" and str(answer.request.path_url).rstrip("/") == "/batches":
                # The client resolves '..', which leads to the list of batches; it has none.
                assert answer.json() == {"Batches": [], "Next": ""}
                continue
            assert answer.status_code in (404, 405, 409, 422), (day, name, method, path, answer.text)
            assert "x-evil" not in answer.headers
    assert bench.keys("") == before


BODIES = [
    b"",
    b"null",
    b"[]",
    b"{",
    b'"x"',
    b"\xff\xfe",
    b"\x00",
    b'{"Files": null}',
    b'{"Files": {"Name": "a.jpg"}}',
    b'{"Files": [{"Name": "\\ud800.jpg"}]}',
    b'{"Files": [{"Name": "a\\u0000.jpg"}]}',
    b'{"Files": [{"Name": "../../../x.jpg"}]}',
    b'{"Files": [{"Name": "a/./b.jpg"}]}',
    b'{"Files": [{"Name": "request.json"}]}',
    b'{"Files": [{"Name": "sub/approved.json"}]}',
    b'{"Files": [{"Name": ".submission-0.json"}]}',
    b'{"Files": [{"Name": "a.jpg", "ContentType": "text/html"}]}',
    b'{"Files": [{"Name": "a.jpg", "ContentType": "image/png\\r\\nX: 1"}]}',
    b'{"Files": [{"Name": "${filename}.jpg"}]}',
    b'{"Files": [{"Name": "a.jpg"}, {"Name": "a.jpg"}]}',
    b'{"Files": [{"Name": "' + b"a" * 1100 + b'.jpg"}]}',
    b'{"Files": [{"Name": "' + "é".encode() * 600 + b'.jpg"}]}',
    b'{"Files": [' + b'{"Name": "a.jpg"},' * 1000 + b'{"Name": "b.jpg"}]}',
    b'{"Files": [{"Name": NaN}]}',
    b'{"Files": [], "Files": [{"Name": 1}]}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_no_body_makes_a_batch_that_it_should_not(api: Caller, bench: Bench, body: bytes) -> None:
    answer = api("POST", "/batches", data=body, headers={"Content-Type": "application/json"})
    assert problem(answer)[0] in (400, 422), answer.text
    assert bench.keys("image-files/") == []


@pytest.mark.parametrize(
    "key", ["", "é", "a" * 256, "a b", "\x7f", "'; DROP TABLE", "../../x", "%00", "k" * 255]
)
def test_no_idempotency_key_leaves_its_place(api: Caller, bench: Bench, key: str) -> None:
    answer = api(
        "POST",
        "/batches",
        json={"Files": []},
        headers={"Idempotency-Key": key.encode("utf-8").decode("latin-1")},
    )
    assert answer.status_code in (201, 400, 422)
    places = [found for found in bench.keys("") if not found.startswith("image-files/")]
    assert all(found.startswith("pipeline-state/idempotency/") for found in places)


def test_one_of_many_submissions_at_once_counts_and_is_paid_once(
    api: Caller, bench: Bench, control: ControlClient
) -> None:
    made = api.post("/batches", {"Files": [{"Name": "a.jpg"}]}).json()
    (form,) = made["Uploads"]
    assert requests.post(form["Url"], data=form["Fields"], files={"file": ("a", photo(1))}, timeout=30).ok
    path = f"/batches/{made['Batch'][:10].replace('/', '-')}/{made['Batch'][11:]}"
    answers: list[int] = []

    def submit(number: int) -> None:
        request = {"Id": f"id-{number}", "Prompt": f"background {number}"}
        answers.append(api("PUT", f"{path}/request", json=request).status_code)

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [202, *[409] * 7]
    bench.run(datetime.strptime(made["Batch"][:10], "%Y/%m/%d").replace(tzinfo=UTC).date())
    assert len(control.paid(operation="InvokeModel")) == 1
    assert problem(api("DELETE", path)) == (409, "AlreadySubmitted")


def test_one_idempotency_key_used_many_times_at_once_is_one_batch(api: Caller, bench: Bench) -> None:
    batches: list[str] = []

    def prepare() -> None:
        answer = api("POST", "/batches", json={"Files": []}, headers={"Idempotency-Key": "k"})
        batches.append(answer.json()["Batch"])

    threads = [threading.Thread(target=prepare) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(batches)) == 1


SMUGGLED = [
    b"POST /batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
    b"POST /batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n{}",
    b"POST /batches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: +2\r\n\r\n{}",
    b"POST /batches HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
    b"GET /docs HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    b"GET http://evil.example/docs HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    b"GET /docs HTTP/1.1\r\nConnection: close\r\n\r\n",
    b"GET /docs HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /\x00docs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
]


@pytest.mark.slow
@pytest.mark.parametrize("request_bytes", SMUGGLED, ids=range(len(SMUGGLED)))
def test_no_malformed_request_is_taken_for_a_good_one(
    api: Caller, bench: Bench, request_bytes: bytes
) -> None:
    answer = raw(api, request_bytes)
    assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5")), answer[:200]
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert bench.keys("image-files/") == []
    assert api.get("/openapi.json").status_code == 200


REQUESTS: list[dict[str, Any]] = [
    {"Prompt": "x", "Variants": 10**30},
    {"Prompt": "x", "Seed": -1},
    {"Prompt": "x", "MaxCostUSD": -5},
    {"Prompt": "x", "MaxCostUSD": "1"},
    {"Prompt": "x", "Sample": 0},
    {"Prompt": "{0.__class__}"},
    {"Prompt": "x\u0000"},
    {"Prompt": "x", "Renditions": [{"FileName": "../../{name}"}]},
    {"Prompt": "x", "Renditions": [{"Width": 10**9, "Height": 10**9}]},
    {"Prompt": "x", "S3Bucket": "other"},
    {"Prompt": "x", "OutputS3Prefix": "pipeline-state/ledger"},
    {"Prompt": "x", "OutputS3Prefix": "audit"},
    {"Prompt": "x", "StatusS3Prefix": "image-files/x"},
    {"Prompt": "x", "InputS3Prefix": "pipeline-state"},
    {"Prompt": "x", "MaskKey": "audit/page/x.json", "Subject": "MASK"},
    {"Prompt": "x", "Backdrop": "pipeline-state/owners/x.json"},
    {"Prompt": "x", "Backdrop": "http://169.254.169.254/latest/meta-data"},
    {"Prompt": "x", "Backdrop": "file:///etc/passwd"},
    {"Prompt": "x", "Images": [{"ImageName": "a.jpg"}, {"ImageName": "a.jpg"}]},
    {"Prompt": "x", "Images": [{"ImageName": "../other/a.jpg"}]},
    {"Prompt": "x", "__proto__": {"Sample": 1}},
    {"Prompt": "x", "Ref": "\u001b[2J"},
]


@pytest.mark.parametrize("request_fields", REQUESTS, ids=range(len(REQUESTS)))
def test_no_request_reaches_what_it_should_not(
    api: Caller, bench: Bench, request_fields: dict[str, Any]
) -> None:
    bench.put("image-files/2026/11/20/x/draft.json", b"{}")
    bench.put("image-files/2026/11/20/x/a.jpg", photo(1))
    answer = api("PUT", "/batches/2026-11-20/x/request", json={"Id": "x", **request_fields})
    assert problem(answer) == (422, "RequestError"), answer.text
    assert bench.store.head("image-files/2026/11/20/x/request.json") is None


def test_one_caller_who_sends_slowly_keeps_nobody_else_waiting() -> None:
    statuses: dict[str, int] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    limit = BodyLimit(application)

    async def call(name: str, subject: str, until: asyncio.Event | None) -> None:
        caller = Person(subject, Via.API, ALL_ROLES, "https://pool.example", subject)
        scope = {
            "type": "http",
            "method": "PUT",
            "path": "/batches/2026-11-20/x/request",
            "headers": [],
            "state": {"caller": caller},
        }
        parts = [{"type": "http.request", "body": b"0" * 19_000_000, "more_body": until is not None}]

        async def receive() -> Any:
            if parts:
                return parts.pop()
            await until.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses[name] = message["status"]

        try:
            await limit(scope, receive, send)
        except Problem as problem:
            statuses[name] = problem.status_code

    async def attack() -> None:
        end = asyncio.Event()
        slow = [asyncio.create_task(call(f"slow {number}", "eve", end)) for number in range(6)]
        await asyncio.sleep(0.1)
        await call("ada", "ada", None)
        end.set()
        await asyncio.gather(*slow)
        await call("eve later", "eve", None)

    asyncio.run(attack())
    assert statuses["ada"] == statuses["eve later"] == 200
    assert sorted(statuses[f"slow {number}"] for number in range(6)) == [200, *[503] * 5]


@pytest.mark.parametrize(
    "text", ["\u202egpj", "\x9b31m", "\u2028", "\u0085", "\x1b]8;;http://evil.example\x07"]
)
def test_a_refusal_repeats_nothing_that_steers_a_terminal_or_the_writing_direction(
    api: Caller, text: str
) -> None:
    batch = api.post("/batches", {"Files": [{"Name": "a.jpg"}]}).headers["location"]
    for field in ("InputS3Prefix", "OutputS3Prefix", "S3Bucket", "Mode", "FileName", text):
        answer = api.post(f"{batch}/plan", {"Id": "a", "Prompt": "a beach", field: text})
        assert answer.status_code in (404, 422)
        assert answer.json()["detail"].isprintable()
        for error in answer.json().get("Errors", ()):
            assert not set(text) & set(error["Cause"] + error["Field"]) - set("31m]8;http:/evil.exampgj")
    assert api.post("/batches", {"Files": [{"Name": text}], text: 1}).json()["detail"].isprintable()
