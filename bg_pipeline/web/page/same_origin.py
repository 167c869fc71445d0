"""Refuses requests to the page that come from other websites, or, without sign-in, from other machines."""

import ipaddress
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from bg_pipeline.web.addresses import is_loopback
from bg_pipeline.web.browser_security import (
    is_forwarding_header,
    is_from_another_site,
    origin_of,
    was_forwarded,
)


class OwnPageOnly:
    """Refuses HTTP requests and WebSockets from other origins.

    ``address`` is the page's public address if it has sign-in; only pages at this address may send requests. Without
    one, only requests from this machine that did not pass a proxy are answered. ``proxies`` are the addresses or
    networks of proxies whose forwarding headers (``X-Forwarded-*``, ``Forwarded``, ``X-Real-IP``) are used; those of
    all other senders are removed.
    """

    def __init__(self, app: ASGIApp, *, address: str = "", proxies: Collection[str] = ()) -> None:
        self._app = app
        self._origin = _origin(address)
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        # The types of uvicorn's ASGI interface are other than Starlette's.
        self._app_behind_proxy: Any = ProxyHeadersMiddleware(app, trusted_hosts=list(proxies))  # type: ignore[arg-type]

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
        if self._came_from_proxy(scope):
            await self._app_behind_proxy(scope, receive, send)
            return
        if self._origin:
            headers = [
                (name, value)
                for name, value in scope["headers"]
                if not is_forwarding_header(name.decode("latin-1").lower())
            ]
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)

    def _reason_to_refuse(self, scope: Scope) -> str:
        """Why the request is refused; empty if it is not."""
        if not self._origin:
            client = scope.get("client")
            if client is None or not is_loopback(client[0]) or was_forwarded(Headers(scope=scope)):
                return "sign-in is off, so only requests from this machine are answered"
        if is_from_another_site(scope, {self._origin or origin_of(scope)}):
            return "requests from other websites are refused"
        return ""

    def _came_from_proxy(self, scope: Scope) -> bool:
        client = scope.get("client")
        try:
            peer = ipaddress.ip_address(client[0]) if client else None
        except ValueError:
            return False
        return peer is not None and any(peer in network for network in self._proxies)


def _origin(address: str) -> str:
    """The address as browsers write it in ``Origin``: in lower case and without the scheme's default port."""
    parts = urlsplit(address.lower())
    default_port = {"http": ":80", "https": ":443"}.get(parts.scheme, "")
    return f"{parts.scheme}://{parts.netloc.removesuffix(default_port)}" if parts.netloc else ""
