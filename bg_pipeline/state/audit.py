"""The audit log: who did what to which batch, appended under ``audit/`` and never changed.

An act has two lines. The first is stored before anything is done, so that no act is without a line: if it cannot be
stored, nothing is done. The second one says how the act ended. If there is none, the process ended in between: the
act may or may not have happened, which the documents that it writes show. Each line is an object of its own, stored
under a new key with If-None-Match, so writers on many machines never meet and nothing is overwritten.
"""

import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any, Final

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person, Via
from bg_pipeline.errors import BgPipelineError, PreconditionFailed, RequestError, UsageError
from bg_pipeline.storage.object_store import ObjectInfo, Store

THREADS: Final = 16
"""Lines that are read at the same time."""
BLOCK: Final = 512
"""Lines whose texts are in memory at a time while the log is read."""
ATTEMPTS: Final = 4
LONGEST_TEXT: Final = 2000
"""Characters of one text in a line."""
_OUTCOME: Final = ".outcome.json"

_log = logging.getLogger(__name__)


class Act(StrEnum):
    """What somebody does."""

    SUBMIT = "Submit"
    DISCARD = "Discard"
    RENAME = "Rename"
    APPROVE_SAMPLE = "ApproveSample"
    RETRY = "Retry"
    DECIDE = "Decide"
    TAKE_BACK = "TakeBack"
    REDO = "Redo"
    MEND = "Mend"
    PUBLISH = "Publish"
    SPEND = "Spend"


class Outcome(StrEnum):
    """How an act ended. ``REFUSED``: nothing was done. ``FAILED``: an error ended it, and parts may have been done.

    ``UNKNOWN`` is never stored: it stands for a missing second line.
    """

    DONE = "Done"
    REFUSED = "Refused"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Line:
    """A stored first line; `AuditLog.end` needs it."""

    via: str
    at: datetime
    id: str


@dataclass(frozen=True)
class AuditRecord:
    """An act as it is read back: the first line, and how it ended.

    ``stored_at`` is S3's time of the first line, which a wrong clock of the writer does not change. ``readable`` is
    False if the object is no audit line; then only ``key``, ``via`` and ``stored_at`` are known.
    """

    key: str
    via: str
    stored_at: datetime
    readable: bool = True
    at: str = ""
    act: str = ""
    batch: str = ""
    request_etag: str = ""
    name: str = ""
    subject: str = ""
    issuer: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = Outcome.UNKNOWN
    cause: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def batches(self) -> set[str]:
        """The paths of the batches that it is about: the act's own, and one that it made."""
        made = self.result.get("NewBatch")
        return {self.batch, made} if isinstance(made, str) else {self.batch}


class AuditLog:
    """The audit log of a bucket."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(
        self, by: Person, act: Act, batch: Batch | None, *, request_etag: str = "", details: Mapping[str, Any]
    ) -> Line:
        """Stores the first line of an act, which may begin once this returns; ``batch`` is the one it is about."""
        at = datetime.now(UTC)
        for _ in range(ATTEMPTS):
            line = Line(by.via.value, at, uuid.uuid4().hex)
            document = {
                "Version": 1,
                "Id": line.id,
                "At": at.isoformat(timespec="microseconds"),
                "Act": act.value,
                "Batch": batch.path if batch else "",
                "RequestETag": request_etag,
                "By": {"Name": by.name, "Subject": by.subject, "Issuer": by.issuer},
                "Details": dict(details),
            }
            if self._append(s3_keys.audit_key(line.via, at, line.id), document):
                return line
        raise BgPipelineError("the audit log refuses new lines, so nothing was done; try again")

    def end(
        self, line: Line, outcome: Outcome, *, cause: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        """Stores how an act ended. An error is only logged, because the act itself is over."""
        document = {
            "Version": 1,
            "Id": line.id,
            "At": datetime.now(UTC).isoformat(timespec="microseconds"),
            "Outcome": outcome.value,
            "Cause": cause,
            "Details": dict(details or {}),
        }
        key = s3_keys.audit_key(line.via, line.at, line.id, outcome=True)
        try:
            self._append(key, document)
        except (ClientError, BotoCoreError) as error:
            _log.warning("the end of an act (%s) could not be added to %s: %s", outcome.value, key, error)

    @contextmanager
    def act(
        self, by: Person, act: Act, batch: Batch | None, *, request_etag: str = "", **details: Any
    ) -> Iterator[dict[str, Any]]:
        """Records the act that the block does; what the block puts into the yielded dictionary is in the second line.

        An expected error is recorded and passed on. After any other one, as after a kill, there is no second line.
        """
        line = self.begin(by, act, batch, request_etag=request_etag, details=details)
        result: dict[str, Any] = {}
        try:
            yield result
        except (UsageError, RequestError) as error:
            self.end(line, Outcome.REFUSED, cause=str(error), details=result)
            raise
        except (BgPipelineError, ClientError, BotoCoreError, OSError) as error:
            self.end(line, Outcome.FAILED, cause=str(error), details=result)
            raise
        self.end(line, Outcome.DONE, details=result)

    def _append(self, key: str, document: Mapping[str, Any]) -> bool:
        """Stores a new object; False if there is another one under its key."""
        data = orjson.dumps(_storable(document), option=orjson.OPT_APPEND_NEWLINE)
        for _ in range(ATTEMPTS):
            try:
                self._store.write(key, data, media_type="application/json", if_absent=True)
                return True
            except PreconditionFailed:
                # Our own line, if S3's first answer was lost and boto3 repeated the write; nothing after a 409.
                stored = self._store.read(key)
                if stored is not None:
                    return stored.data == data
        return False

    # Reading

    def records(self, first: date, last: date) -> Iterator[AuditRecord]:
        """All acts of these dates (UTC), each kind of program's in the order of its lines."""
        for via in Via:
            yield from self._records_of(via.value, first, last)

    def _records_of(self, via: str, first: date, last: date) -> Iterator[AuditRecord]:
        prefix = f"{s3_keys.audit_of(via)}/"
        end = f"{prefix}{s3_keys.date_path(last)}/\U0010ffff"
        block: list[tuple[ObjectInfo, bool]] = []
        lines: dict[str, ObjectInfo] = {}
        outcomes: set[str] = set()
        for info in self._store.list(prefix, start_after=f"{prefix}{s3_keys.date_path(first)}"):
            if info.key > end:
                break
            # An outcome follows its line in the listing: '.json' is replaced by '.outcome.json'.
            if info.key.endswith(_OUTCOME):
                outcomes.add(info.key)
            else:
                lines[info.key] = info
            if len(lines) > BLOCK:
                block, lines, outcomes = self._complete(lines, outcomes)
                yield from self._read(block)
        yield from self._read([(info, _outcome_key(key) in outcomes) for key, info in lines.items()])

    def _complete(
        self, lines: dict[str, ObjectInfo], outcomes: set[str]
    ) -> tuple[list[tuple[ObjectInfo, bool]], dict[str, ObjectInfo], set[str]]:
        """The lines to read now, and what is kept because its outcome may come next in the listing."""
        *complete, last = lines.items()
        block = [(info, _outcome_key(key) in outcomes) for key, info in complete]
        return block, dict([last]), {key for key in outcomes if key == _outcome_key(last[0])}

    def _read(self, block: Iterable[tuple[ObjectInfo, bool]]) -> Iterator[AuditRecord]:
        with ThreadPoolExecutor(THREADS, "audit") as pool:
            yield from pool.map(self._record, block)

    def _record(self, found: tuple[ObjectInfo, bool]) -> AuditRecord:
        info, has_outcome = found
        via = info.key.split("/")[1]
        document = self._store.read_json(info.key)
        by = document.get("By") if isinstance(document, dict) else None
        if not isinstance(document, dict) or not isinstance(by, dict):
            return AuditRecord(info.key, via, info.modified, readable=False)
        end = self._store.read_json(_outcome_key(info.key)) if has_outcome else None
        end = end if isinstance(end, dict) else {}
        return AuditRecord(
            info.key,
            via,
            info.modified,
            at=_text(document, "At"),
            act=_text(document, "Act"),
            batch=_text(document, "Batch"),
            request_etag=_text(document, "RequestETag"),
            name=_text(by, "Name"),
            subject=_text(by, "Subject"),
            issuer=_text(by, "Issuer"),
            details=_mapping(document, "Details"),
            outcome=_text(end, "Outcome") or Outcome.UNKNOWN,
            cause=_text(end, "Cause"),
            result=_mapping(end, "Details"),
        )


def _storable(value: Any) -> Any:
    """The value with texts that are valid UTF-8 and not longer than `LONGEST_TEXT`: names may come from anywhere."""
    if isinstance(value, str):
        text = value.encode("utf-8", "backslashreplace").decode()
        return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
    if isinstance(value, Mapping):
        return {_storable(str(name)): _storable(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(each) for each in value]
    return value


def _outcome_key(line_key: str) -> str:
    return f"{line_key.removesuffix('.json')}{_OUTCOME}"


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}
