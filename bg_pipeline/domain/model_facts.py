"""Quotas, prices and end-of-life dates of each operation and model, from ``model_facts.toml``, where each has a date.

The values are for planning: the account's own quota (Service Quotas, ``BG_QUOTA_…``) and the life cycle that the
service reports replace them. A user's file in the same format (``BG_MODEL_FACTS``) adds entries and replaces values.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date, timedelta
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from bg_pipeline.errors import SettingsError

GEOGRAPHIES = ("us.", "eu.", "apac.", "jp.", "au.", "ca.", "global.", "us-gov.")
"""Prefixes that turn a Bedrock model id into the id of a cross-Region inference profile."""

FRESH = timedelta(days=120)
"""A price or quota that nobody has compared with its source for longer than this is reported as outdated."""

_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Price:
    """Prices in US dollars; None means not known, not free."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    image: _Amount | None = None
    """One picture that is analysed or generated."""
    million_input_tokens: _Amount | None = None
    million_output_tokens: _Amount | None = None
    unit_hour: _Amount | None = None
    """One inference unit of Custom Labels for one hour while the model runs."""


@dataclass(frozen=True)
class ModelFacts:
    """Quotas, prices and end of life of one operation with one model.

    ``model`` is empty if the entry holds for every model of the operation, ``regions`` if they are not known.
    ``end_of_life`` is None if the model has no end date or if the date is not known (``end_of_life_note`` explains
    which). ``profiles`` are the geography prefixes for which the entry holds; "" stands for the bare model id.
    ``own`` is True if only the user's file has the model.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    requests_per_minute: _Rate
    requests_source: str
    operation: str = ""
    model: str = ""
    provider: str = ""
    profiles: tuple[str, ...] = ("",)
    regions: tuple[str, ...] = ()
    """Regions from which the model may be called; with a profile it may run in another Region."""
    processed_in: str = ""
    end_of_life: date | None = None
    end_of_life_note: str = ""
    requests_by_region: Mapping[str, _Rate] = field(default_factory=dict)
    tokens_per_minute: _Rate | None = None
    tokens_by_region: Mapping[str, _Rate] = field(default_factory=dict)
    picture_tokens: int = 0
    """Maximum number of input tokens of one picture as the pipeline sends it."""
    quota_service: str = ""
    quota_name: str = ""
    quota_code: str = ""
    tokens_quota_name: str = ""
    tokens_quota_code: str = ""
    requests_as_of: date | None = None
    price: Price = Price()
    flex_price: Price | None = None
    """Prices in the service tier ``flex``; None if the model does not offer it or its price is not known."""
    price_source: str = ""
    own: bool = False
    price_as_of: date | None = None

    def requests_in(self, region: str) -> float:
        """Default quota in ``region`` in requests per minute."""
        return self.requests_by_region.get(region, self.requests_per_minute)

    def tokens_in(self, region: str) -> float | None:
        """Default quota in ``region`` in tokens per minute; None if tokens are not limited or it is not known."""
        return self.tokens_by_region.get(region, self.tokens_per_minute)

    def retired(self, on: date) -> bool:
        """Whether the model's published end of life is on or before the date ``on``."""
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
        """The cost in US dollars; None if a price that is needed is not known.

        ``tier`` is Bedrock's service tier. If the price of ``flex`` is not known, the standard price, which is
        higher, is used.
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
    """The inference profiles of one geography: the Regions that may call them and the Regions that run the calls.

    Empty ``destinations`` mean every commercial Region.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    prefix: str
    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    source: str
    as_of: date


def split_profile(model_id: str) -> tuple[str, str]:
    """The geography prefix of an inference profile ("" for a bare model id) and the bare model id.

    >>> split_profile("us.amazon.nova-pro-v1:0")
    ('us.', 'amazon.nova-pro-v1:0')
    """
    prefix = next((p for p in GEOGRAPHIES if model_id.startswith(p)), "")
    return prefix, model_id.removeprefix(prefix)


def facts_of(operation: str, model_id: str = "") -> ModelFacts:
    """The facts of an operation, never None: an unknown one gets a low quota and no price.

    ``model_id`` (bare or of a profile) selects among the models of one operation such as ``CAPTION``; it is not
    needed for an operation with a single entry. If the model has an entry only for another profile, that entry's
    values are used, without its Regions and quota names.
    """
    table = _table()
    entries = table.get(operation, ())
    if not model_id and len(entries) == 1:
        return entries[0]
    profile, bare = split_profile(model_id)
    for same in ([entry for entry in entries if entry.model == model] for model in (bare, "")):
        exact = [entry for entry in same if profile in entry.profiles]
        if exact:
            return exact[0]
        if same:
            # Regions and quota names belong to the other profile.
            return replace(
                same[0],
                profiles=(profile,),
                regions=(),
                quota_name="",
                quota_code="",
                tokens_quota_name="",
                tokens_quota_code="",
            )
    unknown = table["UNKNOWN"][0]
    return ModelFacts(
        operation=operation,
        model=bare,
        profiles=(profile,),
        requests_per_minute=unknown.requests_per_minute,
        requests_source=unknown.requests_source,
        picture_tokens=unknown.picture_tokens,
    )


def all_facts() -> tuple[ModelFacts, ...]:
    """Every entry in the order of the file, except the one for unknown operations."""
    return tuple(entry for name, entries in _table().items() if name != "UNKNOWN" for entry in entries)


def operations() -> frozenset[str]:
    """The names of all operations with an entry."""
    return frozenset(_table()) - {"UNKNOWN"}


def geographies() -> Mapping[str, Geography]:
    """The geographies of inference profiles, by prefix."""
    read = TypeAdapter(tuple[Geography, ...])
    return {each.prefix: each for each in read.validate_python(_document()[_GEOGRAPHY])}


def outdated(today: date) -> Iterator[str]:
    """One line for each value of the package's file that was last checked more than `FRESH` before ``today``."""
    for operation, entries in _packaged().items():
        for facts in entries if operation != "UNKNOWN" else ():
            name = f"{facts.operation} {(facts.profiles[0] if facts.profiles else '') + facts.model}".strip()
            for what, day in (("quota", facts.requests_as_of), ("price", facts.price_as_of)):
                if day is None or today - day > FRESH:
                    yield f"{what} of {name}: {day or 'no date'}"
    for geography in geographies().values():
        if today - geography.as_of > FRESH:
            yield f"Regions of {geography.prefix} profiles: {geography.as_of}"


def as_of() -> date:
    """The date of the last complete check of the package's file."""
    day: date = _document()["as_of"]
    return day


_GEOGRAPHY = "GEOGRAPHY"
_merged_table: Mapping[str, tuple[ModelFacts, ...]] | None = None


def load_overrides(own_file: Path | None) -> None:
    """Uses the entries of ``own_file`` in this process, in addition to the package's (None: only the package's).

    An entry for the same operation and model replaces the values that it has; any other entry is added. Raises
    `SettingsError`, which names file, table and key, without changing anything.
    """
    global _merged_table
    if own_file is None:
        _merged_table = None
        return
    table = dict(_packaged())
    cautious = table["UNKNOWN"][0].requests_per_minute
    for operation, place, entry in _user_entries(own_file):
        table[operation] = _merged(table.get(operation, ()), operation, entry, place, cautious)
    _merged_table = MappingProxyType(table)


def _table() -> Mapping[str, tuple[ModelFacts, ...]]:
    return _packaged() if _merged_table is None else _merged_table


@cache
def _document() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("model_facts.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def _packaged() -> Mapping[str, tuple[ModelFacts, ...]]:
    read = TypeAdapter(tuple[ModelFacts, ...])
    return MappingProxyType(
        {
            operation: read.validate_python([{**entry, "operation": operation} for entry in entries])
            for operation, entries in _document().items()
            if operation not in ("as_of", _GEOGRAPHY)
        }
    )


def _user_entries(file: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """The entries of a user's file as (operation, place for error messages, entry)."""
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"BG_MODEL_FACTS: {file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"BG_MODEL_FACTS: {file} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"BG_MODEL_FACTS: {file} is not TOML: {error}") from None
    document.pop("as_of", None)
    found = []
    for operation, entries in document.items():
        # A single entry may be a plain table, [operation] instead of [[operation]].
        entries = [entries] if isinstance(entries, dict) else entries
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SettingsError(
                f"BG_MODEL_FACTS: {file}: {operation} must be a table of figures, [[{operation}]]"
            )
        for number, entry in enumerate(entries, 1):
            which = f", entry {number}" if len(entries) > 1 else ""
            found.append((operation, f"BG_MODEL_FACTS: {file}: table {operation}{which}", entry))
    return found


def _merged(
    known: tuple[ModelFacts, ...], operation: str, entry: dict[str, Any], place: str, cautious: float
) -> tuple[ModelFacts, ...]:
    """The operation's entries with a user's entry: merged into those with its model, or else added before them."""
    reserved = {"operation", "own"} & entry.keys()
    if reserved:
        raise SettingsError(f"{place}: {min(reserved)} is not a key of an entry")
    models = {each.model for each in known}
    model = entry.get("model", min(models) if len(models) == 1 else "")
    profiles = entry.get("profiles")

    def matches(facts: ModelFacts) -> bool:
        return facts.model == model and (
            not isinstance(profiles, list) or any(profile in facts.profiles for profile in profiles)
        )

    if not any(map(matches, known)):
        source = "the file in BG_MODEL_FACTS"
        defaults = {"requests_per_minute": cautious, "requests_source": source, "price_source": source}
        return (_validated({**defaults, "model": model, **entry}, operation, place, own=True), *known)
    # A quota in the user's file holds in every Region.
    no_regional_quotas: dict[str, Any] = {
        f"{what}_by_region": {} for what in ("requests", "tokens") if f"{what}_per_minute" in entry
    }
    price = entry.get("price", {})
    return tuple(
        _validated(
            {
                **asdict(each),
                **no_regional_quotas,
                **entry,
                "price": {**asdict(each.price), **price} if isinstance(price, dict) else price,
            },
            operation,
            place,
            own=each.own,
        )
        if matches(each)
        else each
        for each in known
    )


def _validated(entry: dict[str, Any], operation: str, place: str, *, own: bool) -> ModelFacts:
    try:
        return TypeAdapter(ModelFacts).validate_python({**entry, "operation": operation, "own": own})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(step) for step in problem["loc"])
        raise SettingsError(f"{place}, key {key}: {problem['msg']}") from None
