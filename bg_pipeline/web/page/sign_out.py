"""Ends the session at the sign-in service too when somebody signs out of the page."""

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATH = "/auth/logout"
"""Streamlit's address for signing out, which deletes the cookie and redirects to ``end_session_endpoint``."""

_COGNITO = re.compile(r"cognito-idp(-fips)?\.[a-z0-9-]+\.amazonaws\.com(\.cn)?|.*\.amazoncognito\.com")


def is_cognito(issuer: str) -> bool:
    """Whether the issuer is an Amazon Cognito user pool."""
    return _COGNITO.fullmatch(urlsplit(issuer).hostname or "") is not None


class SignOutAtIssuer:
    """Changes where Streamlit redirects a browser that signs out, and clears what the browser has stored.

    Streamlit names the address to return to as OpenID Connect does (``post_logout_redirect_uri``). Cognito accepts
    only ``client_id`` and ``logout_uri``. An issuer whose discovery document has no ``end_session_endpoint`` is
    signed out of at ``logout_url``, which gets both parameters.
    """

    def __init__(
        self, app: ASGIApp, *, issuer: str, client_id: str, return_to: str, logout_url: str = ""
    ) -> None:
        self._app = app
        self._cognito = is_cognito(issuer)
        self._client_id = client_id
        self._return_to = return_to
        self._logout_url = logout_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._app(scope, receive, send)
            return

        async def send_with_location(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # Pictures and names of whoever used this browser are not kept for the next one.
                headers["Clear-Site-Data"] = '"cache", "storage"'
                if "location" in headers:
                    headers["location"] = self._location(headers["location"])
            await send(message)

        await self._app(scope, receive, send_with_location)

    def _location(self, streamlits: str) -> str:
        endpoint = self._logout_url or streamlits
        if not urlsplit(endpoint).netloc:  # the page itself: the issuer has no end_session_endpoint
            return streamlits
        if self._cognito:
            return _with_query(endpoint, client_id=self._client_id, logout_uri=self._return_to)
        if self._logout_url:
            return _with_query(
                endpoint,
                client_id=self._client_id,
                logout_uri=self._return_to,
                post_logout_redirect_uri=self._return_to,
            )
        return streamlits


def _with_query(address: str, **parameters: str) -> str:
    """The address with ``parameters``; of its own query, what Streamlit added is left out."""
    parts = urlsplit(address)
    added = ("client_id", "post_logout_redirect_uri", "id_token_hint", "logout_uri")
    own = {name: value for name, value in parse_qsl(parts.query) if name not in added}
    return parts._replace(query=urlencode({**own, **parameters})).geturl()
