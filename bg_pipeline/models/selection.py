"""Selects the model to use: the first configured one that is not retired and that the account may use.

Before anything is spent, the Bedrock control plane is queried once for each model and Region. If a model is retired
or its access is withdrawn during a run, that Region is dropped, then the next model is used; if none is left, the run
stops with the list of reasons.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Generic, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import ModelUnavailable, NothingUsable
from bg_pipeline.generators import Generator, Operation
from bg_pipeline.models.geography import callable_regions, runs_outside_region

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a model can be used in a Region, and if not, why (``reason``).

    ``confirmed`` is False if the control plane could not be queried or does not know the model. ``access_note``
    describes the account's access as AWS reports it, and ``agreement`` is the status of its Marketplace agreement
    (empty if unknown). Neither affects ``usable``: these statuses are often wrong, and the first call of a model
    subscribes to it, so only the refusal of a call counts.
    """

    model_id: str
    region: str
    usable: bool
    reason: str = ""
    confirmed: bool = True
    access_note: str = ""
    agreement: str = ""
    legacy_since: date | None = None
    dearer_from: date | None = None
    end_of_life: date | None = None

    def lifecycle(self) -> str:
        """A phrase about the end of the model's life; empty if none is known."""
        parts = []
        if self.legacy_since:
            parts.append(f"legacy since {self.legacy_since}: accounts that do not use it lose it")
        if self.dearer_from:
            parts.append(f"extended access, at a higher price than the table's, from {self.dearer_from}")
        if self.end_of_life:
            parts.append(f"ends on {self.end_of_life}")
        return "; ".join(parts)


def check_availability(aws: Aws, operation: Operation, region: str) -> Availability:
    """Queries the control plane of ``region`` about a model; not billed.

    If the query is denied or fails, the availability is unknown, and the model counts as usable unless the table
    lists it in other Regions only.
    """
    model_id = operation.model_id
    facts = facts_of(operation.name, operation.invoke_id)
    sources = callable_regions(operation)
    in_table = not sources or region in sources
    if not operation.profile and not in_table:
        return Availability(model_id, region, False, _not_offered(operation, region))

    def unknown(reason: str) -> Availability:
        return Availability(
            model_id,
            region,
            in_table,
            reason if in_table else _not_offered(operation, region),
            confirmed=False,
        )

    client = aws.client("bedrock", region)
    try:
        if operation.profile:
            has_profile = _has_profile(client, operation.invoke_id)
            if has_profile is None and not in_table:
                return unknown("")
            if has_profile is False:
                return _missing(operation, region)
        details = client.get_foundation_model(modelIdentifier=model_id)["modelDetails"]
        life = details.get("modelLifecycle", {})
        end = _day(life.get("endOfLifeTime"))
        if end and end <= datetime.now(UTC).date():
            return Availability(model_id, region, False, f"retired on {end}", end_of_life=end)
        legacy = life.get("status") == "LEGACY"
        availability = client.get_foundation_model_availability(modelId=model_id)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in _UNKNOWN_MODEL:
            if not facts.provider or facts.own:
                # The user's own model, imported or served elsewhere, is not in Bedrock's catalogue.
                return Availability(
                    model_id, region, True, "it is not in Bedrock's catalogue", confirmed=False
                )
            return _missing(operation, region)
        return unknown(f"the control plane answered {code}")
    except BotoCoreError as error:
        return unknown(f"the control plane cannot be reached: {error}")
    offered = availability.get("regionAvailability") != "NOT_AVAILABLE"
    return Availability(
        model_id,
        region,
        offered,
        "" if offered else _not_offered(operation, region),
        access_note=_access_note(availability),
        agreement=str(availability.get("agreementAvailability", {}).get("status", "")),
        legacy_since=_day(life.get("legacyTime")) if legacy else None,
        dearer_from=_day(life.get("publicExtendedAccessTime")) if legacy else None,
        end_of_life=end,
    )


_UNKNOWN_MODEL = ("ResourceNotFoundException", "ValidationException")


def _has_profile(client: Any, profile_id: str) -> bool | None:
    """Whether the Region has an inference profile; None if that cannot be queried."""
    try:
        client.get_inference_profile(inferenceProfileIdentifier=profile_id)
    except ClientError as error:
        return False if error.response.get("Error", {}).get("Code", "") in _UNKNOWN_MODEL else None
    return True


def _missing(operation: Operation, region: str) -> Availability:
    """The result for a model or profile that the Region does not have: retired, or never offered there."""
    day = facts_of(operation.name, operation.invoke_id).end_of_life
    reason = f"retired on {day}" if day else _not_offered(operation, region)
    return Availability(operation.model_id, region, False, reason, end_of_life=day)


def _not_offered(operation: Operation, region: str) -> str:
    through = f" through {operation.invoke_id}" if operation.profile else ""
    sources = callable_regions(operation)
    return f"not offered in {region}{through}" + (f"; it is in {', '.join(sources)}" if sources else "")


def _day(moment: Any) -> date | None:
    if isinstance(moment, datetime):
        return moment.astimezone(UTC).date()
    return None


def _access_note(availability: dict[str, Any]) -> str:
    agreement = availability.get("agreementAvailability", {}).get("status")
    notes = []
    if agreement == "PENDING":
        notes.append("its Marketplace subscription is being set up, which takes up to 15 minutes")
    elif agreement in ("NOT_AVAILABLE", "ERROR"):
        notes.append("this account has no Marketplace agreement for it yet, and the first call makes one")
    if availability.get("authorizationStatus") == "NOT_AUTHORIZED":
        notes.append("its status is NOT_AUTHORIZED, which AWS also reports for models that can be called")
    elif availability.get("entitlementAvailability") == "NOT_AVAILABLE" and not notes:
        notes.append("its status is that access was not granted yet")
    return "; ".join(notes)


@dataclass(frozen=True)
class ModelCandidate(Generic[T]):
    """A configured model: its name in the settings, its operations, and the object that builds its requests."""

    name: str
    operations: tuple[Operation, ...]
    client: T


@dataclass(frozen=True)
class SelectedModel(Generic[T]):
    """The model in use, and the Regions in which it is used."""

    candidate: ModelCandidate[T]
    regions: tuple[str, ...]


class ModelSelector(Generic[T]):
    """Selects the first usable one of the configured models of one kind, in order; thread-safe.

    ``regions`` are the Regions for this kind, by default ``aws.regions``. ``note`` is called with one line for each
    selection.
    """

    def __init__(
        self,
        aws: Aws,
        candidates: Sequence[ModelCandidate[T]],
        note: Callable[[str], None] = lambda line: None,
        *,
        regions: Sequence[str] = (),
    ) -> None:
        self._aws = aws
        self._candidates = list(candidates)
        self._note = note
        self._regions = tuple(dict.fromkeys(regions))
        self._lock = threading.Lock()
        self._choice: SelectedModel[T] | None = None
        self._refused: dict[str, str] = {}
        self._lost: dict[tuple[str, str], ModelUnavailable] = {}
        self._none_usable: tuple[str, bool] | None = None
        self._noted: set[tuple[str, str]] = set()

    @property
    def candidates(self) -> tuple[ModelCandidate[T], ...]:
        return tuple(self._candidates)

    @property
    def names(self) -> frozenset[str]:
        """The names of all configured models; a stored answer of any of them may be used."""
        return frozenset(candidate.name for candidate in self._candidates)

    def current(self) -> SelectedModel[T]:
        """The first usable model; raises `NothingUsable` with all reasons if there is none."""
        with self._lock:
            if self._choice is None and self._none_usable is None:
                self._choice = self._choose()
            if self._choice is not None:
                return self._choice
            text, passing = self._none_usable or ("", False)
            raise NothingUsable(text, passing=passing)

    def drop(self, choice: SelectedModel[T], region: str, error: ModelUnavailable) -> None:
        """Stops using this model in this Region because of ``error``; `current` then selects again."""
        name = choice.candidate.name
        with self._lock:
            lost = [region]
            if region not in choice.regions and choice is self._choice:
                # Another kind of call found the model unusable in every Region, but its error names only the last
                # one.
                lost = list(choice.regions)
            new = {(name, each): error for each in lost if (name, each) not in self._lost}
            if new:
                self._lost |= new
                self._choice = self._none_usable = None

    def _choose(self) -> SelectedModel[T] | None:
        """The first usable model in the Regions in use, else in other Regions, else a probably retired one."""
        self._refused = {}
        home = self._regions or self._aws.regions
        doubtful: list[tuple[ModelCandidate[T], list[Availability]]] = []
        for candidate in self._candidates:
            found = self._usable_in(candidate, home)
            if found and _probably_retired(candidate, found):
                doubtful.append((candidate, found))
            elif found:
                return self._select(candidate, found)
        for candidate in self._candidates if not self._regions else ():
            for region in runs_outside_region(self._aws, candidate.operations):
                found = self._usable_in(candidate, (region,))
                if found and not _probably_retired(candidate, found):
                    return self._select(candidate, found)
        for candidate, found in doubtful:
            return self._select(candidate, found)
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self._refused.items())
        if any(error.passing for error in self._lost.values()):
            text = f"none of the configured models can be used yet ({reasons}). Nothing more was spent; "
            self._none_usable = text + "a later run continues the work", True
        else:
            text = f"none of the configured models can be used ({reasons}). Nothing more was spent. "
            text += "Name others in BG_IMAGE_MODELS, BG_SCENE_MODELS or BG_CAPTION_MODELS, other Regions in "
            text += (
                "BG_REGIONS or BG_CAPTION_REGIONS, or ask for access; `bg-pipeline doctor` shows what works"
            )
            self._none_usable = text, False
        return None

    def _select(self, candidate: ModelCandidate[T], found: Sequence[Availability]) -> SelectedModel[T]:
        regions = tuple(dict.fromkeys(verdict.region for verdict in found))
        lines = [f"using {candidate.name} in {', '.join(regions)}"]
        others = {item for item in self._refused.items() if item[0] != candidate.name} - self._noted
        if others:
            reasons = "; ".join(
                f"{name}: {reason}" for name, reason in self._refused.items() if (name, reason) in others
            )
            lines[0] += f" (instead of {reasons})"
            self._noted |= others
        dropped = [
            f"no longer in {region}: {error}"
            for (name, region), error in self._lost.items()
            if name == candidate.name
        ]
        notes = [each.access_note or ("" if each.confirmed else _unconfirmed(each)) for each in found]
        lines += dict.fromkeys(filter(None, [*dropped, *notes, self._data_note(candidate, regions)]))
        self._note("; ".join(lines))
        return SelectedModel(candidate, regions)

    def _data_note(self, candidate: ModelCandidate[T], regions: Sequence[str]) -> str:
        """A phrase about where photos are processed, if that is not the account's own Region; empty otherwise."""
        for operation in candidate.operations:
            facts = facts_of(operation.name, operation.invoke_id)
            if facts.processed_in and not (
                self._aws.own_region in regions and operation.profile != "global."
            ):
                return facts.processed_in
        if self._regions or self._aws.regions_named or set(regions) <= set(self._aws.regions):
            return ""
        return f"photos are sent there from {self._aws.own_region}, where it is not offered"

    def _usable_in(self, candidate: ModelCandidate[T], regions: Sequence[str]) -> list[Availability]:
        """The availability in the Regions where all of a model's operations are usable; records the reasons for
        others.
        """
        found: list[Availability] = []
        reasons: list[str] = []
        for region in regions:
            if error := self._lost.get((candidate.name, region)):
                reasons.append(str(error))
                continue
            verdicts = [
                check_availability(self._aws, operation, region) for operation in candidate.operations
            ]
            problems = [verdict.reason for verdict in verdicts if not verdict.usable]
            reasons += problems
            found += verdicts if not problems else []
        if not found:
            earlier = self._refused.get(candidate.name)
            self._refused[candidate.name] = "; ".join(
                dict.fromkeys([*([earlier] if earlier else []), *reasons])
            )
        return found


def prompt_limit(selector: ModelSelector[Generator], default: int = 512) -> int:
    """The maximum length of a prompt, in characters, for the model in use.

    If no model is usable, and so no call can be made, it is the largest limit of the configured models (``default``
    if there are none).
    """
    try:
        return selector.current().candidate.client.prompt_limit
    except NothingUsable:
        return max((each.client.prompt_limit for each in selector.candidates), default=default)


def _unconfirmed(verdict: Availability) -> str:
    return f"{verdict.reason}; it is tried without knowing whether it is available"


def _probably_retired(candidate: ModelCandidate[T], verdicts: Sequence[Availability]) -> bool:
    """Whether the table lists the model as retired, and no control plane confirmed that it is available."""
    today = datetime.now(UTC).date()
    return not any(verdict.confirmed for verdict in verdicts) and any(
        facts_of(operation.name, operation.invoke_id).retired(today) for operation in candidate.operations
    )
