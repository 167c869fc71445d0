"""Refuses requests to the page that come from other websites, or, without sign-in, from other machines."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bg_pipeline.web.addresses import is_loopback


class OwnPageOnly:
    """Refuses HTTP requests and WebSockets from other origins, and forbids other sites to show the page in a frame.

    ``address`` is the page's public address if it has sign-in. Without one, only requests from this machine that did
    not pass a proxy are answered.
    """

    def __init__(self, app: ASGIApp, *, address: str = "") -> None:
        self._app = app
        self._address = urlsplit(address).netloc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if reason := self._reason_to_refuse(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": reason})
            else:
                await PlainTextResponse(reason, 403)(scope, receive, send)
            return

        async def send_with_frame_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Streamlit shows components in frames of the page itself.
                ancestors = "'self'" if scope["path"].startswith("/component") else "'none'"
                MutableHeaders(scope=message).append(
                    "Content-Security-Policy", f"frame-ancestors {ancestors}"
                )
            await send(message)

        await self._app(scope, receive, send_with_frame_policy)

    def _reason_to_refuse(self, scope: Scope) -> str:
        """Why the request is refused; empty if it is not."""
        headers = Headers(scope=scope)
        if not self._address:
            client = scope.get("client")
            forwarded = "x-forwarded-for" in headers or "forwarded" in headers
            if client is None or not is_loopback(client[0]) or forwarded:
                return "sign-in is off, so only requests from this machine are answered"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) not in {headers.get("host", ""), self._address} - {""}:
            return "requests from other websites are refused"
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
