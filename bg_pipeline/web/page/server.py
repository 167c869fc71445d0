"""The page's server: Streamlit's own with sign-in, protection from other websites, and our routes."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route

from bg_pipeline.settings import Settings, settings
from bg_pipeline.web.browser_security import SecurityHeaders
from bg_pipeline.web.page import review_server, upload_server
from bg_pipeline.web.page.admission import UploadsAfterSignIn
from bg_pipeline.web.page.content_policy import page_policy
from bg_pipeline.web.page.same_origin import OwnPageOnly
from bg_pipeline.web.page.sign_in_cookies import SignInCookies
from bg_pipeline.web.page.sign_out import SignOutAtIssuer

LOOPBACK = ("127.0.0.1", "localhost")
_CALLBACK = "/oauth2callback"
"""Where the sign-in service returns to, after signing in and after signing out."""


def _sign_in_secrets(configured: Settings, cookie_secret: str) -> Mapping[str, Any]:
    """The secrets of `streamlit.login`, kept in memory only; empty if sign-in is off."""
    if not configured.oidc_client_id:
        return {}
    return {
        "auth": {
            "redirect_uri": f"{configured.page_address}{_CALLBACK}",
            "cookie_secret": cookie_secret,
            "client_id": configured.oidc_client_id,
            "client_secret": configured.oidc_client_secret.get_secret_value(),
            "server_metadata_url": f"{configured.oidc_issuer.rstrip('/')}/.well-known/openid-configuration",
        }
    }


def _guards(configured: Settings, cookie_secret: str) -> list[Middleware]:
    """Middleware that refuses requests from other websites and, without sign-in, from other machines.

    Streamlit accepts any request whose Host and Origin are the same. A foreign website whose name resolves to
    127.0.0.1 can send such requests (DNS rebinding), so without sign-in the Host must be one of `LOOPBACK`.
    """
    https = bool(configured.oidc_client_id) and configured.page_address.startswith("https://")
    headers = Middleware(SecurityHeaders, policy=page_policy(), https=https)
    if configured.oidc_client_id:
        return [
            headers,
            Middleware(UploadsAfterSignIn),
            Middleware(OwnPageOnly, address=configured.page_address, proxies=configured.trusted_proxies),
            Middleware(SignInCookies, secret=cookie_secret, https=https),
            Middleware(
                SignOutAtIssuer,
                issuer=configured.oidc_issuer,
                client_id=configured.oidc_client_id,
                return_to=f"{configured.page_address}{_CALLBACK}",
                logout_url=configured.oidc_logout_url,
            ),
        ]
    return [
        headers,
        Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK), www_redirect=False),
        Middleware(OwnPageOnly),
    ]


_configured = settings()
_cookie_secret = _configured.page_cookie_secret.get_secret_value() or secrets.token_hex(32)
app = st.App(
    Path(__file__).with_name("app.py"),
    secrets=_sign_in_secrets(_configured, _cookie_secret),
    middleware=_guards(_configured, _cookie_secret),
    routes=[
        Route(upload_server.ADDRESS, upload_server.receive_photo, methods=["POST"]),
        *review_server.ROUTES,
    ],
)
