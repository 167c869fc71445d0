"""What has to be told after a run has ended: each report that was written, and what it left without one.

At least once: a mark in the bucket says, for each report and each way of sending, which state of it was told, and
is written after the notice went out. A run that is executed again, or looked at again, tells only what is new.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

from bg_pipeline.domain import requests, s3_keys
from bg_pipeline.domain.batches import Batch, find_batch
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.errors import BgPipelineError, RequestError
from bg_pipeline.notifications.messages import (
    Notification,
    RunFailure,
    StoredReport,
    batch_finished,
    batch_unreported,
)
from bg_pipeline.notifications.senders import NotSent, Sender
from bg_pipeline.quality.missing_reports import unreported
from bg_pipeline.reports.overview import ShareLink
from bg_pipeline.reports.report import Report
from bg_pipeline.settings import Settings
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import ObjectInfo, Store

CLOCKS: Final = timedelta(seconds=60)
"""How far the clocks of S3 and of the machine that runs may be apart."""

_FOR_PEOPLE: Final = ("html", "csv", "json")
"""The forms of a report, the one that a person opens first."""


@dataclass(frozen=True)
class EndedRun:
    """A run that ended at ``until``; ``since`` is when it, or the run that it repeats, began.

    Not ``succeeded``: it failed, for Dagster's ``reason``, or was ``cancelled``; ``retried`` says that Dagster
    starts it again by itself.
    """

    run_id: str
    since: datetime
    until: datetime
    succeeded: bool = True
    cancelled: bool = False
    reason: str = ""
    retried: bool = False

    def failure(self, day: UploadDate, left: Sequence[str] | None) -> RunFailure:
        """That it left batches of a date without a report."""
        return RunFailure(self.run_id, day, self.cancelled, self.reason, self.retried, left)


@dataclass
class Notifier:
    """Tells what came of runs through all ``senders``; one that fails is not tried again by this object.

    ``link`` makes a link to an object of a bucket; ``say`` takes a line for the log; once ``is_late`` nothing more
    is begun. ``sent`` counts the notices that went out.
    """

    settings: Settings
    store: Store
    senders: Sequence[Sender]
    link: Callable[[Store, str], ShareLink]
    log: Callable[[str], None]
    is_late: Callable[[], bool] = lambda: False
    sent: int = 0
    _failed: dict[str, str] = field(default_factory=dict)

    def notify(self, run: EndedRun, day: UploadDate) -> bool:
        """Tells what a run did for one of its dates; False where it got too late for all of it.

        Raises `NotSent` where somebody could not be told. What was told stays told: call it again for the rest.
        """
        marks = {
            mark.key: mark.modified
            for mark in self.store.list(f"{s3_keys.NOTICES}/{s3_keys.date_path(day)}/")
        }
        failed: set[str] = set()
        for batch, store, found in self._reports(run, day):
            keys = [s3_keys.notice_key(found.key, sender.name) for sender in self.senders]
            # Times have whole seconds: at the same one, only the mark itself can tell.
            if all(key in marks and marks[key] > found.modified for key in keys):
                continue
            if self.is_late():
                return False
            failed |= self._notify_report(batch, store, found)
        if not run.succeeded:
            now = datetime.now(UTC)
            left = [each.batch.path for each in unreported(self.store, self.settings, day, before=run.until)]
            if left:
                failed |= self._notify(
                    partial(s3_keys.run_notice_key, run.run_id, day),
                    run.run_id,
                    lambda: batch_unreported(run.failure(day, left), self.store.bucket, now),
                )
        self._raise_not_sent(failed)
        return True

    def notify_without_details(self, run: EndedRun, day: UploadDate) -> None:
        """Tells that a run ended badly where the bucket cannot be looked at, and keeps no mark of it."""
        notice = batch_unreported(run.failure(day, None), self.store.bucket, datetime.now(UTC))
        self._raise_not_sent({sender.name for sender in self.senders if not self._sent(sender, notice)})

    def _raise_not_sent(self, failed: set[str]) -> None:
        if failed:
            raise NotSent("; ".join(self._failed[name] for name in sorted(failed)))

    def _notify(self, mark: Callable[[str], str], state: str, make: Callable[[], Notification]) -> set[str]:
        """Sends a notice through whom it was not sent in this state yet; the names of those that failed."""
        failed, notice = set(), None
        for sender in self.senders:
            key = mark(sender.name)
            told = self.store.read_json(key)
            if isinstance(told, dict) and told.get("State") == state:
                continue
            notice = notice or make()
            if self._sent(sender, notice):
                sent_at = datetime.now(UTC).isoformat(timespec="seconds")
                self.store.write_json(
                    key, {"Version": 1, "State": state, "SentAt": sent_at, "Subject": notice.subject}
                )
            else:
                failed.add(sender.name)
        return failed

    def _sent(self, sender: Sender, notice: Notification) -> bool:
        if sender.name in self._failed:
            return False
        try:
            sender.send(notice)
        except NotSent as error:
            self._failed[sender.name] = str(error)
            return False
        self.sent += 1
        self.log(f"told through {sender.name}: {notice.subject}")
        return True

    # Reports

    def _reports(self, run: EndedRun, day: UploadDate) -> Iterator[tuple[Batch, Store, ObjectInfo]]:
        """The reports of a date that were written since the run began, wherever they lie."""
        begun = run.since - CLOCKS
        filed: set[Batch] = set()
        for found in self.store.list(f"{s3_keys.REPORTS}/{s3_keys.date_path(day)}/"):
            batch = find_batch(found.key)
            if batch is not None and s3_keys.is_report(found.key):
                filed.add(batch)
                if found.modified >= begun:
                    yield batch, self.store, found
        for batch, ledger in self._ledgers(day, begun).items():
            elsewhere = None if batch in filed else self._report_at_own_place(batch, ledger)
            if elsewhere is not None and elsewhere[1].modified >= begun:
                yield batch, *elsewhere

    def _ledgers(self, day: UploadDate, begun: datetime) -> dict[Batch, list[ObjectInfo]]:
        """The ledgers of a date that were written to since the run began."""
        ledgers: dict[Batch, list[ObjectInfo]] = {}
        for found in self.store.list(f"{s3_keys.STATE}/ledger/{s3_keys.date_path(day)}/"):
            batch = find_batch(found.key.removeprefix(f"{s3_keys.STATE}/ledger/"))
            if batch is not None and found.modified >= begun:
                ledgers.setdefault(batch, []).append(found)
        return ledgers

    def _report_at_own_place(
        self, batch: Batch, ledger: Sequence[ObjectInfo]
    ) -> tuple[Store, ObjectInfo] | None:
        """The report of a batch whose request names a place of its own for it."""
        text = Ledger.read(self.store, batch, ledger).header.get("Request", "")
        try:
            request = requests.read(
                text.encode(),
                bucket=self.store.bucket,
                batch=batch,
                allowed_buckets=self.settings.allowed_buckets,
                presets=PRESET_REQUESTS,
            )
        except RequestError:
            return None
        store = self.store.in_bucket(request.S3Bucket)
        found = store.head(s3_keys.report_key(request.StatusS3Prefix, request.Id))
        return None if found is None else (store, found)

    def _notify_report(self, batch: Batch, store: Store, found: ObjectInfo) -> set[str]:
        content = store.read(found.key)
        if content is None:
            return set()
        try:
            report = Report.read(content.data)
        except BgPipelineError as error:
            self.log(f"{found.key} cannot be told of: {error}")
            return set()

        def make() -> Notification:
            link = self.link(store, _most_readable_form(store, found.key))
            return batch_finished(
                StoredReport(batch.path, store.bucket, found.key, report, link), datetime.now(UTC)
            )

        state = hashlib.sha256(content.data).hexdigest()
        return self._notify(partial(s3_keys.notice_key, found.key), state, make)


def _most_readable_form(store: Store, key: str) -> str:
    """The form of a report that a person opens first, of those that there are."""
    stem = key.removesuffix("json")
    there = {found.key for found in store.list(stem)}
    return next((f"{stem}{form}" for form in _FOR_PEOPLE if f"{stem}{form}" in there), key)
