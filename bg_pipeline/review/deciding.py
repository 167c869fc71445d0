"""A person's decision on results, kept with all that was decided before."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from bg_pipeline.domain import s3_keys
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.review.decisions import THREADS, Decision, State
from bg_pipeline.review.items import Item
from bg_pipeline.storage.object_store import ObjectContent, Store

LONGEST_REASON: Final = 1000


def decide(
    data: Store, found: Iterable[Item], state: State, *, by: str, reason: str = "", redone_as: str = ""
) -> list[Decision]:
    """Stores one person's decision on results; what was decided before is kept in the same document.

    ``by`` is who decides, as the caller knows them. Raises `UsageError`, and stores nothing, if an item has no
    result, if ``by`` is empty or if the reason has more than `LONGEST_REASON` characters.
    """
    found = list(found)
    if state is State.WAITING:
        raise UsageError("a decision is to approve or to reject")
    check_who(by)
    if len(reason) > LONGEST_REASON:
        raise UsageError(f"the reason has {len(reason):,} characters and may have {LONGEST_REASON:,}")
    for item in found:
        if not item.key:
            raise UsageError(f"{item.image} has no result to decide about; ask for it again (redo)")
    at = datetime.now(UTC).isoformat(timespec="seconds")
    decisions = [Decision(item.key, item.etag, state, by, at, reason, redone_as) for item in found]
    with ThreadPoolExecutor(THREADS, "review") as pool:
        list(pool.map(lambda decision: _keep(data, decision), decisions))
    return decisions


def check_who(by: str) -> None:
    """Raises `UsageError` where nobody is named as who decides."""
    if not by.strip():
        raise UsageError("say who decides (--by)")


def _keep(data: Store, decision: Decision) -> None:
    key = s3_keys.review_key(decision.result)
    before: ObjectContent | None = None
    while True:
        document: dict[str, Any] = decision.document()
        if before is not None:
            document["Earlier"] = _earlier(before.data)
        try:
            data.write_json(key, document, if_absent=before is None, if_etag=before.etag if before else None)
            return
        except PreconditionFailed:
            # Decided before, or by somebody else at this moment: theirs is kept as the earlier one.
            before = data.read(key)


def _earlier(data: bytes) -> list[Any]:
    try:
        document = orjson.loads(data)
        return [document, *document.pop("Earlier", [])]
    except (AttributeError, TypeError, ValueError):
        return []
