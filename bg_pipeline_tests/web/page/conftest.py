"""The review component's calls, served without the rest of the page."""

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette

from bg_pipeline.web.page import review_server
from bg_pipeline.web.page.review_server import ReviewSessions
from bg_pipeline_tests.web.serving import Caller, serving


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> ReviewSessions:
    """Review sessions of this test only."""
    sessions = ReviewSessions()
    monkeypatch.setattr(review_server, "sessions", sessions)
    return sessions


@pytest.fixture
def server(sessions: ReviewSessions) -> Iterator[Caller]:
    with serving(Starlette(routes=review_server.ROUTES)) as caller:
        yield caller
