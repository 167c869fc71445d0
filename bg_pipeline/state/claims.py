"""Claims on paid calls: small S3 objects, each held by one process, which another takes over if that process is gone.

`bg_pipeline.state.answers` decides what a claim is for and when it may be taken over. A claim also records the
payments of its call; the payment is stored before the call is made.
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
"""Version of the stored document; version 1 has no payments."""

RENEW_SECONDS = 100
"""A claim older than this is renewed right before its call."""

CALL_SECONDS = 480
"""Seconds after the last renewal of a claim when its call must have ended: `RENEW_SECONDS`, the longest read timeout
(330 s) and a margin."""

MAX_CALLS = 2
"""Calls with an unknown outcome, each of which may have been billed: it is repeated once, then only if a person
retries.

Calls during which the process died do not count; they are always repeated, because there the process is at fault.
"""

_active: set[str] = set()
"""Tokens of the claims under which a thread of this process is working."""
_active_lock = threading.Lock()


def is_active(token: str) -> bool:
    """Whether a thread of this process still works under the claim with this token."""
    return token in _active


@dataclass(frozen=True, slots=True)
class Price:
    """The expected cost of a call: its operation, its maximum in US dollars (None: unknown), and a digest of the key
    of the image that it is made for."""

    operation: str = ""
    usd: float | None = 0.0
    made_for: str = ""


def parse_call_claim(data: bytes) -> dict[str, Any]:
    """Holder, batch, retry, token, call counts and payments of a stored claim; no holder if it is unreadable."""
    try:
        held = orjson.loads(data)
        counts = {name: int(held.get(name, 0)) for name in ("Unknown", "Abandoned")}
        texts = {name: str(held.get(name, "")) for name in ("Holder", "Batch", "Retry", "Token")}
        payments = [payment for each in held.get("Payments", ()) if (payment := Payment.read(each))]
        if "Payments" not in held:
            # Claims of version 1 contain only the number of calls.
            calls = range(counts["Unknown"] + counts["Abandoned"])
            payments = [Payment(f"{texts['Token']}-{call}", "", None, certain=False) for call in calls]
        return {**texts, **counts, "Payments": payments}
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValueError):
        texts = dict.fromkeys(("Holder", "Batch", "Retry", "Token"), "")
        return {**texts, "Unknown": 0, "Abandoned": 0, "Payments": []}


class Claim:
    """The right to make one paid call. The stored object remains after the answer is stored, as a record of the call.

    ``price`` is None if the call is paid under another claim. ``earlier`` are the payments of calls under earlier
    claims, ``occasions`` the refreshes that this answer is made for, including those of the answer that it replaces.
    ``is_answered``, of a claim that was taken over, is whether the answer is stored by now: its last holder may have
    been suspended, and wake up. Not thread-safe.
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
        self.is_answered: Callable[[], bool] = lambda: False
        self._current: Payment | None = None

    def take(self, if_etag: str | None, earlier: list[Payment] | None = None) -> bool:
        """Writes the claim over the version ``if_etag`` (None: there is none); False if another process was first."""
        if earlier is not None:
            self.earlier = list(earlier)
        if not self._current:
            self._current = self._payment(self._price)
        with _active_lock:
            _active.add(self.token)
        taken = False
        try:
            taken = self._store_over(if_etag)
        finally:
            if not taken:
                self.leave()
        return taken

    def _store_over(self, if_etag: str | None) -> bool:
        now = self._clock()
        payments = [*self.earlier, *([self._current] if self._current else [])]
        document = {**self._document, "Version": VERSION, "Payments": [asdict(each) for each in payments]}
        etag = compare_and_swap(
            self._store,
            self._key,
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE),
            token=self._document["Token"],
            if_etag=if_etag,
        )
        if etag is not None:
            self._etag, self._written_at = etag, now
        return etag is not None

    def _write(self) -> None:
        if not self._store_over(self._etag):
            raise ClaimLost("ClaimLost", "another process has taken over the claim of this call")

    def _payment(self, price: Price | None) -> Payment | None:
        if price is None:
            return None
        call = f"{self.token[:12]}-{self._calls}"  # short, because the ledger stores one for each image
        return Payment(call, price.operation, price.usd, False, price.made_for)

    def renew(self) -> None:
        """Renews the claim if it is older than `RENEW_SECONDS`; must be called right before the paid call.

        Raises `ClaimLost` if another process has taken it over, or has stored the answer.
        """
        if self.is_answered():
            self.give_back()
            raise ClaimLost("ClaimLost", "the process that had the claim of this call has stored its answer")
        if self._clock() - self._written_at > RENEW_SECONDS:
            self._document["Renewed"] += 1
            self._write()

    def expect(self, price: Price) -> Payment | None:
        """Makes the stored claim contain this payment, as uncertain, and returns it (None: paid elsewhere).

        Makes a request only if the price is not the one that was claimed, as when another model is used.
        """
        payment = self._payment(price)
        if self._current != payment:
            self._current = payment
            self._write()
        return payment

    def settle(self, payment: Payment | None) -> None:
        """Sets the final payment of the call (None: not billed); it is stored with the next write."""
        self._current = payment

    @property
    def token(self) -> str:
        """The claim's token: unique, and unchanged until another process takes the claim over."""
        return str(self._document["Token"])

    @property
    def payments(self) -> list[Payment]:
        """The payments of earlier calls and of the current one."""
        return [*self.earlier, *([self._current] if self._current else [])]

    @property
    def maybe_billed(self) -> int:
        """Number of earlier calls whose outcome is unknown, including those during which a process died."""
        return sum(1 for payment in self.earlier if not payment.certain)

    def make(self, call: Callable[[], T]) -> T:
        """Returns the result of ``call``; repeats it, up to `MAX_CALLS`, if its outcome is unknown.

        If it fails for a known reason the claim is given back, so that the call may be made again. Raises `ClaimLost`
        if another process has taken the claim over.
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
                    # S3 did not store the answer. Without a holder another process can take the claim over at once;
                    # it counts this call.
                    self._document["Holder"] = ""
                    with suppress(ClientError, BotoCoreError, ClaimLost):
                        self._write()
                    raise
                except Exception as error:
                    # A bug of this program, perhaps after a call that is billed.
                    self._document["Holder"] = ""
                    self._ended_unknown(error)
                    raise
        finally:
            self.leave()

    def leave(self) -> None:
        """Marks that no thread of this process works under the claim any more."""
        with _active_lock:
            _active.discard(self.token)

    def _ended_unknown(self, error: Exception) -> bool:
        """Records a call that may have been billed; returns whether it may be repeated."""
        self._document["Unknown"] += 1
        more: bool = self._document["Unknown"] < MAX_CALLS
        if self._current is not None:
            self.earlier.append(self._current)
        self._calls += 1
        self._current = self._payment(self._price) if more else None
        if not more:
            self._document["Holder"] = ""
        try:
            self._write()
        except ClaimLost:
            raise error from None  # the call may have been billed, whoever holds the claim now
        return more

    def give_back(self) -> None:
        """Lets any process make the call; payments under the claim stay recorded in it."""
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
            pass  # another process has taken it over


def mark_certain(payments: list[Payment], call: str, usd: float | None) -> list[Payment]:
    """The payments, with the one of ``call`` certain and at ``usd``, because its answer is stored."""
    return [replace(each, certain=True, usd=usd) if each.call == call else each for each in payments]
