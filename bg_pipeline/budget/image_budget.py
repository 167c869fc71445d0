"""What is paid for one image: each call is reserved under the caps, written into its claim, and kept as a payment."""

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
    """One call while it is made, by its ``id``; ``regions`` are those that answered it, in order."""

    def __init__(self, reservation: Reservation, payment: Payment, claim: Claim | None) -> None:
        self._reservation = reservation
        self._claim = claim
        self.id = payment.call
        self.payment: Payment | None = payment
        self.regions: list[str] = []

    @property
    def region(self) -> str:
        """The Region that answered last."""
        return self.regions[-1] if self.regions else ""

    def settle(self, usd: float | None) -> None:
        """The call was billed at ``usd`` (None: nobody knows its price)."""
        if self.payment is not None:
            payment = self.payment
            self._end(Payment(payment.call, payment.operation, usd, True, payment.made_for))
            self._reservation.settle(usd)

    def release(self) -> None:
        """The call was not made, or is not billed."""
        self._end(None)
        self._reservation.release()

    def _end(self, payment: Payment | None) -> None:
        self.payment = payment
        if self._claim is not None:
            self._claim.settle(payment)


@dataclass(frozen=True)
class RetryFamily:
    """A batch and all that is asked for again of it, which share one cap: their document and the cap in dollars."""

    key: str
    cap_usd: float | None


@dataclass
class ImageBudget:
    """Pays for one image, under the caps of the run, the day, the image's batch and its family. Safe for threads.

    ``payments`` is the ledger entry's record of what was ever paid for the image, by call; ``paid`` is what was paid
    through this object. ``reused`` is set once an answer served that another image paid for. ``retry`` names the
    occasion on which a person asked that what may have been billed twice be called once more. ``stage`` is the one
    that is being made. ``payloads`` are pairs of (key, bytes) of what was sent and answered, to be stored for audit
    after what was paid for.
    """

    purse: RunBudget
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
        """A short digest of the image's key, which fits the metadata of an object."""
        return hashlib.sha256(self.batch.upload_key(self.image).encode()).hexdigest()[:16]

    @property
    def spent(self) -> Bill:
        """What was paid through this object."""
        return sum_payments(self.paid.values())

    def price(self, operation: str, usd: float | None) -> Price:
        """What a call for this image is expected to cost at most."""
        return Price(operation, usd, self.made_for)

    @contextmanager
    def pay(self, operation: str, worst_usd: float | None, claim: Claim | None = None) -> Iterator[PaidCall]:
        """Reserves ``worst_usd`` for a call under ``claim``; the block settles it with what the call cost.

        A call that failed for a reason that is known costs nothing; any other stays counted as billed, perhaps. So
        does one of several calls of a model that failed after another was answered.
        """
        self.check(claim)
        for earlier in claim.earlier if claim else ():
            self.forget_maybe_billed(earlier)
        reservation = self.purse.reserve(
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
                # The one answer was a refusal, which is not billed.
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
        with self._lock:
            record(self.paid, payment)
            record(self.payments, payment)

    def check(self, *claims: Claim | None) -> None:
        """Raises `LeaseLost` if another run may be at work on the batch; called right before each paid call.

        Raises `ClaimLost` if another process has a call that is made under one of ``claims`` by now.
        """
        if self.lease is not None and not self.lease.held():
            raise LeaseLost(f"batch {self.batch.path} was taken over by another run, which goes on with it")
        for claim in claims:
            if claim is not None:
                claim.renew()

    def charge(self, name: str, answer: Answer, answers: AnswerStore) -> None:
        """Takes the payments of an answer that is used into the image's record, as far as they were made for it."""
        if answer.made_for != self.made_for:
            self.reused = True
        elif not answer.call:
            # Paid before calls had ids: the ledger of that time told the stage's sum.
            if f"{BEFORE_PAYMENTS}{self.stage}" not in self.payments:
                self._recall(Payment(f"{BEFORE_PAYMENTS}{name}", "", answer.cost_usd, True, self.made_for))
        else:
            self._recall(answer.payment)
        if answer.earlier:
            for payment in answers.payments(name):
                self.forget_maybe_billed(payment, unless=answer.call)

    def forget_maybe_billed(self, payment: Payment, *, unless: str = "") -> None:
        """Takes a payment of an earlier call into the image's record, if it was made for this image."""
        if payment.call != unless and payment.made_for in ("", self.made_for):
            self._recall(payment)

    def _recall(self, payment: Payment) -> None:
        with self._lock:
            if not payment.operation and payment.call in self.payments:
                known = self.payments[payment.call]
                payment = Payment(payment.call, known.operation, payment.usd, payment.certain)
            record(self.payments, payment)
