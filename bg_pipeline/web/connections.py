"""Limits on the API's connections: their number, and the time and size of each request."""

from asyncio import Transport
from asyncio.events import TimerHandle
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_CONNECTIONS: Final = 256
"""Open connections. For one more, the idle connection that has waited longest is closed."""

HEADER_SECONDS: Final = 10.0
"""Time for a request's line and headers, from the connection or the request's first byte on."""

HEADER_BYTES: Final = 64_000
"""Largest size of a request's line and headers."""

BODY_SECONDS: Final = 120.0
"""Time for a request's body, from the end of its headers on."""

MAX_PIPELINED: Final = 8
"""Requests that a connection may send before the answer to an earlier one. Each takes some kilobytes of memory, and a
block of data that is read may hold thousands of them; browsers and clients send none.
"""

STREAMS: Final = "/events"
"""End of the paths whose answers are streams without an end of their own."""

UNREAD_SECONDS: Final = 5.0
"""Time for the rest of a body whose request was answered before it was read; the rest is thrown away."""


class Connection(HttpToolsProtocol):
    """uvicorn's HTTP protocol with the limits above; a connection that exceeds one is closed.

    There is no limit on the time for an answer, so that a call may wait for its pictures.
    """

    _timer: TimerHandle | None = None
    _header_bytes = 0
    _waits_for_headers = True
    _is_cut_off = False
    _receives_body = False
    _answered: RequestResponseCycle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer(HEADER_SECONDS)
        if len(self.connections) > MAX_CONNECTIONS:
            self._close_oldest_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._end_answers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._waits_for_headers:
            self._header_bytes += len(data)
        super().data_received(data)
        # Checked afterwards, since the data may hold the end of the headers and part of the body.
        if self._waits_for_headers and self._header_bytes > HEADER_BYTES:
            self._cut_off()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._cut_off()
            # Stops the parser, which would go on to the end of the block.
            raise ConnectionAbortedError(f"more than {MAX_PIPELINED} requests before an answer")
        super().on_message_begin()
        self._waits_for_headers, self._header_bytes = True, 0
        self._start_timer(HEADER_SECONDS)

    def on_headers_complete(self) -> None:
        self._waits_for_headers, self._receives_body = False, True
        self._start_timer(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._receives_body = False
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self._receives_body and not self.pipeline:
            self._start_timer(UNREAD_SECONDS)
        super().on_response_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def shutdown(self) -> None:
        super().shutdown()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and cycle.scope["path"].endswith(STREAMS):
            # It would keep the server from ending for as long as its batch is worked on: as if the caller had left.
            cycle.disconnected = True
            cycle.message_event.set()

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self._cut_off)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_off(self) -> None:
        self._is_cut_off = True
        # The loop tells of the closed connection later; until then an answer would be an error of the server's.
        self._end_answers()
        self.transport.abort()

    def _end_answers(self) -> None:
        """Lets nothing be written to a closed connection; uvicorn does so for the request that came last only."""
        for cycle in (self._answered, self.cycle, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being received or answered."""
        return not self._is_cut_off and (
            self.cycle is None or self.cycle.response_complete or self._waits_for_headers
        )

    def _close_oldest_idle(self) -> None:
        """Closes the idle connection that times out first, or this one if no other is idle."""
        others = (other for other in self.connections if isinstance(other, Connection) and other is not self)
        idle = (other for other in others if other._is_idle)
        min(idle, key=_deadline, default=self)._cut_off()


def _deadline(connection: Connection) -> float:
    return connection._timer.when() if connection._timer is not None else 0.0
