"""The page answers its own reader, and no page of another site."""

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from bg_pipeline.cli.page import served
from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import settings
from bg_pipeline.web.page.same_origin import OwnPageOnly

HOST = "127.0.0.1:8501"


async def the_page(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        names = [name.decode() for name, _ in scope["headers"]]
        answer = PlainTextResponse(f"{scope['scheme']} {scope['client'][0]} {' '.join(names)}")
        await answer(scope, receive, send)


def answers(
    headers: dict[str, str],
    *,
    kind: str = "http",
    path: str = "/",
    client: str = "127.0.0.1",
    address: str = "",
    proxies: tuple[str, ...] = (),
) -> list[Message]:
    sent: list[Message] = []
    said = {"host": HOST, **headers}
    scope: dict[str, Any] = {
        "type": kind,
        "scheme": "ws" if kind == "websocket" else "http",
        "method": "GET",
        "path": path,
        "client": (client, 1),
        "headers": [(name.encode(), value.encode()) for name, value in said.items()],
    }

    async def receive() -> Message:
        return {"type": f"{kind}.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(OwnPageOnly(the_page, address=address, proxies=proxies)(scope, receive, send))
    return sent


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "null"},
    {"origin": ""},
    {"origin": "http://[x"},
    {"x-forwarded-for": "10.0.0.1"},
    {"forwarded": "for=10.0.0.1"},
    {"x-forwarded-proto": "https"},
    {"x-forwarded-host": "evil.example"},
    {"x-real-ip": "10.0.0.1"},
    {"origin": f"https://{HOST}"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
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


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("origin", ["http://photos.example", f"http://{HOST}", "https://photos.example:8443"])
def test_with_sign_in_only_the_pages_own_address_is_its_origin(kind: str, origin: str) -> None:
    """As the API does it, scheme and port count: another server on the same host is another site."""
    first = answers({"origin": origin}, kind=kind, address="https://photos.example")[0]
    assert first.get("status") == 403 or first["type"] == "websocket.close"


def test_a_link_from_elsewhere_may_be_followed() -> None:
    followed = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert answers(followed)[0]["status"] == 200


@pytest.mark.parametrize(
    ("client", "seen"),
    [("10.0.0.9", "https 203.0.113.5"), ("10.0.1.9", "http 10.0.1.9"), ("127.0.0.1", "http 127.0.0.1")],
)
def test_forwarded_headers_are_taken_from_named_proxies_only(client: str, seen: str) -> None:
    forwarded = {"x-forwarded-for": "203.0.113.5", "x-forwarded-proto": "https"}
    _, body = answers(forwarded, client=client, address="https://photos.example", proxies=("10.0.0.0/24",))
    assert body["body"].decode().startswith(seen)
    assert (b"x-forwarded-for" in body["body"]) is (client == "10.0.0.9")


def test_what_is_no_network_is_refused_as_a_proxy() -> None:
    assert settings(trusted_proxies="10.0.0.1, fd00::/8").trusted_proxies == ("10.0.0.1", "fd00::/8")
    with pytest.raises(SettingsError, match="BG_TRUSTED_PROXIES"):
        settings(trusted_proxies="10.0.0.0/33")


def test_uvicorn_does_not_use_forwarded_headers_before_they_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: dict[str, Any] = {}

    class Ended:
        stdin = None

        def __init__(self, *_: Any, **options: Any) -> None:
            started.update(options)

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("bg_pipeline.cli.page.subprocess.Popen", Ended)
    with served(1):
        pass
    assert started["env"]["FORWARDED_ALLOW_IPS"] == ""
