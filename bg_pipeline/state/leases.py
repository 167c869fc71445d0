"""Leases, each giving one process the exclusive right to a batch: S3 objects changed only by conditional writes.

A lease is valid for ``ttl`` seconds after each renewal. Clocks of different machines are never compared: a waiting
process watches the ETag and takes the lease over once it has been unchanged for longer than ``ttl`` on its own clock;
the holder stops relying on the lease a fifth of ``ttl`` earlier on its own clock. In two cases there is no need to
watch: the holder was a process of this machine that has ended, or S3's date of the last renewal is so old that even
the largest clock error that S3 accepts cannot explain it.
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
"""Renewals (S3 writes) of each held lease in ``ttl`` seconds; two in a row may fail without losing it."""
TRUSTED_SHARE = 0.8
"""The fraction of ``ttl`` after the last renewal at which the holder itself treats its lease as lost."""
POLL_SECONDS = 2.0
"""Mean seconds between two reads of a lease that another process holds."""
CLOCK_SKEW = timedelta(minutes=15)
"""S3 refuses requests from clients whose clock is off by more than this (``RequestTimeTooSkewed``)."""

_log = logging.getLogger(__name__)


def seconds_since_boot() -> float:
    """A monotonic clock that, where the system has one (``CLOCK_BOOTTIME``), also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Holder(BaseModel):
    """The stored lease document. Its times are from the holder's clock and only for people to read."""

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
    """The holder in the stored lease, which may have been killed; None if there is no lease or it is unreadable."""
    content = store.read(key)
    return _parsed(content.data) if content else None


def is_held(store: Store, key: str) -> bool:
    """Whether a process may be working under the lease at ``key``; costs one request.

    Wrongly True for up to `CLOCK_SKEW` plus the lease's ``ttl`` after a crash on another machine.
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
    """An exclusive right to one piece of work while `held` returns True; created by `Leases.acquire`.

    ``lost`` is set when the lease ends: taken over, not renewed in time, or released. Leaving the ``with`` block
    releases it. ``left_behind`` is True if the previous holder did not release it; that process may have stored
    results that it did not record.
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

    @property
    def token(self) -> str:
        """Names this lease in its stored document, until another process has the lease."""
        return self._holder.token

    def held(self) -> bool:
        """Whether no other process can be working under this lease; check it before each paid call.

        Makes no request while renewals succeed. After the process was suspended (as on a sleeping laptop) it renews
        the lease first.
        """
        if not self.lost.is_set() and self._expired():
            self.renew()
        return not self.lost.is_set()

    def renew(self) -> None:
        """Tries once to renew; sets ``lost`` if another process has the lease, or if S3 fails and it has expired."""
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
        """Deletes the lease, so that the next process need not wait; leaves a lease alone that was taken over."""
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
                _log.warning("the lease %s could not be released and will expire: %s", self.key, error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Leases:
    """All leases of one run, renewed by one background thread until `close`.

    ``run`` is the run's id, which is stored in the leases. Use one object for all attempts to acquire a lease: it
    remembers since when it has seen another process's lease unchanged.
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
        self._first_seen: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(
        self,
        key: str,
        *,
        wait: float | None = 0.0,
        stop: threading.Event | None = None,
        expired_etag: str | None = None,
    ) -> Lease | None:
        """Acquires the lease at ``key``; returns None after ``wait`` seconds (None: no limit), or when ``stop`` is
        set.

        Tries at once and then about every `POLL_SECONDS`. ``expired_etag`` is the ETag of a lease that the caller has
        itself seen unchanged for longer than its ``ttl``, and may be taken over at once. Raises boto3's errors of S3.
        """
        stop = stop or threading.Event()
        deadline = None if wait is None else self.clock() + wait
        while (lease := self._attempt(key, expired_etag)) is None:
            pause = POLL_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311
            if deadline is not None:
                pause = min(pause, deadline - self.clock())
            if pause <= 0 or stop.wait(pause):
                return None
        return lease

    def _attempt(self, key: str, expired_etag: str | None) -> Lease | None:
        stored = self.store.read(key)
        if stored is not None and stored.etag != expired_etag and not self._abandoned(key, stored):
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
        etag = self.write(key, holder, stored.etag if stored else None)
        if etag is None:
            return None
        lease = Lease(self, key, holder, etag, started, left_behind=stored is not None)
        with self._lock:
            self._first_seen.pop(key, None)
            self._held.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._renew_all, name="leases", daemon=True)
                self._thread.start()
        return lease

    def _abandoned(self, key: str, stored: ObjectContent) -> bool:
        holder = _parsed(stored.data)
        ttl = holder.ttl_seconds if holder else self.ttl
        now = self.clock()
        with self._lock:
            if self._first_seen.get(key, ("", 0.0))[0] != stored.etag:
                self._first_seen[key] = (stored.etag, now)
            first_seen = self._first_seen[key][1]
        return (
            now - first_seen > ttl
            or datetime.now(UTC) - stored.modified > timedelta(seconds=ttl) + CLOCK_SKEW
            or (holder is not None and is_dead(holder.process))
        )

    def write(self, key: str, holder: Holder, if_etag: str | None) -> str | None:
        """Writes a lease over the version ``if_etag`` (None: if there is none).

        Returns the new ETag, or None if another process was first.
        """
        data = holder.model_dump_json(by_alias=True, indent=2).encode()
        return compare_and_swap(self.store, key, data, token=holder.token, if_etag=if_etag)

    def drop(self, lease: Lease) -> None:
        """Stops renewing a lease."""
        with self._lock:
            self._held.discard(lease)

    def keep_until_expiry(self, lease: Lease) -> None:
        """Stops renewing and using a lease without releasing it, because calls made under it may still be running."""
        self.drop(lease)
        lease.lost.set()

    def _renew_all(self) -> None:
        while not self._closed.wait(self.ttl / RENEWALS_PER_TTL):
            with self._lock:
                held = list(self._held)
            for lease in held:
                lease.renew()

    def close(self) -> None:
        """Releases every held lease and ends the background thread; nothing may be acquired afterwards."""
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
    """None if the bytes are not a valid lease; the object then counts as a lease of an unknown holder."""
    try:
        return Holder.model_validate_json(data)
    except ValidationError:
        return None
