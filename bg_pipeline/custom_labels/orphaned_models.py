"""Stops Custom Labels models that runs started and, because they were killed, did not stop."""

import time
from collections.abc import Callable, Mapping

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel

from bg_pipeline.aws.clients import Aws
from bg_pipeline.custom_labels.model import CustomModel
from bg_pipeline.custom_labels.window import Window, WindowRecord, owner, read_record
from bg_pipeline.domain import s3_keys
from bg_pipeline.errors import BgPipelineError
from bg_pipeline.state.leases import TTL_SECONDS, Leases, seconds_since_boot
from bg_pipeline.storage.object_store import Store

SEE_OFF_SECONDS = 5.0
"""Between two looks of `see_off`."""
LOOKS = 3
"""A lease that was seen unchanged so often, and for longer than it is good for, is a dead run's.

By time alone, a laptop that slept between two looks would count its own run as dead.
"""


class ModelSighting(BaseModel):
    """A lease as it was seen: its tag, how often, and since when (seconds since this machine's boot)."""

    etag: str
    looks: int
    since: float


class OrphanedModelCheck:
    """Looks at every recorded start; a start whose run lives is left alone, as is a model without a record.

    ``seen`` is what the last look saw of the leases, by key, and after `look` what this one saw. ``left`` are the
    models that the last look could not stop yet. A run of this machine is known to be dead at once, one of another
    machine after `LOOKS`.
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
        """Stops what is to be stopped; a line for a person about each start, none if no model is on.

        What cannot be stopped yet, because it is starting, is stopped by a later look.
        """
        lines: list[str] = []
        before, self.seen, self.left = self.seen, {}, []
        for found in self._store.list(f"{s3_keys.WINDOWS}/models/"):
            if found.key.endswith("/start.json"):
                record, _ = read_record(self._store, found.key)
                if record is None:
                    lines.append(
                        f"{found.key} is no record of a start: stop the model if it is on, and remove it"
                    )
                else:
                    lines += self._look_at(record, before)
        return lines

    def _look_at(self, record: WindowRecord, before: Mapping[str, ModelSighting]) -> list[str]:
        key = s3_keys.window_key(record.model, "lease")
        outworn = self._see(key, before.get(key))
        lines: list[str] = []
        with Leases(self._store, "custom_labels_guard") as leases:
            lease = leases.acquire(key, outworn=outworn)
            if lease is None:
                return [f"{owner(self._store, record.model)} has {record.model} on"]
            with lease:
                model = CustomModel(self._aws, record.model)
                window = Window(model, self._store, lease, run=record.run, note=lines.append)
                window.stop("guard", patience=0)
        if window.report is None:
            self.left.append(record.model)
        else:
            lines.append(
                f"run {record.run} had left {record.model} on: it is off now, after {window.report.hours:.2f} hours; "
                f"see {window.report_key}"
            )
        return lines

    def _see(self, key: str, before: ModelSighting | None) -> str | None:
        """Looks at a lease; its tag if it is outworn."""
        held = self._store.head(key)
        if held is None:
            return None
        now = self._clock()
        if before is not None and before.etag == held.etag and before.since <= now:
            sight = before.model_copy(update={"looks": before.looks + 1})
        else:
            sight = ModelSighting(etag=held.etag, looks=1, since=now)
        self.seen[key] = sight
        return held.etag if sight.looks >= LOOKS and now - sight.since > TTL_SECONDS else None


def stop_orphaned_models(store: Store, aws: Aws, seconds: float, say: Callable[[str], None]) -> None:
    """Stops, before the last process ends that could do it, what dead runs of this machine left on.

    A model that is starting cannot be stopped: it is waited for, for ``seconds``. What is still on then, and what
    was done, ``say`` tells in lines for a person. Models of runs that live elsewhere are left alone.
    """
    guard = OrphanedModelCheck(store, aws, {})
    give_up = seconds_since_boot() + seconds
    told = ""
    while True:
        try:
            lines = guard.check()
        except (ClientError, BotoCoreError, BgPipelineError) as error:
            say(f"Whether a Custom Labels model was left on could not be looked up: {error}")
            return
        if lines and lines != [told]:
            say("; ".join(lines))
            told = "; ".join(lines)
        if not guard.left:
            return
        if seconds_since_boot() >= give_up:
            say(
                f"{', '.join(guard.left)} is STILL ON and costs money: stop it in the Rekognition Custom Labels "
                "console, or start this again, which stops it"
            )
            return
        time.sleep(SEE_OFF_SECONDS)
