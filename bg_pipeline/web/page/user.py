"""The visitor of the page: the person who signed in, or this machine's user where sign-in is off."""

import time

import streamlit as st

from bg_pipeline.review import this_user
from bg_pipeline.settings import Settings
from bg_pipeline.web.page import review_server
from bg_pipeline.web.page.widgets import escape_markdown

SIGNED_IN_SECONDS = 12 * 3600
"""How long a sign-in is valid; Streamlit's own cookie lasts 30 days."""


def require_sign_in(settings: Settings) -> None:
    """Returns if sign-in is off or the visitor has signed in; otherwise shows only a sign-in button."""
    if not settings.oidc_client_id or _signed_in():
        return
    st.title("New backgrounds for photos")
    st.write("Please sign in: pictures cost money, and each decision is stored with the name of who made it.")
    if st.button("Sign in", type="primary"):
        st.login()
    st.stop()


def show_sign_out(settings: Settings) -> None:
    """Shows who has signed in, with a button to sign out."""
    if settings.oidc_client_id:
        st.divider()
        st.caption(f"Signed in as {escape_markdown(name())}")
        st.button("Sign out", on_click=_sign_out)


def _sign_out() -> None:
    if session := st.session_state.pop("review_session", None):
        review_server.sessions.close(session)
    st.logout()


def signed_in_until() -> float | None:
    """When the visitor's sign-in ends, in seconds of the epoch; None where sign-in is off."""
    issued = st.user.get("iat")
    return issued + SIGNED_IN_SECONDS if isinstance(issued, int | float) else None


def name() -> str:
    """The name that is stored with the visitor's decisions."""
    if st.user.get("is_logged_in"):
        claims = (_claim("email"), _claim("preferred_username"), _claim("cognito:username"), _claim("sub"))
        return next((claim for claim in claims if claim), "page")
    return this_user() or "page"


def _signed_in() -> bool:
    issued = st.user.get("iat")
    fresh = isinstance(issued, int | float) and time.time() - issued < SIGNED_IN_SECONDS
    return bool(st.user.get("is_logged_in")) and fresh


def _claim(name: str) -> str:
    """A claim of the sign-in service. An unverified e-mail address is ignored: it could be anybody's."""
    if name == "email" and st.user.get("email_verified") in (False, "false"):
        return ""
    return str(st.user.get(name) or "")
