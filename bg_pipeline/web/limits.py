"""How much and how fast a caller may ask."""

import time
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bg_pipeline.domain.requests import MAX_BYTES
from bg_pipeline.web.problems import Problem

SMALL_BYTES: Final = 2_000_000
"""The largest body of a call that is no batch request: 1,000 file names of the greatest length fit in it."""

HELD_BYTES: Final = 60_000_000
"""What the bodies of all requests under way may have together."""


class RequestRate:
    """Lets each signed-in caller make so many requests a minute; counted in this process."""

    def __init__(self, per_minute: int) -> None:
        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, caller: str) -> None:
        """Counts a request; raises `Problem` 429 where it is one too many."""
        if not self._limiter.hit(self._item, caller):
            reset = self._limiter.get_window_stats(self._item, caller).reset_time
            raise Problem(
                429,
                "TooManyRequests",
                f"more than {self._item.amount} requests in a minute (BG_API_REQUESTS_PER_MINUTE)",
                retry_after=reset - time.time(),
            )


class BodyLimit:
    """Refuses a request's body beyond what its route takes, before it is read whole.

    Batch requests may have `MAX_BYTES`, all others `SMALL_BYTES`. The bodies that are being read or worked on may
    have `HELD_BYTES` together, so that many callers at once do not fill the memory.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = MAX_BYTES if _takes_batch_requests(scope) else SMALL_BYTES
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > most:
            await _too_large(most).response()(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            size = len(message.get("body", b""))
            taken += size
            self._held += size
            if taken > most:
                raise _too_large(most)
            if self._held > HELD_BYTES:
                raise Problem(
                    503, "Busy", "too many large requests at once; repeat it in a while", retry_after=10
                )
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= taken


def route_path(scope: Scope) -> str:
    """The path as the routes know it, without what the application is mounted under."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _takes_batch_requests(scope: Scope) -> bool:
    path = route_path(scope)
    return path.startswith("/batches/") and path.endswith(("/request", "/plan"))


def _too_large(most: int) -> Problem:
    return Problem(413, "TooLarge", f"the request is larger than {most:,} bytes")
