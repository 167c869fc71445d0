"""What is left of a batch's cap, which it shares with all that was asked for again of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bg_pipeline.budget.image_budget import RetryFamily
from bg_pipeline.budget.limits import MICRO, read_spending
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.errors import RunStopped, UsageError
from bg_pipeline.state.follow_ups import all_from, origin
from bg_pipeline.storage.object_store import Store


class CapUsedUp(UsageError):
    """Nothing is left of a batch's cap for what is asked for again of it."""


@dataclass(frozen=True)
class _Share:
    """A batch's cap, and what it and all batches made from it have spent of that, in micro-dollars."""

    batch: Batch
    cap: int
    spent: int


def cap_left(store: Store, batch: Batch, request: BatchRequest) -> float | None:
    """The dollars left for a batch that asks again for something of ``batch``; None without a cap, 0 with none left.

    ``MaxCostUSD`` is one cap over a batch, its retries and redoes, theirs, and so on; what may have been billed and
    what running processes have claimed counts as spent. ``request`` is that of ``batch``. Raises `RunStopped` if
    what was spent cannot be known.
    """
    return _left(_shares(store, batch, request))


def check_cap(store: Store, batch: Batch, request: BatchRequest) -> float | None:
    """The same as `cap_left`, but raises `CapUsedUp` if nothing is left."""
    shares = _shares(store, batch, request)
    for share in shares:
        if share.spent >= share.cap:
            raise CapUsedUp(
                f"the cap of batch {share.batch.path}, MaxCostUSD = {share.cap / MICRO:.2f} USD, is used up: the "
                f"batch and what was asked for again of it spent {share.spent / MICRO:.4f} USD, or may have; upload "
                "its request.json again with a higher MaxCostUSD, then ask again"
            )
    return _left(shares)


def limit_of(store: Store, batch: Batch, request: BatchRequest) -> float | None:
    """The dollars that all runs of ``batch`` may spend together: its cap, less what was spent on what came of it.

    None without a cap. Errors and arguments are those of `cap_left`.
    """
    left = cap_left(store, batch, request)
    return None if left is None else left + read_spending(store, batch.spend_key)[0].total / MICRO


def family_of(store: Store, batch: Batch, request: BatchRequest) -> RetryFamily | None:
    """The family whose cap counts for ``batch`` while it runs, beside its own; None where none has a cap.

    Runs of a batch and of its retries may be at work at the same time: what they reserve stands in one document.
    """
    shares = _shares(store, batch, request)
    return RetryFamily(shares[-1].batch.family_spend_key, shares[-1].cap / MICRO) if shares else None


def _left(shares: Sequence[_Share]) -> float | None:
    left = [share.cap - share.spent for share in shares]
    return max(min(left), 0) / MICRO if left else None


def _shares(store: Store, batch: Batch, request: BatchRequest) -> list[_Share]:
    """The caps that count for ``batch``: its own, and those of the batches that it was made from."""
    shares = []
    cap, one, seen = request.MaxCostUSD, batch, {batch}
    while True:
        if cap is not None:
            shares.append(_Share(one, math.floor(round(cap * MICRO, 3)), _spent(store, one)))
        parent = origin(store, one)
        if parent is None or parent in seen:
            return shares
        seen.add(parent)
        cap, one = _cap_of(store, parent), parent


def _cap_of(store: Store, batch: Batch) -> float | None:
    document = store.read_json(batch.request_key)
    cap = document.get("MaxCostUSD") if isinstance(document, dict) else None
    return float(cap) if isinstance(cap, int | float) and not isinstance(cap, bool) and cap > 0 else None


def _spent(store: Store, batch: Batch) -> int:
    try:
        return sum(read_spending(store, one.spend_key)[0].total for one in all_from(store, batch))
    except ValueError as error:
        raise RunStopped(
            f"{error} in bucket {store.bucket} does not say what was asked for again of its batch, so what is left "
            "of MaxCostUSD is not known; restore it, or delete it: what those batches spent then no longer counts"
        ) from None
