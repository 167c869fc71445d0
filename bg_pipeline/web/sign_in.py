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
from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bg_pipeline.web.addresses import is_loopback
from bg_pipeline.web.limits import RequestRate, route_path
from bg_pipeline.web.problems import Problem

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
_UNREACHABLE = (OSError, http.client.HTTPException, json.JSONDecodeError, KeyError)

LEEWAY_SECONDS = 30
TIMEOUT_SECONDS = 10


THIS_MACHINE = "this machine"
"""The caller where sign-in is off: whoever `LoopbackOnly` lets through."""

PUBLIC = frozenset({"/docs", "/docs/oauth2-redirect", "/openapi.json"})
"""Paths that describe the API and are answered without a token."""

_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT")


def bearer(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> None:
    """Describes in the OpenAPI document that a token is needed; `CallersOnly` has checked it by then."""


class Tokens:
    """Lets in who brings a token that the provider signed for this audience and that has not run out.

    The audience is the token's ``aud``, or its ``client_id`` where, as in Cognito's access tokens, it has no ``aud``.
    """

    def __init__(self, issuer: str, audience: str) -> None:
        self._issuer = issuer
        self._audience = audience

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
        except (ValueError, TypeError, OverflowError) as error:
            # Claims of a type that the library does not expect, such as a list or a huge number for a time.
            raise Problem(
                401, "BadToken", "the token is not accepted: its claims are not as they must be"
            ) from error
        named = claims["aud"] if "aud" in claims else claims.get("client_id")
        if self._audience not in (named if isinstance(named, list) else [named]):
            raise Problem(401, "BadToken", "the token is not accepted: it was made for another audience")
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject.strip():
            raise Problem(401, "BadToken", "the token is not accepted: it does not say whose it is")
        return subject

    @cached_property
    def _keys(self) -> jwt.PyJWKClient:
        """The provider's keys, found through its discovery document."""
        address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 (checked at the start)
            found = json.load(answer)
        if found.get("issuer") != self._issuer:
            raise jwt.PyJWKClientError("the sign-in service names itself otherwise than BG_OIDC_ISSUER does")
        return jwt.PyJWKClient(found["jwks_uri"], timeout=TIMEOUT_SECONDS)


class CallersOnly:
    """Answers those whose token is good, and no more often than `RequestRate` lets them, before any body is read.

    Without ``tokens`` everybody is the caller `THIS_MACHINE`. The caller is in the request's state.
    """

    def __init__(self, app: ASGIApp, *, tokens: Tokens | None, rate: RequestRate) -> None:
        self._app = app
        self._tokens = tokens
        self._rate = rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_public(scope):
            try:
                caller = await self._caller(scope)
                self._rate.count(caller)
            except Problem as problem:
                await problem.response()(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> str:
        if self._tokens is None:
            return THIS_MACHINE
        sent = Headers(scope=scope).getlist("authorization")
        scheme, _, token = (sent[0] if len(sent) == 1 else "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            text = "send a token of the sign-in service as 'Authorization: Bearer …'"
            raise Problem(401, "SignInNeeded", text)
        return await run_in_threadpool(self._tokens.subject, token.strip())


def _is_public(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") and route_path(scope) in PUBLIC


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
