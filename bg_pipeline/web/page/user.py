"""The visitor of the page: the person who signed in, or this machine's user where sign-in is off."""

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import streamlit as st

from bg_pipeline.authorization import Authorization
from bg_pipeline.domain.people import Person, Via, local_person
from bg_pipeline.domain.text import printable
from bg_pipeline.errors import NotAllowed
from bg_pipeline.review import this_user
from bg_pipeline.settings import Settings
from bg_pipeline.web.page import review_server
from bg_pipeline.web.page.admission import admit_this_session
from bg_pipeline.web.page.widgets import escape_markdown

LEEWAY = timedelta(minutes=5)
"""How far ahead the sign-in service's clock may be; a later sign-in would never end."""

_log = logging.getLogger(__name__)


def require_sign_in(settings: Settings, authorization: Callable[[], Authorization]) -> None:
    """Returns if sign-in is off or the visitor has signed in; otherwise shows only a sign-in button.

    Each call counts as a use of the sign-in: call it when the whole page is drawn, which nothing but its visitor
    causes. ``authorization`` is called only with sign-in.
    """
    if not settings.oidc_client_id:
        return
    with suppress(NotAllowed):
        person = visitor(settings, authorization())
        person.use_sign_in()
        if person.until is not None:
            admit_this_session(person.until)
        if not st.session_state.get("sign_in_logged"):
            st.session_state.sign_in_logged = True
            _log.info("signed in: %s (%s)", printable(person.name), printable(person.subject))
        return
    st.title("New backgrounds for photos")
    st.write("Please sign in: pictures cost money, and each decision is stored with the name of who made it.")
    if st.button("Sign in", type="primary"):
        st.login()
    st.stop()


def show_sign_out(settings: Settings, authorization: Callable[[], Authorization]) -> None:
    """Shows who has signed in, with a button to sign out."""
    if settings.oidc_client_id:
        st.divider()
        st.caption(f"Signed in as {escape_markdown(name())}")
        st.button("Sign out", on_click=lambda: _sign_out(settings, authorization()))


def _sign_out(settings: Settings, authorization: Authorization) -> None:
    if session := st.session_state.pop("review_session", None):
        review_server.sessions.close(session)
    admit_this_session(datetime.now(UTC))
    try:
        # A copy of the cookie is worth nothing from now on.
        with suppress(NotAllowed):
            if sign_in := visitor(settings, authorization).sign_in:
                sign_in.end()
    finally:
        st.logout()


def visitor(settings: Settings, authorization: Authorization) -> Person:
    """Who looks at the page now. Ask at each act: a session may be open for longer than its sign-in.

    Raises `NotAllowed` if the visitor has not signed in, if the sign-in has ended or is of another issuer.
    """
    if not settings.oidc_client_id:
        return local_person(name(), Via.PAGE)
    issued = _signed_in_at()
    if issued is None:
        raise NotAllowed("your sign-in has ended; reload the page and sign in again")
    until = issued + timedelta(hours=settings.page_sign_in_hours)
    person = authorization.person(st.user.to_dict(), Via.PAGE, name=name(), until=until, issued=issued)
    if person.expired:
        raise NotAllowed("your sign-in has ended; reload the page and sign in again")
    return person


def name() -> str:
    """The name that is stored with the visitor's decisions."""
    if st.user.get("is_logged_in"):
        claims = (_claim("email"), _claim("preferred_username"), _claim("cognito:username"), _claim("sub"))
        return next((claim for claim in claims if claim), "page")
    return this_user() or "page"


def _signed_in_at() -> datetime | None:
    """When the visitor signed in; None without a sign-in, and for a time that no sign-in can be of."""
    issued: object = st.user.get("iat")
    if not st.user.get("is_logged_in") or isinstance(issued, bool) or not isinstance(issued, int | float):
        return None
    try:
        at = datetime.fromtimestamp(issued, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    return at if at <= datetime.now(UTC) + LEEWAY else None


def _claim(name: str) -> str:
    """A claim of the sign-in service. An unverified e-mail address is ignored: it could be anybody's."""
    if name == "email" and st.user.get("email_verified") in (False, "false"):
        return ""
    return str(st.user.get(name) or "")
