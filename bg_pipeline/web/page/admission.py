"""Takes files for Streamlit's own upload fields only from visitors who have signed in.

Streamlit takes them from whoever has a session, which everybody has who opens the page, and keeps them in memory.
"""

import threading
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.runtime.scriptrunner import get_script_run_ctx

UPLOADS: Final = "/_stcore/upload_file"
"""Streamlit's address for files: followed by the session's id and the file's."""
MAX_SESSIONS: Final = 10_000
"""Sessions that are remembered; beyond that the oldest one is forgotten and has to load the page again."""


class Admissions:
    """The Streamlit sessions of visitors who have signed in, until their sign-in ends. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: OrderedDict[str, datetime] = OrderedDict()

    def admit(self, session: str, until: datetime) -> None:
        """Lets a session upload files until then."""
        with self._lock:
            self._until[session] = until
            self._until.move_to_end(session)
            if len(self._until) > MAX_SESSIONS:
                self._until.popitem(last=False)

    def is_admitted(self, session: str) -> bool:
        """Whether the session's visitor is signed in now."""
        with self._lock:
            until = self._until.get(session)
        return until is not None and datetime.now(UTC) < until


admissions = Admissions()
"""Those of this process: the page's script adds to them, and its server asks them."""


def admit_this_session(until: datetime) -> None:
    """Admits the session whose script calls this."""
    context = get_script_run_ctx(suppress_warning=True)
    if context is not None:
        admissions.admit(context.session_id, until)


class UploadsAfterSignIn:
    """Refuses files for sessions that are not admitted, before anything of their bodies is read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and UPLOADS in scope["path"]
            and scope["method"] not in ("OPTIONS", "HEAD")
        ):
            session = scope["path"].partition(UPLOADS)[2].strip("/").partition("/")[0]
            if not admissions.is_admitted(session):
                await PlainTextResponse("sign in first", 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)
