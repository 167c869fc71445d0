"""The screen *Review*: results are approved, rejected, made again, downloaded and published, in the browser."""

import streamlit as st

from bg_pipeline.web.page import review_server, user
from bg_pipeline.web.page.review_server import ReviewSession
from bg_pipeline.web.page.review_service import ReviewService
from bg_pipeline.web.page.widgets import review_widget


def show(service: ReviewService) -> None:
    """The screen. Its session shows and does what the visitor may, in the visitor's name, until the sign-in ends."""
    st.title("Review", anchor=False)
    person = user.visitor(service.settings, service.acts.authorization)
    service.acts.authorization.require_role(person)
    session: ReviewSession | None = st.session_state.get("review_session")
    if session is None or session.person != person:
        if session is not None:
            review_server.sessions.close(session)
        session = review_server.sessions.open(service, person)
        st.session_state.review_session = session
    review_widget(session)
