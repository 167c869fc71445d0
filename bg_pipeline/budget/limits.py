"""Spending caps: in one process's memory (`Cap`), or shared by all processes through an S3 document (`SharedCap`).

The shared document is changed only by compare-and-swap. Each process claims an amount in advance, so that most calls
make no S3 request, and returns the unused part at its end. The claim of a killed process stays counted as spent. It
cannot have spent more than that, so a cap is never exceeded, but the unused part of its claim is lost. Amounts are
whole micro-dollars; costs are rounded up.
"""

import logging
import math
import random
import time
import uuid
from collections.abc import Callable

from botocore.exceptions import BotoCoreError, ClientError
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from pydantic.alias_generators import to_pascal

from bg_pipeline.errors import PreconditionFailed, RunStopped
from bg_pipeline.state.process_identity import process_name
from bg_pipeline.storage.object_store import Store

CHUNK_CALLS = 20
"""A claim covers at most this many calls of the same cost …"""
CHUNK_SHARE = 100
"""… and at most this fraction (1/100) of the cap, but always at least the one call."""
ATTEMPTS = 100
"""Compare-and-swap attempts before giving up; an attempt usually fails because another process succeeded."""
MICRO = 1_000_000

_log = logging.getLogger(__name__)


class CapReached(RunStopped):
    """The next call would exceed a cap; it was not made, and nothing was reserved for it.

    ``scope`` is ``run``, ``day`` or ``batch``; a ``batch`` cap ends only that batch. ``spent_usd`` includes amounts
    reserved for calls in progress and claimed by other processes.
    """

    def __init__(self, scope: str, spent_usd: float, text: str) -> None:
        super().__init__(text)
        self.scope = scope
        self.spent_usd = spent_usd


class Spending(BaseModel):
    """The shared document: the sum spent by processes that ended, and the claim of each other process, running or
    killed.
    """

    # "allow" preserves fields written by a newer version of this program.
    model_config = ConfigDict(frozen=True, alias_generator=to_pascal, populate_by_name=True, extra="allow")

    version: int = 1
    settled_micro_usd: NonNegativeInt
    claimed_micro_usd: dict[str, NonNegativeInt]

    @property
    def total(self) -> int:
        """Everything spent or claimed, in micro-dollars."""
        return self.settled_micro_usd + sum(self.claimed_micro_usd.values())


def micro_usd(usd: float) -> int:
    """Dollars in micro-dollars, rounded up except for float errors: 0.0008 USD are 800, not 801.

    Raises `ValueError` for negative, infinite or NaN amounts.
    """
    if not 0 <= usd < math.inf:
        raise ValueError(f"{usd} is not an amount of money: it must be finite and not negative")
    return math.ceil(round(usd * MICRO, 3))


class Cap:
    """A cap in this process's memory, without limit if ``limit_usd`` is None. Not thread-safe; amounts in
    micro-dollars.
    """

    def __init__(self, scope: str, setting: str, limit_usd: float | None, advice: str) -> None:
        self.scope = scope
        self.setting = setting
        self.limit = None if limit_usd is None else math.floor(limit_usd * MICRO)
        self.advice = advice
        self.committed = 0

    def take(self, cost: int, operation: str) -> None:
        """Reserves ``cost`` under the cap, or raises `CapReached`."""
        if self.limit is not None and self.committed + cost > self.limit:
            raise self._reached(self.committed, cost, operation)
        self.committed += cost

    def give_back(self, amount: int) -> None:
        """Releases a reserved amount that was not spent; negative if more was spent than reserved."""
        self.committed -= amount

    def _reached(self, spent: int, cost: int, operation: str, others: int = 0) -> CapReached:
        limit = (self.limit or 0) / MICRO
        claimed = f", {others / MICRO:.2f} of it claimed by other processes," if others else ""
        return CapReached(
            self.scope,
            spent / MICRO,
            f"the cap of this {self.scope}, {self.setting} = {limit:.2f} USD, has no room for the next call of "
            f"{operation} ({cost / MICRO:.4f} USD): {spent / MICRO:.2f} USD{claimed} are spent or reserved; "
            f"{self.advice}",
        )


class SharedCap(Cap):
    """A cap shared by all processes through the document at ``key``; without a limit it only records spending."""

    def __init__(
        self, scope: str, setting: str, limit_usd: float | None, advice: str, store: Store, key: str
    ) -> None:
        super().__init__(scope, setting, limit_usd, advice)
        self._store = store
        self._key = key
        self.name = f"{process_name()}.{uuid.uuid4().hex[:8]}"
        self._claimed = 0

    def take(self, cost: int, operation: str) -> None:
        if self.committed + cost > self._claimed:
            self._change(lambda spending: self._claim(spending, cost, operation))
        self.committed += cost

    def _claim(self, spending: Spending, cost: int, operation: str) -> Spending:
        claims = spending.claimed_micro_usd
        # The document is authoritative even for our own claim: the response to our last write may have been lost.
        self._claimed = claims.get(self.name, 0)
        shortfall = self.committed + cost - self._claimed
        if shortfall <= 0:
            return spending
        chunk = CHUNK_CALLS * cost
        if self.limit is not None:
            room = self.limit - spending.total
            if room < shortfall:
                others = sum(claims.values()) - self._claimed
                spent = spending.settled_micro_usd + others + self.committed
                raise self._reached(spent, cost, operation, others)
            chunk = min(chunk, self.limit // CHUNK_SHARE, room)
        claim = self._claimed + max(shortfall, chunk)
        return spending.model_copy(update={"claimed_micro_usd": claims | {self.name: claim}})

    def close(self) -> None:
        """Returns the unused part of the claim; calls in progress stay counted at their reserved amount."""
        try:
            self._change(self._settle)
        except (BotoCoreError, ClientError, RunStopped) as error:
            _log.warning(
                "%s could not be updated; the whole amount claimed by this process stays counted as spent: %s",
                self._key,
                error,
            )
        else:
            self.committed = self._claimed = 0

    def _settle(self, spending: Spending) -> Spending:
        claims = dict(spending.claimed_micro_usd)
        if claims.pop(self.name, None) is None:
            return spending
        settled = max(spending.settled_micro_usd + self.committed, 0)
        return spending.model_copy(update={"settled_micro_usd": settled, "claimed_micro_usd": claims})

    def _change(self, change: Callable[[Spending], Spending]) -> None:
        for _ in range(ATTEMPTS):
            spending, etag = read_spending(self._store, self._key)
            changed = change(spending)
            if changed is spending:
                return
            data = changed.model_dump_json(by_alias=True, indent=2).encode()
            try:
                self._store.write(
                    self._key, data, media_type="application/json", if_absent=etag is None, if_etag=etag
                )
            except PreconditionFailed:
                time.sleep(random.uniform(0, 0.05))  # noqa: S311
            else:
                self._claimed = changed.claimed_micro_usd.get(self.name, 0)
                return
        raise RunStopped(f"{self._key} could not be updated in {ATTEMPTS} attempts; nothing more is spent")


def read_spending(store: Store, key: str) -> tuple[Spending, str | None]:
    """The shared document at ``key`` and its ETag (None: nothing was ever spent).

    Raises `RunStopped` if the object is not a valid document, because the amount spent is then unknown.
    """
    content = store.read(key)
    if content is None:
        return Spending(settled_micro_usd=0, claimed_micro_usd={}), None
    try:
        return Spending.model_validate_json(content.data), content.etag
    except ValidationError as error:
        raise RunStopped(
            f"{key} in bucket {store.bucket} is not a record of spending, so nothing more is spent; "
            "restore it, or delete it: what was spent before then no longer counts"
        ) from error
