"""One cap on spending at a time: in this process's memory, or shared by all processes through a document.

What processes share is an S3 document changed only by compare-and-swap. Each process claims a little in advance
there, so that most calls cost no request, and gives the rest back at its end. The claim of a killed process
stays counted as spent: it cannot have spent more, so no cap is ever overrun, but each kill may leave the unused
part of one claim unspent. Money is counted in whole micro-dollars, costs rounded up.
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
"""A claim covers at most so many calls like the one it is made for …"""
CHUNK_SHARE = 100
"""… and at most the cap divided by this, but always that one call."""
ATTEMPTS = 100
"""Compare-and-swap attempts before giving up; as a rule a failed one means that another process succeeded."""
MICRO = 1_000_000

_log = logging.getLogger(__name__)


class CapReached(RunStopped):
    """The next call would overrun a cap, and nothing was spent on it.

    ``scope`` is ``run``, ``day`` or ``batch``; the last ends that batch only. ``spent_usd`` includes what is
    reserved for calls under way and claimed by other processes.
    """

    def __init__(self, scope: str, spent_usd: float, text: str) -> None:
        super().__init__(text)
        self.scope = scope
        self.spent_usd = spent_usd


class Spending(BaseModel):
    """The shared document: what ended processes spent, and what each of the others has claimed, living or killed."""

    # What a newer program has written besides stays when this one writes.
    model_config = ConfigDict(frozen=True, alias_generator=to_pascal, populate_by_name=True, extra="allow")

    version: int = 1
    settled_micro_usd: NonNegativeInt
    claimed_micro_usd: dict[str, NonNegativeInt]

    @property
    def total(self) -> int:
        return self.settled_micro_usd + sum(self.claimed_micro_usd.values())


def micro_usd(usd: float) -> int:
    """Rounded up, but not for the last bits of a float: 0.0008 USD are 800 micro-dollars, not 801."""
    if not 0 <= usd < math.inf:
        raise ValueError(f"{usd} is no amount of money to spend")
    return math.ceil(round(usd * MICRO, 3))


class Cap:
    """A cap in this process's memory; not for several threads without a lock of theirs."""

    def __init__(self, scope: str, setting: str, limit_usd: float | None, advice: str) -> None:
        self.scope = scope
        self.setting = setting
        self.limit = None if limit_usd is None else math.floor(limit_usd * MICRO)
        self.advice = advice
        self.committed = 0

    def take(self, cost: int, operation: str) -> None:
        """Commits to ``cost`` or raises `CapReached`."""
        if self.limit is not None and self.committed + cost > self.limit:
            raise self._reached(self.committed, cost, operation)
        self.committed += cost

    def give_back(self, amount: int) -> None:
        """Takes back what was committed and not spent; negative if more was spent."""
        self.committed -= amount

    def _reached(self, spent: int, cost: int, operation: str, others: int = 0) -> CapReached:
        limit = (self.limit or 0) / MICRO
        elsewhere = f", {others / MICRO:.2f} of it claimed by other processes," if others else ""
        return CapReached(
            self.scope,
            spent / MICRO,
            f"the cap of this {self.scope}, {self.setting} = {limit:.2f} USD, has no room for the next call of "
            f"{operation} ({cost / MICRO:.4f} USD): {spent / MICRO:.2f} USD{elsewhere} are spent or reserved; "
            f"{self.advice}",
        )


class SharedCap(Cap):
    """A cap that all processes keep together in one document at ``key``; without a limit it only counts."""

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
        # The document is right even about this process: the answer to its last claim may have been lost.
        self._claimed = claims.get(self.name, 0)
        short = self.committed + cost - self._claimed
        if short <= 0:
            return spending
        ahead = CHUNK_CALLS * cost
        if self.limit is not None:
            room = self.limit - spending.total
            if room < short:
                others = sum(claims.values()) - self._claimed
                spent = spending.settled_micro_usd + others + self.committed
                raise self._reached(spent, cost, operation, others)
            ahead = min(ahead, self.limit // CHUNK_SHARE, room)
        claim = self._claimed + max(short, ahead)
        return spending.model_copy(update={"claimed_micro_usd": claims | {self.name: claim}})

    def close(self) -> None:
        """Gives back what was claimed and not committed; calls still under way stay counted as reserved."""
        try:
            self._change(self._settle)
        except (BotoCoreError, ClientError, RunStopped) as error:
            _log.warning("%s could not be settled and stays at what was claimed: %s", self._key, error)
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
    """The shared document at ``key`` and its tag (None: nothing was ever spent).

    Raises `RunStopped` if something else lies there, since what was spent is then not known.
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
