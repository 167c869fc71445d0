"""Who may call: this machine without sign-in, whoever brings a good token with it, and nobody else."""

import http.server
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from bg_pipeline.errors import SettingsError
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.web.addresses import check_api, check_page
from bg_pipeline.web.problems import Problem
from bg_pipeline.web.sign_in import LOGGED_PER_MINUTE, Tokens
from bg_pipeline_tests.batches import Bench, aws
from bg_pipeline_tests.web.openid import AUDIENCE, Provider, openid_provider
from bg_pipeline_tests.web.serving import Caller, problem, served

SOMETHING = "/batches/2026-11-20/none"


@pytest.fixture
def bench(bucket: str) -> Bench:
    return Bench(Store(aws().s3(bucket), bucket))


@pytest.fixture
def api(bench: Bench) -> Iterator[Caller]:
    with served(bench.settings(), bench.store) as caller:
        yield caller


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with openid_provider() as running:
        yield running


@pytest.fixture
def guarded(bench: Bench, provider: Provider) -> Iterator[Caller]:
    chosen = bench.settings(oidc_issuer=provider.issuer, oidc_audience=AUDIENCE)
    with served(chosen, bench.store) as caller:
        yield caller


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_a_program_on_this_machine_needs_no_sign_in(api: Caller) -> None:
    assert problem(api.get(SOMETHING)) == (404, "NoSuchBatch")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8000"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Host": "10.0.0.1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"X-Forwarded-For": "10.0.0.1"},
        {"Forwarded": "for=10.0.0.1"},
        {"X-Forwarded-Host": "photos.example"},
        {"X-Real-IP": "10.0.0.1"},
    ],
)
def test_without_sign_in_a_foreign_page_or_host_is_refused(api: Caller, headers: dict[str, str]) -> None:
    assert problem(api.get(SOMETHING, headers=headers)) == (403, "Foreign")
    assert problem(api.get("/openapi.json", headers=headers)) == (403, "Foreign")


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_every_name_of_this_machine_is_answered(api: Caller, host: str) -> None:
    own_page = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    assert problem(api.get(SOMETHING, headers=own_page)) == (404, "NoSuchBatch")


def test_a_link_to_the_description_may_be_followed_from_another_page(api: Caller) -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert api.get("/docs", headers=followed).status_code == 200


def test_the_description_needs_nothing_from_other_hosts(guarded: Caller) -> None:
    """It works without the internet, and a browser may not load anything else or show it in a frame."""
    answer = guarded.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "<script" not in answer.text
    assert re.findall(r"""(?:src|href)=["'](?!#|/openapi\.json)""", answer.text) == []
    for part in ("PUT /batches/{date}/{name}/request", "MaxBytes", "BatchRequest", "Authorization: Bearer"):
        assert part in answer.text
    for each in (answer, guarded.get("/openapi.json"), guarded.get(SOMETHING)):
        policy = each.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "//" not in policy
        assert each.headers["x-frame-options"] == "DENY"


def refusal(chosen: Settings, host: str) -> str:
    """Why the API must not be served at ``host``; empty where it may."""
    try:
        check_api(chosen, host)
    except SettingsError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "photos.example"])  # noqa: S104
def test_serving_others_without_sign_in_is_refused_with_the_reason(host: str) -> None:
    with pytest.raises(SettingsError, match="BG_OIDC_ISSUER"):
        check_api(settings(), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_serving_this_machine_needs_no_sign_in(host: str) -> None:
    assert refusal(settings(), host) == ""


@pytest.mark.parametrize(
    ("chosen", "named"),
    [
        ({"oidc_issuer": "https://login.example"}, "BG_OIDC_AUDIENCE"),
        ({"oidc_audience": AUDIENCE}, "BG_OIDC_ISSUER"),
        ({"oidc_issuer": "http://login.example", "oidc_audience": AUDIENCE}, "https"),
    ],
)
def test_sign_in_that_is_half_set_is_refused(chosen: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        check_api(settings(**chosen), "0.0.0.0")  # noqa: S104


def test_with_sign_in_others_may_be_served() -> None:
    chosen = settings(oidc_issuer="https://login.example", oidc_audience=AUDIENCE)
    assert refusal(chosen, "0.0.0.0") == ""  # noqa: S104


PAGE = {
    "oidc_issuer": "https://login.example",
    "oidc_client_id": "page",
    "oidc_client_secret": "secret",
    "page_address": "https://photos.example",
}


def test_the_page_serves_others_only_with_sign_in() -> None:
    check_page(settings(), "127.0.0.1")
    check_page(settings(**PAGE), "0.0.0.0")  # noqa: S104
    with pytest.raises(SettingsError, match="BG_OIDC_CLIENT_ID"):
        check_page(settings(), "0.0.0.0")  # noqa: S104
    with pytest.raises(SettingsError, match="BG_OIDC_CLIENT_ID"):
        check_page(settings(oidc_issuer="https://login.example", oidc_audience=AUDIENCE), "0.0.0.0")  # noqa: S104


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"oidc_issuer": ""}, "BG_OIDC_ISSUER"),
        ({"oidc_client_secret": ""}, "BG_OIDC_CLIENT_SECRET"),
        ({"page_address": ""}, "BG_PAGE_ADDRESS"),
        ({"page_address": "http://photos.example"}, "https"),
        ({"oidc_issuer": "http://login.example"}, "https"),
    ],
)
def test_sign_in_to_the_page_that_is_half_set_is_refused_even_on_this_machine(
    changed: dict[str, str], named: str
) -> None:
    with pytest.raises(SettingsError, match=named):
        check_page(settings(**{**PAGE, **changed}), "127.0.0.1")


def test_the_pages_sign_in_alone_does_not_open_the_api() -> None:
    check_api(settings(**PAGE), "127.0.0.1")
    with pytest.raises(SettingsError, match="BG_OIDC_AUDIENCE"):
        check_api(settings(**PAGE), "0.0.0.0")  # noqa: S104


def test_a_good_token_lets_in_from_anywhere(guarded: Caller, provider: Provider) -> None:
    headers = {**bearer(provider.token()), "Host": "photos.example"}
    assert problem(guarded.get(SOMETHING, headers=headers)) == (404, "NoSuchBatch")
    several = bearer(provider.token(aud=["other", AUDIENCE]))
    assert problem(guarded.get(SOMETHING, headers=several)) == (404, "NoSuchBatch")


def test_an_access_token_of_cognitos_names_its_audience_as_client_id(
    guarded: Caller, provider: Provider
) -> None:
    good = provider.token(aud=None, client_id=AUDIENCE, token_use="access")
    assert problem(guarded.get(SOMETHING, headers=bearer(good))) == (404, "NoSuchBatch")
    other = provider.token(aud=None, client_id="another", token_use="access")
    assert problem(guarded.get(SOMETHING, headers=bearer(other))) == (401, "BadToken")


def test_without_a_token_nothing_is_told(guarded: Caller) -> None:
    answer = guarded.get(SOMETHING)
    assert problem(answer) == (401, "SignInNeeded")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"sub": None},
        {"iss": "https://evil.example"},
        {"aud": "another"},
        {"aud": None},
        {"aud": None, "client_id": 5},
        {"aud": 5},
        {"aud": True},
        {"aud": [5, None]},
        {"aud": {AUDIENCE: 1}},
        {"aud": ""},
        {"sub": ""},
        {"sub": " "},
        {"sub": ["ada"]},
        {"sub": 7},
        {"sub": "\ud800"},
        {"sub": "ada\udcff"},
        {"exp": "soon"},
        {"exp": [1]},
        {"exp": 1e400},
        {"iat": {}},
        {"nbf": int(time.time()) + 3600},
    ],
)
def test_a_token_that_is_not_for_here_and_now_is_refused(
    guarded: Caller, provider: Provider, claims: dict[str, Any]
) -> None:
    answer = guarded.get(SOMETHING, headers=bearer(provider.token(**claims)))
    assert problem(answer) == (401, "BadToken")


def test_a_token_whose_audience_is_null_is_refused(guarded: Caller, provider: Provider) -> None:
    now = int(time.time())
    claims = {"iss": provider.issuer, "sub": "ada", "aud": None, "client_id": AUDIENCE, "exp": now + 300}
    token = jwt.encode(claims, provider.key, algorithm="RS256", headers={"kid": "k1"})
    assert problem(guarded.get(SOMETHING, headers=bearer(token))) == (401, "BadToken")


@pytest.mark.parametrize(
    "claims",
    ["[]", "5", "null", '"text"', "{", "[" * 100_000, '{"exp":1e999}', '{"iss":["x"],"sub":"a","exp":9e9}'],
)
def test_a_signed_text_that_holds_no_claims_is_refused(
    guarded: Caller, provider: Provider, claims: str
) -> None:
    token = jwt.PyJWS().encode(claims.encode(), provider.key, algorithm="RS256", headers={"kid": "k1"})
    if len(token) > 60_000:
        token = token[:60_000]
    assert problem(guarded.get(SOMETHING, headers=bearer(token))) == (401, "BadToken")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic YTpi", "bearer\tx", "Bearer x y", "Bearer \xff"]
)
def test_what_is_no_token_is_refused(guarded: Caller, header: str) -> None:
    assert guarded.get(SOMETHING, headers={"Authorization": header.encode("latin-1")}).status_code == 401


def test_a_token_is_asked_for_before_anything_of_the_request_is_looked_at(guarded: Caller) -> None:
    for method, path in [
        ("POST", "/batches"),
        ("PUT", "/nowhere"),
        ("POST", "/docs"),
        ("DELETE", "/openapi.json"),
    ]:
        answer = guarded(method, path, data=b"{ no JSON", headers={"Content-Type": "application/json"})
        assert problem(answer) == (401, "SignInNeeded")


def test_a_token_that_somebody_else_signed_is_refused(guarded: Caller, provider: Provider) -> None:
    foreign = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    tokens = [provider.token(key=foreign), jwt.encode({"sub": "ada"}, None, algorithm="none"), "x.y.z", "x"]
    tokens.append(jwt.encode({"sub": "ada"}, "k" * 40, algorithm="HS256", headers={"kid": "k1"}))
    for token in tokens:
        assert problem(guarded.get(SOMETHING, headers=bearer(token))) == (401, "BadToken")


def test_a_sign_in_service_that_is_down_lets_nobody_in(bench: Bench, provider: Provider) -> None:
    chosen = bench.settings(oidc_issuer="http://127.0.0.1:9", oidc_audience=AUDIENCE)
    with served(chosen, bench.store) as api:
        assert problem(api.get(SOMETHING, headers=bearer(provider.token()))) == (503, "SignInUnreachable")


def test_the_description_names_the_sign_in_that_is_on(api: Caller, guarded: Caller) -> None:
    assert "securitySchemes" not in api.get("/openapi.json").json()["components"]
    assert "HTTPBearer" in guarded.get("/openapi.json").json()["components"]["securitySchemes"]


def test_answers_to_signed_in_callers_are_neither_cached_nor_sent_without_https(
    guarded: Caller, api: Caller, provider: Provider
) -> None:
    answer = guarded.get(SOMETHING, headers=bearer(provider.token()))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["strict-transport-security"].startswith("max-age=31536000")
    assert "strict-transport-security" not in api.get(SOMETHING).headers


def test_refused_calls_are_logged_without_their_token_and_not_endlessly(
    guarded: Caller, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    token = provider.token(exp=1)
    for _ in range(LOGGED_PER_MINUTE + 20):
        assert guarded.get(SOMETHING, headers=bearer(token)).status_code == 401
    lines = [record.getMessage() for record in caplog.records if "refused a call" in record.getMessage()]
    assert len(lines) == LOGGED_PER_MINUTE
    assert "BadToken" in lines[0]
    assert "127.0.0.1" in lines[0]
    assert token not in caplog.text


def test_keys_are_not_fetched_without_https(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"issuer": "https://pool.example", "jwks_uri": "http://pool.example/keys"}
    answer = io.BytesIO(json.dumps(document).encode())
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_, **__: answer)
    with pytest.raises(Problem) as refused:
        Tokens("https://pool.example", AUDIENCE).claims(provider.token())
    assert refused.value.status_code == 401


def test_keys_are_looked_for_at_the_issuers_own_address_only(
    bench: Bench, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect could lead to another server's keys, also on this machine."""

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{provider.issuer}/.well-known/openid-configuration")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        issuer = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(Problem) as refused:
            Tokens(issuer, AUDIENCE).claims(provider.token(iss=issuer))
        server.shutdown()
    assert (refused.value.status_code, refused.value.code) == (503, "SignInUnreachable")


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "log-out": (
        {"typ": "logout+jwt"},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}},
    ),
    "log-out without typ": ({}, {"events": {}}),
    "proof": ({"typ": "dpop+jwt"}, {}),
    "event": ({"typ": "application/secevent+jwt"}, {}),
    "refresh of Keycloak": ({}, {"typ": "Refresh"}),
    "refresh of Cognito": ({}, {"token_use": "refresh"}),
    "unknown": ({}, {"token_use": ["access"]}),
    "null": ({}, {"token_use": None}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_for_another_purpose_is_refused(guarded: Caller, provider: Provider, kind: str) -> None:
    header, claims = KINDS[kind]
    now = int(time.time())
    document = {"iss": provider.issuer, "aud": AUDIENCE, "sub": "ada", "exp": now + 300, **claims}
    token = jwt.encode(document, provider.key, algorithm="RS256", headers={"kid": "k1", **header})
    assert problem(guarded.get(SOMETHING, headers=bearer(token))) == (401, "BadToken")


@pytest.mark.parametrize(
    ("header", "claims", "access"),
    [
        ({"typ": "at+jwt"}, {}, True),
        ({"typ": "application/at+JWT"}, {}, True),
        ({}, {"token_use": "access"}, True),
        ({}, {"typ": "Bearer"}, True),
        ({}, {"token_use": "id"}, False),
        ({}, {"typ": "ID"}, False),
        ({"typ": None}, {}, False),
        ({}, {}, False),
    ],
)
def test_with_the_setting_only_what_says_that_it_is_an_access_token_is_one(
    bench: Bench, provider: Provider, header: dict[str, Any], claims: dict[str, Any], *, access: bool
) -> None:
    now = int(time.time())
    document = {"iss": provider.issuer, "aud": AUDIENCE, "sub": "ada", "exp": now + 300, **claims}
    token = jwt.encode(document, provider.key, algorithm="RS256", headers={"kid": "k1", **header})
    assert Tokens(provider.issuer, AUDIENCE).claims(token)["sub"] == "ada"
    strict = Tokens(provider.issuer, AUDIENCE, access_only=True)
    if access:
        assert strict.claims(token)["sub"] == "ada"
    else:
        with pytest.raises(Problem, match="access token"):
            strict.claims(token)


def test_the_setting_is_used(bench: Bench, provider: Provider) -> None:
    chosen = {"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE}
    with served(bench.settings(**chosen, api_access_tokens_only=True), bench.store) as api:
        assert problem(api.get(SOMETHING, headers=bearer(provider.token()))) == (401, "BadToken")
        good = provider.token(token_use="access")
        assert problem(api.get(SOMETHING, headers=bearer(good))) == (404, "NoSuchBatch")


@pytest.mark.parametrize(
    ("acr", "accepted"),
    [
        ("mfa", True),
        ("phr", True),
        ("MFA", False),
        ("pwd", False),
        (None, False),
        (["mfa"], False),
        (1, False),
    ],
)
def test_a_sign_in_can_have_to_be_a_strong_one(
    bench: Bench, provider: Provider, acr: object, *, accepted: bool
) -> None:
    chosen = {"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE, "oidc_acr": "mfa, phr"}
    with served(bench.settings(**chosen), bench.store) as api:
        answer = api.get(SOMETHING, headers=bearer(provider.token(acr=acr)))
    assert problem(answer) == ((404, "NoSuchBatch") if accepted else (401, "BadToken"))


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT", "PROPFIND", "X"])
def test_methods_that_nobody_needs_are_refused(guarded: Caller, provider: Provider, method: str) -> None:
    answer = guarded(method, SOMETHING, headers=bearer(provider.token()))
    assert answer.status_code in (400, 404, 405)
    assert "Bearer" not in answer.text
