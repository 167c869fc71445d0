"""What the API and the page have in common against other websites: checks of requests, and headers of answers."""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API_POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy of the API: its only page, ``/docs``, has a style sheet inside, and no script."""


def was_forwarded(headers: Headers) -> bool:
    """Whether a proxy, or somebody who pretends to be one, added headers about the original request."""
    return any(is_forwarding_header(name) for name in headers)


def is_forwarding_header(name: str) -> bool:
    """Whether a header (in lower case) states what a proxy received, such as ``x-forwarded-for``."""
    return name in ("forwarded", "x-real-ip") or name.startswith("x-forwarded-")


def origin_of(scope: Scope) -> str:
    """The origin at which a browser sees the server that got this request, from its scheme and Host header."""
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return f"{scheme}://{Headers(scope=scope).get('host', '')}"


def is_from_another_site(scope: Scope, own_origins: Collection[str]) -> bool:
    """Whether a browser sent this request or WebSocket for a page that is none of ``own_origins``.

    A link from elsewhere may be followed. Programs that are not browsers send neither ``Origin`` nor
    ``Sec-Fetch-Site``.
    """
    headers = Headers(scope=scope)
    origin = headers.get("origin")
    if origin is not None and origin not in own_origins:
        return True
    site = headers.get("sec-fetch-site", "none")
    followed_link = headers.get("sec-fetch-mode") == "navigate" and scope.get("method") == "GET"
    return site not in ("none", "same-origin") and not followed_link


class SecurityHeaders:
    """Adds headers to every answer: no frames, no guessing of types, no referrer, and a Content-Security-Policy.

    An answer that has a Content-Security-Policy or a Cache-Control already keeps it; other answers are not cached.
    With ``https``, for a server behind HTTPS, browsers use no other scheme for it and send its cookies over no other.
    """

    def __init__(self, app: ASGIApp, *, policy: str, https: bool = False) -> None:
        self._app = app
        self._policy = policy
        self._https = https

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", self._policy)
                headers["X-Frame-Options"] = "DENY"
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                headers.setdefault("Cache-Control", "no-store")
                if self._https:
                    headers["Strict-Transport-Security"] = "max-age=31536000; includeSubDomains"
                    message["headers"] = [_secure(name, value) for name, value in message["headers"]]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _secure(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The header; a cookie with the attribute ``Secure``."""
    if name.lower() != b"set-cookie":
        return name, value
    attributes = {part.strip().lower() for part in value.split(b";")[1:]}
    return name, value if b"secure" in attributes else value + b"; Secure"
