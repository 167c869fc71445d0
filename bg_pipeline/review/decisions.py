"""What people decided of results: one document beside each."""

import getpass
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from bg_pipeline.domain import s3_keys
from bg_pipeline.storage.object_store import Store

THREADS: Final = 16
"""Decisions read or written, or results copied, at a time."""


class State(StrEnum):
    """Where a result stands; a person's decision is one of the first two."""

    APPROVED = "approved"
    REJECTED = "rejected"
    WAITING = "waiting"


def this_user() -> str:
    """Whose name this machine knows the process by; empty where it knows none, as in many containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # which of them depends on Python's version and the system
        return ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person said of one version of a result: ``state`` is approved or rejected, ``at`` is ISO 8601 in UTC.

    ``redone_as`` is the batch that was asked for in its place, if one was.
    """

    result: str
    etag: str
    state: State
    by: str
    at: str
    reason: str = ""
    redone_as: str = ""

    def document(self) -> dict[str, Any]:
        """As it is stored."""
        said = {
            "Version": 1,
            "Result": self.result,
            "ResultETag": self.etag,
            "Decision": self.state.value,
            "By": self.by,
            "At": self.at,
            "Reason": self.reason,
            "RedoneAs": self.redone_as,
        }
        return {name: value for name, value in said.items() if value or name == "Reason"}


def _decision(document: Any) -> Decision | None:
    """The decision in a stored document; None for what is none."""
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
    """The latest decision about one version of a result, be it followed by decisions about other versions."""
    document = data.read_json(s3_keys.review_key(result))
    earlier = document.get("Earlier", []) if isinstance(document, dict) else []
    for each in [document, *(earlier if isinstance(earlier, list) else [])]:
        decision = _decision(each)
        if decision is not None and decision.etag == etag:
            return decision
    return None


class Reviews:
    """The decisions stored in a bucket. Safe for threads; what was read is not read again before it changes."""

    def __init__(self, data: Store) -> None:
        self._data = data
        self._read: dict[str, tuple[str, Decision | None]] = {}

    def of(self, results: Iterable[str], output_prefix: str) -> dict[str, Decision]:
        """The latest decisions by result, for results under a prefix."""
        stored = {found.key: found.etag for found in self._data.list(s3_keys.reviews_of(output_prefix))}
        wanted = {result: key for result in results if (key := s3_keys.review_key(result)) in stored}
        with ThreadPoolExecutor(THREADS, "review") as pool:
            list(pool.map(lambda key: self._fetch(key, stored[key]), wanted.values()))
        found = {result: self._read[key][1] for result, key in wanted.items()}
        return {result: decision for result, decision in found.items() if decision is not None}

    def _fetch(self, key: str, etag: str) -> None:
        if self._read.get(key, ("",))[0] != etag:
            self._read[key] = (etag, _decision(self._data.read_json(key)))
