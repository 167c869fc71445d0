"""Presets: named sets of request fields and of rules for the finished file, read from ``presets.toml``."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

from bg_pipeline.domain.requests import ImageFields, Rendition, read_image_fields

RULES = frozenset(
    {
        "formats",
        "min_side",
        "aspect",
        "max_bytes",
        "subject",
        "shown",
        "head_room",
        "background",
        "enlarged",
        "whole",
        "pieces",
    }
)
"""Names of the rules that a preset may have; `bg_pipeline.run.renditions` checks them."""

Background = Literal["scene", "white", "transparent"]


@dataclass(frozen=True)
class Preset:
    """A preset that a rendition may name in ``Preset``; ``presets.toml`` explains the fields."""

    name: str
    about: str
    background: Background
    request: ImageFields
    file: Rendition
    rules: Mapping[str, Any]


def _presets() -> Mapping[str, Preset]:
    documents = tomllib.loads((files(__package__) / "presets.toml").read_text(encoding="utf-8"))
    presets = {}
    for name, document in documents.items():
        if unknown := set(document["rules"]) - RULES:
            raise ValueError(f"presets.toml: {name} has the unknown rules {', '.join(sorted(unknown))}")
        presets[name] = Preset(
            name,
            document["about"],
            document["background"],
            read_image_fields(document["request"]),
            Rendition(**document["file"]),
            document["rules"],
        )
    return MappingProxyType(presets)


PRESETS = _presets()
"""The presets of ``presets.toml``, by name."""

PRESET_REQUESTS: Mapping[str, ImageFields] = MappingProxyType(
    {name: replace(preset.request, Renditions=(preset.file,)) for name, preset in PRESETS.items()}
)
"""The request fields of each preset, by name; ``Renditions`` has exactly one member, the preset's file."""
