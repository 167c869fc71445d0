"""Connections and bodies of callers that nobody knows cost little, and do not keep those who are known waiting."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from bg_pipeline.storage.object_store import Store
from bg_pipeline.web import api as api_module
from bg_pipeline.web import connections, limits
from bg_pipeline.web.docs_page import docs_page
from bg_pipeline_local_aws.launcher import LocalAws
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.web.openid import AUDIENCE, openid_provider
from bg_pipeline_tests.web.serving import Caller, problem, served

SOMETHING = "/batches/2026-11-20/none"


@pytest.fixture
def api(bucket: str) -> Iterator[Caller]:
    bench = Bench(Store(aws().s3(bucket), bucket))
    with served(bench.settings(), bench.store) as caller:
        yield caller


def opened(caller: Caller, sent: bytes = b"") -> socket.socket:
    port = int(caller.address.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    return connection


def is_cut_off(connection: socket.socket) -> bool:
    """Waits until the server has ended a connection without an answer."""
    with contextlib.suppress(ConnectionError):
        return connection.recv(1000) == b""
    return True


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: local"])
def test_headers_that_do_not_come_are_not_waited_for(
    api: Caller, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    with opened(api, sent) as connection:
        assert is_cut_off(connection)


def test_a_body_that_does_not_come_is_not_waited_for(api: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", 0.2)
    head = b"PUT /batches/2026-11-20/none/request HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
    with opened(api, head) as connection:
        assert is_cut_off(connection)


def test_headers_without_end_are_cut_off(api: Caller) -> None:
    with opened(api, b"GET / HTTP/1.1\r\nHost: localhost\r\n") as connection:
        with contextlib.suppress(ConnectionError):
            for number in range(200):
                connection.sendall(b"X-%d: %s\r\n" % (number, b"x" * 1000))
        assert is_cut_off(connection)


ASK = b"GET /docs HTTP/1.1\r\nHost: localhost\r\n\r\n"


def answers(connection: socket.socket) -> int:
    """The number of answers until the server closes the connection, or has answered as many as it may."""
    received, found = b"", 0
    with contextlib.suppress(TimeoutError, ConnectionError):
        while found < connections.MAX_PIPELINED and (part := connection.recv(100_000)):
            received += part
            found = received.count(b"HTTP/1.1 200 OK")
    return found


def test_a_few_requests_sent_ahead_are_answered_and_thousands_are_not_kept(api: Caller) -> None:
    """A block of data may hold thousands of short requests, each of which takes some kilobytes until its answer."""
    with opened(api, ASK * connections.MAX_PIPELINED) as connection:
        assert answers(connection) == connections.MAX_PIPELINED
    kept: list[int] = []
    begin = connections.Connection.on_message_begin

    def counting(self: connections.Connection) -> None:
        kept.append(len(self.pipeline))
        begin(self)

    connections.Connection.on_message_begin = counting  # type: ignore[method-assign]
    try:
        with opened(api, ASK * 3000) as connection:
            assert answers(connection) <= connections.MAX_PIPELINED
    finally:
        connections.Connection.on_message_begin = begin  # type: ignore[method-assign]
    assert max(kept) <= connections.MAX_PIPELINED
    assert len(kept) < 2 * connections.MAX_PIPELINED + 3, "the rest was not read"
    assert api.get("/docs").status_code == 200


def reset(connection: socket.socket) -> None:
    """Closes a connection as a program that is killed does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


BODY = b"POST /batches HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        ASK * (connections.MAX_PIPELINED + 4),
        ASK * 6,
        BODY + b"Content-Length: 500\r\n\r\n{",
        BODY + b"Transfer-Encoding: chunked\r\n\r\nFF\r\n{",
        BODY + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n{}\r\n0\r\n\r\n",
    ],
    ids=["too many ahead", "six ahead", "half a body", "half a part", "a part of no size"],
)
def test_who_leaves_in_the_middle_is_no_error_of_the_server(
    api: Caller, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for pause in (0, 0.002, 0.01, 0.05):
        connection = opened(api, sent)
        time.sleep(pause)
        reset(connection)
    with opened(api, sent) as connection:
        connection.shutdown(socket.SHUT_WR)
        answers(connection)
    assert api.get("/docs").status_code == 200
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


def test_the_description_is_made_once_however_often_strangers_ask(
    api: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    original = docs_page
    monkeypatch.setattr(api_module, "docs_page", lambda *some: made.append("page") or original(*some))
    texts = {api.get("/docs").text for _ in range(5)}
    assert len(texts) == 1
    assert made == ["page"]


def test_those_who_send_nothing_make_room(api: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 4)
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(opened(api)) for _ in range(8)]
        assert problem(api.get(SOMETHING)) == (404, "NoSuchBatch")
        assert is_cut_off(silent[0])


def test_a_body_is_limited_by_its_route(api: Caller) -> None:
    large = b" " * (limits.SMALL_BYTES + 1)
    as_json = {"Content-Type": "application/json"}
    assert problem(api("POST", "/batches", data=large, headers=as_json)) == (413, "TooLarge")
    assert problem(api("PUT", f"{SOMETHING}/request", data=large)) == (404, "NoSuchBatch")
    in_pieces = iter([large[: len(large) // 2]] * 3)
    assert problem(api("POST", "/photo", data=in_pieces, headers=as_json)) == (413, "TooLarge")


def test_bodies_have_a_limit_together(api: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TOTAL_BYTES", 1000)
    answer = api("PUT", f"{SOMETHING}/request", data=b" " * 2000)
    assert problem(answer) == (503, "Busy")
    assert int(answer.headers["Retry-After"]) > 0
    assert problem(api("PUT", f"{SOMETHING}/request", data=b" " * 900)) == (404, "NoSuchBatch")


@pytest.mark.slow
def test_a_crowd_of_strangers_costs_little_memory_and_keeps_nobody_waiting(
    stand_in: LocalAws, bucket: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    caller = Caller(f"http://127.0.0.1:{port}")
    with openid_provider() as provider, contextlib.ExitStack() as stack:
        api = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "bg_pipeline.cli.main", "api", "--port", str(port)],
                env={
                    **os.environ,
                    "BG_BUCKET": bucket,
                    "BG_OIDC_ISSUER": provider.issuer,
                    "BG_OIDC_AUDIENCE": AUDIENCE,
                },
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(api.send_signal, signal.SIGINT)
        known = {"Authorization": f"Bearer {provider.token()}"}
        deadline = time.monotonic() + 60
        while True:
            try:
                assert caller.get(SOMETHING, headers=known).status_code == 404
                break
            except requests.ConnectionError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        for _ in range(100):
            stack.enter_context(opened(caller, b"POST /batches HTTP/1.1\r\n"))
        answers: list[int] = []

        def send() -> None:
            body = b"[" * 20_000_000
            try:
                answers.append(caller("PUT", f"{SOMETHING}/request", data=body).status_code)
            except requests.ConnectionError:
                answers.append(401)

        strangers = [threading.Thread(target=send) for _ in range(16)]
        for stranger in strangers:
            stranger.start()
        waited = []
        for _ in range(5):
            begun = time.monotonic()
            assert caller.get(SOMETHING, headers=known).status_code == 404
            waited.append(time.monotonic() - begun)
        for stranger in strangers:
            stranger.join()
        status = Path(f"/proc/{api.pid}/status").read_text()
        (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
        assert answers == [401] * 16
        assert peak < 250_000, f"{peak:,} kB"
        assert sorted(waited)[2] < 0.5, waited
