"""Resolves a request for one image: `ImageSettings` has a value for every field."""

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from typing import Any, Final

from pydantic.alias_generators import to_pascal

from bg_pipeline.domain import shadows
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
    SubjectName,
    TaskName,
    is_mask_folder,
)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """One picture of an image; ``template`` is its prompt with placeholders.

    ``position`` (among all pictures of the image), ``prompt`` and ``variant`` count from 1.
    """

    position: int
    prompt: int
    variant: int
    template: str


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What a request asks for one image, with all defaults filled in.

    ``labels`` are those in the request, empty if it has none. An empty ``Labels`` in the request makes everything
    that stands out the subject. ``mask_key`` is set if and only if ``subject`` is MASK: the key of this image's mask,
    also if the request names a folder. ``backdrop`` is a key, ``#rrggbb`` or ``blur``, ``shadow`` a text for
    `shadows.read`. ``seed`` is None if it has to be derived. ``renditions`` is empty if the picture is delivered
    unchanged. ``feather`` is None if ``BG_FEATHER`` is used, ``scene`` if the request describes none.

    Each field has the effects that the request field of the same name declares. A new field needs a default here: a
    field with its default value is left out of identities and fingerprints, so that stored outcomes stay valid.
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
    shadow: str
    seed: int | None
    quality: QualityName
    cfg_scale: float
    ref: str
    renditions: tuple[Rendition, ...]
    feather: float | None = None
    scene: str | None = None

    def named(self, image: str) -> "ImageSettings":
        """The same for another image; these settings must be those of no image (``image`` is empty)."""
        return replace(self, image=image, mask_key=_mask_key(self.mask_key, image))

    @property
    def needs_prompt(self) -> bool:
        """Whether a model paints a background for this image alone.

        Otherwise it is removed (REMOVE), is the backdrop, or is a scene that other images use as well.
        """
        return self.task == "REPLACE" and self.backdrop is None and self.scene is None

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The pictures to make: all variants of each prompt or of the scene; a single one without either."""
        if self.scene is not None:
            variants = range(1, self.variants + 1)
            return tuple(OutputSpec(variant, 1, variant, self.scene) for variant in variants)
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
"""Request fields of those fields of `ImageSettings` that have another name."""


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
    """The part of the identity of an image's paid pictures that its settings determine.

    The rest of the identity differs between pictures or has to be looked up: ``mask`` (a hash), ``prompt`` (filled)
    and ``seed``.
    """
    found = dict(_values(asked, _PAID))
    # Labels locate the subject only if the subject is LABELS.
    return found | {"labels": list(asked.labels) if asked.subject == "LABELS" else []}


def picture_fields(asked: ImageSettings) -> dict[str, Any]:
    """The settings of an image on which its pictures and their files depend."""
    found = dict(_values(asked, _PICTURES))
    found["renditions"] = [
        {name: value for name in KNOWN[Rendition] if (value := getattr(rendition, name)) is not None}
        for rendition in asked.renditions
    ]
    return found


def image_settings(
    request: BatchRequest, image: str, presets: Mapping[str, ImageFields] = NO_PRESETS
) -> ImageSettings:
    """The settings of the image: from its entry, else from the top level, else from its renditions' presets.

    ``presets`` are those with which the request was read.
    """
    entry = request.entries.get(image)
    levels = _levels(request, entry, presets)

    def first(name: str, default: Any = None) -> Any:
        return next((value for level in levels if (value := getattr(level, name)) is not None), default)

    task = first("Task", "REPLACE")
    subjects = (subject_of(level) for level in levels)
    subject: SubjectName = next((found for found in subjects if found), "LABELS")
    scene = _scene(levels) if task == "REPLACE" else None
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
        mask_key=_mask_key(first("MaskKey"), image) if subject == "MASK" else None,
        backdrop=first("Backdrop") if task == "REPLACE" and scene is None else None,
        shadow=first("Shadow", shadows.NONE if scene is None else shadows.SOFT),
        seed=first("Seed"),
        quality=first("Quality", "premium"),
        cfg_scale=first("CfgScale", 8.0),
        ref=first("Ref", ""),
        renditions=first("Renditions", ()),
        feather=first("Feather"),
        scene=scene,
    )


def _scene(levels: Iterable[ImageFields]) -> str | None:
    """The scene, unless an image's own prompt or backdrop overrides the one for all images."""
    for level in levels:
        if level.Scene is not None:
            return level.Scene
        if level.Backdrop is not None or _prompts(level):
            return None
    return None


def _mask_key(key: str | None, image: str) -> str | None:
    """The key of an image's mask: in a folder, the image's name with the extension ``.png``."""
    if key is None or not image or not is_mask_folder(key):
        return key
    return f"{key}{posixpath.splitext(image)[0]}.png"


def _levels(
    request: BatchRequest, entry: ImageEntry | None, presets: Mapping[str, ImageFields]
) -> list[ImageFields]:
    levels: list[ImageFields] = [request] if entry is None else [entry, request]
    return levels + [presets[name] for name in preset_names(levels) if name in presets]


def preset_names(levels: Iterable[ImageFields]) -> dict[str, None]:
    """The presets of the first level with renditions, in their order; ``levels`` are the entry and the request."""
    renditions = next((level.Renditions for level in levels if level.Renditions), ())
    return dict.fromkeys(rendition.Preset for rendition in renditions if rendition.Preset)


def _prompts(level: ImageFields) -> tuple[str, ...]:
    if level.Prompts:
        return level.Prompts
    return (level.Prompt,) if level.Prompt and level.Prompt.strip() else ()


def subject_of(level: ImageFields) -> SubjectName | None:
    """The subject that the level sets; a ``MaskKey`` without ``Subject`` means MASK."""
    return level.Subject or ("MASK" if level.MaskKey else None)


def _label_names(labels: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for part in (labels or "").split(",") if (word := part.strip())))
