"""Who may call the HTTP API: whoever is at this machine, or whoever brings a token of the OpenID provider.

Without sign-in the API serves this machine only, and no web page of somebody else's that is open on it.
"""

import http.client
import json
import urllib.request
from functools import cached_property
from typing import Annotated
from urllib.parse import urlsplit

import jwt
from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bg_pipeline.web.addresses import is_loopback
from bg_pipeline.web.problems import Problem

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
_UNREACHABLE = (OSError, http.client.HTTPException, json.JSONDecodeError, KeyError)

LEEWAY_SECONDS = 30
TIMEOUT_SECONDS = 10


def at_this_machine(request: Request) -> None:
    """Sign-in that is off: the caller is whoever `LoopbackOnly` lets through."""
    request.state.caller = "this machine"


_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT")


class Tokens:
    """Lets in who brings a token that the provider signed for this audience and that has not run out.

    The audience is the token's ``aud``, or its ``client_id`` where, as in Cognito's access tokens, it has no ``aud``.
    """

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience

    def __call__(
        self, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
    ) -> None:
        if credentials is None:
            raise Problem(
                401, "SignInNeeded", "send a token of the sign-in service as 'Authorization: Bearer …'"
            )
        request.state.caller = self.subject(credentials.credentials)

    def subject(self, token: str) -> str:
        """Whose token it is; raises `Problem` 401 if it is not good, 503 if nobody can tell."""
        try:
            key = self._keys.get_signing_key_from_jwt(token)
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                issuer=self._issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "sub"], "verify_aud": False},
            )
        except (*_UNREACHABLE, jwt.PyJWKClientConnectionError) as error:
            raise Problem(
                503,
                "SignInUnreachable",
                "the sign-in service cannot be reached, so nobody can be let in",
                retry_after=30,
            ) from error
        except jwt.PyJWTError as error:
            raise Problem(401, "BadToken", f"the token is not accepted: {error}") from error
        named = claims.get("aud", claims.get("client_id", ()))
        if self._audience not in ([named] if isinstance(named, str) else named):
            raise Problem(401, "BadToken", "the token is not accepted: it was made for another audience")
        return str(claims["sub"])

    @cached_property
    def _keys(self) -> jwt.PyJWKClient:
        """The provider's keys, found through its discovery document."""
        address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 (checked at the start)
            found = json.load(answer)
        if found.get("issuer") != self._issuer:
            raise jwt.PyJWKClientError("the sign-in service names itself otherwise than BG_OIDC_ISSUER does")
        return jwt.PyJWKClient(found["jwks_uri"], timeout=TIMEOUT_SECONDS)


class LoopbackOnly:
    """Lets through what a program or a page of this API on this machine asks, and nothing else.

    A page elsewhere reaches a server on its reader's machine by its address or, with a name that resolves to it,
    as if it were its own; browsers tell the first by ``Origin`` and ``Sec-Fetch-Site``, ``Host`` the second.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (reason := _foreign(scope)):
            await Problem(403, "Foreign", reason).response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _foreign(scope: Scope) -> str:
    headers = Headers(scope=scope)
    host = headers.get("host", "")
    if not is_loopback(_hostname(host)):
        return "there is no sign-in, so only http://127.0.0.1 and http://localhost are answered"
    client = scope.get("client")
    if client is None or not is_loopback(client[0]) or "x-forwarded-for" in headers or "forwarded" in headers:
        return "there is no sign-in, so only callers on this machine are answered"
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    followed_link = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
    if (origin is not None and origin != f"{scope['scheme']}://{host}") or (
        site not in ("none", "same-origin") and not followed_link
    ):
        return "calls from another site's pages are refused"
    return ""


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
