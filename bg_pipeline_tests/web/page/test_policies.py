"""What the page's answers allow a browser, and where it is sent when somebody signs out."""

import asyncio
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message

from bg_pipeline.settings import settings
from bg_pipeline.web.browser_security import SecurityHeaders
from bg_pipeline.web.page.content_policy import page_policy
from bg_pipeline.web.page.sign_out import SignOutAtIssuer

CALLBACK = "https://photos.example/oauth2callback"
COGNITO = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_abc"
HINTED = "client_id=page&post_logout_redirect_uri=https%3A%2F%2Fphotos.example%2Foauth2callback&id_token_hint=x.y.z"
"""The query that Streamlit adds."""


def headers_of(app: ASGIApp, path: str = "/") -> dict[str, str]:
    sent: list[Message] = []
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": path, "headers": []}

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def call() -> None:
        await app(scope, receive, send)

    asyncio.run(call())
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize("path", ["/", "/component/slider/index.html", "/media/1.jpg"])
def test_no_other_site_shows_the_page_in_a_frame(path: str) -> None:
    headers = headers_of(SecurityHeaders(PlainTextResponse("the page"), policy=page_policy()), path)
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"


def test_an_answer_keeps_a_policy_of_its_own() -> None:
    own = PlainTextResponse("a report", headers={"Content-Security-Policy": "sandbox"})
    assert headers_of(SecurityHeaders(own, policy=page_policy()))["content-security-policy"] == "sandbox"


def test_the_policy_names_no_foreign_host_and_no_unknown_script() -> None:
    policy = dict(part.split(" ", 1) for part in page_policy().split("; "))
    sources = {source for part in policy.values() for source in part.split()}
    assert all(re.fullmatch(r"'.*'|blob:|data:", source) for source in sources)
    assert "unsafe" not in policy["script-src"]
    assert "sha256-" in policy["script-src"], "Streamlit's own script"


def location(issuer: str, streamlits: str, **more: str) -> str:
    app = SignOutAtIssuer(
        RedirectResponse(streamlits, 302), issuer=issuer, client_id="page", return_to=CALLBACK, **more
    )
    return headers_of(app, "/auth/logout")["location"]


def test_cognito_gets_the_parameters_it_needs_and_no_token() -> None:
    sent_to = urlsplit(location(COGNITO, f"https://shop.auth.eu-central-1.amazoncognito.com/logout?{HINTED}"))
    assert sent_to.netloc == "shop.auth.eu-central-1.amazoncognito.com"
    assert parse_qs(sent_to.query) == {"client_id": ["page"], "logout_uri": [CALLBACK]}


def test_other_issuers_get_what_openid_connect_defines() -> None:
    standard = f"https://login.example/end?{HINTED}"
    assert location("https://login.example", standard) == standard
    assert location("https://login.example/cognito-idp.x.amazonaws.com", standard) == standard


def test_an_issuer_without_a_sign_out_has_the_one_of_the_setting() -> None:
    configured = settings(oidc_logout_url="https://login.example/v2/logout?federated=1").oidc_logout_url
    sent_to = urlsplit(location("https://login.example", "/", logout_url=configured))
    assert (sent_to.netloc, sent_to.path) == ("login.example", "/v2/logout")
    assert parse_qs(sent_to.query) == {
        "federated": ["1"],
        "client_id": ["page"],
        "logout_uri": [CALLBACK],
        "post_logout_redirect_uri": [CALLBACK],
    }
    cognito = location(COGNITO, "/", logout_url="https://login.photos.example/logout")
    assert parse_qs(urlsplit(cognito).query) == {"client_id": ["page"], "logout_uri": [CALLBACK]}


def test_without_either_signing_out_returns_to_the_page() -> None:
    assert location(COGNITO, "/") == "/"


def test_other_redirects_of_the_page_stay() -> None:
    app = SignOutAtIssuer(
        RedirectResponse(f"https://x.example/?{HINTED}"), issuer=COGNITO, client_id="page", return_to=CALLBACK
    )
    assert headers_of(app, "/oauth2callback")["location"] == f"https://x.example/?{HINTED}"


def test_behind_https_browsers_use_nothing_else_and_keep_the_sign_in_to_it() -> None:
    answer = PlainTextResponse("the page")
    answer.set_cookie("_streamlit_user", "signed", httponly=True, samesite="lax")
    answer.set_cookie("already", "signed", secure=True)
    sent = headers_of(SecurityHeaders(answer, policy="default-src 'self'", https=True))
    assert sent["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    cookies = [value for name, value in all_headers(answer, https=True) if name == "set-cookie"]
    assert [cookie.count("; Secure") for cookie in cookies] == [1, 1]
    plain = [value for name, value in all_headers(answer, https=False) if name == "set-cookie"]
    assert "Secure" not in plain[0]


def all_headers(answer: PlainTextResponse, *, https: bool) -> list[tuple[str, str]]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def call() -> None:
        scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/", "headers": []}
        await SecurityHeaders(answer, policy="", https=https)(scope, None, send)

    asyncio.run(call())
    return [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]


def test_answers_are_not_cached_unless_they_say_so() -> None:
    assert headers_of(SecurityHeaders(PlainTextResponse("names"), policy=""))["cache-control"] == "no-store"
    asset = PlainTextResponse("script", headers={"Cache-Control": "public, immutable"})
    assert headers_of(SecurityHeaders(asset, policy=""))["cache-control"] == "public, immutable"


def test_signing_out_clears_what_the_browser_has_stored() -> None:
    app = SignOutAtIssuer(RedirectResponse("/"), issuer=COGNITO, client_id="page", return_to=CALLBACK)
    assert headers_of(app, "/auth/logout")["clear-site-data"] == '"cache", "storage"'
    assert "clear-site-data" not in headers_of(app, "/elsewhere")
