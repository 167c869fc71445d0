"""Until when the models in use live: asked of the service before it is too late to name their successors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from bg_pipeline.aws import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.generators import Operation, generator
from bg_pipeline.models import choice as models
from bg_pipeline.models.facts import facts_of
from bg_pipeline.settings import Settings


@dataclass(frozen=True)
class InUse:
    """A configured model that is called now: the first of ``setting`` that can be used, in the first such Region.

    ``ends`` is the end of its life, None where none is known; ``after`` are the names that follow it.
    """

    name: str
    model_id: str
    region: str
    ends: date | None
    setting: str
    after: tuple[str, ...]


def models_in_use(settings: Settings, aws: Aws) -> Iterator[InUse]:
    """The models in use for backgrounds, cut-outs and captions, each once; nothing is billed."""
    generators = [generator(name) for name in settings.image_models]
    kinds: Sequence[tuple[str, list[tuple[str, Operation]]]] = (
        ("BG_IMAGE_MODELS", [(each.name, each.replaces) for each in generators if each.replaces]),
        ("BG_IMAGE_MODELS", [(each.name, each.removes) for each in generators if each.removes]),
        ("BG_CAPTION_MODELS", [(name, nova.operation(name)) for name in settings.caption_models]),
    )
    seen = set()
    for setting, candidates in kinds:
        found = _first_usable(aws, setting, candidates)
        if found is not None and found.model_id not in seen:
            seen.add(found.model_id)
            yield found


def _first_usable(aws: Aws, setting: str, candidates: Sequence[tuple[str, Operation]]) -> InUse | None:
    for index, (name, operation) in enumerate(candidates):
        for region in aws.regions:
            verdict = models.look(aws, operation, region)
            if verdict.usable:
                facts = facts_of(operation.name, operation.invoke_id)
                # The table counts only where the service does not say: its word is newer.
                ends = verdict.end_of_life if verdict.asked else facts.end_of_life
                after = tuple(other for other, _ in candidates[index + 1 :])
                return InUse(name, operation.model_id, region, ends, setting, after)
    return None
