"""Which inference profile a model is called through, and from which Regions.

A profile belongs to a geography: ``us.amazon.nova-pro-v1:0`` is called from Regions of the US and runs in one of
them. The tables are those of ``facts.toml``; where Bedrock itself can be asked, `bg_pipeline.models.selection` does.
"""

from collections.abc import Sequence

from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.model_facts import all_facts, facts_of, geographies, split_profile
from bg_pipeline.generators import Operation


def callable_regions(operation: Operation) -> tuple[str, ...]:
    """The Regions that an operation may be called from by the table; empty where the table does not know."""
    regions = facts_of(operation.name, operation.invoke_id).regions
    if regions or not operation.profile:
        return regions
    geography = geographies().get(operation.profile)
    return geography.sources if geography else ()


def inference_regions(operation: Operation) -> tuple[str, ...]:
    """The Regions that Bedrock may run a call in; empty for a bare model, which runs where it is called.

    ``("*",)`` is any commercial Region.
    """
    if not operation.profile:
        return ()
    geography = geographies().get(operation.profile)
    return (geography.destinations or ("*",)) if geography else ("*",)


def caption_models(listed: Sequence[str], regions: Sequence[str]) -> tuple[str, ...]:
    """Each of the ``listed`` caption models as it is called from ``regions``.

    That is through the profile of the Region's own geography, else by the bare model, else through a global profile.
    A model that is in none of the Regions stays as it was listed, so that it can be told.
    """
    found: dict[str, None] = {}
    for model in listed:
        found |= dict.fromkeys(_called_in(split_profile(model)[1], regions) or [model])
    return tuple(found)


def _called_in(bare: str, regions: Sequence[str]) -> list[str]:
    known = [facts for facts in all_facts() if facts.operation == "CAPTION" and facts.model == bare]
    known.sort(key=lambda facts: _preference(facts.profiles[0]))
    found: dict[str, None] = {}
    for region in regions:
        here = (facts.profiles[0] + bare for facts in known if region in facts.regions)
        if first := next(here, ""):
            found[first] = None
    return list(found)


def _preference(profile: str) -> tuple[bool, bool, int]:
    """The smallest geography first, then the model itself, then the whole world."""
    geography = geographies().get(profile)
    return profile == "global.", not profile, len(geography.sources) if geography else 0


def runs_outside_region(aws: Aws, operations: Sequence[Operation]) -> tuple[str, ...]:
    """Where a model is to be had that is in none of the Regions in use, as far as this account has Regions there.

    Empty as soon as a person named Regions: what they named is where pictures may go.
    """
    places = [callable_regions(operation) for operation in operations]
    if aws.regions_named or not places or not all(places):
        return ()
    if any(all(region in each for each in places) for region in aws.regions):
        return ()
    own = aws.partition(aws.own_region)
    shared = [region for region in places[0] if all(region in each for each in places)]
    return tuple(region for region in shared if aws.partition(region) == own)
