"""The fields of a batch request: classes with the names of the JSON, and with None for fields that are not set.

A null in the JSON is the same as leaving the field out. The annotation of each field declares what it affects
(`bg_pipeline.domain.effects`). A new field for images needs a line in `ImageFields` and two in `resolved`: a field
of `ImageSettings` with a default, and its value in `image_settings`. Manifests get a column for it automatically.
"""

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import fields
from functools import cache, cached_property
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict
from pydantic.dataclasses import dataclass as checked_dataclass

from bg_pipeline.domain import s3_keys, shadows
from bg_pipeline.domain.effects import Affects
from bg_pipeline.domain.file_names import FILE_NAME_FIELDS, file_name_problem
from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.requests.placeholders import (
    plain_problem,
    prompt_problem,
    unknown_placeholder,
)
from bg_pipeline.domain.requests.spreadsheets import is_error_value, is_nothing, misread
from bg_pipeline.domain.upload_kinds import NAMEABLE, kind_of

MAX_IMAGES: Final = 200_000

MAX_PROMPTS: Final = 100
MAX_RENDITIONS: Final = 20

MAX_PROMPT: Final = 10_000
"""Characters; Stability's limit, the highest of all models. `fill` checks each model's own limit."""

MAX_SEED: Final = 2_147_483_646
"""Titan's limit, the lowest of all models, so that every model accepts every seed."""

TaskName = Literal["REPLACE", "REMOVE"]
ModeName = Literal["PRECISE", "DEFAULT"]
SubjectName = Literal["LABELS", "FACES", "SALIENT", "MASK"]
QualityName = Literal["premium", "standard"]
FormatName = Literal["jpeg", "png", "webp", "tiff", "bmp", "avif"]


def _check_text(text: str) -> str:
    if any(unicodedata.category(char) == "Cc" and char not in "\n\r\t" for char in text):
        raise ValueError("contains a control character")
    text = _check_undamaged(text)
    if text.strip() and all(unicodedata.category(char)[0] in "ZC" for char in text):
        raise ValueError("has only characters that cannot be seen")
    if is_nothing(text):
        raise ValueError(f"is {text.strip()}, which a program writes where it has no value")
    if meant := misread(text):
        raise ValueError(
            f"was changed by a program that read UTF-8 as Windows-1252 ({shown(text)} for {shown(meant)}): "
            "write it again, as UTF-8"
        )
    return text


def _check_line(text: str) -> str:
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise ValueError("contains a control character or a line break")
    return _check_undamaged(text)


def _check_undamaged(text: str) -> str:
    if "\ufffd" in text:
        raise ValueError(
            "contains a character (\ufffd) that another program could not read: write it again, as UTF-8"
        )
    if is_error_value(text):
        raise ValueError(f"is an error value of a spreadsheet, {text.strip()}, and not a text")
    return text


def _check_template(text: str) -> str:
    if problem := prompt_problem(text):
        raise ValueError(problem)
    return text


def _check_no_placeholder(text: str) -> str:
    if problem := plain_problem(text):
        raise ValueError(problem)
    return text


def _check_not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _check_identifier(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", text):
        raise ValueError("must be 1 to 128 of the characters A-Z a-z 0-9 . _ : -")
    return text


def _check_image_name(name: str) -> str:
    if kind_of(name) not in NAMEABLE:
        raise ValueError(
            f"{shown(name)} cannot be the name of an image: it is empty, a folder or a .json file"
        )
    if has_control_character(name):
        raise ValueError(f"{shown(name)} contains a control character or a line break")
    return name


def has_control_character(text: str) -> bool:
    """Whether a name or prefix contains a line end or a character that controls a terminal."""
    if text.isprintable():
        return False
    return any(unicodedata.category(char) in ("Cc", "Zl", "Zp") for char in text)


def _check_stored_key(key: str) -> str:
    top, *rest = key.split("/")
    if top not in {s3_keys.UPLOADS, s3_keys.ASSETS} or not any(rest) or {".", ".."} & set(rest):
        raise ValueError(
            f"must be the key of an object under {s3_keys.UPLOADS}/ or {s3_keys.ASSETS}/, "
            "without '.' or '..' segments"
        )
    return key


BLUR: Final = "blur"
"""The ``Backdrop`` that is the photo's own ground out of focus."""


def _check_backdrop(text: str) -> str:
    if text.lower() == BLUR:
        return BLUR
    if not text.startswith("#"):
        return _check_stored_key(text)
    if not re.fullmatch("#[0-9A-Fa-f]{6}", text):
        raise ValueError("must be a colour such as #ffffff, or the key of a picture")
    return text.lower()


def names_object(backdrop: str) -> bool:
    """Whether a valid ``Backdrop`` or cell of a manifest names an object, and not a colour or the photo's ground."""
    return not backdrop.startswith("#") and backdrop.lower() != BLUR


def is_mask_folder(key: str) -> bool:
    """Whether a ``MaskKey`` is a folder, in which each image has a mask of its name."""
    return key.endswith("/")


def _check_file_name(template: str) -> str:
    if problem := file_name_problem(template):
        unknown = unknown_placeholder(template, FILE_NAME_FIELDS)
        raise ValueError(f"{unknown}; it {problem}" if unknown else problem)
    return template


def _check_not_empty(members: tuple[Any, ...]) -> tuple[Any, ...]:
    if not members:
        raise ValueError("must not be an empty list; leave the field out instead")
    return members


def _at_most(most: int, advice: str = "") -> BeforeValidator:
    """Limits a list's length before its members are checked, so that a huge list costs nothing."""

    def check(members: Any) -> Any:
        if isinstance(members, list) and len(members) > most:
            raise ValueError(f"has {len(members):,} members and may have {most:,}{advice}")
        return members

    return BeforeValidator(check)


def _format_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    known = {extension: name for name, extensions in EXTENSIONS.items() for extension in extensions}
    return known.get(value.lower(), value)


def _none_as_empty(value: Any) -> Any:
    return "" if value is None else value


_Text = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_check_text)]
_Template = Annotated[_Text, AfterValidator(_check_template)]
_PlainText = Annotated[_Text, AfterValidator(_check_no_placeholder)]
_Scene = Annotated[_PlainText, AfterValidator(_check_not_blank)]
_Prompt = Annotated[_Template, AfterValidator(_check_not_blank)]
_Line = Annotated[str, Field(max_length=256), AfterValidator(_check_line)]
_Identifier = Annotated[str, AfterValidator(_check_identifier)]
_Int = Annotated[int, Strict()]
_Float = Annotated[float, Strict()]
_Pixels = Annotated[_Int, Field(ge=1, le=16_383)]
_Margin = Annotated[_Float, Field(ge=0, lt=0.5)]
_Bytes = Annotated[_Int, Field(ge=1000)]
_FileName = Annotated[_Line, AfterValidator(_check_file_name)]
_Prompts = Annotated[tuple[_Prompt, ...], _at_most(MAX_PROMPTS), AfterValidator(_check_not_empty)]
_Variants = Annotated[_Int, Field(ge=1, le=5)]
_StoredKey = Annotated[str, AfterValidator(_check_stored_key)]
_Backdrop = Annotated[str, AfterValidator(_check_backdrop)]
_Feather = Annotated[_Float, Field(ge=0, le=50)]
_Shadow = Annotated[str, AfterValidator(shadows.normalized)]
_Seed = Annotated[_Int, Field(ge=0, le=MAX_SEED)]
_CfgScale = Annotated[_Float, Field(ge=1.1, le=10)]
_Labels = Annotated[str, Field(max_length=2000), AfterValidator(_check_line)]
_Dollars = Annotated[_Float, Field(gt=0)]
_Sample = Annotated[_Int, Field(ge=1)]
_OptionalText = Annotated[str, BeforeValidator(_none_as_empty)]
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
"""The docstrings of the fields are their descriptions in the API's document."""


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Rendition:
    """One file to make from a paid picture. Fields that are not set are taken from the ``Preset``."""

    Preset: Annotated[_Line | None, Affects.RESULT] = None
    """Name of a preset, which sets the other fields."""
    Format: Annotated[FormatName | None, BeforeValidator(_format_name), Affects.RESULT] = None
    """Format of the file; by default that of the photo, or PNG for a transparent ground."""
    Width: Annotated[_Pixels | None, Affects.RESULT] = None
    """Width in pixels."""
    Height: Annotated[_Pixels | None, Affects.RESULT] = None
    """Height in pixels."""
    Margin: Annotated[_Margin | None, Affects.RESULT] = None
    """Free share of the frame on each side of the subject, from 0 up to 0.5."""
    MaxBytes: Annotated[_Bytes | None, Affects.RESULT] = None
    """Largest size of the file in bytes."""
    FileName: Annotated[_FileName | None, Affects.RESULT] = None
    """Template of the file name; `{name}`, `{ref}`, `{n}` and `{preset}` are replaced."""


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class ImageFields:
    """Fields for all images (in the request), for one image (in its entry) or of a preset.

    If both ``Prompt`` and ``Prompts`` are set, ``Prompts`` is used.
    """

    Prompt: Annotated[_Template | None, Affects.PICTURE_INPUT] = None
    """The background in words. `{caption}`, `{labels}`, `{name}` and `{ref}` are replaced."""
    Prompts: Annotated[_Prompts | None, Affects.PICTURE_INPUT] = None
    """Several backgrounds; each photo gets all of them. Used in place of `Prompt`."""
    NegativePrompt: Annotated[_PlainText | None, Affects.PICTURE_CALL] = None
    """What the background must not contain."""
    Mode: Annotated[ModeName | None, Affects.PICTURE_CALL] = None
    """`PRECISE` (default) puts the subject's own pixels back, `DEFAULT` keeps what the model painted."""
    Task: Annotated[TaskName | None, Affects.PICTURE_CALL] = None
    """`REPLACE` (default) makes a new background, `REMOVE` a transparent one."""
    Variants: Annotated[_Variants | None, Affects.RESULT] = None
    """Pictures for each prompt, 1 to 5."""
    Subject: Annotated[SubjectName | None, Affects.PICTURE_CALL] = None
    """What is kept: the `LABELS` of the image (default), `FACES`, what is `SALIENT`, or a `MASK`."""
    MaskKey: Annotated[_StoredKey | None, Affects.PICTURE_INPUT] = None
    """Key of the mask for the subject `MASK`: black is kept, white replaced. A key that ends with `/` is a folder,
    in which `a.png` is the mask of `a.jpg`."""
    Backdrop: Annotated[_Backdrop | None, Affects.RESULT] = None
    """Replaces the painted background: key of a picture, a colour `#rrggbb`, or `blur`."""
    Scene: Annotated[_Scene | None, Affects.PICTURE_INPUT] = None
    """Replaces the painted background by one scene for the whole batch, in words."""
    Shadow: Annotated[_Shadow | None, Affects.RESULT] = None
    """`none`, `soft`, or `soft direction=120 softness=0.3 strength=0.7`; for a backdrop or scene."""
    Feather: Annotated[_Feather | None, Affects.RESULT] = None
    """Width of the soft edge in pixels of the photo, 0 to 50."""
    Seed: Annotated[_Seed | None, Affects.PICTURE_INPUT] = None
    """Seed of the first picture; the same seed asks for the same picture."""
    Quality: Annotated[QualityName | None, Affects.PICTURE_CALL] = None
    """Quality parameter of the model."""
    CfgScale: Annotated[_CfgScale | None, Affects.PICTURE_CALL] = None
    """How closely the model follows the prompt, 1.1 to 10."""
    Ref: Annotated[_Line | None, Affects.RESULT, Affects.REPORT] = None
    """Your own id, such as a SKU; it is in every report."""
    Renditions: Annotated[
        Annotated[tuple[Rendition, ...], _at_most(MAX_RENDITIONS), AfterValidator(_check_not_empty)] | None,
        Affects.RESULT,
    ] = None
    """Files to make from each paid picture; by default one in the photo's format."""


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class ImageEntry(ImageFields):
    """One image of the request; its fields take precedence over those of the batch."""

    ImageName: Annotated[str, AfterValidator(_check_image_name), Affects.NOTHING]
    """Name of the photo below the batch's folder."""
    Labels: Annotated[_Labels | None, Affects.PICTURE_CALL] = None
    """What to keep, comma-separated; empty keeps everything that stands out."""


@checked_dataclass(frozen=True, kw_only=True, config=_CONFIG)
class BatchRequest(ImageFields):
    """A request as its writer made it; `read` also sets its bucket and its prefixes, without a final slash."""

    Id: Annotated[_Identifier, Affects.REPORT]
    """Your id of the request; the report is named after it."""
    S3Bucket: Annotated[_OptionalText, Affects.RUN] = ""
    """Bucket of the photos; empty for the pipeline's own."""
    InputS3Prefix: Annotated[_OptionalText, Affects.RUN] = ""
    """Folder of the photos; empty for the batch's own."""
    OutputS3Prefix: Annotated[_OptionalText, Affects.RUN] = ""
    """Folder of the results; empty for the batch's own."""
    StatusS3Prefix: Annotated[_OptionalText, Affects.RUN] = ""
    """Folder of the reports; empty for the batch's own."""
    MaxCostUSD: Annotated[_Dollars | None, Affects.RUN] = None
    """Spending cap in USD over all runs of the batch and its retries."""
    Sample: Annotated[_Sample | None, Affects.RUN] = None
    """Number of images to run before a person approves the rest."""
    RetryOf: Annotated[_Identifier | None, Affects.NOTHING] = None
    """Id of the request that this one retries."""
    Images: Annotated[
        Annotated[
            # Stops at the first wrong entry; `reading` then finds the others.
            Annotated[tuple[ImageEntry, ...], Field(fail_fast=True)],
            _at_most(MAX_IMAGES, "; split the batch"),
            AfterValidator(_check_not_empty),
        ]
        | None,
        Affects.NOTHING,
    ] = None
    """The images with their own settings; null for every photo in the folder."""

    @cached_property
    def entries(self) -> Mapping[str, ImageEntry]:
        """The entries of images by name, in the request's order."""
        return {entry.ImageName: entry for entry in self.Images or ()}

    @cached_property
    def named_keys(self) -> frozenset[str]:
        """The keys of all masks and backdrops that the request names; a folder of masks ends with a slash."""
        levels: list[ImageFields] = [self, *(self.Images or ())]
        keys = {key for level in levels for key in (level.MaskKey, level.Backdrop) if key}
        return frozenset(key for key in keys if names_object(key))

    @cached_property
    def _mask_folders(self) -> tuple[str, ...]:
        return tuple(filter(is_mask_folder, self.named_keys))

    def names(self, key: str) -> bool:
        """Whether an object is a mask or backdrop that the request names, and so is not an image."""
        return key in self.named_keys or key.startswith(self._mask_folders)


NO_PRESETS: Final[Mapping[str, ImageFields]] = MappingProxyType({})

IMAGE_FIELDS: Final = tuple(field.name for field in fields(ImageFields))
"""The names of the fields of `ImageFields`."""

KNOWN: Final = {
    kind: tuple(field.name for field in fields(kind))
    for kind in (Rendition, ImageFields, ImageEntry, BatchRequest)
}
"""The names of the fields of each class."""


@cache
def type_of(kind: type, field: str) -> Any:
    """The type of a field's value, without its validators and without None."""
    hint = get_type_hints(kind, include_extras=True)[field]
    while get_origin(hint) in (Annotated, Union, UnionType):
        hint = next(each for each in get_args(hint) if each is not NoneType)
    return hint


def shown(value: Any) -> str:
    """A value for an error message: its JSON, cut after 80 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"
