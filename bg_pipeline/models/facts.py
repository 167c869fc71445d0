"""What each operation is allowed, costs and whether its model still lives, from the dated ``facts.toml``.

Figures are planning figures: the account's own quota (Service Quotas, ``BG_QUOTA_…``) and the service's own
word on a model's life cycle win over them.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from pydantic import ConfigDict, TypeAdapter

GEOGRAPHIES = ("us.", "eu.", "apac.", "jp.", "au.", "ca.", "global.", "us-gov.")
"""Prefixes that turn a Bedrock model's id into the id of a cross-Region inference profile."""

FRESH = timedelta(days=120)
"""Prices and quotas change: a figure that nobody compared with its source for so long is not to be relied on."""


@dataclass(frozen=True)
class Price:
    """What is billed, in US dollars; None is unknown, which is not free."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    image: float | None = None
    """One picture looked at or made."""
    million_input_tokens: float | None = None
    million_output_tokens: float | None = None
    unit_hour: float | None = None
    """An inference unit of Custom Labels, an hour, while the model runs."""


@dataclass(frozen=True)
class ModelFacts:
    """The figures of one operation with one model.

    ``regions`` is empty where it is not known. ``end_of_life`` is None for a model that lives, or whose date
    is not known (``end_of_life_note`` says which). ``profiles`` are the geography prefixes the entry holds
    for, "" being the bare model id.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    requests_per_minute: float
    requests_source: str
    operation: str = ""
    model: str = ""
    provider: str = ""
    profiles: tuple[str, ...] = ("",)
    regions: tuple[str, ...] = ()
    """Where a call may be made from; through a profile the model may run in another Region."""
    processed_in: str = ""
    end_of_life: date | None = None
    end_of_life_note: str = ""
    requests_by_region: Mapping[str, float] = field(default_factory=dict)
    tokens_per_minute: float | None = None
    tokens_by_region: Mapping[str, float] = field(default_factory=dict)
    picture_tokens: int = 0
    """Input tokens of one picture as the pipeline sends it, at most."""
    quota_service: str = ""
    quota_name: str = ""
    quota_code: str = ""
    tokens_quota_name: str = ""
    tokens_quota_code: str = ""
    requests_as_of: date | None = None
    price: Price = Price()
    flex_price: Price | None = None
    """What the service tier ``flex`` costs; None where the model is not offered in it, or its price is not known."""
    price_source: str = ""
    price_as_of: date | None = None

    def requests_in(self, region: str) -> float:
        """Requests a minute that an account may make in ``region`` by default."""
        return self.requests_by_region.get(region, self.requests_per_minute)

    def tokens_in(self, region: str) -> float | None:
        """Tokens a minute in ``region`` by default; None where tokens are not counted or not known."""
        return self.tokens_by_region.get(region, self.tokens_per_minute)

    def retired(self, on: date) -> bool:
        """Whether the model's published end of life lies before ``on`` or on it."""
        return self.end_of_life is not None and self.end_of_life <= on

    def cost(
        self,
        *,
        images: int = 0,
        input_tokens: int = 0,
        output_tokens: int = 0,
        unit_hours: float = 0.0,
        tier: str = "",
    ) -> float | None:
        """US dollars for what was used; None as soon as one price that counts is unknown.

        ``tier`` is Bedrock's service tier; where the price of ``flex`` is not known, the usual one, which is higher.
        """
        prices = self.flex_price if tier == "flex" and self.flex_price is not None else self.price
        total = 0.0
        for amount, price in (
            (images, prices.image),
            (input_tokens / 1e6, prices.million_input_tokens),
            (output_tokens / 1e6, prices.million_output_tokens),
            (unit_hours, prices.unit_hour),
        ):
            if amount and price is None:
                return None
            total += amount * (price or 0.0)
        return total


@dataclass(frozen=True)
class Geography:
    """The inference profiles of one geography: where they are called from, and where Bedrock may run the call.

    ``destinations`` is empty where that is any commercial Region.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    prefix: str
    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    source: str
    as_of: date


def split_profile(model_id: str) -> tuple[str, str]:
    """The geography prefix of an inference profile ("" for a bare model) and the catalogue's model id.

    >>> split_profile("us.amazon.nova-pro-v1:0")
    ('us.', 'amazon.nova-pro-v1:0')
    """
    prefix = next((p for p in GEOGRAPHIES if model_id.startswith(p)), "")
    return prefix, model_id.removeprefix(prefix)


def facts_of(operation: str, model_id: str = "") -> ModelFacts:
    """The figures of an operation, never None: what the file does not know gets a cautious rate and no price.

    ``model_id`` (bare or of a profile) separates the models of one operation, such as ``CAPTION``; an
    operation with a single entry needs none. A model known under another profile lends its figures.
    """
    entries = _table().get(operation, ())
    if not model_id and len(entries) == 1:
        return entries[0]
    profile, bare = split_profile(model_id)
    same = [entry for entry in entries if entry.model == bare]
    exact = [entry for entry in same if profile in entry.profiles]
    if exact:
        return exact[0]
    if same:
        # Where it may be called from, and which quota it has, is another profile's.
        return replace(
            same[0],
            profiles=(profile,),
            regions=(),
            quota_name="",
            quota_code="",
            tokens_quota_name="",
            tokens_quota_code="",
        )
    unknown = _table()["UNKNOWN"][0]
    return ModelFacts(
        operation=operation,
        model=bare,
        profiles=(profile,),
        requests_per_minute=unknown.requests_per_minute,
        requests_source=unknown.requests_source,
        picture_tokens=unknown.picture_tokens,
    )


def all_facts() -> tuple[ModelFacts, ...]:
    """Every entry of the file, in its order, without the one for what is unknown."""
    return tuple(entry for name, entries in _table().items() if name != "UNKNOWN" for entry in entries)


def geographies() -> Mapping[str, Geography]:
    """The geographies of inference profiles by their prefix."""
    read = TypeAdapter(tuple[Geography, ...])
    return {each.prefix: each for each in read.validate_python(_document()[_GEOGRAPHY])}


def outdated(today: date) -> Iterator[str]:
    """What in the file was last compared with its source too long before ``today``, one line each."""
    for facts in all_facts():
        name = f"{facts.operation} {(facts.profiles[0] if facts.profiles else '') + facts.model}".strip()
        for what, day in (("quota", facts.requests_as_of), ("price", facts.price_as_of)):
            if day is None or today - day > FRESH:
                yield f"{what} of {name}: {day or 'no date'}"
    for geography in geographies().values():
        if today - geography.as_of > FRESH:
            yield f"Regions of {geography.prefix} profiles: {geography.as_of}"


def as_of() -> date:
    """The day the file's figures were last gone through."""
    day: date = _document()["as_of"]
    return day


_GEOGRAPHY = "GEOGRAPHY"


@cache
def _document() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("facts.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def _table() -> Mapping[str, tuple[ModelFacts, ...]]:
    read = TypeAdapter(tuple[ModelFacts, ...])
    return MappingProxyType(
        {
            operation: read.validate_python([{**entry, "operation": operation} for entry in entries])
            for operation, entries in _document().items()
            if operation not in ("as_of", _GEOGRAPHY)
        }
    )
