"""What a setting or a field of a request affects, declared in its annotation and read from there by whoever asks.

``feather: Annotated[float, Affects.RESULT]`` is a declaration; `Effect` says more where a member of `Affects`
alone is not enough. The sensor's digest, the stages' fingerprints and the identities of paid calls are made from
these declarations, so that a new setting or field cannot be forgotten in one of them.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, Final, get_type_hints


class Affects(Enum):
    """What depends on a setting's or field's value."""

    NOTHING = "nothing"
    """Nothing that was done: a change is no reason to run anything again (speed, people told, the page)."""
    RUN = "run"
    """Whether something still missing can be done, and by whom; what was done stands (models, caps, buckets)."""
    LABELS_CALL = "labels call"
    """The call that labels are paid for with."""
    CAPTION_CALL = "caption call"
    """The call that captions are paid for with."""
    CAPTION = "caption"
    """What is made of a caption call's answer."""
    SAM_CALL = "SAM call"
    """The call of a SAM endpoint."""
    MASK = "mask"
    """Which mask of the subject is used; the mask's own bytes are part of the picture call's identity."""
    PICTURE_CALL = "picture call"
    """The call that a picture is paid for with: its value is part of that call's identity as it is."""
    PICTURE_INPUT = "picture input"
    """Likewise, but by what is made of it for each picture: the filled prompt, the seed, the mask's bytes."""
    RESULT = "result"
    """What is made of a paid picture, and how many pictures there are."""
    REPORT = "report"
    """How a report looks or what it repeats; every run writes it anew."""


@dataclass(frozen=True)
class Effect:
    """An effect that is more than a member of `Affects`.

    ``part`` takes from the value what counts. ``name`` is the name of the value in the identity of the paid
    call, the field's own if empty. It counts only while the setting ``needs`` is set, and not while ``unless`` is.

    A setting that is added to a paid call ``needs`` itself, so that nothing is paid for again while it is not set.
    """

    affects: Affects
    name: str = ""
    part: Callable[[Any], Any] = lambda value: value
    needs: str = ""
    unless: str = ""

    def counts(self, values: Any) -> bool:
        """Whether it counts for an object with these values."""
        needed = not self.needs or bool(getattr(values, self.needs))
        return needed and not (self.unless and getattr(values, self.unless))


def declared_effects(kind: type[Any]) -> Mapping[str, tuple[Effect, ...]]:
    """The effects that each field of a model or dataclass declares, in order; empty where it declares none."""
    hints = get_type_hints(kind, include_extras=True)
    fields = getattr(kind, "model_fields", None) or kind.__dataclass_fields__
    return MappingProxyType({name: tuple(_effects(hints[name])) for name in fields})


def _effects(hint: Any) -> list[Effect]:
    said = getattr(hint, "__metadata__", ())
    effects = [Effect(each) if isinstance(each, Affects) else each for each in said]
    return [each for each in effects if isinstance(each, Effect)]


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
    """What counts of an object's fields for any of ``affects``, by field; without what has no such effect now."""
    found: dict[str, list[Any]] = {}
    for name, effect in _with_effect(source.__class__, frozenset(affects)):
        if effect.counts(source):
            found.setdefault(name, []).append(effect.part(getattr(source, name)))
    return found


def identity_of_call(source: Any, affects: Affects) -> dict[str, Any]:
    """What an object's fields put into the identity of one kind of paid call, under the names it has there."""
    return {
        effect.name or name: effect.part(getattr(source, name))
        for name, effect in _with_effect(source.__class__, _ALONE[affects])
        if effect.counts(source)
    }
