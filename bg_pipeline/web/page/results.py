"""The screen *Review*: results are approved, rejected, made again, downloaded and published, in the browser."""

import streamlit as st

from bg_pipeline.web.page import review_server, user
from bg_pipeline.web.page.review_server import ReviewSession
from bg_pipeline.web.page.review_service import ReviewService
from bg_pipeline.web.page.widgets import review_widget


def show(service: ReviewService) -> None:
    """The screen. Its session decides with the visitor's name until the visitor's sign-in ends."""
    st.title("Review", anchor=False)
    session: ReviewSession | None = st.session_state.get("review_session")
    if session is None or session.expired or session.by != user.name():
        session = review_server.sessions.open(service, by=user.name(), expires=user.signed_in_until())
        st.session_state.review_session = session
    review_widget(session)
