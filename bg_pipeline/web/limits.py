"""Limits on the number and the size of the API's requests."""

import time
from collections import Counter
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bg_pipeline.domain.people import Person
from bg_pipeline.domain.requests import MAX_BYTES
from bg_pipeline.web.problems import Problem

SMALL_BYTES: Final = 2_000_000
"""Largest body, except of batch requests: 1,000 file names of the greatest length fit in it."""

TOTAL_BYTES: Final = 60_000_000
"""Largest size of the bodies of all current requests together."""


BYTES_OF_ONE_CALLER: Final = MAX_BYTES + SMALL_BYTES
"""Largest size of the bodies of all current requests of one caller who signed in."""


class RequestRate:
    """Limits the requests of each caller per minute, counted in this process."""

    def __init__(self, per_minute: int) -> None:
        self._item = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, caller: str) -> None:
        """Counts a request; raises `Problem` 429 if it exceeds the limit."""
        if not self._limiter.hit(self._item, caller):
            reset = self._limiter.get_window_stats(self._item, caller).reset_time
            raise Problem(
                429,
                "TooManyRequests",
                f"more than {self._item.amount} requests in one minute (BG_API_REQUESTS_PER_MINUTE)",
                retry_after=reset - time.time(),
            )


class BodyLimit:
    """Refuses bodies that are too large, before they are read completely.

    Batch requests may have `MAX_BYTES`, all others `SMALL_BYTES`. All bodies that are being read or processed may
    have `TOTAL_BYTES` together, so that many callers at once do not fill the memory, and those of one caller
    `BYTES_OF_ONE_CALLER`, so that nobody keeps the others waiting by sending slowly.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._total = 0
        self._of_caller: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        max_bytes = MAX_BYTES if _takes_batch_requests(scope) else SMALL_BYTES
        content_length = Headers(scope=scope).get("content-length", "0")
        if content_length.isdecimal() and int(content_length) > max_bytes:
            await _too_large(max_bytes).response(scope)(scope, receive, send)
            return
        received = 0
        caller: Person | None = scope.get("state", {}).get("caller")
        subject = caller.subject if caller is not None else ""

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._total += size
            self._of_caller[subject] += size
            if received > max_bytes:
                raise _too_large(max_bytes)
            if self._total > TOTAL_BYTES or (subject and self._of_caller[subject] > BYTES_OF_ONE_CALLER):
                raise Problem(
                    503, "Busy", "too many large requests at once; repeat this one later", retry_after=10
                )
            return message

        try:
            await self._app(scope, receive_limited, send)
        finally:
            self._total -= received
            self._of_caller[subject] -= received
            if not self._of_caller[subject]:
                del self._of_caller[subject]


def route_path(scope: Scope) -> str:
    """The path as the routes define it, without the prefix under which the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _takes_batch_requests(scope: Scope) -> bool:
    path = route_path(scope)
    return path.startswith("/batches/") and path.endswith(("/request", "/plan"))


def _too_large(max_bytes: int) -> Problem:
    return Problem(413, "TooLarge", f"the request is larger than {max_bytes:,} bytes")
