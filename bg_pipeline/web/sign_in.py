"""Access to the HTTP API: with a token of the OpenID provider, or, without sign-in, from this machine only.

Without sign-in, requests from other websites that are open in a browser on this machine are refused as well.
"""

import http.client
import json
import logging
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import jwt
from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from bg_pipeline.authorization import Authorization
from bg_pipeline.domain.people import Person, Via, local_person
from bg_pipeline.domain.text import printable
from bg_pipeline.errors import NotAllowed
from bg_pipeline.web.addresses import is_loopback
from bg_pipeline.web.browser_security import is_from_another_site, origin_of, was_forwarded
from bg_pipeline.web.limits import RequestRate, route_path
from bg_pipeline.web.problems import Problem

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
_UNREACHABLE = (OSError, http.client.HTTPException, json.JSONDecodeError, KeyError)

LEEWAY_SECONDS = 30
"""Clock difference that is tolerated when a token's times are checked."""
TIMEOUT_SECONDS = 10
LOGGED_PER_MINUTE = 60
"""Refused calls that are logged."""

_log = logging.getLogger(__name__)

THIS_MACHINE = "this machine"
"""The caller of every request when sign-in is off."""

PUBLIC = frozenset({"/", "/docs", "/openapi.json"})
"""Paths of the API's documentation, which need no token."""

_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT")


def bearer(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> None:
    """Adds the token to the OpenAPI document; it is checked by `CallersOnly`, before the routes."""


class Tokens:
    """Verifies tokens: signed by the provider, made for this audience, not expired.

    The audience is the token's ``aud``, or its ``client_id`` if it has no ``aud``, as in Cognito's access tokens.
    Access tokens and ID tokens are valid, with ``access_only`` only tokens that say that they are access tokens.
    """

    def __init__(self, issuer: str, audience: str, *, access_only: bool = False) -> None:
        self._issuer = issuer
        self._audience = audience
        self._access_only = access_only

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token; raises `Problem` 401 if the token is invalid, 503 if it cannot be verified."""
        try:
            key = self._keys.get_signing_key_from_jwt(token)
            claims: dict[str, Any] = jwt.decode(
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
                "the sign-in service cannot be reached, so the token cannot be checked",
                retry_after=30,
            ) from error
        except jwt.PyJWTError as error:
            raise Problem(401, "BadToken", f"the token is not accepted: {error}") from error
        except (ValueError, TypeError, OverflowError) as error:
            # Claims of a type that the library does not expect, such as a list or a huge number for a time.
            raise Problem(401, "BadToken", "the token is not accepted: its claims are malformed") from error
        audience = claims["aud"] if "aud" in claims else claims.get("client_id")
        if self._audience not in (audience if isinstance(audience, list) else [audience]):
            raise Problem(401, "BadToken", "the token is not accepted: it was made for another audience")
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject.strip():
            raise Problem(401, "BadToken", "the token is not accepted: its subject (sub) is empty")
        if reason := _wrong_kind(jwt.get_unverified_header(token), claims, access_only=self._access_only):
            raise Problem(401, "BadToken", f"the token is not accepted: {reason}")
        return claims

    @cached_property
    def _keys(self) -> jwt.PyJWKClient:
        """The provider's keys, whose address is in its discovery document."""
        address = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
        opener = urllib.request.build_opener(_NoRedirects)
        try:
            with opener.open(address, timeout=TIMEOUT_SECONDS) as answer:
                discovery = json.load(answer)
        except urllib.error.HTTPError as error:
            # It is the answer, too, whose connection would stay open.
            error.close()
            raise
        if discovery.get("issuer") != self._issuer:
            raise jwt.PyJWKClientError(
                "the issuer in the sign-in service's discovery document is not BG_OIDC_ISSUER"
            )
        keys = urlsplit(discovery["jwks_uri"])
        if keys.scheme != "https" and not is_loopback(keys.hostname or ""):
            raise jwt.PyJWKClientError("the sign-in service's keys are not at an https:// address (jwks_uri)")
        return jwt.PyJWKClient(discovery["jwks_uri"], timeout=TIMEOUT_SECONDS)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes an error of a redirect: keys come from the issuer's own address."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _wrong_kind(header: Mapping[str, Any], claims: Mapping[str, Any], *, access_only: bool) -> str:
    """Why a token of the issuer is not one to call with; empty if it is.

    The same keys sign tokens for other purposes: log-out tokens (claim ``events``), refresh tokens, proofs. Kinds are
    said in the header's ``typ`` (RFC 9068), or in a claim: Cognito's ``token_use``, Keycloak's ``typ``.
    """
    stated = [str(header.get("typ") or "jwt").lower().removeprefix("application/")]
    stated += [str(claims[name]).lower() for name in ("token_use", "typ") if name in claims]
    if "events" in claims or not _CALLS.issuperset(stated):
        return "it is neither an access token nor an ID token"
    if access_only and _ACCESS.isdisjoint(stated):
        return (
            "it does not say that it is an access token, and others are not taken (BG_API_ACCESS_TOKENS_ONLY)"
        )
    return ""


_ACCESS: Final = frozenset({"at+jwt", "access", "bearer"})
_CALLS: Final = _ACCESS | {"jwt", "id"}


class CallersOnly:
    """Checks the token and the rate of each request before its body is read, and puts the caller into its state.

    The caller is a `Person`; without ``tokens`` it is always `THIS_MACHINE`.
    """

    def __init__(
        self, app: ASGIApp, *, tokens: Tokens | None, rate: RequestRate, authorization: Authorization
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._authorization = authorization
        self._rate = rate
        self._logged = RequestRate(LOGGED_PER_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_public(scope):
            try:
                caller = await self._caller(scope)
                self._rate.count(caller.subject or caller.name)
            except Problem as problem:
                self._log_refusal(scope, problem)
                await problem.response(scope)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _log_refusal(self, scope: Scope, problem: Problem) -> None:
        """Logs why a call was refused, without its token. Only `LOGGED_PER_MINUTE`, so that nobody fills a disk."""
        try:
            self._logged.count("refusals")
        except Problem:
            return
        client = scope.get("client") or ("?",)
        _log.warning("refused a call from %s: %s: %s", client[0], problem.code, printable(problem.detail))

    async def _caller(self, scope: Scope) -> Person:
        if self._tokens is None:
            return local_person(THIS_MACHINE, Via.API)
        headers = Headers(scope=scope).getlist("authorization")
        scheme, _, token = (headers[0] if len(headers) == 1 else "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            text = "send a token of the sign-in service as 'Authorization: Bearer …'"
            raise Problem(401, "SignInNeeded", text)
        claims = await run_in_threadpool(self._tokens.claims, token.strip())
        try:
            return self._authorization.person(claims, Via.API, until=_end(claims))
        except NotAllowed as error:
            raise Problem(401, "BadToken", f"the token is not accepted: {error}") from error


def _end(claims: Mapping[str, Any]) -> datetime | None:
    """When the sign-in ends, for calls that last longer; None for a time after the year 9999."""
    try:
        return datetime.fromtimestamp(int(claims["exp"]), UTC) + timedelta(seconds=LEEWAY_SECONDS)
    except (ValueError, OverflowError, OSError):
        return None


def _is_public(scope: Scope) -> bool:
    return scope["method"] in ("GET", "HEAD") and route_path(scope) in PUBLIC


class LoopbackOnly:
    """Answers only programs on this machine and the API's own pages in a browser on it.

    A foreign website can send requests to a server on the machine of its visitor. By the server's address, which the
    headers ``Origin`` and ``Sec-Fetch-Site`` show. Or by a name of its own that resolves to that address (DNS
    rebinding), which the header ``Host`` shows.
    """

    def __init__(self, app: ASGIApp, *, allowed_origins: Collection[str] = ()) -> None:
        self._app = app
        self._allowed_origins = frozenset(allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (reason := _reason_to_refuse(scope, self._allowed_origins)):
            await Problem(403, "Foreign", reason).response(scope)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _reason_to_refuse(scope: Scope, allowed_origins: Collection[str]) -> str:
    """Why the request is refused; empty if it is not. ``allowed_origins`` are sites whose pages may call."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(_hostname(hosts[0])):
        return "sign-in is off, so only http://127.0.0.1 and http://localhost are answered"
    client = scope.get("client")
    if client is None or not is_loopback(client[0]) or was_forwarded(headers):
        return "sign-in is off, so only requests from this machine are answered"
    if headers.get("origin") in allowed_origins:
        return ""
    if is_from_another_site(scope, {origin_of(scope)}):
        return "requests from other websites are refused"
    return ""


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
