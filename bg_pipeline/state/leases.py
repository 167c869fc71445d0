"""Who works on a batch: one small object per piece of work, taken, renewed and taken over by conditional writes.

A lease is good for ``ttl`` seconds after each renewal, and no two machines' clocks are compared: whoever wants
it watches its ETag and takes it over after seeing it unchanged for longer than ``ttl`` on the own clock; the
holder stops trusting it a fifth of ``ttl`` earlier on its own. Two shortcuts spare the watching: the holder was
a process of this machine that has ended, or S3 dates the last renewal so far back that no clock S3 would
accept can explain it.
"""

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Self

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_pascal

from bg_pipeline.errors import PreconditionFailed
from bg_pipeline.state.process_identity import is_dead, process_name
from bg_pipeline.storage.conditional_writes import compare_and_swap
from bg_pipeline.storage.object_store import ObjectContent, Store

TTL_SECONDS = 60.0
RENEWALS_PER_TTL = 4
"""S3 writes for each lease held in ``ttl`` seconds: two renewals in a row may fail without harm."""
TRUSTED_SHARE = 0.8
"""The share of ``ttl`` after which a holder that could not renew no longer trusts its lease."""
POLL_SECONDS = 2.0
"""Mean time between two looks at a lease that somebody else holds."""
CLOCK_SKEW = timedelta(minutes=15)
"""S3 refuses requests of a sender whose clock is further off than this (RequestTimeTooSkewed)."""

_log = logging.getLogger(__name__)


def seconds_since_boot() -> float:
    """A clock nobody sets; where the system has such a one, it also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Holder(BaseModel):
    """What a lease says of who holds it. Its times are the holder's own clock and for people only."""

    model_config = ConfigDict(frozen=True, alias_generator=to_pascal, populate_by_name=True)

    version: int = 1
    run: str = ""
    host: str = ""
    pid: int = 0
    since: datetime
    renewed: datetime
    renewals: int = 0
    ttl_seconds: float = Field(TTL_SECONDS, gt=0, le=3600)
    process: str
    token: str


def holder_of(store: Store, key: str) -> Holder | None:
    """Who holds the lease, or left it behind when killed; None if it is free."""
    content = store.read(key)
    return _parsed(content.data) if content else None


def at_work(store: Store, key: str) -> bool:
    """Whether somebody may be at work under the lease at ``key``, by one look.

    For up to `CLOCK_SKEW` and the lease's ``ttl`` after a crash on another machine it says so wrongly.
    """
    content = store.read(key)
    if content is None:
        return False
    holder = _parsed(content.data)
    ttl = timedelta(seconds=holder.ttl_seconds if holder else TTL_SECONDS)
    return datetime.now(UTC) - content.modified <= ttl + CLOCK_SKEW and not (
        holder is not None and is_dead(holder.process)
    )


class Lease:
    """The right to work on one thing for as long as `held` says so; made by `Leases.acquire`.

    ``lost`` is set once it is over: taken over by somebody else, not renewed in time, or released. Leaving
    the ``with`` block releases it. ``left_behind`` says that who had it before did not give it back, and may have
    stored what it told nobody.
    """

    def __init__(
        self, leases: "Leases", key: str, holder: Holder, etag: str, since: float, *, left_behind: bool
    ) -> None:
        self.key = key
        self.left_behind = left_behind
        self.lost = threading.Event()
        self._leases = leases
        self._holder = holder
        self._etag = etag
        self._renewed_at = since
        self._lock = threading.Lock()

    def held(self) -> bool:
        """True if nobody else can be at work under this lease now; ask before each call that costs money.

        Free while renewals succeed. After a pause of the whole process (a laptop that slept) it renews first.
        """
        if not self.lost.is_set() and self._expired():
            self.renew()
        return not self.lost.is_set()

    def renew(self) -> None:
        """Tries once to renew; sets ``lost`` if somebody else has it, or if it fails and the lease is outworn."""
        with self._lock:
            if self.lost.is_set():
                return
            started = self._leases.clock()
            renewed = {"renewed": datetime.now(UTC), "renewals": self._holder.renewals + 1}
            holder = self._holder.model_copy(update=renewed)
            try:
                etag = self._leases.write(self.key, holder, self._etag)
            except (BotoCoreError, ClientError) as error:
                _log.warning("the lease %s could not be renewed: %s", self.key, error)
                if self._expired():
                    self.lost.set()
                return
            if etag is None:
                _log.warning("the lease %s was taken over by another process", self.key)
                self.lost.set()
            else:
                self._holder, self._etag, self._renewed_at = holder, etag, started

    def _expired(self) -> bool:
        return self._leases.clock() - self._renewed_at >= self._leases.ttl * TRUSTED_SHARE

    def release(self) -> None:
        """Gives the lease back, so that the next one need not wait; leaves alone what is no longer ours."""
        with self._lock:
            self._leases.drop(self)
            if self.lost.is_set():
                return
            self.lost.set()
            try:
                self._leases.store.delete(self.key, if_etag=self._etag)
            except PreconditionFailed:
                _log.warning("the lease %s was taken over by another process", self.key)
            except (BotoCoreError, ClientError) as error:
                _log.warning("the lease %s was not given back and will run out: %s", self.key, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Leases:
    """All leases of one run, renewed by one background thread until `close`.

    ``run`` is the run's id, for whoever asks who holds a lease. Keep one object for as long as leases are
    wanted: it remembers since when it has seen another's lease unchanged.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        *,
        ttl: float = TTL_SECONDS,
        clock: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self.store = store
        self.run = run
        self.ttl = ttl
        self.clock = clock
        self._held: set[Lease] = set()
        self._seen: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(
        self,
        key: str,
        *,
        wait: float | None = 0.0,
        stop: threading.Event | None = None,
        outworn: str | None = None,
    ) -> Lease | None:
        """The lease at ``key``; None if another still has it after ``wait`` seconds (None: for ever) or on ``stop``.

        Looks at least once, then about every `POLL_SECONDS`. ``outworn`` is the tag of a lease that the caller itself
        has seen unchanged for longer than its ``ttl``. Raises what boto3 raises if S3 does not answer.
        """
        stop = stop or threading.Event()
        give_up = None if wait is None else self.clock() + wait
        while (lease := self._attempt(key, outworn)) is None:
            pause = POLL_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311
            if give_up is not None:
                pause = min(pause, give_up - self.clock())
            if pause <= 0 or stop.wait(pause):
                return None
        return lease

    def _attempt(self, key: str, outworn: str | None) -> Lease | None:
        there = self.store.read(key)
        if there is not None and there.etag != outworn and not self._abandoned(key, there):
            return None
        started, now = self.clock(), datetime.now(UTC)
        holder = Holder(
            run=self.run,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=now,
            renewed=now,
            renewals=0,
            ttl_seconds=self.ttl,
            process=process_name(),
            token=str(uuid.uuid4()),
        )
        etag = self.write(key, holder, there.etag if there else None)
        if etag is None:
            return None
        lease = Lease(self, key, holder, etag, started, left_behind=there is not None)
        with self._lock:
            self._seen.pop(key, None)
            self._held.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_all, name="leases", daemon=True)
                self._thread.start()
        return lease

    def _abandoned(self, key: str, there: ObjectContent) -> bool:
        holder = _parsed(there.data)
        ttl = holder.ttl_seconds if holder else self.ttl
        now = self.clock()
        with self._lock:
            if self._seen.get(key, ("", 0.0))[0] != there.etag:
                self._seen[key] = (there.etag, now)
            first_seen = self._seen[key][1]
        return (
            now - first_seen > ttl
            or datetime.now(UTC) - there.modified > timedelta(seconds=ttl) + CLOCK_SKEW
            or (holder is not None and is_dead(holder.process))
        )

    def write(self, key: str, holder: Holder, over: str | None) -> str | None:
        """Writes a lease over the version ``over`` (None: where none is); its tag, or None if another was first."""
        data = holder.model_dump_json(by_alias=True, indent=2).encode()
        return compare_and_swap(self.store, key, data, token=holder.token, over=over)

    def drop(self, lease: Lease) -> None:
        """Ends the renewals of a lease."""
        with self._lock:
            self._held.discard(lease)

    def keep_until_expiry(self, lease: Lease) -> None:
        """Ends the renewals and the use of a lease without giving it back: calls may still be under way under it."""
        self.drop(lease)
        lease.lost.set()

    def _renew_all(self) -> None:
        while not self._closed.wait(self.ttl / RENEWALS_PER_TTL):
            with self._lock:
                held = list(self._held)
            for lease in held:
                lease.renew()

    def close(self) -> None:
        """Releases every lease still held and ends the background thread; nothing may be acquired after it."""
        self._closed.set()
        with self._lock:
            held, thread = list(self._held), self._thread
        for lease in held:
            lease.release()
        if thread is not None:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parsed(data: bytes) -> Holder | None:
    """None for bytes that are no lease; such an object counts as the lease of somebody unknown."""
    try:
        return Holder.model_validate_json(data)
    except ValidationError:
        return None
