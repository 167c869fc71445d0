"""The audit lines about what a run pays: one for each batch before its first paid call, and one with the amount.

The second line comes at the end of the run. If there is none, the run was killed; the ledger has what it paid.
"""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.payments import Payment
from bg_pipeline.domain.people import Person, Via
from bg_pipeline.domain.s3_keys import audit_of
from bg_pipeline.errors import BgPipelineError, StorageFailed
from bg_pipeline.state.audit import Act, AuditLog, Line, Outcome
from bg_pipeline.storage.object_store import Store


@dataclass
class _Spent:
    """What a run paid for one batch; ``line`` is its first audit line, once that is stored."""

    line: Future[Line] = field(default_factory=Future)
    calls: int = 0
    usd: float = 0.0
    maybe_usd: float = 0.0
    unpriced: int = 0


class SpendLog:
    """The lines of one run; ``by`` started it, ``details`` are in every line. Thread-safe."""

    def __init__(self, store: Store, by: Person, details: Mapping[str, Any]) -> None:
        self._store = store
        self._log = AuditLog(store)
        self._by = by
        self._details = dict(details)
        self._lock = threading.Lock()
        self._batches: dict[Batch, _Spent] = {}

    def before_call(self, batch: Batch) -> None:
        """Must be called before each paid call; returns once the batch has its line.

        Raises `StorageFailed` if the line cannot be stored.
        """
        with self._lock:
            spent = self._batches.get(batch)
            first = spent is None
            if spent is None:
                spent = self._batches[batch] = _Spent()
        if not first:
            spent.line.result()
            return
        try:
            request = self._store.head(batch.request_key)
            etag = request.etag if request else ""
            line = self._log.begin(
                self._by, Act.SPEND, batch, request_etag=etag, details={"For": "run", **self._details}
            )
        except (ClientError, BotoCoreError, BgPipelineError) as error:
            # The next call tries again; those that waited for this one fail with it.
            with self._lock:
                del self._batches[batch]
            stopped = StorageFailed(
                f"the audit log cannot be written ({error}), so nothing is paid for; the run needs s3:PutObject on "
                f"{audit_of(Via.RUN)}/ (`bg-pipeline doctor --policy`)"
            )
            spent.line.set_exception(stopped)
            raise stopped from error
        spent.line.set_result(line)

    def paid(self, batch: Batch, payment: Payment) -> None:
        """Adds a payment of this run; one that is not certain may not have been billed."""
        with self._lock:
            spent = self._batches.get(batch)
            if spent is None:
                return
            spent.calls += 1
            if payment.usd is None:
                spent.unpriced += 1
            elif payment.certain:
                spent.usd += payment.usd
            else:
                spent.maybe_usd += payment.usd

    def close(self) -> None:
        """Stores the amounts of all batches. May be called again."""
        with self._lock:
            batches, self._batches = self._batches, {}
        for spent in batches.values():
            if spent.line.done() and spent.line.exception() is None:
                amounts = {
                    "Calls": spent.calls,
                    "CostUSD": round(spent.usd, 6),
                    "MaybeBilledUSD": round(spent.maybe_usd, 6),
                    "UnknownPrices": spent.unpriced,
                }
                self._log.end(spent.line.result(), Outcome.DONE, details=amounts)
