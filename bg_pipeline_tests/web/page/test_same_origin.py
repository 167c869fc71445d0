"""The page answers its own reader, and no page of another site."""

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from bg_pipeline.web.page.same_origin import OwnPageOnly

HOST = "127.0.0.1:8501"


async def the_page(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await PlainTextResponse("the page")(scope, receive, send)


def answers(
    headers: dict[str, str],
    *,
    kind: str = "http",
    path: str = "/",
    client: str = "127.0.0.1",
    address: str = "",
) -> list[Message]:
    sent: list[Message] = []
    said = {"host": HOST, **headers}
    scope: dict[str, Any] = {
        "type": kind,
        "method": "GET",
        "path": path,
        "client": (client, 1),
        "headers": [(name.encode(), value.encode()) for name, value in said.items()],
    }

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(OwnPageOnly(the_page, address=address)(scope, receive, send))
    return sent


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://[x"},
    {"x-forwarded-for": "10.0.0.1"},
    {"forwarded": "for=10.0.0.1"},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_calls_and_web_sockets_of_others_are_refused(headers: dict[str, str]) -> None:
    assert answers(headers)[0]["status"] == 403
    assert [message["type"] for message in answers(headers, kind="websocket")] == ["websocket.close"]


def test_a_caller_on_another_machine_is_refused_without_sign_in() -> None:
    assert answers({}, client="10.0.0.1")[0]["status"] == 403


@pytest.mark.parametrize("headers", [{}, {"origin": f"http://{HOST}"}])
def test_the_pages_own_calls_are_answered(headers: dict[str, str]) -> None:
    assert answers(headers)[0]["status"] == 200
    assert answers(headers, kind="websocket")[0]["type"] == "websocket.accept"


def test_with_sign_in_the_pages_address_is_its_origin_also_behind_a_proxy() -> None:
    through = {"x-forwarded-for": "10.0.0.1", "origin": "https://photos.example"}
    assert answers(through, address="https://photos.example")[0]["status"] == 200
    evil = {**through, "origin": "https://evil.example"}
    assert answers(evil, address="https://photos.example")[0]["status"] == 403


def test_no_other_site_shows_the_page_in_a_frame() -> None:
    assert (b"content-security-policy", b"frame-ancestors 'none'") in answers({})[0]["headers"]
    component = answers({}, path="/component/slider/index.html")[0]["headers"]
    assert (b"content-security-policy", b"frame-ancestors 'self'") in component
