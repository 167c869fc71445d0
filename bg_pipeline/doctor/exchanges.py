"""Records the HTTP exchanges of boto3 clients: status, headers, seconds and refusals, never bodies."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

HEADERS = ("content-type", "retry-after", "x-amzn-errortype")
"""Headers whose values are recorded, and all that begin with `BEDROCK_HEADERS`; of others only the names."""
BEDROCK_HEADERS = "x-amzn-bedrock-"


@dataclass
class Exchange:
    """One request and its answer; ``code`` and ``message`` are those of a refusal."""

    region: str
    status: int
    seconds: float
    headers: dict[str, str]
    header_names: list[str]
    code: str = ""
    message: str = ""


@dataclass
class _Recording:
    exchanges: list[Exchange] = field(default_factory=list)
    started: float = 0.0


class ExchangeRecorder:
    """Records the exchanges that a thread makes with the clients that it listens to."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._thread = threading.local()
        self._clients: set[int] = set()
        self._lock = threading.Lock()

    def listen(self, client: Any) -> None:
        """Listens to a client from now on; a client is listened to once."""
        with self._lock:
            if id(client) in self._clients:
                return
            self._clients.add(id(client))
        region = client.meta.region_name
        client.meta.events.register("before-call", self._before)
        client.meta.events.register("after-call", lambda **event: self._after(region, **event))

    @contextmanager
    def recording(self) -> Iterator[list[Exchange]]:
        """The exchanges that this thread makes while the block runs."""
        recording = self._thread.recording = _Recording()
        try:
            yield recording.exchanges
        finally:
            self._thread.recording = None

    def _before(self, **_: Any) -> None:
        if recording := getattr(self._thread, "recording", None):
            recording.started = self._clock()

    def _after(self, region: str, http_response: Any, parsed: Any, **_: Any) -> None:
        recording = getattr(self._thread, "recording", None)
        if recording is None:
            return
        headers = {name.lower(): str(value) for name, value in http_response.headers.items()}
        error = parsed.get("Error") or {} if isinstance(parsed, dict) else {}
        recording.exchanges.append(
            Exchange(
                region,
                http_response.status_code,
                self._clock() - recording.started,
                {
                    name: value
                    for name, value in headers.items()
                    if name in HEADERS or name.startswith(BEDROCK_HEADERS)
                },
                sorted(headers),
                str(error.get("Code", "")),
                str(error.get("Message", "")),
            )
        )
