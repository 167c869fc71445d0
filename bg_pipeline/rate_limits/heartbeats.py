"""How many processes share a quota right now: each renews one small object while it has work.

All ages are differences of S3's own times: the newest heartbeat of a listing, as a rule the one just
written, stands for now. A machine whose clock is wrong is counted like any other.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.state.process_identity import is_dead, process_name
from bg_pipeline.storage.object_store import Store

PERIOD_SECONDS = 3.0
"""Within this time the others notice that a process has started or ended its work."""
WRITES_PER_MINUTE = 60 / PERIOD_SECONDS
"""S3 PUTs of one process for each (operation, Region) it has work for; none without work."""
LISTS_PER_MINUTE = 60 / PERIOD_SECONDS
"""S3 LISTs of one process with work, for all operations and Regions together (per 1,000 heartbeats)."""
STALE_PERIODS = 3.5
"""Three heartbeats may fail before a process no longer counts; for so long the share of a killed one is idle."""
SWEPT_AFTER = timedelta(hours=1)
"""What killed processes left behind is removed, by anybody, when it is older than this."""

Lane = tuple[str, str]
"""An operation and a Region: what has a quota of its own."""

OnChange = Callable[[str, int, int], None]
"""Told a Region, how many processes are at work there, and this one's place among them, from 0."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Work:
    lanes: frozenset[Lane]
    on_change: OnChange
    told: dict[Lane, tuple[int, int]] = field(default_factory=dict)


class Heartbeats:
    """Tells other processes of this one's work, and this one how many share each of its quotas.

    Objects are ``<prefix>/<operation>/<region>/<process>.json``. One background thread runs while there is
    work; if S3 does not answer it, the last known numbers stay.
    """

    def __init__(
        self, store: Store, prefix: str, *, process: str = "", period: float = PERIOD_SECONDS
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._process = process or process_name()
        self._period = period
        self._works: list[_Work] = []
        self._live: dict[Lane, list[str]] = {}
        self._idle = threading.Event()
        self._beating = threading.Lock()

    def live(self, operation: str, region: str) -> int:
        """How many processes had work for this when last looked, this one included: at least 1. Costs nothing."""
        return max(len(self._live.get((operation, region), ())), 1)

    @contextmanager
    def working(self, operation: str, regions: Sequence[str], on_change: OnChange) -> Iterator[None]:
        """Inside the block this process counts as one with work for ``operation`` in each of ``regions``.

        ``on_change`` is called for each Region before the block begins, and by the background
        thread whenever the number of processes at work there has changed. Blocks may nest and overlap in
        several threads; the process counts once.
        """
        work = _Work(frozenset((operation, region) for region in regions), on_change)
        with self._beating:
            self._works.append(work)
            if len(self._works) == 1:
                self._idle = threading.Event()
                threading.Thread(
                    target=self._keep_beating, args=(self._idle,), name="heartbeats", daemon=True
                ).start()
        try:
            self.beat()
            yield
        finally:
            with self._beating:
                self._works.remove(work)
                if not self._works:
                    self._idle.set()
                for lane in work.lanes - self._lanes():
                    self._remove(self._key(lane))

    def beat(self) -> None:
        """Renews and counts now what is otherwise renewed and counted every ``period`` seconds."""
        with self._beating:
            try:
                for lane in self._lanes():
                    self._store.write(self._key(lane), b"{}\n", media_type="application/json")
                self._count()
            except (BotoCoreError, ClientError) as error:
                _log.warning("heartbeats could not be renewed or counted: %s", error)
            for work in self._works:
                for lane in work.lanes:
                    number = self.live(*lane)
                    there = self._live.get(lane, [])
                    place = there.index(self._process) if self._process in there else 0
                    if work.told.get(lane) != (number, place):
                        work.told[lane] = number, place
                        work.on_change(lane[1], number, place)

    def _keep_beating(self, idle: threading.Event) -> None:
        while not idle.wait(self._period):
            self.beat()

    def _count(self) -> None:
        found = list(self._store.list(f"{self._prefix}/"))
        if not found:
            return
        now = max(heartbeat.modified for heartbeat in found)
        live: dict[Lane, list[str]] = {}
        for heartbeat in found:
            match heartbeat.key.removeprefix(f"{self._prefix}/").removesuffix(".json").split("/"):
                case operation, region, process:
                    age = now - heartbeat.modified
                    dead = is_dead(process)
                    if dead or age > SWEPT_AFTER:
                        self._remove(heartbeat.key)
                    elif age.total_seconds() <= STALE_PERIODS * self._period:
                        live.setdefault((operation, region), []).append(process)
        self._live = live

    def _lanes(self) -> set[Lane]:
        return {lane for work in self._works for lane in work.lanes}

    def _key(self, lane: Lane) -> str:
        return f"{self._prefix}/{lane[0]}/{lane[1]}/{self._process}.json"

    def _remove(self, key: str) -> None:
        try:
            self._store.delete(key)
        except (BotoCoreError, ClientError) as error:
            _log.warning("the heartbeat %s could not be removed: %s", key, error)
