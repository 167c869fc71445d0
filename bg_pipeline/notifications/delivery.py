"""Sends the notifications after a run has ended: about each written report, and about batches without one.

Each notification is sent at least once: for each report and sender, a marker with the report's digest is written
after the notification was sent. If a run is repeated or examined again, only new states are sent.
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
    digest,
    is_news,
)
from bg_pipeline.notifications.senders import NotSent, Sender
from bg_pipeline.quality.missing_reports import unreported
from bg_pipeline.reports.overview import ShareLink
from bg_pipeline.reports.report import Report
from bg_pipeline.settings import Settings
from bg_pipeline.state.ledger import Ledger
from bg_pipeline.storage.object_store import ObjectInfo, Store

CLOCKS: Final = timedelta(seconds=60)
"""Assumed maximum difference between the clocks of S3 and of the machine that runs."""

_FORMS_BY_READABILITY: Final = ("html", "csv", "json")
"""The forms of a report, most readable first."""


@dataclass(frozen=True)
class EndedRun:
    """A run that ended at ``until``; ``since`` is the start of it or, for a re-execution, of the original run.

    A run that has not ``succeeded`` failed with Dagster's ``reason`` or was ``cancelled``. ``retried`` means that
    Dagster starts it again automatically.
    """

    run_id: str
    since: datetime
    until: datetime
    succeeded: bool = True
    cancelled: bool = False
    reason: str = ""
    retried: bool = False

    def failure(self, day: UploadDate, batches: Sequence[str] | None) -> RunFailure:
        """The failure of this run for a date; ``batches`` (paths) have no report, None if that is not known."""
        return RunFailure(self.run_id, day, self.cancelled, self.reason, self.retried, batches)


@dataclass(frozen=True)
class _Held:
    """A notification for a digest; ``key`` and ``state`` are those of the marker that it was sent."""

    sender: Sender
    key: str
    state: str
    notice: Notification


@dataclass
class Notifier:
    """Sends notifications about runs through all ``senders``; a sender that failed is not used again by this object.

    ``link`` makes a share link to an object, ``log`` logs a line. When ``is_late`` returns True, no further
    notification is started. ``sent`` counts the sent notifications. With ``digest``, those about reports are
    collected until `flush` sends them as one.
    """

    settings: Settings
    store: Store
    senders: Sequence[Sender]
    link: Callable[[Store, str], ShareLink]
    log: Callable[[str], None]
    is_late: Callable[[], bool] = lambda: False
    digest: bool = False
    sent: int = 0
    _held: list[_Held] = field(default_factory=list)
    _failed: dict[str, str] = field(default_factory=dict)

    def notify(self, run: EndedRun, day: UploadDate) -> bool:
        """Sends the notifications about a run for one of its dates; returns False if there was no time for all.

        Raises `NotSent` if a sender failed. Notifications that were sent are not sent again by the next call.
        """
        markers = {
            marker.key: marker.modified
            for marker in self.store.list(f"{s3_keys.NOTICES}/{s3_keys.date_path(day)}/")
        }
        failed: set[str] = set()
        for batch, store, info in self._reports(run, day):
            keys = [s3_keys.notice_key(info.key, sender.name) for sender in self.senders]
            # S3 times are in whole seconds: if they are equal, the marker has to be read.
            if all(key in markers and markers[key] > info.modified for key in keys):
                continue
            if self.is_late():
                return False
            failed |= self._notify_report(batch, store, info)
        if not run.succeeded:
            now = datetime.now(UTC)
            batches = [
                each.batch.path for each in unreported(self.store, self.settings, day, before=run.until)
            ]
            if batches:
                failed |= self._notify(
                    partial(s3_keys.run_notice_key, run.run_id, day),
                    run.run_id,
                    lambda: batch_unreported(run.failure(day, batches), self.store.bucket, now),
                )
        self._raise_not_sent(failed)
        return True

    def flush(self) -> None:
        """Sends what was collected as one notification for each sender. Raises `NotSent` if a sender failed.

        What a sender could not send is collected again by the next `notify`.
        """
        held, self._held = self._held, []
        failed = set()
        for sender in self.senders:
            ours = [each for each in held if each.sender is sender]
            if not ours:
                continue
            notices = [each.notice for each in ours]
            one = notices[0] if len(ours) == 1 else digest(notices, self.store.bucket, datetime.now(UTC))
            if not self._sent(sender, one):
                failed.add(sender.name)
                continue
            for each in ours:
                self._mark(each.key, each.state, each.notice)
        self._raise_not_sent(failed)

    def notify_without_details(self, run: EndedRun, day: UploadDate) -> None:
        """Sends a notification that a run failed, when the bucket cannot be read; stores no marker."""
        notice = batch_unreported(run.failure(day, None), self.store.bucket, datetime.now(UTC))
        self._raise_not_sent({sender.name for sender in self.senders if not self._sent(sender, notice)})

    def _raise_not_sent(self, failed: set[str]) -> None:
        if failed:
            raise NotSent("; ".join(self._failed[name] for name in sorted(failed)))

    def _notify(
        self,
        marker_key: Callable[[str], str],
        state: str,
        make: Callable[[], Notification],
        *,
        at_once: bool = True,
    ) -> set[str]:
        """Sends a notification through all senders that have not sent this state yet; returns the failed senders.

        Unless it is to be sent ``at_once``, it is collected for the digest, if there is one.
        """
        failed, notice = set(), None
        for sender in self.senders:
            key = marker_key(sender.name)
            marker = self.store.read_json(key)
            if isinstance(marker, dict) and marker.get("State") == state:
                continue
            notice = notice or make()
            if self.digest and not at_once:
                # Two runs of one date may have written the same report.
                if all((each.sender, each.key) != (sender, key) for each in self._held):
                    self._held.append(_Held(sender, key, state, notice))
            elif self._sent(sender, notice):
                self._mark(key, state, notice)
            else:
                failed.add(sender.name)
        return failed

    def _mark(self, key: str, state: str, notice: Notification) -> None:
        """Records that a sender sent a notification."""
        sent_at = datetime.now(UTC).isoformat(timespec="seconds")
        self.store.write_json(
            key, {"Version": 1, "State": state, "SentAt": sent_at, "Subject": notice.subject}
        )

    def _sent(self, sender: Sender, notice: Notification) -> bool:
        if sender.name in self._failed:
            return False
        try:
            sender.send(notice)
        except NotSent as error:
            self._failed[sender.name] = str(error)
            return False
        self.sent += 1
        self.log(f"sent through {sender.name}: {notice.subject}")
        return True

    # Reports

    def _reports(self, run: EndedRun, day: UploadDate) -> Iterator[tuple[Batch, Store, ObjectInfo]]:
        """The reports of a date that were written since the run began, also under prefixes that requests chose."""
        begun = run.since - CLOCKS
        with_report: set[Batch] = set()
        for info in self.store.list(f"{s3_keys.REPORTS}/{s3_keys.date_path(day)}/"):
            batch = find_batch(info.key)
            # Who asked for a single photo has the answer already.
            if batch is not None and not batch.is_order and s3_keys.is_report(info.key):
                with_report.add(batch)
                if info.modified >= begun:
                    yield batch, self.store, info
        for batch, ledger in self._ledgers(day, begun).items():
            report = None if batch in with_report else self._report_at_own_place(batch, ledger)
            if report is not None and report[1].modified >= begun:
                yield batch, *report

    def _ledgers(self, day: UploadDate, begun: datetime) -> dict[Batch, list[ObjectInfo]]:
        """The objects of the ledgers of a date that were written since ``begun``, by batch."""
        ledgers: dict[Batch, list[ObjectInfo]] = {}
        for info in self.store.list(f"{s3_keys.STATE}/ledger/{s3_keys.date_path(day)}/"):
            batch = find_batch(info.key.removeprefix(f"{s3_keys.STATE}/ledger/"))
            if batch is not None and not batch.is_order and info.modified >= begun:
                ledgers.setdefault(batch, []).append(info)
        return ledgers

    def _report_at_own_place(
        self, batch: Batch, ledger: Sequence[ObjectInfo]
    ) -> tuple[Store, ObjectInfo] | None:
        """The report of a batch whose request chose its bucket or prefix, or None."""
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
        info = store.head(s3_keys.report_key(request.StatusS3Prefix, request.Id))
        return None if info is None else (store, info)

    def _notify_report(self, batch: Batch, store: Store, info: ObjectInfo) -> set[str]:
        content = store.read(info.key)
        if content is None:
            return set()
        try:
            report = Report.read(content.data)
        except BgPipelineError as error:
            self.log(f"no notification about {info.key}: {error}")
            return set()
        if not is_news(report):
            return set()

        def make() -> Notification:
            readable = _most_readable_form(store, info.key)
            link = self.link(store, readable)
            json_link = None if readable == info.key else self.link(store, info.key)
            return batch_finished(
                StoredReport(batch.path, store.bucket, info.key, report, link, json_link), datetime.now(UTC)
            )

        state = hashlib.sha256(content.data).hexdigest()
        return self._notify(partial(s3_keys.notice_key, info.key), state, make, at_once=False)


def _most_readable_form(store: Store, key: str) -> str:
    """The key of the most readable stored form of the report with JSON key ``key``."""
    stem = key.removesuffix("json")
    stored = {info.key for info in store.list(stem)}
    return next((f"{stem}{form}" for form in _FORMS_BY_READABILITY if f"{stem}{form}" in stored), key)
