"""How much and how fast a caller may ask."""

import time
from collections.abc import MutableMapping
from typing import Any

from fastapi import Request
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.types import ASGIApp, Receive, Scope, Send

from bg_pipeline.batch import MAX_BYTES
from bg_pipeline.web.problems import Problem


class Rate:
    """Lets each signed-in caller make so many requests a minute; counted in this process."""

    def __init__(self, per_minute: int) -> None:
        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def __call__(self, request: Request) -> None:
        caller = request.state.caller
        if not self._limiter.hit(self._item, caller):
            reset = self._limiter.get_window_stats(self._item, caller).reset_time
            raise Problem(
                429,
                "TooManyRequests",
                f"more than {self._item.amount} requests in a minute (BG_API_REQUESTS_PER_MINUTE)",
                retry_after=reset - time.time(),
            )


class BodyLimit:
    """Refuses a request's body beyond the size of the largest batch request, before it is read whole.

    FastAPI's own limit does the same and answers in plain text.
    """

    def __init__(self, app: ASGIApp, most: int = MAX_BYTES) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise Problem(413, "TooLarge", f"the request is larger than {self._most:,} bytes")
            return message

        await self._app(scope, counted, send)
