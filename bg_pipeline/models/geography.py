"""The inference profiles of models, and the Regions from which they can be called.

A profile belongs to a geography: ``us.amazon.nova-pro-v1:0`` is called from Regions of the US and runs in one of
them. This module uses the tables of ``facts.toml``; `bg_pipeline.models.selection` requests the current state from
Bedrock.
"""

from collections.abc import Sequence

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.model_facts import all_facts, facts_of, geographies, split_profile
from bg_pipeline.generators import Operation


def callable_regions(operation: Operation) -> tuple[str, ...]:
    """The Regions from which an operation can be called according to the table; empty if the table has none."""
    regions = facts_of(operation.name, operation.invoke_id).regions
    if regions or not operation.profile:
        return regions
    geography = geographies().get(operation.profile)
    return geography.sources if geography else ()


def inference_regions(operation: Operation) -> tuple[str, ...]:
    """The Regions in which Bedrock may run a call; empty without a profile, because the call then runs where it is
    made.

    ``("*",)`` means any commercial Region.
    """
    if not operation.profile:
        return ()
    geography = geographies().get(operation.profile)
    return (geography.destinations or ("*",)) if geography else ("*",)


def caption_models(listed: Sequence[str], regions: Sequence[str]) -> tuple[str, ...]:
    """The ids by which the ``listed`` caption models are called from ``regions``.

    For each Region that is the profile of its own geography, else the bare model id, else a global profile. A model
    that is in none of the Regions keeps its listed id, so that it can be reported.
    """
    ids: dict[str, None] = {}
    for model in listed:
        ids |= dict.fromkeys(_ids_in(split_profile(model)[1], regions) or [model])
    return tuple(ids)


def _ids_in(bare: str, regions: Sequence[str]) -> list[str]:
    known = [facts for facts in all_facts() if facts.operation == "CAPTION" and facts.model == bare]
    known.sort(key=lambda facts: _preference(facts.profiles[0]))
    ids: dict[str, None] = {}
    for region in regions:
        available = (facts.profiles[0] + bare for facts in known if region in facts.regions)
        if first := next(available, ""):
            ids[first] = None
    return list(ids)


def _preference(profile: str) -> tuple[bool, bool, int]:
    """A sort key: smallest geography first, then the bare model, then the global profile."""
    geography = geographies().get(profile)
    return profile == "global.", not profile, len(geography.sources) if geography else 0


def runs_outside_region(aws: Aws, operations: Sequence[Operation]) -> tuple[str, ...]:
    """Regions of the same AWS partition that have all ``operations``, if none of the Regions in use has them.

    Empty if a person named Regions, because photos may be sent only to those, or if the table does not list an
    operation.
    """
    available = [callable_regions(operation) for operation in operations]
    if aws.regions_named or not available or not all(available):
        return ()
    if any(all(region in each for each in available) for region in aws.regions):
        return ()
    partition = aws.partition(aws.own_region)
    shared = [region for region in available[0] if all(region in each for each in available)]
    return tuple(region for region in shared if aws.partition(region) == partition)
