"""The API's connections: each has so much time for a request, and there are only so many of them."""

from asyncio import Transport
from asyncio.events import TimerHandle
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_CONNECTIONS: Final = 256
"""Connections open at a time. One more costs the one that has waited longest for its request's headers."""

HEADER_SECONDS: Final = 10.0
"""How long a request's line and headers may take, from the connection or the request's first byte on."""

HEADER_BYTES: Final = 64_000
"""The most that a request's line and headers may have."""

BODY_SECONDS: Final = 120.0
"""How long a request's body may take from the end of its headers on."""

UNREAD_SECONDS: Final = 5.0
"""How long a body goes on being taken, and thrown away, of which the request was answered already."""


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP with limits on time, size and number: what exceeds them is cut off.

    An answered request has no time limit, so that a call may wait for its pictures.
    """

    _timer: TimerHandle | None = None
    _header_bytes = 0
    _waits_for_headers = True
    _is_cut_off = False
    _body_comes = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._allow(HEADER_SECONDS)
        if len(self.connections) > MAX_CONNECTIONS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._waits_for_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        # Counted after, since a piece may hold the end of the headers and much of the body.
        if self._waits_for_headers and self._header_bytes > HEADER_BYTES:
            self._cut_off()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._waits_for_headers, self._header_bytes = True, 0
        self._allow(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        self._waits_for_headers, self._body_comes = False, True
        self._allow(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_comes = False
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._body_comes and not self.pipeline:
            self._allow(UNREAD_SECONDS)
        super().on_response_complete()

    def _allow(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._cut_off)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_off(self) -> None:
        self._is_cut_off = True
        self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        """Whether no request is under way."""
        return not self._is_cut_off and (
            self.cycle is None or self.cycle.response_complete or self._waits_for_headers
        )

    def _make_room(self) -> None:
        """Cuts off the oldest connection that has no request under way; this one where all others have."""
        others = (other for other in self.connections if isinstance(other, Connection) and other is not self)
        idle = (other for other in others if other._is_idle)
        min(idle, key=_end, default=self)._cut_off()


def _end(connection: Connection) -> float:
    return connection._timer.when() if connection._timer is not None else 0.0
