"""People's decisions on results: one document for each result, with all earlier decisions about it."""

import getpass
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
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
TAKEN_BACK: Final = "TakenBackAt"
"""The field of a decision that was taken back; it does not count any more."""
_HISTORY: Final = ("Decision", "By", "At", "Reason", "RedoneAs", TAKEN_BACK, "TakenBackBy")


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
    decisions = _decisions(items, state, by=by, reason=reason, redone_as=redone_as)
    with ThreadPoolExecutor(THREADS, "review") as pool:
        list(pool.map(lambda decision: _store(data, decision), decisions))
    return decisions


def decide_as_seen(
    data: Store, items: "Iterable[Item]", state: State, *, by: str, reason: str = ""
) -> list[str]:
    """Stores decisions like `decide`, but only where nobody has decided since the person looked.

    Each item has the ``review_etag`` that the person saw. Returns, in the order of ``items``, the ETag of each stored
    document, for `take_back`; it is empty if somebody else decided meanwhile, and then nothing was stored. A decision
    that is stored already, because the answer to the first attempt was lost, counts as stored. Raises as `decide`.
    """
    items = list(items)
    decisions = _decisions(items, state, by=by, reason=reason)
    seen = [item.review_etag for item in items]
    with ThreadPoolExecutor(THREADS, "review") as pool:
        return list(pool.map(lambda *pair: _store_as_seen(data, *pair), decisions, seen))


def take_back(data: Store, decided: Iterable[tuple[str, str]], *, by: str) -> list[str]:
    """Takes decisions back: what was decided before them counts again, or nothing if there was nothing.

    ``decided`` are pairs of a result's key and the ETag that `decide_as_seen` returned. Returns the ETags of the new
    documents, each empty if somebody else decided meanwhile; that decision stays. The decision that was taken back
    stays in the document with the name of who did it.
    """
    require_decider(by)
    with ThreadPoolExecutor(THREADS, "review") as pool:
        return list(pool.map(lambda pair: _take_back(data, *pair, by=by), decided))


def _decisions(
    items: "Iterable[Item]", state: State, *, by: str, reason: str, redone_as: str = ""
) -> list[Decision]:
    """The decisions on ``items``; raises `UsageError` if one of them cannot be made."""
    items = list(items)
    check_decision(items, state, by=by, reason=reason)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return [Decision(item.key, item.etag, state, by, at, reason, redone_as) for item in items]


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


def _store_as_seen(data: Store, decision: Decision, seen: str) -> str:
    """Stores a decision if the document still has the ETag ``seen`` (empty: none); returns the new one, or empty."""
    key = s3_keys.review_key(decision.result)
    document: dict[str, Any] = decision.document()
    if seen:
        stored = data.read(key)
        if stored is not None and stored.etag == seen:
            document["Earlier"] = _earlier_decisions(stored.data)
    try:
        return data.write_json(key, document, if_absent=not seen, if_etag=seen or None)
    except PreconditionFailed:
        # Somebody else was faster, or this is the second attempt of a decision whose answer was lost.
        stored = data.read(key)
        now = None if stored is None else _parsed(stored.data)
        same = now is not None and replace(now, at=decision.at) == decision
        return stored.etag if stored is not None and same else ""


def _take_back(data: Store, result: str, etag: str, *, by: str) -> str:
    key = s3_keys.review_key(result)
    stored = data.read(key)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    if stored is None or stored.etag != etag:
        return ""
    taken_back, *earlier = _earlier_decisions(stored.data) or [{}]
    # A decision that was taken back itself does not count again.
    before = next((record for record in earlier if TAKEN_BACK not in record), None)
    others = [record for record in earlier if record is not before]
    document = before or {
        "Version": 1,
        "Result": result,
        "ResultETag": str(taken_back.get("ResultETag", "")),
        "Decision": State.WAITING.value,
        "By": by,
        "At": at,
        "Reason": "",
    }
    taken_back = {**taken_back, TAKEN_BACK: at, "TakenBackBy": by}
    try:
        return data.write_json(key, {**document, "Earlier": [taken_back, *others]}, if_etag=etag)
    except PreconditionFailed:
        return ""


def _earlier_decisions(data: bytes) -> list[Any]:
    try:
        document = orjson.loads(data)
        return [document, *document.pop("Earlier", [])]
    except (AttributeError, TypeError, ValueError):
        return []


# Reading


def _parsed(data: bytes) -> Decision | None:
    try:
        return _decision(orjson.loads(data))
    except orjson.JSONDecodeError:
        return None


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
        if isinstance(record, dict) and record.get("ResultETag") == etag and TAKEN_BACK not in record:
            return _decision(record)
    return None


def history(data: Store, result: str) -> list[dict[str, str]]:
    """All decisions about a result, newest first, as the names of the stored document; those taken back too."""
    document = data.read_json(s3_keys.review_key(result))
    earlier = document.get("Earlier", []) if isinstance(document, dict) else []
    records = [document, *(earlier if isinstance(earlier, list) else [])]
    return [
        {name: str(record[name]) for name in _HISTORY if record.get(name)}
        for record in records
        if isinstance(record, dict)
    ]


class Reviews:
    """The decisions stored in a bucket, cached by ETag. Thread-safe."""

    def __init__(self, data: Store) -> None:
        self._data = data
        self._cache: dict[str, tuple[str, Decision | None]] = {}

    def of(self, results: Iterable[str], output_prefix: str) -> dict[str, tuple[str, Decision | None]]:
        """Each of ``results`` under ``output_prefix`` that has a document: its ETag, and the decision that counts."""
        etags = {info.key: info.etag for info in self._data.list(s3_keys.reviews_of(output_prefix))}
        keys = {result: key for result in results if (key := s3_keys.review_key(result)) in etags}
        with ThreadPoolExecutor(THREADS, "review") as pool:
            list(pool.map(lambda key: self._fetch(key, etags[key]), keys.values()))
        return {result: self._cache[key] for result, key in keys.items()}

    def _fetch(self, key: str, etag: str) -> None:
        if self._cache.get(key, ("",))[0] != etag:
            content = self._data.read(key)
            # A document that was replaced since the listing is taken with its own ETag.
            self._cache[key] = ("", None) if content is None else (content.etag, _parsed(content.data))
