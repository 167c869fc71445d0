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

from bg_pipeline.aws import Aws
from bg_pipeline.errors import ModelUnavailable, NothingUsable
from bg_pipeline.generators import Operation
from bg_pipeline.models.facts import facts_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a model can be used in a Region, and why not; ``asked`` is False where nobody could tell."""

    model_id: str
    region: str
    usable: bool
    reason: str = ""
    asked: bool = True
    end_of_life: date | None = None


def look(aws: Aws, operation: Operation, region: str) -> Verdict:
    """Asks the control plane of ``region`` about a model; nothing is billed.

    A control plane that denies the question, or cannot be reached, means "unknown": the model is tried.
    """
    model_id = operation.model_id
    facts = facts_of(operation.name, operation.invoke_id)
    if facts.regions and region not in facts.regions:
        offered = ", ".join(facts.regions)
        return Verdict(model_id, region, False, f"not offered in {region}; it is in {offered}")
    client = aws.client("bedrock", region)
    try:
        details = client.get_foundation_model(modelIdentifier=model_id)["modelDetails"]
        end = _day(details.get("modelLifecycle", {}).get("endOfLifeTime"))
        if end and end <= datetime.now(UTC).date():
            return Verdict(model_id, region, False, f"retired on {end}", end_of_life=end)
        reason = _refusal(client.get_foundation_model_availability(modelId=model_id))
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if code in ("ResourceNotFoundException", "ValidationException"):
            if not facts.provider or facts.own:
                # A model of one's own, imported or served elsewhere, is in no catalogue.
                return Verdict(model_id, region, True, "no catalogue knows it", asked=False)
            day = facts.end_of_life
            why = f"retired on {day}" if day else f"not offered in {region}"
            return Verdict(model_id, region, False, why, end_of_life=day)
        return Verdict(model_id, region, True, f"the control plane answered {code}", asked=False)
    except BotoCoreError as error:
        return Verdict(model_id, region, True, f"the control plane cannot be reached: {error}", asked=False)
    return Verdict(model_id, region, not reason, reason, end_of_life=end)


def _day(moment: Any) -> date | None:
    if isinstance(moment, datetime):
        return moment.astimezone(UTC).date()
    return None


def _refusal(availability: dict[str, Any]) -> str:
    if availability.get("regionAvailability") == "NOT_AVAILABLE":
        return "not offered in this Region"
    agreement = availability.get("agreementAvailability", {})
    if agreement.get("status") == "PENDING":
        return "its Marketplace subscription is being set up; try again in 15 minutes"
    if agreement.get("status") in ("NOT_AVAILABLE", "ERROR"):
        return (
            "its Marketplace agreement is missing: open the model in the Bedrock console once and accept it"
        )
    if availability.get("authorizationStatus") == "NOT_AUTHORIZED":
        return "this account's policy does not allow it: grant bedrock:InvokeModel on it"
    if availability.get("entitlementAvailability") == "NOT_AVAILABLE":
        return "access to it was not granted: ask for it in the Bedrock console under Model access"
    return ""


@dataclass(frozen=True)
class Candidate(Generic[T]):
    """A configured model: its name in the settings, what it is called through, and who speaks its language."""

    name: str
    operations: tuple[Operation, ...]
    speaker: T


@dataclass(frozen=True)
class Choice(Generic[T]):
    """The model in use and the Regions it is used in."""

    candidate: Candidate[T]
    regions: tuple[str, ...]


class Roster(Generic[T]):
    """The configured models of one kind, in order; hands out the first that can be used. Safe for threads.

    ``note`` is called with one line whenever a choice was made that a person would want to know of.
    """

    def __init__(
        self, aws: Aws, candidates: Sequence[Candidate[T]], note: Callable[[str], None] = lambda line: None
    ) -> None:
        self._aws = aws
        self._candidates = list(candidates)
        self._note = note
        self._lock = threading.Lock()
        self._choice: Choice[T] | None = None
        self._refused: dict[str, str] = {}
        self._lost_regions: dict[tuple[str, str], str] = {}

    @property
    def candidates(self) -> tuple[Candidate[T], ...]:
        return tuple(self._candidates)

    @property
    def names(self) -> frozenset[str]:
        """Every configured name: a stored answer of any of them serves."""
        return frozenset(candidate.name for candidate in self._candidates)

    def current(self) -> Choice[T]:
        """The first model that can be used; raises `NothingUsable` with every reason if there is none."""
        with self._lock:
            if self._choice is None:
                self._choice = self._choose()
            return self._choice

    def lost(self, choice: Choice[T], region: str, error: ModelUnavailable) -> None:
        """This model cannot be used in this Region any more; `current` then says what is used instead."""
        with self._lock:
            key = (choice.candidate.name, region)
            if key in self._lost_regions:
                return
            self._lost_regions[key] = str(error)
            self._note(f"{choice.candidate.name} can no longer be used in {region}: {error}")
            self._choice = None

    def _choose(self) -> Choice[T]:
        for candidate in self._candidates:
            if candidate.name in self._refused:
                continue
            regions, reasons, unknown = self._ask(candidate)
            if regions:
                if unknown:
                    self._note(f"{candidate.name}: {unknown}; going on without knowing whether it is alive")
                instead = "; ".join(f"{name}: {why}" for name, why in self._refused.items())
                suffix = f" (instead of {instead})" if instead else ""
                self._note(f"using {candidate.name} in {', '.join(regions)}{suffix}")
                return Choice(candidate, regions)
            self._refused[candidate.name] = "; ".join(dict.fromkeys(reasons))
        listed = "; ".join(f"{name}: {why}" for name, why in self._refused.items())
        raise NothingUsable(
            f"none of the configured models can be used ({listed}). Nothing more was spent. "
            "Name others in BG_IMAGE_MODELS or BG_CAPTION_MODELS, other Regions in BG_REGIONS, "
            "or ask for access; `bg-pipeline doctor` shows what works"
        )

    def _ask(self, candidate: Candidate[T]) -> tuple[tuple[str, ...], list[str], str]:
        regions, reasons, unknown = [], [], ""
        for region in self._aws.regions:
            if (candidate.name, region) in self._lost_regions:
                reasons.append(self._lost_regions[candidate.name, region])
                continue
            verdicts = [look(self._aws, operation, region) for operation in candidate.operations]
            bad = [verdict.reason for verdict in verdicts if not verdict.usable]
            if bad:
                reasons.extend(bad)
                continue
            unknown = next((verdict.reason for verdict in verdicts if not verdict.asked), unknown)
            regions.append(region)
        return tuple(regions), reasons, unknown
