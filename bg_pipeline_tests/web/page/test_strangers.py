"""Visitors who have not signed in cost the page nothing, although Streamlit gives each of them a session."""

import asyncio
import secrets
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import streamlit as st
import websockets
from starlette.responses import PlainTextResponse
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.testing.v1 import AppTest

from bg_pipeline.cli import page as web_page
from bg_pipeline.settings import settings
from bg_pipeline.web.page import admission
from bg_pipeline.web.page.admission import MAX_SESSIONS, Admissions, UploadsAfterSignIn
from bg_pipeline_tests.web.openid import AUDIENCE, SECRET, openid_provider

LATER = datetime.now(UTC) + timedelta(hours=1)


def status(path: str, method: str = "PUT") -> int:
    """The status with which a request for this path is answered; 200 if it gets through."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": []}
    asyncio.run(UploadsAfterSignIn(PlainTextResponse("stored"))(scope, None, send))
    return int(sent[0]["status"])


@pytest.fixture
def admitted(monkeypatch: pytest.MonkeyPatch) -> Admissions:
    fresh = Admissions()
    monkeypatch.setattr(admission, "admissions", fresh)
    return fresh


@pytest.mark.parametrize(
    "path",
    [
        "/_stcore/upload_file/me/f",
        "/_stcore/upload_file/stranger/f",
        "/base/_stcore/upload_file/stranger/f",
        "//_stcore/upload_file/stranger/me",
        "/_stcore/upload_file",
        "/_stcore/upload_file//me",
        "/_stcore/upload_filex/me/f",
        "/_stcore/upload_file/me%2f/f",
    ],
)
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_files_are_taken_from_admitted_sessions_only(admitted: Admissions, path: str, method: str) -> None:
    assert status(path, method) == 403
    admitted.admit("me", LATER)
    assert status("/_stcore/upload_file/me/f", method) == 200
    if "/me/" not in path:
        assert status(path, method) == (200 if path == "/_stcore/upload_file//me" else 403)
    assert status("/_stcore/health", method) == 200


def test_an_admission_ends_with_the_sign_in_and_their_number_is_bounded(admitted: Admissions) -> None:
    admitted.admit("late", datetime.now(UTC) - timedelta(seconds=1))
    assert not admitted.is_admitted("late")
    for number in range(MAX_SESSIONS + 1):
        admitted.admit(f"{number}", LATER)
    assert not admitted.is_admitted("0")
    assert admitted.is_admitted("1")


def _page() -> None:  # its text is run elsewhere
    import os

    from bg_pipeline import settings as configuration
    from bg_pipeline.authorization import Authorization
    from bg_pipeline.aws.clients import Aws
    from bg_pipeline.storage.object_store import open_bucket
    from bg_pipeline.web.page import user as visitors

    chosen = configuration.settings(
        bucket=os.environ["BUCKET_OF_THE_PAGE"], oidc_client_id="page", oidc_issuer="https://pool.example"
    )
    visitors.require_sign_in(chosen, lambda: Authorization(chosen, open_bucket(chosen, Aws())))


@pytest.mark.parametrize("signed_in", [True, False])
def test_a_session_is_admitted_when_its_visitor_has_signed_in(
    admitted: Admissions, monkeypatch: pytest.MonkeyPatch, signed_in: bool, bucket: str
) -> None:
    monkeypatch.setenv("BUCKET_OF_THE_PAGE", bucket)
    claims = {"is_logged_in": signed_in, "iat": datetime.now(UTC).timestamp(), "sub": "ada"}
    claims["iss"] = "https://pool.example"
    visitor = SimpleNamespace(
        get=lambda name, default=None: claims.get(name, default), to_dict=lambda: dict(claims)
    )
    monkeypatch.setattr(st, "user", visitor)
    screen = AppTest.from_function(_page, default_timeout=60).run()
    assert not screen.exception
    assert bool(admitted._until) is signed_in


@pytest.fixture
def address(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A page with sign-in."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with openid_provider() as provider:
        for name, value in (
            ("BUCKET", bucket),
            ("OIDC_ISSUER", provider.issuer),
            ("OIDC_CLIENT_ID", AUDIENCE),
            ("OIDC_CLIENT_SECRET", SECRET),
            ("PAGE_ADDRESS", f"http://127.0.0.1:{port}"),
        ):
            monkeypatch.setenv(f"BG_{name}", value)
        assert settings().oidc_client_id
        with web_page.served(port, tmp_path / "page.log"):
            yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
def test_a_stranger_with_a_session_stores_no_file_in_memory(address: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        deadline = time.monotonic() + 90
        while True:
            try:
                session.get(f"{address}/_stcore/health", timeout=2).raise_for_status()
                break
            except requests.RequestException:
                assert time.monotonic() < deadline, "the page did not start"
                time.sleep(0.2)
        token = session.cookies["_streamlit_xsrf"]

        def put(streamlit_session: str) -> int:
            return session.put(
                f"{address}/_stcore/upload_file/{streamlit_session}/{secrets.token_hex(8)}",
                files={"file": ("x.csv", b"0" * 1_000_000)},
                headers={"Origin": address, "X-Xsrftoken": token},
                timeout=30,
            ).status_code

        async def attack() -> int:
            where = f"{address.replace('http', 'ws', 1)}/_stcore/stream"
            async with websockets.connect(
                where,
                origin=websockets.Origin(address),
                subprotocols=[websockets.Subprotocol("streamlit")],
                proxy=None,
            ) as socket:
                run = BackMsg()
                run.rerun_script.query_string = ""
                await socket.send(run.SerializeToString())
                while True:
                    message = ForwardMsg()
                    message.ParseFromString(await socket.recv())
                    if message.WhichOneof("type") == "new_session":
                        break
                return await asyncio.to_thread(put, message.new_session.initialize.session_id)

        assert asyncio.run(asyncio.wait_for(attack(), 60)) == 403
