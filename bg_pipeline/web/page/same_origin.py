"""Who may ask for the page: its own reader, and no page of another site that this reader has open."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bg_pipeline.web.addresses import is_loopback


class OwnPageOnly:
    """Refuses calls and WebSockets of other origins, and has no other site show the page in a frame.

    ``address`` is where people reach the page that has sign-in. Without it only this machine is answered, and nothing
    that came through a proxy.
    """

    def __init__(self, app: ASGIApp, *, address: str = "") -> None:
        self._app = app
        self._address = urlsplit(address).netloc

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if reason := self._foreign(scope):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": reason})
            else:
                await PlainTextResponse(reason, 403)(scope, receive, send)
            return

        async def framed_by_nobody(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Streamlit shows components in frames of the page itself.
                own = "'self'" if scope["path"].startswith("/component") else "'none'"
                MutableHeaders(scope=message).append("Content-Security-Policy", f"frame-ancestors {own}")
            await send(message)

        await self._app(scope, receive, framed_by_nobody)

    def _foreign(self, scope: Scope) -> str:
        headers = Headers(scope=scope)
        if not self._address:
            client = scope.get("client")
            forwarded = "x-forwarded-for" in headers or "forwarded" in headers
            if client is None or not is_loopback(client[0]) or forwarded:
                return "there is no sign-in, so only callers on this machine are answered"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) not in {headers.get("host", ""), self._address} - {""}:
            return "calls from another site's pages are refused"
        return ""


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
