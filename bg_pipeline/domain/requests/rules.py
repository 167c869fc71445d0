"""Checks of a request that need more than one field: which keys it may name, and which fields go together."""

import re
from collections.abc import Collection, Iterator, Mapping

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import path_problem
from bg_pipeline.domain.requests.fields import (
    IMAGE_FIELDS,
    BatchRequest,
    ImageEntry,
    ImageFields,
    has_control_character,
    shown,
)
from bg_pipeline.domain.requests.placeholders import left_in
from bg_pipeline.domain.requests.renditions import filled, impossible, preset_file
from bg_pipeline.domain.requests.resolved import (
    ImageSettings,
    image_settings,
    preset_names,
    subject_of,
)


def violations(
    request: BatchRequest,
    bucket: str,
    allowed_buckets: Collection[str],
    batch: Batch,
    presets: Mapping[str, ImageFields],
) -> Iterator[tuple[str, str]]:
    """The problems of a request whose single fields are valid, as (field, sentence)."""
    if left := left_in(request.S3Bucket):
        yield "S3Bucket", f"a placeholder was left in: {left[:60]}"
    elif request.S3Bucket not in {"", bucket, *allowed_buckets}:
        yield "S3Bucket", f"{shown(request.S3Bucket)} is neither BG_BUCKET nor among BG_ALLOWED_BUCKETS"
    for field, top, own in (
        ("InputS3Prefix", s3_keys.UPLOADS, batch.input_prefix),
        ("OutputS3Prefix", s3_keys.RESULTS, batch.output_prefix),
        ("StatusS3Prefix", s3_keys.REPORTS, batch.status_prefix),
    ):
        if problem := _prefix_problem(getattr(request, field), top, own):
            yield field, problem

    entries = request.Images or ()
    input_prefix = request.InputS3Prefix.removesuffix("/") or batch.input_prefix
    own_prefix = f"{batch.input_prefix}/"
    for place, level in [("", request), *((f"Images[{n}].", entry) for n, entry in enumerate(entries))]:
        for key_field in ("MaskKey", "Backdrop"):
            key = getattr(level, key_field)
            if key and (left := left_in(key.removeprefix(own_prefix))):
                yield f"{place}{key_field}", f"a placeholder was left in: {left[:60]}"
            if key and key_field == "MaskKey" and f"{input_prefix}/".startswith(key):
                yield (
                    f"{place}MaskKey",
                    f"{shown(key)} holds the photos themselves; put the masks into a folder of their own",
                )
    places: dict[str, int] = {}
    for number, entry in enumerate(entries):
        field, name = f"Images[{number}].ImageName", entry.ImageName
        if places.setdefault(name, number) != number:
            yield field, f"{shown(name)} is already listed as Images[{places[name]}]"
        if request.names(f"{input_prefix}/{name}"):
            yield field, f"{shown(name)} is also named as a mask or backdrop"

    special = [
        (f"Images[{number}].", entry)
        for number, entry in enumerate(entries)
        if any(getattr(entry, name) is not None for name in IMAGE_FIELDS)
    ]
    plain: list[tuple[str, ImageEntry | None]] = (
        [("", None)] if not entries or len(special) < len(entries) else []
    )
    promptless = None
    checked: set[tuple[str, int]] = set()
    for where, own_entry in [*plain, *special]:
        settings = image_settings(request, own_entry.ImageName if own_entry else "", presets)
        if settings.needs_prompt and not settings.prompts and promptless is None:
            promptless = where.removesuffix(".") or "the request"
        yield from _mismatches(where, request, own_entry, settings, presets)
        place, level = (where, own_entry) if own_entry and own_entry.Renditions else ("", request)
        pictures = len(settings.outputs) if settings.prompts or settings.scene else 1
        if settings.needs_prompt and not settings.prompts:
            pictures = settings.variants
        if (place, pictures) not in checked:
            # Checked only once for all images that share the renditions.
            checked.add((place, pictures))
            for rest, problem in impossible(level.Renditions or (), presets, pictures):
                yield f"{place}Renditions{rest}", problem
    if promptless:
        yield "Prompt", f"is required: {promptless} has none; give one for all images or each image its own"


def _prefix_problem(given: str, top: str, own: str) -> str | None:
    prefix = given.removesuffix("/")
    if given == "" or prefix == own:
        return None
    if left := left_in(prefix):
        return f"a placeholder was left in: {left[:60]}; leave the field out to use {own}"
    if not prefix.startswith(f"{top}/"):
        return f"{shown(given)} must be under {top}/"
    if has_control_character(prefix):
        return f"{shown(given)} contains a control character or a line break"
    if {"", ".", ".."} & set(prefix.split("/")):
        return f"{shown(given)} contains an empty, '.' or '..' segment"
    if len(prefix.encode()) > s3_keys.MAX_PREFIX_BYTES:
        return f"is longer than {s3_keys.MAX_PREFIX_BYTES} bytes"
    dated = re.match(r"[0-9]{4}(/|$)", prefix.removeprefix(f"{top}/"))
    if top != s3_keys.UPLOADS and dated and not prefix.startswith(f"{own}/"):
        return f"{shown(given)} belongs to another batch; leave the field out to use {own}"
    return None


def _mismatches(
    where: str,
    request: BatchRequest,
    entry: ImageEntry | None,
    settings: ImageSettings,
    presets: Mapping[str, ImageFields],
) -> Iterator[tuple[str, str]]:
    """Fields that contradict each other for one image's entry (``where``), or for all images without own fields."""
    levels: list[tuple[str, ImageFields]] = (
        [("", request)] if entry is None else [(where, entry), ("", request)]
    )
    for place, level in levels:
        if level.Scene and level.Backdrop:
            yield f"{place}Scene", "and Backdrop cannot be used for the same image; leave one of them out"
        if level.MaskKey and subject_of(level) != "MASK":
            yield f"{place}MaskKey", f"is used only with Subject MASK, not {level.Subject}"
        for number, rendition in enumerate(level.Renditions or ()):
            field = f"{place}Renditions[{number}]"
            if rendition.Preset is not None and rendition.Preset not in presets:
                known = ", ".join(presets) or "none"
                yield f"{field}.Preset", f"{shown(rendition.Preset)} is not a preset (there are: {known})"
            if "{preset}" in (rendition.FileName or "") and not rendition.Preset:
                yield f"{field}.FileName", "uses {preset} but the rendition has no Preset"
    if settings.subject == "MASK" and settings.mask_key is None:
        yield f"{where}MaskKey", "is required with Subject MASK"
    for rendition in settings.renditions:
        # Problems of the template itself are reported at the template.
        template = rendition.FileName or ""
        if "{ref}" in template and (problem := path_problem(template.replace("{ref}", settings.ref))):
            yield (
                f"{where}Ref",
                f"{shown(settings.ref)} makes a file name of {shown(template)} that {problem}",
            )
            break
    if not settings.ref and any("{ref}" in (rendition.FileName or "") for rendition in settings.renditions):
        yield f"{where}Ref", "is required, since a FileName uses {ref}"
    if settings.task == "REPLACE" and (invisible := _invisible_background(settings, presets)):
        yield f"{where}{invisible[0]}", invisible[1]
    if settings.task == "REMOVE":
        for place, level in levels:
            for name in ("Backdrop", "Scene"):
                if getattr(level, name):
                    yield (
                        f"{place}{name}",
                        "cannot be used with Task REMOVE, which leaves the background empty",
                    )
            if level.Task:
                break

    defaults = [presets[name] for name in preset_names(level for _, level in levels) if name in presets]
    for name in IMAGE_FIELDS if len(defaults) > 1 else ():
        values = [value for preset in defaults if (value := getattr(preset, name)) is not None]
        differ = any(value != values[0] for value in values)
        if differ and all(getattr(level, name) is None for _, level in levels):
            yield f"{where}Renditions", f"has presets that differ in {name}; set {name} in the request"


def _invisible_background(
    settings: ImageSettings, presets: Mapping[str, ImageFields]
) -> tuple[str, str] | None:
    """The (field, sentence) of a background that no rendition shows and that would be paid for in vain, or None."""
    names = [rendition.Preset or "" for rendition in settings.renditions]
    if not names or not all(name in presets and presets[name].Task == "REMOVE" for name in names):
        return None
    preset_list = " and ".join(dict.fromkeys(names))
    if settings.backdrop == "#ffffff" and all(
        filled(rendition, preset_file(rendition, presets)).Format == "jpeg"
        for rendition in settings.renditions
    ):
        return None
    for field, value in (("Scene", settings.scene), ("Backdrop", settings.backdrop)):
        if value is not None:
            return (
                field,
                f"would not be seen: {preset_list} sets the background itself; leave out the {field} or the preset",
            )
    return (
        "Task",
        f"REPLACE paints a background that would not be seen: {preset_list} sets the background itself; use REMOVE",
    )
