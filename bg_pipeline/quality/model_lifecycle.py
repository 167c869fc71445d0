"""When the models in use reach their end of life, so that users can name successors in time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from bg_pipeline.aws.clients import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import NothingUsable
from bg_pipeline.generators import generator
from bg_pipeline.generators.scenes import scene_painter
from bg_pipeline.models.selection import ModelCandidate, ModelSelector, check_availability
from bg_pipeline.settings import Settings


@dataclass(frozen=True)
class ModelInUse:
    """The model that is used now: the first usable model of ``setting``, in its first usable Region.

    ``ends`` is its end of life and ``dearer_from`` the day from which it costs more than the stored price; None if
    not known. ``life`` describes both for people. ``after`` are the models that follow it in ``setting``.
    """

    name: str
    model_id: str
    region: str
    ends: date | None
    setting: str
    after: tuple[str, ...]
    dearer_from: date | None = None
    life: str = ""


def models_in_use(settings: Settings, aws: Aws) -> Iterator[ModelInUse]:
    """The models in use for backgrounds, cut-outs, scenes and captions, each once; makes no billed call."""
    generators = [generator(name) for name in settings.image_models]
    painters = [scene_painter(name) for name in settings.scene_models]
    kinds: Sequence[tuple[str, list[ModelCandidate[Any]], Sequence[str]]] = (
        (
            "BG_IMAGE_MODELS",
            [ModelCandidate(model.name, (model.replaces,), model) for model in generators if model.replaces],
            (),
        ),
        (
            "BG_IMAGE_MODELS",
            [ModelCandidate(model.name, (model.removes,), model) for model in generators if model.removes],
            (),
        ),
        (
            "BG_SCENE_MODELS",
            [ModelCandidate(each.name, (each.paints,), each) for each in painters],
            (),
        ),
        (
            "BG_CAPTION_MODELS",
            [ModelCandidate(name, (nova.operation(name),), name) for name in nova.models(settings, aws)],
            nova.regions(settings, aws),
        ),
    )
    seen = set()
    for setting, candidates, regions in kinds:
        model = _in_use(aws, setting, candidates, regions)
        if model is not None and model.model_id not in seen:
            seen.add(model.model_id)
            yield model


def _in_use(
    aws: Aws, setting: str, candidates: Sequence[ModelCandidate[Any]], regions: Sequence[str]
) -> ModelInUse | None:
    try:
        choice = ModelSelector(aws, candidates, regions=regions).current()
    except NothingUsable:
        return None
    (operation,) = choice.candidate.operations
    region = choice.regions[0]
    availability = check_availability(aws, operation, region)
    facts = facts_of(operation.name, operation.invoke_id)
    # The stored date is used only if the service could not be asked, whose answer is newer.
    ends = availability.end_of_life if availability.confirmed else facts.end_of_life
    names = [candidate.name for candidate in candidates]
    after = tuple(names[names.index(choice.candidate.name) + 1 :])
    return ModelInUse(
        choice.candidate.name,
        operation.model_id,
        region,
        ends,
        setting,
        after,
        availability.dearer_from,
        availability.lifecycle(),
    )
