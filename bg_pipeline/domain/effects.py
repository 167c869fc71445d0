"""What a change of a setting or of a request field affects, declared in the field's annotation.

``feather: Annotated[float, Affects.RESULT]`` is a declaration; `Effect` adds details if a member of `Affects` is not
enough. The sensor's digest, the stages' fingerprints and the identities of paid calls are computed from these
declarations, so a new setting or field cannot be missing from one of them.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, Final, get_type_hints


class Affects(Enum):
    """What depends on the value of a setting or request field."""

    NOTHING = "nothing"
    """No stored outcome: a change is no reason to run anything again (speed, notifications, the web page)."""
    RUN = "run"
    """Whether and by which model missing outcomes can be made; stored outcomes stay valid (models, caps, buckets)."""
    LABELS_CALL = "labels call"
    """The paid call that finds labels."""
    CAPTION_CALL = "caption call"
    """The paid call that writes captions."""
    CAPTION = "caption"
    """The caption that is derived from a caption call's answer."""
    SAM_CALL = "SAM call"
    """The call to a SAM endpoint."""
    MASK = "mask"
    """Which mask of the subject is used; the bytes of the mask are part of the picture call's identity."""
    PICTURE_CALL = "picture call"
    """The paid call that makes a picture; the value itself is part of the call's identity."""
    PICTURE_INPUT = "picture input"
    """The paid call that makes a picture; what is derived from the value for each picture (the filled prompt, the
    seed, the mask's bytes) is part of the call's identity."""
    RESULT = "result"
    """The files that are made from a paid picture, and the number of pictures."""
    REPORT = "report"
    """The content or look of a report, which every run writes again."""


@dataclass(frozen=True)
class Effect:
    """An effect with details.

    ``part(value)`` is what enters the identity, ``name`` the name that it has there (default: the field's own).
    The effect applies only while the setting ``needs`` is set and while the setting ``unless`` is not set.

    A setting that is added to an existing paid call should name itself in ``needs``: then identities of stored
    answers stay the same, and nothing is paid for again, while it is not set.
    """

    affects: Affects
    name: str = ""
    part: Callable[[Any], Any] = lambda value: value
    needs: str = ""
    unless: str = ""

    def applies(self, values: Any) -> bool:
        """Whether the effect applies to an object (settings or request fields) with these values."""
        needed = not self.needs or bool(getattr(values, self.needs))
        return needed and not (self.unless and getattr(values, self.unless))


def declared_effects(kind: type[Any]) -> Mapping[str, tuple[Effect, ...]]:
    """The effects of each field of a Pydantic model or dataclass, in order; empty for a field without any."""
    hints = get_type_hints(kind, include_extras=True)
    fields = getattr(kind, "model_fields", None) or kind.__dataclass_fields__
    return MappingProxyType({name: tuple(_effects(hints[name])) for name in fields})


def _effects(hint: Any) -> list[Effect]:
    metadata = getattr(hint, "__metadata__", ())
    effects = [Effect(item) if isinstance(item, Affects) else item for item in metadata]
    return [effect for effect in effects if isinstance(effect, Effect)]


_ALONE: Final = {affects: frozenset({affects}) for affects in Affects}


@cache
def _with_effect(kind: type[Any], affects: frozenset[Affects]) -> tuple[tuple[str, Effect], ...]:
    return tuple(
        (name, effect)
        for name, effects in declared_effects(kind).items()
        for effect in effects
        if effect.affects in affects
    )


def values(source: Any, affects: Collection[Affects]) -> dict[str, list[Any]]:
    """The values of an object's fields that affect any of ``affects``, by field; other fields are left out."""
    found: dict[str, list[Any]] = {}
    for name, effect in _with_effect(source.__class__, frozenset(affects)):
        if effect.applies(source):
            found.setdefault(name, []).append(effect.part(getattr(source, name)))
    return found


def identity_of_call(source: Any, affects: Affects) -> dict[str, Any]:
    """The values that an object's fields add to the identity of one kind of paid call, by their names there."""
    return {
        effect.name or name: effect.part(getattr(source, name))
        for name, effect in _with_effect(source.__class__, _ALONE[affects])
        if effect.applies(source)
    }
