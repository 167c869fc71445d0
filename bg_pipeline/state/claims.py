"""The right to make one paid call: a small object that one process writes, and another takes over when it is gone.

What a claim stands for, and when it may be taken over, is for `bg_pipeline.state.answers` to say. A claim also keeps
the payments of its call: the entry of a call is stored before the call is made.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain.payments import Payment
from bg_pipeline.errors import BgPipelineError, ClaimLost, OutcomeUnknown, PreconditionFailed
from bg_pipeline.storage.conditional_writes import compare_and_swap
from bg_pipeline.storage.object_store import Store

T = TypeVar("T")

VERSION = 2
"""Version 1 kept no payments."""

RENEW_SECONDS = 100
"""A claim that waited so long for its call is renewed right before it."""

CALL_SECONDS = 480
"""So long after its last renewal a claimed call is over, however it ended: `RENEW_SECONDS`, the longest read timeout
(330 s) and some."""

TRIES = 2
"""A call whose end is unknown may have been billed; it is repeated once, and then only when a person asks again.

One that a process died over is made again whenever that happens: it is a process that has to be mended then.
"""

_active: set[str] = set()
"""Tokens of the claims of this process whose call is waited for or being made."""
_active_lock = threading.Lock()


def is_active(token: str) -> bool:
    """Whether a thread of this process still works under the claim with this token."""
    return token in _active


@dataclass(frozen=True, slots=True)
class Price:
    """What a call is expected to cost: the operation, the most it can cost in dollars (None: not known), and a
    digest of the key of the image it is made for."""

    operation: str = ""
    usd: float | None = 0.0
    made_for: str = ""


def held_by(data: bytes) -> dict[str, Any]:
    """What a stored claim says of its holder and of earlier calls; of what is no claim, that nobody holds it."""
    try:
        held = orjson.loads(data)
        counts = {name: int(held.get(name, 0)) for name in ("Unknown", "Abandoned")}
        names = {name: str(held.get(name, "")) for name in ("Holder", "Batch", "Retry", "Token")}
        payments = [payment for each in held.get("Payments", ()) if (payment := Payment.read(each))]
        if "Payments" not in held:
            # Claims of version 1 counted their calls without a price.
            calls = range(counts["Unknown"] + counts["Abandoned"])
            payments = [Payment(f"{names['Token']}-{call}", "", None, certain=False) for call in calls]
        return {**names, **counts, "Payments": payments}
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
        names = dict.fromkeys(("Holder", "Batch", "Retry", "Token"), "")
        return {**names, "Unknown": 0, "Abandoned": 0, "Payments": []}


class Claim:
    """The right to make one paid call; left as it is once the answer is stored, as the mark that it was made.

    ``price`` is None where the call is paid under another claim. ``earlier`` are payments of calls under earlier
    claims, ``occasions`` the refreshes on which the answer is made, after those of the one that it replaces. Used by
    one thread at a time.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        document: dict[str, Any],
        clock: Callable[[], float],
        price: Price | None,
    ) -> None:
        self._store = store
        self._key = key
        self._document = document
        self._clock = clock
        self._price = price
        self._etag = ""
        self._written_at = 0.0
        self._calls = 1
        self.earlier: list[Payment] = []
        self.occasions: tuple[str, ...] = ()
        self._current: Payment | None = None

    def take(self, over: str | None, earlier: list[Payment] | None = None) -> bool:
        """Takes the claim over the version ``over`` (None: where none is), unless somebody else was first."""
        if earlier is not None:
            self.earlier = list(earlier)
        if not self._current:
            self._current = self._payment(self._price)
        with _active_lock:
            _active.add(self.etag)
        taken = False
        try:
            taken = self._store_over(over)
        finally:
            if not taken:
                self.leave()
        return taken

    def _store_over(self, over: str | None) -> bool:
        now = self._clock()
        payments = [*self.earlier, *([self._current] if self._current else [])]
        document = {**self._document, "Version": VERSION, "Payments": [asdict(each) for each in payments]}
        etag = compare_and_swap(
            self._store,
            self._key,
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
            token=self._document["Token"],
            over=over,
        )
        if etag is not None:
            self._etag, self._written_at = etag, now
        return etag is not None

    def _write(self) -> None:
        if not self._store_over(self._etag):
            raise ClaimLost("ClaimLost", "another process has taken the call over")

    def _payment(self, price: Price | None) -> Payment | None:
        if price is None:
            return None
        call = f"{self.etag[:12]}-{self._calls}"  # one for each image is kept in the ledger: short
        return Payment(call, price.operation, price.usd, False, price.made_for)

    def renew(self) -> None:
        """Says that the call is made now, not when it was claimed, if that was long ago; call it right before.

        Raises `ClaimLost` if another process has given up on it meanwhile.
        """
        if self._clock() - self._written_at > RENEW_SECONDS:
            self._document["Renewed"] += 1
            self._write()

    def expect(self, price: Price) -> Payment | None:
        """The stored claim names this payment when this returns; it is uncertain until `settle`.

        Costs a request only where another model, with another price, is called than was expected.
        """
        wanted = self._payment(price)
        if self._current != wanted:
            self._current = wanted
            self._write()
        return wanted

    def settle(self, payment: Payment | None) -> None:
        """How the call ended, for what is stored next: what it was billed, or None if it was not billed."""
        self._current = payment

    @property
    def etag(self) -> str:
        """What no other claim has; the same for as long as nobody takes it over."""
        return str(self._document["Token"])

    @property
    def payments(self) -> list[Payment]:
        """Every payment of this call and of earlier ones that the claim knows."""
        return [*self.earlier, *([self._current] if self._current else [])]

    @property
    def maybe_billed(self) -> int:
        """Earlier calls of this kind whose end is unknown, or that a process died over."""
        return sum(1 for payment in self.earlier if not payment.certain)

    def make(self, call: Callable[[], T]) -> T:
        """Makes the call; repeats it once if its end stays unknown.

        A call that failed for a known reason gives the claim back, so that it may be made again. Raises
        `ClaimLost`, without a call, if another process has it by now.
        """
        try:
            while True:
                try:
                    return call()
                except ClaimLost:
                    raise
                except OutcomeUnknown as error:
                    if not self._ended_unknown(error):
                        raise
                except BgPipelineError:
                    self.give_back()
                    raise
                except (ClientError, BotoCoreError):
                    # S3 does not take the answer: whoever takes the claim over counts this call and need not wait.
                    self._document["Holder"] = ""
                    with suppress(ClientError, BotoCoreError, ClaimLost):
                        self._write()
                    raise
                except Exception as error:
                    # A fault of ours, maybe after a call that is billed.
                    self._document["Holder"] = ""
                    self._ended_unknown(error)
                    raise
        finally:
            self.leave()

    def leave(self) -> None:
        """No thread of this process works under the claim any more, however its call ended."""
        with _active_lock:
            _active.discard(self.etag)

    def _ended_unknown(self, error: Exception) -> bool:
        """Counts a call that may have been billed; whether it may be made once more."""
        self._document["Unknown"] += 1
        more: bool = self._document["Unknown"] < TRIES
        if self._current is not None:
            self.earlier.append(self._current)
        self._calls += 1
        self._current = self._payment(self._price) if more else None
        if not more:
            self._document["Holder"] = ""
        try:
            self._write()
        except ClaimLost:
            raise error from None  # what was called may have been billed, whoever goes on
        return more

    def give_back(self) -> None:
        """Lets anybody make the call; what was paid under the claim stays written in it."""
        self.leave()
        if self._current is not None:
            if self._current.certain:
                self.earlier.append(self._current)
            self._current = None
        try:
            if self.earlier:
                self._document["Holder"] = ""
                self._write()
            else:
                self._store.delete(self._key, if_etag=self._etag)
        except (PreconditionFailed, ClaimLost):
            pass  # another process has it by now


def made_certain(payments: list[Payment], call: str, usd: float | None) -> list[Payment]:
    """The payments with that of ``call`` as certain: its answer is stored."""
    return [replace(each, certain=True, usd=usd) if each.call == call else each for each in payments]
