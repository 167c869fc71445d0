"""Sign-ins to the web page: when each was used last, and whether its person signed out.

The cookie of a sign-in says neither, and whoever copied it would keep the access. So both are stored in the bucket,
where all processes of the page look. A document is written at most every few minutes while somebody works, and is
deleted by a lifecycle rule of the bucket.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

from bg_pipeline.domain.s3_keys import sign_in_key
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.storage.object_store import Store

LOOK_SECONDS: Final = 30.0
"""After this time a process reads a sign-in again, which another process may have ended."""

WRITE_SHARE: Final = 0.1
"""Share of the time-out after which the last use is stored again."""

MOST_REMEMBERED: Final = 5_000
"""Sign-ins in memory; those beyond are read again."""

ATTEMPTS: Final = 5


@dataclass(slots=True)
class _State:
    """What this process knows of a sign-in: its last use anywhere, and when that was stored and looked at."""

    used: datetime
    stored: datetime | None = None
    looked: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: bool = False


class SignIns:
    """The sign-ins to the page of one bucket. ``idle`` is the longest time without use; None: any. Thread-safe."""

    def __init__(self, store: Store, idle: timedelta | None) -> None:
        self._store = store
        self._idle = idle
        self._lock = threading.Lock()
        self._states: OrderedDict[str, _State] = OrderedDict()

    def of(self, issuer: str, subject: str, issued: datetime) -> "SignIn":
        """The sign-in of a person at a time, which the sign-in service's token names."""
        identity = orjson.dumps([issuer, subject, issued.timestamp()])
        return SignIn(self, hashlib.sha256(identity).hexdigest(), issued)

    def is_over(self, name: str, issued: datetime) -> bool:
        """Whether it was signed out of, or not used for too long. Reads S3 at most every `LOOK_SECONDS`."""
        now = datetime.now(UTC)
        state = self._remembered(name)
        if state is None or (now - state.looked).total_seconds() >= LOOK_SECONDS or self._too_old(state, now):
            state = self._look(name, issued, state)
        return state.ended or self._too_old(state, now)

    def use(self, name: str, issued: datetime) -> None:
        """Notes that a person did something. A sign-in that is over stays so."""
        if self.is_over(name, issued):
            return
        now = datetime.now(UTC)
        with self._lock:
            state = self._states.get(name)
            if state is None or self._idle is None:
                return
            state.used = now
            due = state.stored is None or now - state.stored >= self._idle * WRITE_SHARE
        if due:
            self._write(name, {"Used": now.isoformat()})
            self._look(name, issued, state)

    def end(self, name: str, issued: datetime) -> None:
        """Ends it for all processes and for good."""
        self._write(name, {"Ended": datetime.now(UTC).isoformat()})
        if not self._look(name, issued, None).ended:
            raise UsageError("the sign-out could not be stored; sign out again")

    def _too_old(self, state: _State, now: datetime) -> bool:
        return self._idle is not None and now - state.used > self._idle

    def _remembered(self, name: str) -> _State | None:
        with self._lock:
            if name in self._states:
                self._states.move_to_end(name)
            return self._states.get(name)

    def _look(self, name: str, issued: datetime, known: _State | None) -> _State:
        content = self._store.read(sign_in_key(name))
        document = _document(content.data) if content else {}
        # One that was never used here may be as old as a time without use, but not older.
        stored = _time(document.get("Used"))
        used = max(filter(None, (issued, stored, known.used if known else None)))
        state = _State(used, stored, ended="Ended" in document)
        with self._lock:
            self._states[name] = state
            self._states.move_to_end(name)
            if len(self._states) > MOST_REMEMBERED:
                self._states.popitem(last=False)
        return state

    def _write(self, name: str, change: Mapping[str, str]) -> None:
        """Changes the document; what another process wrote meanwhile stays, above all the end."""
        key = sign_in_key(name)
        for _ in range(ATTEMPTS):
            content = self._store.read(key)
            document = _document(content.data) if content else {}
            if "Ended" in document:
                return
            with suppress(PreconditionFailed):
                etag = content.etag if content else None
                self._store.write_json(
                    key, {"Version": 1, **document, **change}, if_absent=etag is None, if_etag=etag
                )
                return


@dataclass(frozen=True, slots=True)
class SignIn:
    """One sign-in. ``name`` is a hash that says nothing about the person."""

    sign_ins: SignIns
    name: str
    issued: datetime

    @property
    def is_over(self) -> bool:
        """Whether it was signed out of, or not used for too long."""
        return self.sign_ins.is_over(self.name, self.issued)

    def use(self) -> None:
        """Notes that its person did something."""
        self.sign_ins.use(self.name, self.issued)

    def end(self) -> None:
        """Ends it: the person signed out."""
        self.sign_ins.end(self.name, self.issued)


def _document(data: bytes) -> dict[str, Any]:
    """The stored document. One that cannot be read ends the sign-in: the person signs in again."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        document = None
    return document if isinstance(document, dict) else {"Ended": ""}


def _time(text: object) -> datetime | None:
    """A stored time; None for what is no time, or one without a time zone."""
    try:
        time = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None
