"""Paths with a batch in the form of the answers, ``/batches/YYYY/MM/DD/name…``, lead to the routes of that batch."""

import re
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from bg_pipeline.web.limits import route_path

_SLASHES: Final = re.compile(r"/batches/([0-9]{4})/([0-9]{2})/([0-9]{2})(/.*)", re.DOTALL)


class BatchPaths:
    """Rewrites such a path to ``/batches/YYYY-MM-DD/name…`` before anything else looks at it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (match := _SLASHES.fullmatch(route_path(scope))):
            year, month, day, rest = match.groups()
            path = f"{scope.get('root_path', '')}/batches/{year}-{month}-{day}{rest}"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._app(scope, receive, send)
