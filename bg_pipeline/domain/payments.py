"""What was paid: one entry for each paid call. Every amount that people are told is a sum of these entries.

An entry is written into the call's claim before the call is made (`bg_pipeline.state.claims`), so that a process
that is killed leaves it behind; the image's ledger entry gathers all entries of its image by the id of the call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

BEFORE_PAYMENTS = "before payments: "
"""Begins the ids of what was paid before calls had ids: the sum of a stage, as the ledger of that time told it."""


@dataclass(frozen=True, slots=True)
class Payment:
    """One paid call. ``usd`` is None where its price is not known.

    ``certain`` is False while nobody knows whether the call was billed: then ``usd`` is the most it can have cost.
    ``made_for`` is a digest of the key of the image that it was made for
    (`bg_pipeline.budget.image_budget.ImageBudget.made_for`).
    """

    call: str
    operation: str
    usd: float | None
    certain: bool = True
    made_for: str = ""

    @classmethod
    def read(cls, document: Any) -> "Payment | None":
        """The payment in a stored document, whatever else a newer program wrote into it; None if it is none."""
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
    """A sum of payments in dollars: what was billed lies between ``cost_usd`` and ``cost_usd + maybe_usd``.

    Each is None where a price in it is not known.
    """

    cost_usd: float | None = 0.0
    maybe_usd: float | None = 0.0

    def __add__(self, other: "Bill") -> "Bill":
        return Bill(total([self.cost_usd, other.cost_usd]), total([self.maybe_usd, other.maybe_usd]))


def sum_payments(payments: Iterable[Payment]) -> Bill:
    """The sum of payments, each call once."""
    certain: list[float | None] = []
    maybe: list[float | None] = []
    for payment in payments:
        (certain if payment.certain else maybe).append(payment.usd)
    return Bill(total(certain), total(maybe))


def record(payments: dict[str, Payment], payment: Payment) -> None:
    """Adds a payment by its call; of two entries for one call the certain one stays."""
    known = payments.get(payment.call)
    if known is None or not known.certain:
        payments[payment.call] = payment


def as_stored(payments: Mapping[str, Payment]) -> dict[str, list[Any]]:
    """Payments of one image as a ledger keeps them: operation, dollars and whether they are certain, by call."""
    return {call: [each.operation, each.usd, each.certain] for call, each in payments.items()}


def from_stored(document: Any) -> dict[str, Payment]:
    """What `as_stored` gave; of what a newer program added nothing, and what is no payment is left out."""
    found: dict[str, Payment] = {}
    if isinstance(document, Mapping):
        for call, values in document.items():
            try:
                operation, usd, certain = values[:3]
                found[str(call)] = Payment(
                    str(call), str(operation), None if usd is None else float(usd), bool(certain)
                )
            except (TypeError, ValueError):
                continue
    return found


def total(amounts: Iterable[float | None], places: int = 9) -> float | None:
    """The sum of amounts in dollars, rounded; None where one of them is not known."""
    found = 0.0
    for usd in amounts:
        if usd is None:
            return None
        found += usd
    return round(found, places)
