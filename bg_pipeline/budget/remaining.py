"""The remaining amount of a batch's cap, which the batch shares with all its retries and redoes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bg_pipeline.budget.image_budget import RetryFamily
from bg_pipeline.budget.limits import MICRO, read_spending
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.errors import RunStopped, UsageError
from bg_pipeline.state.follow_ups import batch_and_follow_ups, origin
from bg_pipeline.storage.object_store import Store


class CapUsedUp(UsageError):
    """The cap of a batch is used up, so a retry or redo of it cannot be made."""


@dataclass(frozen=True)
class _Share:
    """The cap of a batch, and what the batch and all its follow-ups have spent of it, in micro-dollars."""

    batch: Batch
    cap: int
    spent: int


def cap_left(store: Store, batch: Batch, request: BatchRequest) -> float | None:
    """The dollars left for a retry or redo of ``batch``; None without a cap, 0 if it is used up.

    ``MaxCostUSD`` is one cap for a batch and all its direct and indirect retries and redoes. Possibly billed calls
    and the claims of running processes count as spent. ``request`` is the request of ``batch``. Raises `RunStopped`
    if the amount spent cannot be determined.
    """
    return _left(_shares(store, batch, request))


def check_cap(store: Store, batch: Batch, request: BatchRequest) -> float | None:
    """As `cap_left`, but raises `CapUsedUp` if nothing is left."""
    shares = _shares(store, batch, request)
    for share in shares:
        if share.spent >= share.cap:
            raise CapUsedUp(
                f"the cap of batch {share.batch.path}, MaxCostUSD = {share.cap / MICRO:.2f} USD, is used up: the "
                f"batch, its retries and its redoes spent up to {share.spent / MICRO:.4f} USD; upload "
                "its request.json again with a higher MaxCostUSD, then ask again"
            )
    return _left(shares)


def limit_of(store: Store, batch: Batch, request: BatchRequest) -> float | None:
    """The dollars that all runs of ``batch`` together may spend: its cap minus the spending of its follow-ups.

    None without a cap. Arguments and errors as `cap_left`.
    """
    left = cap_left(store, batch, request)
    return None if left is None else left + read_spending(store, batch.spend_key)[0].total / MICRO


def family_of(store: Store, batch: Batch, request: BatchRequest) -> RetryFamily | None:
    """The family whose shared cap applies to ``batch`` in addition to its own; None if no batch of it has a cap.

    Runs of a batch and of its follow-ups may be active at the same time, so they reserve in one shared document.
    """
    shares = _shares(store, batch, request)
    return RetryFamily(shares[-1].batch.family_spend_key, shares[-1].cap / MICRO) if shares else None


def _left(shares: Sequence[_Share]) -> float | None:
    left = [share.cap - share.spent for share in shares]
    return max(min(left), 0) / MICRO if left else None


def _shares(store: Store, batch: Batch, request: BatchRequest) -> list[_Share]:
    """The caps that apply to ``batch``: its own, and those of the batches of which it is a follow-up."""
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
        return sum(read_spending(store, one.spend_key)[0].total for one in batch_and_follow_ups(store, batch))
    except ValueError as error:
        raise RunStopped(
            f"{error} in bucket {store.bucket} cannot be read, so the retries and redoes of its batch are unknown, "
            "and how much of MaxCostUSD is left; restore it, or delete it: what those batches spent then no longer "
            "counts"
        ) from None
