"""Counts the processes that currently share a quota: each renews a heartbeat object in S3 while it has work.

Ages are differences between S3's own times: the newest heartbeat of a listing, usually the one just written, stands
for the current time. The machines' clocks do not matter.
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
"""Seconds between heartbeats, and so until other processes notice that a process started or ended its work."""
WRITES_PER_MINUTE = 60 / PERIOD_SECONDS
"""S3 PUTs per minute of one process for each (operation, Region) that it has work for; none without work."""
LISTS_PER_MINUTE = 60 / PERIOD_SECONDS
"""S3 LISTs per minute of a process with work, for all operations and Regions together (per 1,000 heartbeats)."""
STALE_PERIODS = 3.5
"""Periods after which a silent process no longer counts: three heartbeats may fail. A killed process keeps its share
of the quota for this long."""
SWEPT_AFTER = timedelta(hours=1)
"""Heartbeats older than this were left by killed processes; any process deletes them."""

QuotaKey = tuple[str, str]
"""An operation and a Region, which together have one quota."""

OnChange = Callable[[str, int, int], None]
"""Called with a Region, the number of processes with work there, and this process's index among them, from 0."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Work:
    keys: frozenset[QuotaKey]
    on_change: OnChange
    reported: dict[QuotaKey, tuple[int, int]] = field(default_factory=dict)


class Heartbeats:
    """Publishes this process's work to other processes, and reports how many processes share each of its quotas.

    Objects are ``<prefix>/<operation>/<region>/<process>.json``. One background thread runs while there is work. If
    S3 does not answer, the last known numbers stay valid.
    """

    def __init__(
        self, store: Store, prefix: str, *, process: str = "", period: float = PERIOD_SECONDS
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._process = process or process_name()
        self._period = period
        self._works: list[_Work] = []
        self._live: dict[QuotaKey, list[str]] = {}
        self._idle = threading.Event()
        self._beating = threading.Lock()

    def live(self, operation: str, region: str) -> int:
        """The number of processes with such work at the last heartbeat, at least 1 (this one). Makes no request."""
        return max(len(self._live.get((operation, region), ())), 1)

    @contextmanager
    def working(self, operation: str, regions: Sequence[str], on_change: OnChange) -> Iterator[None]:
        """Within the block this process counts as having work for ``operation`` in each of ``regions``.

        ``on_change`` is called for each Region before the block begins, and by the background thread whenever the
        number of processes there or this one's index changes. Blocks may nest and overlap in several threads; the
        process counts once.
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
                for key in work.keys - self._keys():
                    self._remove(self._object_key(key))

    def beat(self) -> None:
        """Writes and counts the heartbeats now; the background thread does so every ``period`` seconds."""
        with self._beating:
            try:
                for key in self._keys():
                    self._store.write(self._object_key(key), b"{}\n", media_type="application/json")
                self._count()
            except (BotoCoreError, ClientError) as error:
                _log.warning("heartbeats could not be renewed or counted: %s", error)
            for work in self._works:
                for key in work.keys:
                    count = self.live(*key)
                    processes = self._live.get(key, [])
                    index = processes.index(self._process) if self._process in processes else 0
                    if work.reported.get(key) != (count, index):
                        work.reported[key] = count, index
                        work.on_change(key[1], count, index)

    def _keep_beating(self, idle: threading.Event) -> None:
        while not idle.wait(self._period):
            self.beat()

    def _count(self) -> None:
        heartbeats = list(self._store.list(f"{self._prefix}/"))
        if not heartbeats:
            return
        now = max(heartbeat.modified for heartbeat in heartbeats)
        live: dict[QuotaKey, list[str]] = {}
        for heartbeat in heartbeats:
            match heartbeat.key.removeprefix(f"{self._prefix}/").removesuffix(".json").split("/"):
                case operation, region, process:
                    age = now - heartbeat.modified
                    dead = is_dead(process)
                    if dead or age > SWEPT_AFTER:
                        self._remove(heartbeat.key)
                    elif age.total_seconds() <= STALE_PERIODS * self._period:
                        live.setdefault((operation, region), []).append(process)
        self._live = live

    def _keys(self) -> set[QuotaKey]:
        return {key for work in self._works for key in work.keys}

    def _object_key(self, key: QuotaKey) -> str:
        return f"{self._prefix}/{key[0]}/{key[1]}/{self._process}.json"

    def _remove(self, key: str) -> None:
        try:
            self._store.delete(key)
        except (BotoCoreError, ClientError) as error:
            _log.warning("the heartbeat %s could not be deleted: %s", key, error)
