"""Payments: one for each paid call. Every amount that is reported is a sum of payments.

A payment is written into the call's claim before the call is made (`bg_pipeline.state.claims`), so it survives if
the process is killed. The image's ledger entry collects all payments of its image by the call's id.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

BEFORE_PAYMENTS = "before payments: "
"""Prefix of the ids of payments from ledgers that stored only a sum for each stage."""


@dataclass(frozen=True, slots=True)
class Payment:
    """One paid call; ``usd`` is None if its price is not known.

    ``certain`` is False while it is not known whether the call was billed; then ``usd`` is the maximum it may have
    cost. ``made_for`` is a digest of the key of the image for which the call was made
    (`bg_pipeline.budget.image_budget.ImageBudget.made_for`).
    """

    call: str
    operation: str
    usd: float | None
    certain: bool = True
    made_for: str = ""

    @classmethod
    def read(cls, document: Any) -> "Payment | None":
        """The payment in a stored document, ignoring fields of newer versions; None if the document is not one."""
        try:
            usd = document.get("usd")
            return cls(
                str(document["call"]),
                str(document.get("operation", "")),
                None if usd is None else float(usd),
                bool(document.get("certain", False)),
                str(document.get("made_for", "")),
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class Bill:
    """A sum of payments in US dollars: between ``cost_usd`` and ``cost_usd + maybe_usd`` was billed.

    Each is None if it contains a price that is not known.
    """

    cost_usd: float | None = 0.0
    maybe_usd: float | None = 0.0

    def __add__(self, other: "Bill") -> "Bill":
        return Bill(total([self.cost_usd, other.cost_usd]), total([self.maybe_usd, other.maybe_usd]))


def sum_payments(payments: Iterable[Payment]) -> Bill:
    """The sum of payments."""
    certain: list[float | None] = []
    maybe: list[float | None] = []
    for payment in payments:
        (certain if payment.certain else maybe).append(payment.usd)
    return Bill(total(certain), total(maybe))


def record(payments: dict[str, Payment], payment: Payment) -> None:
    """Adds a payment to ``payments``, which are by call id; a certain payment of the same call is kept."""
    known = payments.get(payment.call)
    if known is None or not known.certain:
        payments[payment.call] = payment


def as_stored(payments: Mapping[str, Payment]) -> dict[str, list[Any]]:
    """Payments of one image in the ledger's format: ``[operation, dollars, certain]`` by call id."""
    return {call: [payment.operation, payment.usd, payment.certain] for call, payment in payments.items()}


def from_stored(document: Any) -> dict[str, Payment]:
    """The inverse of `as_stored`; additions of newer versions and invalid entries are ignored."""
    payments: dict[str, Payment] = {}
    if isinstance(document, Mapping):
        for call, values in document.items():
            try:
                operation, usd, certain = values[:3]
                payments[str(call)] = Payment(
                    str(call), str(operation), None if usd is None else float(usd), bool(certain)
                )
            except (TypeError, ValueError):
                continue
    return payments


def total(amounts: Iterable[float | None], places: int = 9) -> float | None:
    """The rounded sum of amounts in dollars; None if one of them is None (not known)."""
    result = 0.0
    for usd in amounts:
        if usd is None:
            return None
        result += usd
    return round(result, places)
