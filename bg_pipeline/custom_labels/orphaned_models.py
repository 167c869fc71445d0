"""Stops Custom Labels models that were started by runs which were killed before they could stop them."""

import time
from collections.abc import Callable, Mapping

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel

from bg_pipeline.aws.clients import Aws
from bg_pipeline.custom_labels.model import CustomModel
from bg_pipeline.custom_labels.window import Window, WindowRecord, describe_owner, read_record
from bg_pipeline.domain import s3_keys
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.state.leases import TTL_SECONDS, Leases, seconds_since_boot
from bg_pipeline.storage.object_store import Store

POLL_SECONDS = 5.0
"""Seconds between two checks of `stop_orphaned_models`."""
MIN_SIGHTINGS = 3
"""A lease that was seen unchanged this often, and for longer than its ``ttl``, belongs to a dead run.

Time alone is not enough: a laptop that slept between two checks would take its own run for dead.
"""


class ModelSighting(BaseModel):
    """A lease that was seen unchanged: its ETag, how often, and since when (seconds since this machine's boot)."""

    etag: str
    looks: int
    since: float


class OrphanedModelCheck:
    """Checks every recorded start, and stops the models of dead runs; models without a record are left alone.

    ``seen`` are the sightings of leases, by key: those of the previous check before `check`, its own afterwards.
    ``left`` are the models that the last check could not stop yet. The death of a run on this machine is known at
    once, on another machine after `MIN_SIGHTINGS` checks.
    """

    def __init__(
        self,
        store: Store,
        aws: Aws,
        seen: Mapping[str, ModelSighting],
        *,
        clock: Callable[[], float] = seconds_since_boot,
    ) -> None:
        self.seen = dict(seen)
        self.left: list[str] = []
        self._store = store
        self._aws = aws
        self._clock = clock

    def check(self) -> list[str]:
        """Stops the models of dead runs; returns a log line about each recorded start, none if there is no record.

        A model that cannot be stopped yet, because it is still starting, is stopped by a later check.
        """
        lines: list[str] = []
        previous, self.seen, self.left = self.seen, {}, []
        for stored in self._store.list(f"{s3_keys.WINDOWS}/models/"):
            if stored.key.endswith("/start.json"):
                record, _ = read_record(self._store, stored.key)
                if record is None:
                    lines.append(
                        f"{stored.key} is not a valid record of a start: stop the model if it is on, then delete it"
                    )
                else:
                    lines += self._check_record(record, previous)
        return lines

    def _check_record(self, record: WindowRecord, previous: Mapping[str, ModelSighting]) -> list[str]:
        key = s3_keys.window_key(record.model, "lease")
        expired_etag = self._expired_lease(key, previous.get(key))
        lines: list[str] = []
        with Leases(self._store, "custom_labels_guard") as leases:
            lease = leases.acquire(key, expired_etag=expired_etag)
            if lease is None:
                return [f"{describe_owner(self._store, record.model)} is using {record.model}"]
            with lease:
                model = CustomModel(self._aws, record.model)
                window = Window(model, self._store, lease, run=record.run, note=lines.append)
                window.stop("guard", timeout=0)
        if window.report is None:
            self.left.append(record.model)
        else:
            lines.append(
                f"run {record.run} had left {record.model} on: it is off now, after {window.report.hours:.2f} hours; "
                f"see {window.report_key}"
            )
        return lines

    def _expired_lease(self, key: str, previous: ModelSighting | None) -> str | None:
        """Records a sighting of a lease; returns its ETag if it belongs to a dead run."""
        lease = self._store.head(key)
        if lease is None:
            return None
        now = self._clock()
        if previous is not None and previous.etag == lease.etag and previous.since <= now:
            sighting = previous.model_copy(update={"looks": previous.looks + 1})
        else:
            sighting = ModelSighting(etag=lease.etag, looks=1, since=now)
        self.seen[key] = sighting
        is_expired = sighting.looks >= MIN_SIGHTINGS and now - sighting.since > TTL_SECONDS
        return lease.etag if is_expired else None


def stop_orphaned_models(store: Store, aws: Aws, timeout: float, note: Callable[[str], None]) -> None:
    """Stops the models that dead runs of this machine left on; called when the last process that could do it ends.

    A model that is starting cannot be stopped; this waits up to ``timeout`` seconds for it. ``note`` gets a line
    about each change and about each model that is still on at the end. Models of live runs elsewhere are left alone.
    """
    check = OrphanedModelCheck(store, aws, {})
    deadline = seconds_since_boot() + timeout
    last_note = ""
    while True:
        try:
            lines = check.check()
        except (ClientError, BotoCoreError, BgPipelineError) as error:
            note(f"It could not be checked whether a Custom Labels model was left on: {error}")
            return
        if lines and lines != [last_note]:
            note("; ".join(lines))
            last_note = "; ".join(lines)
        if not check.left:
            return
        if seconds_since_boot() >= deadline:
            note(
                f"{', '.join(check.left)} is STILL ON and costs money: stop it in the Rekognition Custom Labels "
                "console, or start this again, which stops it"
            )
            return
        time.sleep(POLL_SECONDS)
