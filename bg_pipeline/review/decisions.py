"""People's decisions on results: one document for each result, with all earlier decisions about it."""

import getpass
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson

from bg_pipeline.domain import s3_keys
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.storage.object_store import ObjectContent, Store

if TYPE_CHECKING:
    from bg_pipeline.review.items import Item

LONGEST_REASON: Final = 1000
"""Characters of a decision's reason."""
THREADS: Final = 16
"""Decisions that are read or written, or results that are copied, at the same time."""


class State(StrEnum):
    """Review state of a result; a person can decide for one of the first two."""

    APPROVED = "approved"
    REJECTED = "rejected"
    WAITING = "waiting"


def this_user() -> str:
    """The name of the user that runs this process; empty if the system knows none, as in many containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # depends on the Python version and the system
        return ""


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's decision on one version of a result (``etag``): ``state`` is approved or rejected.

    ``at`` is ISO 8601 in UTC. ``redone_as`` is the path of the batch that makes the result again, if one was asked
    for.
    """

    result: str
    etag: str
    state: State
    by: str
    at: str
    reason: str = ""
    redone_as: str = ""

    def document(self) -> dict[str, Any]:
        """The JSON document that is stored; empty fields except ``Reason`` are left out."""
        document = {
            "Version": 1,
            "Result": self.result,
            "ResultETag": self.etag,
            "Decision": self.state.value,
            "By": self.by,
            "At": self.at,
            "Reason": self.reason,
            "RedoneAs": self.redone_as,
        }
        return {name: value for name, value in document.items() if value or name == "Reason"}


# Writing


def decide(
    data: Store, items: "Iterable[Item]", state: State, *, by: str, reason: str = "", redone_as: str = ""
) -> list[Decision]:
    """Stores one person's decision on results; earlier decisions are kept in the same documents.

    ``by`` names the person; the caller must know that it is true. Raises `UsageError`, and stores nothing, if an
    item has no result, if ``by`` is empty or if the reason has more than `LONGEST_REASON` characters.
    """
    items = list(items)
    check_decision(items, state, by=by, reason=reason)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    decisions = [Decision(item.key, item.etag, state, by, at, reason, redone_as) for item in items]
    with ThreadPoolExecutor(THREADS, "review") as pool:
        list(pool.map(lambda decision: _store(data, decision), decisions))
    return decisions


def check_decision(items: "Iterable[Item]", state: State, *, by: str, reason: str = "") -> None:
    """Raises `UsageError` if `decide` would."""
    if state is State.WAITING:
        raise UsageError("a decision is to approve or to reject")
    require_decider(by)
    if len(reason) > LONGEST_REASON:
        raise UsageError(f"the reason has {len(reason):,} characters and may have {LONGEST_REASON:,}")
    for item in items:
        if not item.key:
            raise UsageError(f"{item.image} has no result to decide about; ask for it again (redo)")


def require_decider(by: str) -> None:
    """Raises `UsageError` if ``by``, the name of the person who decides, is empty."""
    if not by.strip():
        raise UsageError("name the person who decides (--by)")


def _store(data: Store, decision: Decision) -> None:
    key = s3_keys.review_key(decision.result)
    stored: ObjectContent | None = None
    while True:
        document: dict[str, Any] = decision.document()
        if stored is not None:
            document["Earlier"] = _earlier_decisions(stored.data)
        try:
            data.write_json(key, document, if_absent=stored is None, if_etag=stored.etag if stored else None)
            return
        except PreconditionFailed:
            # There is a decision already, perhaps from another person just now: it is kept under Earlier.
            stored = data.read(key)


def _earlier_decisions(data: bytes) -> list[Any]:
    try:
        document = orjson.loads(data)
        return [document, *document.pop("Earlier", [])]
    except (AttributeError, TypeError, ValueError):
        return []


# Reading


def _decision(document: Any) -> Decision | None:
    """The decision in a stored document, or None if the document holds none."""
    try:
        decision = Decision(
            str(document["Result"]),
            str(document["ResultETag"]),
            State(document["Decision"]),
            str(document.get("By", "")),
            str(document.get("At", "")),
            str(document.get("Reason", "")),
            str(document.get("RedoneAs", "")),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return None if decision.state is State.WAITING else decision


def decision_about(data: Store, result: str, etag: str) -> Decision | None:
    """The latest decision about this version of a result, even if later decisions are about other versions."""
    document = data.read_json(s3_keys.review_key(result))
    earlier = document.get("Earlier", []) if isinstance(document, dict) else []
    for record in [document, *(earlier if isinstance(earlier, list) else [])]:
        decision = _decision(record)
        if decision is not None and decision.etag == etag:
            return decision
    return None


class Reviews:
    """The decisions stored in a bucket, cached by ETag. Thread-safe."""

    def __init__(self, data: Store) -> None:
        self._data = data
        self._cache: dict[str, tuple[str, Decision | None]] = {}

    def of(self, results: Iterable[str], output_prefix: str) -> dict[str, Decision]:
        """The latest decision on each of ``results`` under ``output_prefix``; results without one are left out."""
        etags = {info.key: info.etag for info in self._data.list(s3_keys.reviews_of(output_prefix))}
        keys = {result: key for result in results if (key := s3_keys.review_key(result)) in etags}
        with ThreadPoolExecutor(THREADS, "review") as pool:
            list(pool.map(lambda key: self._fetch(key, etags[key]), keys.values()))
        decisions = {result: self._cache[key][1] for result, key in keys.items()}
        return {result: decision for result, decision in decisions.items() if decision is not None}

    def _fetch(self, key: str, etag: str) -> None:
        if self._cache.get(key, ("",))[0] != etag:
            self._cache[key] = (etag, _decision(self._data.read_json(key)))
