"""Who looks at the page: whoever has signed in, or this machine's user where nobody has to."""

import time

import streamlit as st

from bg_pipeline.review import this_user
from bg_pipeline.settings import Settings
from bg_pipeline.web.page.markdown import escape_markdown

SIGNED_IN_SECONDS = 12 * 3600
"""How long a sign-in is good for; Streamlit's cookie itself lasts 30 days."""


def let_in(settings: Settings) -> None:
    """Goes on if nobody has to sign in, or this visitor has; else there is nothing but a way to do so."""
    if not settings.oidc_client_id or _signed_in():
        return
    st.title("New backgrounds for photos")
    st.write("Who works here spends money, and what was approved bears a name.")
    if st.button("Sign in", type="primary"):
        st.login()
    st.stop()


def sign_out(settings: Settings) -> None:
    """Says who has signed in, and offers to leave."""
    if settings.oidc_client_id:
        st.divider()
        st.caption(f"Signed in as {escape_markdown(name())}")
        st.button("Sign out", on_click=st.logout)


def name() -> str:
    """By whom a decision is: what is kept beside the result."""
    if st.user.get("is_logged_in"):
        known = (_claim("email"), _claim("preferred_username"), _claim("cognito:username"), _claim("sub"))
        return next((each for each in known if each), "page")
    return this_user() or "page"


def _signed_in() -> bool:
    issued = st.user.get("iat")
    fresh = isinstance(issued, int | float) and time.time() - issued < SIGNED_IN_SECONDS
    return bool(st.user.get("is_logged_in")) and fresh


def _claim(name: str) -> str:
    """A claim of the sign-in service; an address that it has not verified could be anybody's."""
    if name == "email" and st.user.get("email_verified") in (False, "false"):
        return ""
    return str(st.user.get(name) or "")
