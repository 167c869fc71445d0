"""Fills renditions from their presets, and finds renditions that are impossible before anything is paid for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from bg_pipeline.domain import formats
from bg_pipeline.domain.file_names import file_name
from bg_pipeline.domain.requests.fields import ImageFields, Rendition


def filled(rendition: Rendition, file: Rendition | None) -> Rendition:
    """The rendition with its unset fields taken from its preset's ``file``."""
    if file is None:
        return rendition
    own = {
        each.name: value for each in fields(Rendition) if (value := getattr(rendition, each.name)) is not None
    }
    result = replace(file, **own)
    if file.Width and file.Height and ("Width" in own) != ("Height" in own):
        # If only one side is set, the preset's frame is scaled to it.
        if "Width" in own:
            return replace(result, Height=max(1, round(own["Width"] * file.Height / file.Width)))
        return replace(result, Width=max(1, round(own["Height"] * file.Width / file.Height)))
    return result


def preset_file(rendition: Rendition, presets: Mapping[str, ImageFields]) -> Rendition | None:
    """The file fields of the rendition's preset, or None without a known preset."""
    preset = presets.get(rendition.Preset or "")
    return preset.Renditions[0] if preset and preset.Renditions else None


def impossible(
    renditions: Sequence[Rendition], presets: Mapping[str, ImageFields], pictures: int
) -> Iterator[tuple[str, str]]:
    """Impossible sizes, byte limits and duplicate file names, as (field, sentence); a field is like ``[2].Width``.

    ``pictures`` is the number of pictures of each image; each picture gets all renditions.
    """
    names: dict[str, int] = {}
    for number, rendition in enumerate(renditions):
        file = filled(rendition, preset_file(rendition, presets))
        width, height = file.Width or 1, file.Height or 1
        side = "Width" if rendition.Width or not rendition.Height else "Height"
        if problem := formats.size_problem(width, height, file.Format):
            yield f"[{number}].{side}", problem
        elif file.MaxBytes and file.MaxBytes < (least := formats.least_bytes(width, height, file.Format)):
            pixels = f" of {width:,} x {height:,} pixels" if file.Width and file.Height else ""
            yield (
                f"[{number}].MaxBytes",
                f"is {file.MaxBytes:,}, and no {file.Format or 'picture'}{pixels} has fewer than {least:,} bytes",
            )
        if rendition.FileName and "{n}" not in rendition.FileName:
            field = f"[{number}].FileName"
            if pictures > 1:
                yield field, f"gives each of an image's {pictures} pictures the same name; put {{n}} into it"
            name = file_name(
                rendition.FileName,
                image="\0image",
                number=0,
                ref="\0ref",
                preset=rendition.Preset or "",
                format=file.Format or "jpeg",
            )
            # Without a Format the file has the photo's extension, which is not known here.
            name = name if file.Format else f"{name}\0"
            if (other := names.setdefault(name, number)) != number:
                yield field, f"gives the same name as Renditions[{other}]; put {{n}} or {{preset}} into it"
