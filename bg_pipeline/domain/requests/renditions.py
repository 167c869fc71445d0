"""Renditions that can never be delivered, found in the request, before anything is paid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace

from bg_pipeline.domain import formats
from bg_pipeline.domain.file_names import file_name
from bg_pipeline.domain.requests.fields import ImageFields, Rendition


def filled(rendition: Rendition, file: Rendition | None) -> Rendition:
    """The rendition with what it does not say taken from its preset's ``file``."""
    if file is None:
        return rendition
    said = {
        each.name: value for each in fields(Rendition) if (value := getattr(rendition, each.name)) is not None
    }
    whole = replace(file, **said)
    if file.Width and file.Height and ("Width" in said) != ("Height" in said):
        # One side alone scales the preset's frame.
        if "Width" in said:
            return replace(whole, Height=max(1, round(said["Width"] * file.Height / file.Width)))
        return replace(whole, Width=max(1, round(said["Height"] * file.Width / file.Height)))
    return whole


def preset_file(rendition: Rendition, presets: Mapping[str, ImageFields]) -> Rendition | None:
    """What the preset of a rendition says of the file."""
    preset = presets.get(rendition.Preset or "")
    return preset.Renditions[0] if preset and preset.Renditions else None


def impossible(
    renditions: Sequence[Rendition], presets: Mapping[str, ImageFields], pictures: int
) -> Iterator[tuple[str, str]]:
    """What no file can be, by field (``[2].Width``): its size, its bytes, a name that another one has.

    ``pictures`` is how many are made of each image, each of which has all renditions.
    """
    names: dict[str, int] = {}
    for number, rendition in enumerate(renditions):
        file = filled(rendition, preset_file(rendition, presets))
        width, height = file.Width or 1, file.Height or 1
        said = "Width" if rendition.Width or not rendition.Height else "Height"
        if problem := formats.size_problem(width, height, file.Format):
            yield f"[{number}].{said}", problem
        elif file.MaxBytes and file.MaxBytes < (least := formats.least_bytes(width, height, file.Format)):
            shown = f" of {width:,} x {height:,} pixels" if file.Width and file.Height else ""
            yield (
                f"[{number}].MaxBytes",
                f"is {file.MaxBytes:,}, and no {file.Format or 'picture'}{shown} has fewer than {least:,} bytes",
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
            # Without a Format its ending is the photo's own, whatever that is.
            name = name if file.Format else f"{name}\0"
            if (other := names.setdefault(name, number)) != number:
                yield field, f"gives the same name as Renditions[{other}]; put {{n}} or {{preset}} into it"
