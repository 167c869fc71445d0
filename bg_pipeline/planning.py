"""Plans a run without spending anything: the calls of each operation, their time at the quota, the highest cost.

A plan counts what is due according to the ledgers. If the same photo was processed under another name, its stored
answers make a run cheaper than planned, never more expensive.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeVar

from bg_pipeline.captioners import nova
from bg_pipeline.domain import requests
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import BatchRequest, ImageSettings
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.errors import NothingUsable
from bg_pipeline.generators import Generator, Operation, by_words
from bg_pipeline.generators.scenes import ASPECTS, ScenePainter
from bg_pipeline.imaging.workers import usable_cores
from bg_pipeline.labelers import custom_labels, faces, rekognition
from bg_pipeline.models.selection import ModelSelector, SelectedModel
from bg_pipeline.rate_limits.account_quotas import AccountQuotas
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.discovery import sample_left
from bg_pipeline.run.scenes import scene_seed
from bg_pipeline.settings import Settings

T = TypeVar("T")

CPU_SECONDS = 0.1
"""About the CPU time of an image on its whole way, without what grows with its size, …"""
CPU_SECONDS_PER_MEGAPIXEL = 0.08
"""… and for each megapixel (benchmarks/README.md: 0.1 s at 0.2 megapixels, 0.9 to 1.2 s at 12)."""
NETWORK_SECONDS = 0.45
"""About the CPU time of the built-in network for the mask of a photo (benchmarks/README.md)."""
BYTES_PER_MEGAPIXEL = 400_000
"""About the size of a photo's file for each megapixel: what is known of a photo before it is read."""


@dataclass(frozen=True)
class ModelChoices:
    """The selected models; None if none is needed or none can be used."""

    replacer: SelectedModel[Generator] | None
    remover: SelectedModel[Generator] | None
    captioner: SelectedModel[str] | None
    painter: Callable[[], SelectedModel[ScenePainter] | None]
    """Selects the model that paints scenes; called only if a request has one."""
    regions: Sequence[str]
    """The Regions of all services except Bedrock models."""
    per_minute: Callable[[Operation, str], float]
    """The quota of an operation in a Region, in calls per minute."""


@dataclass
class PlannedCalls:
    """The calls of one operation: ``calls`` if every picture passes at once, ``at_worst`` with every regeneration.

    ``per_minute`` is the quota of all its Regions together; ``worst_usd`` is the cost of ``at_worst``, or None if a
    price is unknown.
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
    """What a run would do.

    ``images`` counts all images, ``due`` those with due stages, ``waiting`` those of them that wait for the approval
    of their batch's sample, ``without_prompt`` those that would be skipped for lack of a prompt, ``refused`` those
    for which nothing would be paid, by the reason. ``unreadable`` has one sentence for each request that cannot be
    read, ``notes`` one for each kind of model of which none can be used.
    """

    images: int = 0
    due: int = 0
    waiting: int = 0
    without_prompt: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unreadable: list[str] = field(default_factory=list)
    lines: list[PlannedCalls] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    on_scenes: int = 0
    """Pictures that are made on scenes which several photos share."""
    scenes_usd: float | None = 0.0
    """The highest cost of these scenes, and …"""
    instead_usd: float | None = None
    """… what a background of its own for each of those pictures would cost; None: not known."""

    parts: int = 1
    """The parts of ``BG_PART_IMAGES`` images in which the due images can be divided."""
    cpu_minutes: float = 0.0
    """About the minutes that this machine needs for the work on the due pictures, with all its cores."""

    @property
    def runs_that_help(self) -> int:
        """How many runs, each on a machine like this one, shorten the time; 1 if the quotas alone decide it."""
        if self.cpu_minutes <= self.minutes:
            return 1
        if self.minutes == 0:
            return self.parts
        return min(self.parts, math.ceil(self.cpu_minutes / self.minutes))

    @property
    def minutes(self) -> float:
        """The minutes of the slowest operation; all others are done meanwhile."""
        return max((line.minutes for line in self.lines), default=0.0)

    @property
    def minutes_at_worst(self) -> float:
        return max((line.minutes_at_worst for line in self.lines), default=0.0)

    @property
    def worst_usd(self) -> float | None:
        """The highest cost of the run in dollars; None if the price of any planned call is unknown."""
        costs = [line.worst_usd for line in self.lines]
        return None if None in costs else sum(cost or 0.0 for cost in costs)

    @property
    def scene_prices(self) -> str:
        """A sentence that compares shared scenes with backgrounds for single photos; empty without scenes."""
        if not self.on_scenes:
            return ""
        scenes, instead = (
            "an unknown price" if usd is None else f"{usd:,.2f} USD"
            for usd in (self.scenes_usd, self.instead_usd)
        )
        pictures = f"{self.on_scenes:,} picture{'s' if self.on_scenes > 1 else ''}"
        return (
            f"{pictures} on shared scenes, which cost at most {scenes}; a background of its own for each would cost "
            f"{instead}."
        )


def plan(works: Iterable[BatchWork], settings: Settings, models: ModelChoices) -> Plan:
    """The plan of a run that brings ``works`` up to date."""
    result = Plan()
    lines: dict[Operation, PlannedCalls] = {}
    scenes: Counter[tuple[str, str, int]] = Counter()
    parts, cpu_seconds = 0, 0.0
    for work in works:
        result.images += len(work.images)
        result.due += len(work.due)
        if work.problem is not None:
            result.unreadable.append(f"{work.locations.batch.path}: {work.problem}")
            continue
        allowed = sample_left(work)
        result.waiting += len(work.due) - allowed
        parts += math.ceil(allowed / settings.part_images)
        sizes = [source.size for image in work.due if (source := work.images[image]) is not None]
        megapixels = sum(sizes) / BYTES_PER_MEGAPIXEL
        network = NETWORK_SECONDS if "network" in settings.mask_sources and find_spec("onnxruntime") else 0.0
        cpu_seconds += (CPU_SECONDS + network) * len(sizes) + CPU_SECONDS_PER_MEGAPIXEL * megapixels
        for image in list(work.due)[:allowed]:
            if refusal := work.refusal(image):
                result.refused[str(refusal)] += 1
                continue
            image_settings, due = work.settings_of(image), work.due[image]
            if PICTURES in due and image_settings.needs_prompt and not image_settings.prompts:
                result.without_prompt += 1
            if PICTURES in due and image_settings.scene is not None:
                scenes.update(
                    (image_settings.scene, image_settings.negative_prompt, scene_seed(image_settings, output))
                    for output in image_settings.outputs
                )
            for operation, regions, calls, at_worst, usd in _calls(image_settings, due, settings, models):
                if operation not in lines:
                    quota = sum(models.per_minute(operation, region) for region in regions)
                    lines[operation] = PlannedCalls(operation, regions, quota)
                line = lines[operation]
                line.calls += calls
                line.at_worst += at_worst
                line.worst_usd = None if usd is None or line.worst_usd is None else line.worst_usd + usd
    result.lines = list(lines.values())
    result.parts = max(parts, 1)
    result.cpu_minutes = cpu_seconds / 60 / usable_cores()
    if scenes:
        _add_scenes(result, scenes, models)
    return result


def scenes_at_worst(request: BatchRequest) -> int:
    """The scenes that a request with ``Images`` has painted at most: one for each aspect that its photos may have."""
    scenes: Counter[tuple[str, str, int]] = Counter()
    for image in request.entries:
        asked = requests.image_settings(request, image, PRESET_REQUESTS)
        if asked.scene is not None:
            scenes.update(
                (asked.scene, asked.negative_prompt, scene_seed(asked, output)) for output in asked.outputs
            )
    return sum(min(len(ASPECTS), photos) for photos in scenes.values())


def _add_scenes(result: Plan, scenes: Counter[tuple[str, str, int]], models: ModelChoices) -> None:
    """Adds the calls for scenes, which are counted with the number of pictures that are made on each.

    The photos' sizes are not known yet: at best all have the same aspect, at worst every aspect occurs.
    """
    result.on_scenes = sum(scenes.values())
    if models.replacer is not None:
        (operation,) = models.replacer.candidate.operations
        result.instead_usd = facts_of(operation.name, operation.model_id).cost(images=result.on_scenes)
    painter = models.painter()
    if painter is None:
        return
    (operation,) = painter.candidate.operations
    quota = sum(models.per_minute(operation, region) for region in painter.regions)
    at_worst = sum(min(len(ASPECTS), pictures) for pictures in scenes.values())
    result.scenes_usd = facts_of(operation.name, operation.model_id).cost(images=at_worst)
    result.lines.append(
        PlannedCalls(operation, painter.regions, quota, len(scenes), at_worst, result.scenes_usd)
    )


_Calls = tuple[Operation, Sequence[str], int, int, float | None]
"""An operation, its Regions, its calls, its calls at worst, and the cost in dollars of the latter."""


def _calls(
    image_settings: ImageSettings, due: Collection[str], settings: Settings, models: ModelChoices
) -> Iterator[_Calls]:
    """The calls for the due stages of one image."""
    if LABELS in due and settings.custom_labels_arn:
        # The calls are free: the running model is billed by the hour.
        yield custom_labels.OPERATION, (custom_labels.region(settings.custom_labels_arn),), 1, 1, 0.0
    elif LABELS in due:
        yield _rekognition_call(rekognition.OPERATION, models)
    if CAPTIONS in due and models.captioner is not None:
        (operation,) = models.captioner.candidate.operations
        tokens = nova.tokens_at_most(operation.invoke_id, settings.caption_prompt, settings.alt_text_length)
        cost = nova.cost(operation.invoke_id, tokens, settings.caption_tier)
        yield operation, models.captioner.regions, 1, 1, cost
    if PICTURES in due:
        yield from _picture_calls(image_settings, settings, models)


def _picture_calls(
    image_settings: ImageSettings, settings: Settings, models: ModelChoices
) -> Iterator[_Calls]:
    generates = image_settings.needs_prompt
    if generates and not image_settings.prompts:
        return
    subject = image_settings.subject
    if subject == "FACES":
        yield _rekognition_call(faces.OPERATION, models)
    generator = models.replacer.candidate.client if models.replacer else None
    if subject in ("LABELS", "SALIENT") and "cut-out" in settings.mask_sources and models.remover:
        (operation,) = models.remover.candidate.operations
        # A model that finds the subject from words needs a cut-out only if it finds nothing.
        in_words = (
            generates and subject == "LABELS" and generator and by_words(generator, image_settings.mode)
        )
        price = facts_of(operation.name, operation.model_id).cost(images=1)
        yield operation, models.remover.regions, 0 if in_words else 1, 1, price
    if generates and models.replacer and generator:
        (operation,) = models.replacer.candidate.operations
        calls = len(image_settings.prompts) * math.ceil(image_settings.variants / generator.images_per_call)
        pictures = len(image_settings.outputs)
        regenerations = pictures * settings.max_regenerations
        price = facts_of(operation.name, operation.model_id).cost(images=pictures + regenerations)
        yield operation, models.replacer.regions, calls, calls + regenerations, price


def _rekognition_call(operation: Operation, models: ModelChoices) -> _Calls:
    return operation, models.regions, 1, 1, facts_of(operation.name).cost(images=1)


def choose_models(context: RunContext) -> tuple[ModelChoices, list[str]]:
    """The models that a run would use now, and for each kind without a usable model the reason.

    Calls control planes only, which is free. The reason for scenes is added once `ModelChoices.painter` is called.
    """
    reasons: list[str] = []

    def current(selector: ModelSelector[T]) -> SelectedModel[T] | None:
        try:
            return selector.current()
        except NothingUsable as error:
            reasons.append(str(error))
            return None

    account = AccountQuotas(context.aws)

    def per_minute(operation: Operation, region: str) -> float:
        facts = facts_of(operation.name, operation.invoke_id)
        quota = context.settings.quota(operation.name) or account.requests_per_minute(facts, region)
        return quota or facts.requests_in(region)

    return (
        ModelChoices(
            replacer=current(context.background_models),
            remover=current(context.cut_out_models),
            captioner=current(context.caption_models) if context.settings.caption_models else None,
            painter=lambda: current(context.scene_models),
            regions=context.aws.regions,
            per_minute=per_minute,
        ),
        reasons,
    )
