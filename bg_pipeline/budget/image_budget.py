"""Payments for one image: each call is reserved under the caps, recorded in its claim, and kept as a payment."""

import hashlib
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.budget.run_budget import Reservation, RunBudget
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.payments import BEFORE_PAYMENTS, Bill, Payment, record, sum_payments
from bg_pipeline.errors import BgPipelineError, Blocked, LeaseLost, OutcomeUnknown, SubjectNotFound
from bg_pipeline.state.answers import Answer, AnswerStore
from bg_pipeline.state.claims import Claim, Price
from bg_pipeline.state.leases import Lease


class PaidCall:
    """A paid call in progress; ``id`` identifies it, ``regions`` are the Regions that answered it, in order."""

    def __init__(self, reservation: Reservation, payment: Payment, claim: Claim | None) -> None:
        self._reservation = reservation
        self._claim = claim
        self.id = payment.call
        self.payment: Payment | None = payment
        self.regions: list[str] = []

    @property
    def region(self) -> str:
        """The Region that answered last; empty if none did."""
        return self.regions[-1] if self.regions else ""

    def settle(self, usd: float | None) -> None:
        """Records that the call was billed at ``usd`` dollars (None: the price is unknown)."""
        if self.payment is not None:
            payment = self.payment
            self._end(Payment(payment.call, payment.operation, usd, True, payment.made_for))
            self._reservation.settle(usd)

    def release(self) -> None:
        """Records that the call was not made, or is not billed."""
        self._end(None)
        self._reservation.release()

    def _end(self, payment: Payment | None) -> None:
        self.payment = payment
        if self._claim is not None:
            self._claim.settle(payment)


@dataclass(frozen=True)
class RetryFamily:
    """A batch with all its follow-ups, which share one cap: the key of their spending document, and the cap in
    dollars.
    """

    key: str
    cap_usd: float | None


@dataclass
class ImageBudget:
    """Pays for one image under the caps of the run, the day, the image's batch and its family; thread-safe.

    ``payments`` are all payments ever made for the image, by call, as in its ledger entry; ``paid`` are those made
    through this object. ``reused`` is set once an answer is used that another image paid for. ``retry`` is the id of
    the occasion on which a person allowed one more call where earlier ones may have been billed. ``stage`` is the
    stage in work. ``payloads`` are (key, bytes) of requests and answers, stored for audit after the paid results.
    """

    run_budget: RunBudget
    batch: Batch
    image: str
    batch_cap_usd: float | None = None
    family: RetryFamily | None = None
    lease: Lease | None = None
    retry: str = ""
    stage: str = ""
    payments: dict[str, Payment] = field(default_factory=dict)
    paid: dict[str, Payment] = field(default_factory=dict)
    payloads: list[tuple[str, bytes]] = field(default_factory=list)
    reused: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def made_for(self) -> str:
        """A digest of the image's key, short enough for S3 metadata."""
        return hashlib.sha256(self.batch.upload_key(self.image).encode()).hexdigest()[:16]

    @property
    def spent(self) -> Bill:
        """The total of the payments made through this object."""
        return sum_payments(self.paid.values())

    def price(self, operation: str, usd: float | None) -> Price:
        """The maximum price of a call for this image, as it is written into a claim."""
        return Price(operation, usd, self.made_for)

    @contextmanager
    def pay(self, operation: str, worst_usd: float | None, claim: Claim | None = None) -> Iterator[PaidCall]:
        """Reserves ``worst_usd`` dollars for a call under ``claim``; the block settles the call with its actual cost.

        A call that fails for a known reason costs nothing. A call with an unknown outcome stays counted as possibly
        billed, and so does a call of several requests if one fails after another was answered. Errors as `check` and
        `RunBudget.reserve`.
        """
        self.check(claim)
        for earlier in claim.earlier if claim else ():
            self.forget_maybe_billed(earlier)
        spend_log = self.run_budget.spend_log
        if spend_log is not None:
            spend_log.before_call(self.batch)
        reservation = self.run_budget.reserve(
            worst_usd,
            operation,
            batch_key=self.batch.spend_key,
            batch_cap_usd=self.batch_cap_usd,
            family_key=self.family.key if self.family else "",
            family_cap_usd=self.family.cap_usd if self.family else None,
        )
        with reservation:
            try:
                payment = claim.expect(self.price(operation, worst_usd)) if claim else None
            except (BgPipelineError, ClientError, BotoCoreError):
                reservation.release()
                raise
            call = PaidCall(reservation, payment or self._unclaimed(operation, worst_usd), claim)
            try:
                yield call
            except OutcomeUnknown:
                raise
            except (Blocked, SubjectNotFound):
                # The only answer was a refusal, which is not billed.
                if call.payment is not None and not call.payment.certain and len(call.regions) <= 1:
                    call.release()
                raise
            except (BgPipelineError, ClientError, BotoCoreError):
                if call.payment is not None and not call.payment.certain and not call.regions:
                    call.release()
                raise
            finally:
                if call.payment is not None:
                    self._keep(call.payment)

    def _unclaimed(self, operation: str, usd: float | None) -> Payment:
        return Payment(uuid.uuid4().hex[:12], operation, usd, False, self.made_for)

    def _keep(self, payment: Payment) -> None:
        if self.run_budget.spend_log is not None:
            self.run_budget.spend_log.paid(self.batch, payment)
        with self._lock:
            record(self.paid, payment)
            record(self.payments, payment)

    def check(self, *claims: Claim | None) -> None:
        """Must be called right before each paid call; renews the claims where needed.

        Raises `LeaseLost` if another run may be working on the batch, `ClaimLost` if another process has taken over
        one of ``claims``.
        """
        if self.lease is not None and not self.lease.held():
            raise LeaseLost(f"batch {self.batch.path} was taken over by another run, which goes on with it")
        for claim in claims:
            if claim is not None:
                claim.renew()

    def charge(self, name: str, answer: Answer, answers: AnswerStore) -> None:
        """Adds the payments of a used answer to the image's payments, except those made for other images."""
        if answer.made_for != self.made_for:
            self.reused = True
        elif not answer.call:
            # Paid before calls had ids; the ledger of that time has only the sum of the stage.
            if f"{BEFORE_PAYMENTS}{self.stage}" not in self.payments:
                self._recall(Payment(f"{BEFORE_PAYMENTS}{name}", "", answer.cost_usd, True, self.made_for))
        else:
            self._recall(answer.payment)
        if answer.earlier:
            for payment in answers.payments(name):
                self.forget_maybe_billed(payment, unless=answer.call)

    def forget_maybe_billed(self, payment: Payment, *, unless: str = "") -> None:
        """Adds a payment of an earlier call to the image's payments, if it was made for this image and is not
        ``unless``.
        """
        if payment.call != unless and payment.made_for in ("", self.made_for):
            self._recall(payment)

    def _recall(self, payment: Payment) -> None:
        with self._lock:
            if not payment.operation and payment.call in self.payments:
                known = self.payments[payment.call]
                payment = Payment(payment.call, known.operation, payment.usd, payment.certain)
            record(self.payments, payment)
