"""The budget of a run: each paid call is reserved at its maximum cost under the caps of its run, day and batch.

A cap without room refuses the call (`limits.CapReached`), so threads, runs and machines together never exceed a cap.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

from bg_pipeline.budget.limits import MICRO, Cap, SharedCap, micro_usd, read_spending
from bg_pipeline.budget.spend_log import SpendLog
from bg_pipeline.domain.s3_keys import spend_key
from bg_pipeline.errors import RunStopped
from bg_pipeline.storage.object_store import Store


class PriceUnknown(RunStopped):
    """A cap is set and the price of the next call is unknown; the call was not made."""


@dataclass(slots=True)
class OperationTotal:
    """The calls of one operation in this process; ``unsure`` of the ``calls`` may or may not have been billed.

    ``cost_usd`` counts the unsure calls as billed, and excludes the ``unpriced`` calls, whose price is unknown.
    """

    calls: int = 0
    unsure: int = 0
    unpriced: int = 0
    micro_usd: int = 0

    @property
    def cost_usd(self) -> float:
        return self.micro_usd / MICRO


class Reservation:
    """The amount reserved for one call. The first of `settle`, `release` and `keep` counts; later ones do nothing.

    Leaving the ``with`` block without any of them is `keep`, because the call may have been billed.
    """

    def __init__(self, budget: "RunBudget", operation: str, cost: int | None, caps: Sequence[Cap]) -> None:
        self._budget = budget
        self._operation = operation
        self._cost = cost
        self._caps = caps
        self._ended = False

    def settle(self, actual_usd: float | None = None) -> None:
        """Records that the call was billed at ``actual_usd`` dollars (default: the reserved amount)."""
        self._end(None if actual_usd is None else micro_usd(actual_usd), OperationTotal(calls=1))

    def release(self) -> None:
        """Records that the call was not made, or is not billed."""
        self._end(0, OperationTotal())

    def keep(self) -> None:
        """Counts the call as billed, because it is unknown whether it was."""
        self._end(None, OperationTotal(calls=1, unsure=1))

    def _end(self, actual: int | None, total: OperationTotal) -> None:
        with self._budget.lock:
            if self._ended:
                return
            self._ended = True
            reserved = self._cost or 0
            total.micro_usd = reserved if actual is None else actual
            total.unpriced = total.calls if self._cost is None and actual is None else 0
            for cap in self._caps:
                cap.give_back(reserved - total.micro_usd)
            self._budget.record(self._operation, total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.keep()


class RunBudget:
    """The budget of one run; thread-safe. It must be closed at the end of the run.

    Caps are in US dollars; None or 0 means no cap, as in the settings. Runs with the same ``run_cap_key``, the key of
    a spending document, share one cap. ``spent_usd`` is what this run spent in earlier processes. The day (UTC)
    counts the spending of all runs, including those without a cap. With ``spend_log`` each batch has an audit line
    before its first paid call.
    """

    def __init__(
        self,
        store: Store,
        *,
        run_cap_usd: float | None = None,
        run_cap_key: str = "",
        day_cap_usd: float | None = None,
        spent_usd: float = 0.0,
        spend_log: SpendLog | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.lock = threading.Lock()
        self.spend_log = spend_log
        self._store = store
        self._now = now
        self._shared: dict[str, SharedCap] = {}
        advice = "raise it or run again to go on"
        self._run: Cap
        if run_cap_key and run_cap_usd:
            self._run = self._shared_cap("run", "BG_MAX_COST_USD", run_cap_usd, advice, run_cap_key)
        else:
            self._run = Cap("run", "BG_MAX_COST_USD", run_cap_usd or None, advice)
        self._run.committed = micro_usd(spent_usd)
        self._day_cap_usd = day_cap_usd or None
        self._totals: defaultdict[str, OperationTotal] = defaultdict(OperationTotal)

    def reserve(
        self,
        cost_usd: float | None,
        operation: str,
        *,
        batch_key: str = "",
        batch_cap_usd: float | None = None,
        family_key: str = "",
        family_cap_usd: float | None = None,
    ) -> Reservation:
        """Reserves the maximum cost of a call; must be called before the call is made.

        ``batch_key`` is the key of the batch's spending document; without it the batch has no cap. ``family_key`` is
        the key of the document of all batches that share one cap, whose runs may be active at the same time. Raises
        `CapReached` if a cap has no room, `PriceUnknown` if ``cost_usd`` is None while a cap is set; nothing is
        reserved then. Usually makes no request, at most one claim in each shared document.
        """
        cost = None if cost_usd is None else micro_usd(cost_usd)
        with self.lock, ExitStack() as rollback:
            caps = [self._run, self._day()]
            if batch_key:
                caps.append(self._batch(batch_key, batch_cap_usd))
            if family_key:
                caps.append(self._batch(family_key, family_cap_usd))
            limits = [cap.setting for cap in caps if cap.limit is not None]
            if cost is None and limits:
                raise PriceUnknown(
                    f"no price is known for {operation}, and {' and '.join(limits)} is set, so it is not called; "
                    "give its price in the file that BG_MODEL_FACTS names, take the cap away (0 in a setting, no "
                    "MaxCostUSD in a request), or choose models with a known price (BG_IMAGE_MODELS, "
                    "BG_CAPTION_MODELS)"
                )
            for cap in caps:
                cap.take(cost or 0, operation)
                rollback.callback(cap.give_back, cost or 0)
            rollback.pop_all()
        return Reservation(self, operation, cost, caps)

    def _day(self) -> SharedCap:
        key = spend_key(self._now().astimezone(UTC).date())
        advice = "raise it, or run again after midnight UTC"
        return self._shared_cap("day", "BG_MAX_COST_USD_PER_DAY", self._day_cap_usd, advice, key)

    def _batch(self, key: str, cap_usd: float | None) -> SharedCap:
        advice = "raise it in the batch's request, or in that of the batch it retries"
        return self._shared_cap("batch", "MaxCostUSD", cap_usd, advice, key)

    def _shared_cap(
        self, scope: str, setting: str, limit_usd: float | None, advice: str, key: str
    ) -> SharedCap:
        if key not in self._shared:
            self._shared[key] = SharedCap(scope, setting, limit_usd, advice, self._store, key)
        return self._shared[key]

    def spent_on(self, batch_key: str) -> float:
        """The dollars ever spent on a batch by all runs, including possibly billed calls; makes one request.

        The whole claim of a killed run counts. Raises `RunStopped` if the amount cannot be determined.
        """
        spending, _ = read_spending(self._store, batch_key)
        with self.lock:
            own = self._shared.get(batch_key)
            committed = own.committed if own is not None else 0
            claimed = sum(
                usd for name, usd in spending.claimed_micro_usd.items() if own is None or name != own.name
            )
        return (spending.settled_micro_usd + claimed + committed) / MICRO

    def settle_batch(self, batch_key: str) -> None:
        """Returns the unused claim on a batch, of which this run makes no call at the moment; it may claim again."""
        with self.lock:
            cap = self._shared.get(batch_key)
            if cap is not None:
                cap.close()

    def record(self, operation: str, call: OperationTotal) -> None:
        """Adds an ended call to the totals; called by `Reservation` while it holds ``lock``."""
        total = self._totals[operation]
        total.calls += call.calls
        total.unsure += call.unsure
        total.unpriced += call.unpriced
        total.micro_usd += call.micro_usd

    def totals(self) -> dict[str, OperationTotal]:
        """The totals of ended calls in this process, by operation."""
        with self.lock:
            return {operation: replace(total) for operation, total in self._totals.items()}

    def close(self) -> None:
        """Returns the unused claims in the shared documents. May be called again."""
        with self.lock:
            for cap in self._shared.values():
                cap.close()
        if self.spend_log is not None:
            self.spend_log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
