"""Cookies of the sign-in: with the prefix ``__Host-`` behind HTTPS, and with a signature by HMAC-SHA256.

Streamlit names its cookies without a prefix, so that a neighbouring host name of the same domain could set them, and
signs them with HMAC-SHA1. Between the browser and Streamlit, names and values are changed in both directions.
"""

import base64
import hmac
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NAMES: Final = ("_streamlit_user", "_streamlit_session")
"""Beginnings of the names: the identity in one or more parts and the tokens; the state of a sign-in under way."""

PREFIX: Final = "__Host-"
"""Browsers take such a cookie from this very host only, over HTTPS only, and for all paths (RFC 6265bis)."""

_SIGNATURE_BYTES: Final = 24
"""192 bits: Streamlit fills cookies up to 4,046 bytes, and browsers store 4,096."""


class SignInCookies:
    """Changes the cookies of the sign-in. A cookie of theirs that is not signed with ``secret`` does not arrive."""

    def __init__(self, app: ASGIApp, *, secret: str, https: bool) -> None:
        self._app = app
        self._key = hmac.digest(secret.encode(), b"bg-pipeline: cookies of the page", "sha256")
        self._prefix = PREFIX if https else ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = [
            (name, self._received(value)) if name.lower() == b"cookie" else (name, value)
            for name, value in scope["headers"]
        ]

        async def send_changed(message: Message) -> None:
            if "headers" in message:
                message["headers"] = [
                    (name, self._sent(value)) if name.lower() == b"set-cookie" else (name, value)
                    for name, value in message["headers"]
                ]
            await send(message)

        await self._app({**scope, "headers": headers}, receive, send_changed)

    def _received(self, header: bytes) -> bytes:
        """The cookies of a browser as Streamlit knows them."""
        kept = []
        for cookie in header.decode("latin-1").split(";"):
            sent_name, _, value = cookie.strip().partition("=")
            name = sent_name.removeprefix(self._prefix)
            if not name.startswith(_NAMES):
                kept.append(cookie.strip())
                continue
            value, _, signature = value.rpartition(".")
            if sent_name == f"{self._prefix}{name}" and hmac.compare_digest(
                signature.encode("latin-1"), self._signature(name, value).encode()
            ):
                kept.append(f"{name}={value}")
        return "; ".join(kept).encode("latin-1")

    def _sent(self, header: bytes) -> bytes:
        """A cookie of Streamlit as the browser stores it."""
        cookie, semicolon, attributes = header.decode("latin-1").partition(";")
        name, _, value = cookie.partition("=")
        if not name.startswith(_NAMES):
            return header
        if value.strip('"') and value != "null":
            value = f"{value}.{self._signature(name, value)}"
        if self._prefix and "secure" not in {each.strip().lower() for each in attributes.split(";")}:
            semicolon, attributes = ";", f"{attributes}; Secure"
        return f"{self._prefix}{name}={value}{semicolon}{attributes}".encode("latin-1")

    def _signature(self, name: str, value: str) -> str:
        digest = hmac.digest(self._key, f"{name}={value}".encode("latin-1"), "sha256")
        return base64.urlsafe_b64encode(digest[:_SIGNATURE_BYTES]).decode()
