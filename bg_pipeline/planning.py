"""What a run would do: calls for each operation, time at the quota and dollars at worst. Nothing is spent.

Counted is what is due by the ledger. What is stored already under another image's name costs less than planned,
never more.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bg_pipeline.captioners import nova
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.requests import ImageSettings
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.errors import NothingUsable
from bg_pipeline.generators import Generator, Operation, by_words
from bg_pipeline.labelers import custom_labels, faces, rekognition
from bg_pipeline.models.selection import ModelSelector, SelectedModel
from bg_pipeline.rate_limits.account_quotas import AccountQuotas
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.discovery import sample_left
from bg_pipeline.settings import Settings

T = TypeVar("T")


@dataclass(frozen=True)
class ModelChoices:
    """The models in use; None where none was needed or none can be used."""

    replacer: SelectedModel[Generator] | None
    remover: SelectedModel[Generator] | None
    captioner: SelectedModel[str] | None
    regions: Sequence[str]
    """Where everything but models is called."""
    per_minute: Callable[[Operation, str], float]
    """The quota of an operation in a Region."""


@dataclass
class PlannedCalls:
    """One operation: ``calls`` if every picture passes at once, ``at_worst`` with every repetition.

    ``per_minute`` is the quota of all its Regions together; ``worst_usd`` None where a price is unknown.
    """

    operation: Operation
    regions: Sequence[str]
    per_minute: float
    calls: int = 0
    at_worst: int = 0
    worst_usd: float | None = 0.0

    @property
    def minutes(self) -> float:
        return self.calls / self.per_minute

    @property
    def minutes_at_worst(self) -> float:
        return self.at_worst / self.per_minute


@dataclass
class Plan:
    """What a run would do; ``waiting`` images wait for the approval of their batch's sample."""

    images: int = 0
    due: int = 0
    waiting: int = 0
    without_prompt: int = 0
    unreadable: list[str] = field(default_factory=list)
    lines: list[PlannedCalls] = field(default_factory=list)

    @property
    def minutes(self) -> float:
        """The slowest operation sets the pace; all others hide behind it."""
        return max((line.minutes for line in self.lines), default=0.0)

    @property
    def minutes_at_worst(self) -> float:
        return max((line.minutes_at_worst for line in self.lines), default=0.0)

    @property
    def worst_usd(self) -> float | None:
        """None where the price of any planned call is unknown."""
        costs = [line.worst_usd for line in self.lines]
        return None if None in costs else sum(cost or 0.0 for cost in costs)


def plan(works: Iterable[BatchWork], settings: Settings, models: ModelChoices) -> Plan:
    """What bringing ``works`` up to date would take."""
    found = Plan()
    lines: dict[Operation, PlannedCalls] = {}
    for work in works:
        found.images += len(work.images)
        found.due += len(work.due)
        if work.problem is not None:
            found.unreadable.append(f"{work.locations.batch.path}: {work.problem}")
            continue
        allowed = sample_left(work)
        found.waiting += len(work.due) - allowed
        for image in list(work.due)[:allowed]:
            asked = work.settings_of(image)
            found.without_prompt += PICTURES in work.due[image] and asked.needs_prompt and not asked.prompts
            for operation, regions, calls, at_worst, usd in _calls(asked, work.due[image], settings, models):
                if operation not in lines:
                    quota = sum(models.per_minute(operation, region) for region in regions)
                    lines[operation] = PlannedCalls(operation, regions, quota)
                line = lines[operation]
                line.calls += calls
                line.at_worst += at_worst
                line.worst_usd = None if usd is None or line.worst_usd is None else line.worst_usd + usd
    found.lines = list(lines.values())
    return found


_Calls = tuple[Operation, Sequence[str], int, int, float | None]
"""An operation, its Regions, its calls, its calls at worst and what these cost."""


def _calls(
    asked: ImageSettings, due: Collection[str], settings: Settings, models: ModelChoices
) -> Iterator[_Calls]:
    """The calls for one image."""
    if LABELS in due and settings.custom_labels_arn:
        # The calls are free: what costs is the model, by the hour.
        yield custom_labels.OPERATION, (custom_labels.region(settings.custom_labels_arn),), 1, 1, 0.0
    elif LABELS in due:
        yield _look(rekognition.OPERATION, models)
    if CAPTIONS in due and models.captioner is not None:
        (operation,) = models.captioner.candidate.operations
        tokens = nova.tokens_at_most(operation.invoke_id, settings.caption_prompt, settings.alt_text_length)
        cost = nova.cost(operation.invoke_id, tokens, settings.caption_tier)
        yield operation, models.captioner.regions, 1, 1, cost
    if PICTURES in due:
        yield from _picture_calls(asked, settings, models)


def _picture_calls(asked: ImageSettings, settings: Settings, models: ModelChoices) -> Iterator[_Calls]:
    paints = asked.needs_prompt
    if paints and not asked.prompts:
        return
    if asked.subject == "FACES":
        yield _look(faces.OPERATION, models)
    generator = models.replacer.candidate.client if models.replacer else None
    if asked.subject in ("LABELS", "SALIENT") and "cut-out" in settings.mask_sources and models.remover:
        (operation,) = models.remover.candidate.operations
        in_words = paints and asked.subject == "LABELS" and generator and by_words(generator, asked.mode)
        price = facts_of(operation.name, operation.model_id).cost(images=1)
        yield operation, models.remover.regions, 0 if in_words else 1, 1, price
    if paints and models.replacer and generator:
        (operation,) = models.replacer.candidate.operations
        calls = len(asked.prompts) * math.ceil(asked.variants / generator.images_per_call)
        pictures = len(asked.outputs)
        repeated = pictures * settings.max_regenerations
        price = facts_of(operation.name, operation.model_id).cost(images=pictures + repeated)
        yield operation, models.replacer.regions, calls, calls + repeated, price


def _look(operation: Operation, models: ModelChoices) -> _Calls:
    return operation, models.regions, 1, 1, facts_of(operation.name).cost(images=1)


def models_in_use(context: RunContext) -> tuple[ModelChoices, list[str]]:
    """The models that a run would use now, and why there is none of a kind; only control planes are asked."""
    reasons: list[str] = []

    def current(roster: ModelSelector[T]) -> SelectedModel[T] | None:
        try:
            return roster.current()
        except NothingUsable as error:
            reasons.append(str(error))
            return None

    account = AccountQuotas(context.aws)

    def per_minute(operation: Operation, region: str) -> float:
        facts = facts_of(operation.name, operation.invoke_id)
        own = context.settings.quota(operation.name) or account.requests_per_minute(facts, region)
        return own or facts.requests_in(region)

    return (
        ModelChoices(
            replacer=current(context.background_models),
            remover=current(context.cut_out_models),
            captioner=current(context.caption_models) if context.settings.caption_models else None,
            regions=context.aws.regions,
            per_minute=per_minute,
        ),
        reasons,
    )
