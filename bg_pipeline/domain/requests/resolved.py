"""What a request comes to for one image: `ImageSettings`, with every default in its place."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, Final

from pydantic.alias_generators import to_pascal

from bg_pipeline.domain.effects import Affects, declared_effects
from bg_pipeline.domain.requests.fields import (
    KNOWN,
    NO_PRESETS,
    BatchRequest,
    ImageEntry,
    ImageFields,
    ModeName,
    QualityName,
    Rendition,
    ShadowName,
    SubjectName,
    TaskName,
)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One picture asked for; ``position`` counts from 1 over all of an image's, ``prompt`` and ``variant`` too."""

    position: int
    prompt: int
    variant: int
    template: str


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What is asked for one image, with every default in its place.

    ``labels`` are the request's own, empty where it says none; where it says that there are none (an empty
    ``Labels``), everything that stands out is the subject. ``mask_key`` is set exactly if ``subject`` is MASK.
    ``backdrop`` is a key or ``#rrggbb``. ``seed`` is None where it is to be derived. ``renditions`` is empty
    where the picture is wanted as it is.

    What a field affects is what its request field declares. A field that is added has a default here: while it has
    that value it is left out of identities and fingerprints, so that what is stored stays valid.
    """

    image: str
    labels: tuple[str, ...]
    task: TaskName
    prompts: tuple[str, ...]
    variants: int
    negative_prompt: str
    mode: ModeName
    subject: SubjectName
    mask_key: str | None
    backdrop: str | None
    shadow: ShadowName
    seed: int | None
    quality: QualityName
    cfg_scale: float
    ref: str
    renditions: tuple[Rendition, ...]

    @property
    def needs_prompt(self) -> bool:
        """Whether a model paints the background; it is left out (REMOVE) or given (a backdrop) otherwise."""
        return self.task == "REPLACE" and self.backdrop is None

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The pictures to be made, prompt-major; a single one without a prompt where none is needed or given."""
        if not self.needs_prompt or not self.prompts:
            return (OutputSpec(1, 1, 1, ""),)
        return tuple(
            OutputSpec((prompt - 1) * self.variants + variant, prompt, variant, template)
            for prompt, template in enumerate(self.prompts, 1)
            for variant in range(1, self.variants + 1)
        )


_REQUEST_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "image": ("ImageName",),
    "prompts": ("Prompt", "Prompts"),
}
"""The request's fields behind a field of `ImageSettings` whose name does not say it."""


@cache
def _affecting(affects: frozenset[Affects]) -> tuple[tuple[str, Any], ...]:
    """The fields of `ImageSettings` with one of these effects, each with its default (`MISSING` if it has none)."""
    effects = {**declared_effects(BatchRequest), **declared_effects(ImageEntry)}
    return tuple(
        (field.name, field.default)
        for field in fields(ImageSettings)
        for names in [_REQUEST_FIELDS.get(field.name, (to_pascal(field.name),))]
        if any(effect.affects in affects for name in names for effect in effects[name])
    )


_PAID: Final = frozenset({Affects.PICTURE_CALL})
_PICTURES: Final = frozenset({Affects.PICTURE_CALL, Affects.PICTURE_INPUT, Affects.RESULT})


def _values(asked: ImageSettings, affects: frozenset[Affects]) -> Iterator[tuple[str, Any]]:
    for name, default in _affecting(affects):
        value = getattr(asked, name)
        if default is MISSING or value != default:
            yield name, value


def paid_picture_fields(asked: ImageSettings) -> dict[str, Any]:
    """What is asked for an image as it stands in the identity of its paid pictures.

    To the identity of one picture belong besides what differs from picture to picture or has to be looked up:
    ``mask`` (a hash), ``prompt`` (filled) and ``seed``.
    """
    found = dict(_values(asked, _PAID))
    # Labels say where the subject is only where the subject is found by labels.
    return found | {"labels": list(asked.labels) if asked.subject == "LABELS" else []}


def picture_fields(asked: ImageSettings) -> dict[str, Any]:
    """What is asked for an image as far as its pictures and their files depend on it."""
    found = dict(_values(asked, _PICTURES))
    found["renditions"] = [
        {name: value for name in KNOWN[Rendition] if (value := getattr(rendition, name)) is not None}
        for rendition in asked.renditions
    ]
    return found


def image_settings(
    request: BatchRequest, image: str, presets: Mapping[str, ImageFields] = NO_PRESETS
) -> ImageSettings:
    """What ``request`` asks for the image: its entry first, then the top, then its renditions' presets.

    ``presets`` are those that the request was read with. An image without an entry has what the top says.
    """
    entry = request.entries.get(image)
    levels = _levels(request, entry, presets)

    def first(name: str, default: Any = None) -> Any:
        return next((value for level in levels if (value := getattr(level, name)) is not None), default)

    task = first("Task", "REPLACE")
    subjects = (subject_of(level) for level in levels)
    subject: SubjectName = next((found for found in subjects if found), "LABELS")
    labels = _label_names(entry.Labels if entry else None)
    if subject == "LABELS" and entry is not None and entry.Labels is not None and not labels:
        subject = "SALIENT"
    return ImageSettings(
        image=image,
        labels=labels,
        task=task,
        prompts=next((found for level in levels if (found := _prompts(level))), ()),
        variants=first("Variants", 1),
        negative_prompt=first("NegativePrompt", ""),
        mode=first("Mode", "PRECISE"),
        subject=subject,
        mask_key=first("MaskKey") if subject == "MASK" else None,
        backdrop=first("Backdrop") if task == "REPLACE" else None,
        shadow=first("Shadow", "none"),
        seed=first("Seed"),
        quality=first("Quality", "premium"),
        cfg_scale=first("CfgScale", 8.0),
        ref=first("Ref", ""),
        renditions=first("Renditions", ()),
    )


def _levels(
    request: BatchRequest, entry: ImageEntry | None, presets: Mapping[str, ImageFields]
) -> list[ImageFields]:
    said: list[ImageFields] = [request] if entry is None else [entry, request]
    return said + [presets[name] for name in preset_names(said) if name in presets]


def preset_names(said: Iterable[ImageFields]) -> dict[str, None]:
    """The presets of the renditions that count, in order."""
    renditions = next((level.Renditions for level in said if level.Renditions), ())
    return dict.fromkeys(rendition.Preset for rendition in renditions if rendition.Preset)


def _prompts(level: ImageFields) -> tuple[str, ...]:
    if level.Prompts:
        return level.Prompts
    return (level.Prompt,) if level.Prompt and level.Prompt.strip() else ()


def subject_of(level: ImageFields) -> SubjectName | None:
    """What the level says; a mask that is given is meant to be used."""
    return level.Subject or ("MASK" if level.MaskKey else None)


def _label_names(labels: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for part in (labels or "").split(",") if (word := part.strip())))
