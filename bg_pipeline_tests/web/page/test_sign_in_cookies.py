"""Cookies of the sign-in between browser and Streamlit: who may set them, and what arrives."""

import asyncio
import http.cookies
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message
from starlette.websockets import WebSocket

from bg_pipeline.web.page.sign_in_cookies import SignInCookies

VALUE = "eyJzdWIiOiAiYWRhIn0.aAbBcC.x-_y"
"""Such as itsdangerous makes."""
SECRET = "of the page"


def answer() -> Response:
    answer = PlainTextResponse("the page")
    for name in ("_streamlit_user", "_streamlit_user_1", "_streamlit_user_tokens", "_streamlit_session"):
        answer.set_cookie(name, VALUE, httponly=True, samesite="lax", max_age=100)
    answer.set_cookie("_streamlit_xsrf", "2|abc")
    answer.delete_cookie("_streamlit_user_2")
    return answer


def sent_by(
    cookies: str = "",
    kind: str = "http",
    *,
    https: bool = True,
    secret: str = SECRET,
    answer: Response = answer(),  # noqa: B008 (not changed)
) -> tuple[list[str], dict[str, str]]:
    """The Set-Cookie headers of an answer, and the cookies that the application saw."""
    messages: list[Message] = []
    seen: dict[str, str] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        connection = Request(scope) if kind == "http" else WebSocket(scope, receive, send)
        seen.update(connection.cookies)
        if kind == "http":
            await answer(scope, receive, send)

    async def receive() -> Message:
        return {"type": f"{kind}.request"}

    async def send(message: Message) -> None:
        messages.append(message)

    async def call() -> None:
        headers = [(b"cookie", cookies.encode("latin-1"))] if cookies else []
        scope: dict[str, Any] = {"type": kind, "method": "GET", "path": "/", "headers": headers}
        await SignInCookies(app, secret=secret, https=https)(scope, receive, send)

    asyncio.run(call())
    found = [
        value.decode("latin-1")
        for message in messages
        for name, value in message.get("headers", ())
        if name == b"set-cookie"
    ]
    return found, seen


def pairs(headers: list[str]) -> dict[str, str]:
    return dict(header.partition(";")[0].split("=", 1) for header in headers)


def test_behind_https_no_other_host_can_set_them() -> None:
    headers, _ = sent_by()
    by_name = {header.partition("=")[0]: header for header in headers}
    assert set(by_name) == {
        "__Host-_streamlit_user",
        "__Host-_streamlit_user_1",
        "__Host-_streamlit_user_2",
        "__Host-_streamlit_user_tokens",
        "__Host-_streamlit_session",
        "_streamlit_xsrf",
    }
    for name, header in by_name.items():
        attributes = [part.strip().lower() for part in header.split(";")[1:]]
        if name != "_streamlit_xsrf":
            assert attributes.count("secure") == 1
            assert "path=/" in attributes
            assert not any(part.startswith("domain") for part in attributes)


@pytest.mark.parametrize("https", [True, False])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_what_was_sent_arrives_as_streamlit_made_it(https: bool, kind: str) -> None:
    stored = pairs(sent_by(https=https)[0])
    back = "; ".join(f"{name}={value}" for name, value in stored.items())
    _, seen = sent_by(f"other=1; {back}", kind, https=https)
    expected = {
        "other": "1",
        "_streamlit_user": VALUE,
        "_streamlit_user_1": VALUE,
        "_streamlit_user_tokens": VALUE,
        "_streamlit_session": VALUE,
        "_streamlit_xsrf": "2|abc",
    }
    assert seen == expected


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_only_what_this_page_signed_arrives(kind: str) -> None:
    stored = pairs(sent_by()[0])
    good = stored["__Host-_streamlit_user"]
    of_another_secret = pairs(sent_by(secret="other secret")[0])["__Host-_streamlit_user"]
    of_http = pairs(sent_by(https=False)[0])["_streamlit_user"]
    forged = [
        f"_streamlit_user={VALUE}",
        f"_streamlit_user={good}",
        f"__Host-_streamlit_user={VALUE}",
        f"__Host-_streamlit_user={good[:-1]}",
        f"__Host-_streamlit_user=x{good}",
        f"__Host-_streamlit_user={good}é",
        f"__Host-_streamlit_user={of_another_secret}",
        f"_streamlit_user={of_http}",
        f"__Host-_streamlit_user_tokens={good}",
        "__Host-_streamlit_user=",
        "__Host-_streamlit_user",
        "__Host-__Host-_streamlit_user=" + good,
    ]
    for cookie in forged:
        assert not {name for name in sent_by(cookie, kind)[1] if name.startswith("_streamlit_user")}
    assert sent_by(f"a=b; __Host-_streamlit_user={good};c=d", kind)[1] == {
        "a": "b",
        "_streamlit_user": VALUE,
        "c": "d",
    }


def test_the_largest_cookie_of_streamlits_still_fits_into_a_browser() -> None:
    attributes = len("; Path=/; HttpOnly; SameSite=lax; Max-Age=2592000")
    name = "_streamlit_user_1"
    largest = "x" * (4096 - attributes - len(f"{name}="))
    large = PlainTextResponse("the page")
    large.set_cookie(name, largest)
    ((stored, value),) = pairs(sent_by(answer=large)[0]).items()
    assert len(stored) + len(value) <= 4096


def test_a_cookie_that_is_deleted_is_deleted_under_its_name_in_the_browser() -> None:
    headers, _ = sent_by()
    (deleted,) = (header for header in headers if header.startswith("__Host-_streamlit_user_2="))
    cookie = http.cookies.SimpleCookie(deleted)["__Host-_streamlit_user_2"]
    assert cookie["max-age"] == "0"
    assert cookie.value == ""
