"""Which of the configured models is used: the first one that is alive and allowed in the account.

Before anything is spent the Bedrock control plane is asked once per model and Region. A model that dies, or
whose access is withdrawn, while a run works is handled in the same way: its Region is given up, then the
next model is used, and when none is left the run stops with the list of reasons.
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
    """Whether a model can be used in a Region, and why not; ``asked`` is False where nobody could tell.

    ``told`` is what AWS says of the account's access. It refuses nothing: such statuses are often wrong, and the
    first call of a model is what subscribes to it, so that only a call's own refusal counts.
    """

    model_id: str
    region: str
    usable: bool
    reason: str = ""
    asked: bool = True
    told: str = ""
    legacy_since: date | None = None
    dearer_from: date | None = None
    end_of_life: date | None = None

    def lifecycle(self) -> str:
        """What is known of the model's end, in words; empty for one that is not ending."""
        parts = []
        if self.legacy_since:
            parts.append(f"legacy since {self.legacy_since}: accounts that do not use it lose it")
        if self.dearer_from:
            parts.append(f"extended access, at a higher price than the table's, from {self.dearer_from}")
        if self.end_of_life:
            parts.append(f"ends on {self.end_of_life}")
        return "; ".join(parts)


def check_availability(aws: Aws, operation: Operation, region: str) -> Availability:
    """Asks the control plane of ``region`` about a model; nothing is billed.

    A control plane that denies the question, or cannot be reached, means "unknown": the model is tried, unless the
    table has it in other Regions only.
    """
    model_id = operation.model_id
    facts = facts_of(operation.name, operation.invoke_id)
    sources = callable_regions(operation)
    by_the_table = not sources or region in sources
    if not operation.profile and not by_the_table:
        return Availability(model_id, region, False, _not_offered(operation, region))

    def unknown(reason: str) -> Availability:
        return Availability(
            model_id,
            region,
            by_the_table,
            reason if by_the_table else _not_offered(operation, region),
            asked=False,
        )

    client = aws.client("bedrock", region)
    try:
        if operation.profile:
            has_profile = _has_profile(client, operation.invoke_id)
            if has_profile is None and not by_the_table:
                return unknown("")
            if has_profile is False:
                return _not_there(operation, region)
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
                # A model of one's own, imported or served elsewhere, is in no catalogue.
                return Availability(model_id, region, True, "no catalogue knows it", asked=False)
            return _not_there(operation, region)
        return unknown(f"the control plane answered {code}")
    except BotoCoreError as error:
        return unknown(f"the control plane cannot be reached: {error}")
    offered = availability.get("regionAvailability") != "NOT_AVAILABLE"
    return Availability(
        model_id,
        region,
        offered,
        "" if offered else _not_offered(operation, region),
        told=_told(availability),
        legacy_since=_day(life.get("legacyTime")) if legacy else None,
        dearer_from=_day(life.get("publicExtendedAccessTime")) if legacy else None,
        end_of_life=end,
    )


_UNKNOWN_MODEL = ("ResourceNotFoundException", "ValidationException")


def _has_profile(client: Any, profile_id: str) -> bool | None:
    """Whether the Region has an inference profile; None where that may not be asked."""
    try:
        client.get_inference_profile(inferenceProfileIdentifier=profile_id)
    except ClientError as error:
        return False if error.response.get("Error", {}).get("Code", "") in _UNKNOWN_MODEL else None
    return True


def _not_there(operation: Operation, region: str) -> Availability:
    """The Region does not know the model, or its profile: it is retired, or was never there."""
    day = facts_of(operation.name, operation.invoke_id).end_of_life
    why = f"retired on {day}" if day else _not_offered(operation, region)
    return Availability(operation.model_id, region, False, why, end_of_life=day)


def _not_offered(operation: Operation, region: str) -> str:
    through = f" through {operation.invoke_id}" if operation.profile else ""
    sources = callable_regions(operation)
    return f"not offered in {region}{through}" + (f"; it is in {', '.join(sources)}" if sources else "")


def _day(moment: Any) -> date | None:
    if isinstance(moment, datetime):
        return moment.astimezone(UTC).date()
    return None


def _told(availability: dict[str, Any]) -> str:
    agreement = availability.get("agreementAvailability", {}).get("status")
    told = []
    if agreement == "PENDING":
        told.append("its Marketplace subscription is being set up, which takes up to 15 minutes")
    elif agreement in ("NOT_AVAILABLE", "ERROR"):
        told.append("this account has no Marketplace agreement for it yet, and the first call makes one")
    if availability.get("authorizationStatus") == "NOT_AUTHORIZED":
        told.append("its status is NOT_AUTHORIZED, which AWS also says of models that can be called")
    elif availability.get("entitlementAvailability") == "NOT_AVAILABLE" and not told:
        told.append("its status is that access was not granted yet")
    return "; ".join(told)


@dataclass(frozen=True)
class ModelCandidate(Generic[T]):
    """A configured model: its name in the settings, what it is called through, and who speaks its language."""

    name: str
    operations: tuple[Operation, ...]
    client: T


@dataclass(frozen=True)
class SelectedModel(Generic[T]):
    """The model in use and the Regions it is used in."""

    candidate: ModelCandidate[T]
    regions: tuple[str, ...]


class ModelSelector(Generic[T]):
    """The configured models of one kind, in order; hands out the first that can be used. Safe for threads.

    ``regions`` are those of this kind where they are not ``aws.regions``. ``note`` is called with one line whenever a
    choice was made that a person would want to know of.
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
        self._nothing: tuple[str, bool] | None = None
        self._told: set[tuple[str, str]] = set()

    @property
    def candidates(self) -> tuple[ModelCandidate[T], ...]:
        return tuple(self._candidates)

    @property
    def names(self) -> frozenset[str]:
        """Every configured name: a stored answer of any of them serves."""
        return frozenset(candidate.name for candidate in self._candidates)

    def current(self) -> SelectedModel[T]:
        """The first model that can be used; raises `NothingUsable` with every reason if there is none."""
        with self._lock:
            if self._choice is None and self._nothing is None:
                self._choice = self._choose()
            if self._choice is not None:
                return self._choice
            text, passing = self._nothing or ("", False)
            raise NothingUsable(text, passing=passing)

    def drop(self, choice: SelectedModel[T], region: str, error: ModelUnavailable) -> None:
        """This model cannot be used in this Region any more; `current` then says what is used instead, and why."""
        name = choice.candidate.name
        with self._lock:
            lost = [region]
            if region not in choice.regions and choice is self._choice:
                # Another kind of call found the model gone everywhere: its gate tells of the last Region only.
                lost = list(choice.regions)
            new = {(name, each): error for each in lost if (name, each) not in self._lost}
            if new:
                self._lost |= new
                self._choice = self._nothing = None

    def _choose(self) -> SelectedModel[T] | None:
        """The first usable model of the Regions in use, else of others, and last what is probably retired."""
        self._refused = {}
        home = self._regions or self._aws.regions
        doubtful: list[tuple[ModelCandidate[T], list[Availability]]] = []
        for candidate in self._candidates:
            found = self._ask(candidate, home)
            if found and _probably_retired(candidate, found):
                doubtful.append((candidate, found))
            elif found:
                return self._take(candidate, found)
        for candidate in self._candidates if not self._regions else ():
            for region in runs_outside_region(self._aws, candidate.operations):
                found = self._ask(candidate, (region,))
                if found and not _probably_retired(candidate, found):
                    return self._take(candidate, found)
        for candidate, found in doubtful:
            return self._take(candidate, found)
        listed = "; ".join(f"{name}: {why}" for name, why in self._refused.items())
        if any(error.passing for error in self._lost.values()):
            text = f"none of the configured models can be used yet ({listed}). Nothing more was spent; "
            self._nothing = text + "what is left is done by a later run", True
        else:
            text = f"none of the configured models can be used ({listed}). Nothing more was spent. "
            text += "Name others in BG_IMAGE_MODELS or BG_CAPTION_MODELS, other Regions in BG_REGIONS or "
            text += "BG_CAPTION_REGIONS, or ask for access; `bg-pipeline doctor` shows what works"
            self._nothing = text, False
        return None

    def _take(self, candidate: ModelCandidate[T], found: Sequence[Availability]) -> SelectedModel[T]:
        regions = tuple(dict.fromkeys(verdict.region for verdict in found))
        lines = [f"using {candidate.name} in {', '.join(regions)}"]
        others = {item for item in self._refused.items() if item[0] != candidate.name} - self._told
        if others:
            why = "; ".join(
                f"{name}: {reason}" for name, reason in self._refused.items() if (name, reason) in others
            )
            lines[0] += f" (instead of {why})"
            self._told |= others
        gone = [
            f"no longer in {region}: {error}"
            for (name, region), error in self._lost.items()
            if name == candidate.name
        ]
        told = [verdict.told or ("" if verdict.asked else _unknown(verdict)) for verdict in found]
        lines += dict.fromkeys(filter(None, [*gone, *told, self._goes_to(candidate, regions)]))
        self._note("; ".join(lines))
        return SelectedModel(candidate, regions)

    def _goes_to(self, candidate: ModelCandidate[T], regions: Sequence[str]) -> str:
        """Where photos go, if that is not where the account's own Region lets one think."""
        for operation in candidate.operations:
            facts = facts_of(operation.name, operation.invoke_id)
            if facts.processed_in and not (
                self._aws.own_region in regions and operation.profile != "global."
            ):
                return facts.processed_in
        if self._regions or self._aws.regions_named or set(regions) <= set(self._aws.regions):
            return ""
        return f"photos go there from {self._aws.own_region}, where it is not offered"

    def _ask(self, candidate: ModelCandidate[T], regions: Sequence[str]) -> list[Availability]:
        """The verdicts on the Regions in which all of a model's operations can be used; notes why the others not."""
        found: list[Availability] = []
        reasons: list[str] = []
        for region in regions:
            if error := self._lost.get((candidate.name, region)):
                reasons.append(str(error))
                continue
            verdicts = [
                check_availability(self._aws, operation, region) for operation in candidate.operations
            ]
            bad = [verdict.reason for verdict in verdicts if not verdict.usable]
            reasons += bad
            found += verdicts if not bad else []
        if not found:
            before = self._refused.get(candidate.name)
            self._refused[candidate.name] = "; ".join(
                dict.fromkeys([*([before] if before else []), *reasons])
            )
        return found


def prompt_limit(roster: ModelSelector[Generator], default: int = 512) -> int:
    """The longest prompt, in characters, of the model in use, which is all that a prompt has to fit.

    Where none can be used nothing is asked for, and the limit is that of the configured model that takes most.
    """
    try:
        return roster.current().candidate.client.prompt_limit
    except NothingUsable:
        return max((each.client.prompt_limit for each in roster.candidates), default=default)


def _unknown(verdict: Availability) -> str:
    return f"{verdict.reason}; going on without knowing whether it is alive"


def _probably_retired(candidate: ModelCandidate[T], verdicts: Sequence[Availability]) -> bool:
    """Whether the table has the model as retired and nobody who could be asked said otherwise."""
    today = datetime.now(UTC).date()
    return not any(verdict.asked for verdict in verdicts) and any(
        facts_of(operation.name, operation.invoke_id).retired(today) for operation in candidate.operations
    )
