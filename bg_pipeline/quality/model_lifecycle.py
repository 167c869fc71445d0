"""Until when the models in use live: asked of the service before it is too late to name their successors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from bg_pipeline.aws.clients import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import NothingUsable
from bg_pipeline.generators import generator
from bg_pipeline.models.selection import ModelCandidate, ModelSelector, check_availability
from bg_pipeline.settings import Settings


@dataclass(frozen=True)
class ModelInUse:
    """A configured model that is called now: the first of ``setting`` that can be used, in the first such Region.

    ``ends`` is the end of its life and ``dearer_from`` the day from which it costs more than the table says, None
    where none is known; ``life`` says in words what is known of both; ``after`` are the names that follow it.
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
    """The models in use for backgrounds, cut-outs and captions, each once; nothing is billed."""
    generators = [generator(name) for name in settings.image_models]
    kinds: Sequence[tuple[str, list[ModelCandidate[Any]], Sequence[str]]] = (
        (
            "BG_IMAGE_MODELS",
            [ModelCandidate(each.name, (each.replaces,), each) for each in generators if each.replaces],
            (),
        ),
        (
            "BG_IMAGE_MODELS",
            [ModelCandidate(each.name, (each.removes,), each) for each in generators if each.removes],
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
        found = _in_use(aws, setting, candidates, regions)
        if found is not None and found.model_id not in seen:
            seen.add(found.model_id)
            yield found


def _in_use(
    aws: Aws, setting: str, candidates: Sequence[ModelCandidate[Any]], regions: Sequence[str]
) -> ModelInUse | None:
    try:
        choice = ModelSelector(aws, candidates, regions=regions).current()
    except NothingUsable:
        return None
    (operation,) = choice.candidate.operations
    region = choice.regions[0]
    verdict = check_availability(aws, operation, region)
    facts = facts_of(operation.name, operation.invoke_id)
    # The table counts only where the service does not say: its word is newer.
    ends = verdict.end_of_life if verdict.confirmed else facts.end_of_life
    names = [candidate.name for candidate in candidates]
    after = tuple(names[names.index(choice.candidate.name) + 1 :])
    return ModelInUse(
        choice.candidate.name,
        operation.model_id,
        region,
        ends,
        setting,
        after,
        verdict.dearer_from,
        verdict.lifecycle(),
    )
