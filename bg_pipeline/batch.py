"""A batch's request: the JSON that asks for it, read, checked, resolved for each image, and written.

The classes that mirror the JSON bear its names (``request.Prompt``), with None where nothing was said;
`ImageSettings` is what they come to for one image. A null in the JSON is the same as leaving the field out.
"""

import difflib
import json
import posixpath
import re
import unicodedata
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass
from pydantic_core import ErrorDetails

from bg_pipeline import layout
from bg_pipeline.errors import ImageError, RequestError
from bg_pipeline.layout import Batch

MAX_BYTES: Final = 20_000_000
"""The largest request that is read: about 100,000 images with a prompt of their own."""

MAX_IMAGES: Final = 200_000

MAX_PROMPT: Final = 10_000
"""Characters; no model takes more (Stability's limit, the highest). Each model's own limit is checked with `fill`."""

MAX_SEED: Final = 2_147_483_646
"""Every model takes a seed up to this (Titan's limit, the lowest)."""

MAX_PROBLEMS: Final = 100

TaskName = Literal["REPLACE", "REMOVE"]
ModeName = Literal["PRECISE", "DEFAULT"]
SubjectName = Literal["LABELS", "FACES", "SALIENT", "MASK"]
ShadowName = Literal["none", "soft"]
QualityName = Literal["premium", "standard"]
FormatName = Literal["jpeg", "png", "webp", "tiff", "bmp", "avif"]


# What the JSON may hold


def _prose(text: str) -> str:
    if any(unicodedata.category(char) == "Cc" and char not in "\n\r\t" for char in text):
        raise ValueError("holds a control character")
    return text


def _line(text: str) -> str:
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise ValueError("holds a control character or a line break")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _identifier(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", text):
        raise ValueError("must be 1 to 128 of the characters A-Z a-z 0-9 . _ : -")
    return text


def _image_name(name: str) -> str:
    if layout.kind_of(name) not in {layout.Kind.IMAGE, layout.Kind.DOT_FILE}:
        raise ValueError(
            f"{_shown(name)} cannot be the name of an image: it is empty, a folder or a .json file"
        )
    return name


def _stored_key(key: str) -> str:
    top, *rest = key.split("/")
    if top not in {layout.UPLOADS, layout.ASSETS} or not any(rest) or {".", ".."} & set(rest):
        raise ValueError(
            f"must be the key of an object under {layout.UPLOADS}/ or {layout.ASSETS}/, without '.' or '..' segments"
        )
    return key


def _backdrop(text: str) -> str:
    if not text.startswith("#"):
        return _stored_key(text)
    if not re.fullmatch("#[0-9A-Fa-f]{6}", text):
        raise ValueError("must be a colour such as #ffffff, or the key of a picture")
    return text.lower()


def _file_name(template: str) -> str:
    if problem := layout.file_name_problem(template):
        raise ValueError(problem)
    return template


def _some(members: tuple[Any, ...]) -> tuple[Any, ...]:
    if not members:
        raise ValueError("must not be an empty list; leave the field out instead")
    return members


def _not_too_many(images: Any) -> Any:
    """Looked at first, so that a list without end is not gone through."""
    if isinstance(images, list) and len(images) > MAX_IMAGES:
        raise ValueError(f"has {len(images):,} members and may have {MAX_IMAGES:,}; split the batch")
    return images


def _format(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    known = {extension: name for name, extensions in layout.EXTENSIONS.items() for extension in extensions}
    return known.get(value.lower(), value)


def _said(value: Any) -> Any:
    return "" if value is None else value


_Prose = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_prose)]
_Prompt = Annotated[_Prose, AfterValidator(_not_blank)]
_Line = Annotated[str, Field(max_length=256), AfterValidator(_line)]
_Identifier = Annotated[str, AfterValidator(_identifier)]
_Int = Annotated[int, Strict()]
_Float = Annotated[float, Strict()]
_Pixels = Annotated[_Int, Field(ge=1, le=16_383)]
_Derived = Annotated[str, BeforeValidator(_said)]
_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False)


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Rendition:
    """One file to be made from a paid answer.

    ``Width`` and ``Height`` are pixels, ``Margin`` is the free share of the frame on each side of the subject,
    ``FileName`` a template that `layout.file_name` fills. A ``Preset`` gives what is not said here.
    """

    Preset: _Line | None = None
    Format: Annotated[FormatName | None, BeforeValidator(_format)] = None
    Width: _Pixels | None = None
    Height: _Pixels | None = None
    Margin: Annotated[_Float, Field(ge=0, lt=0.5)] | None = None
    MaxBytes: Annotated[_Int, Field(ge=1000)] | None = None
    FileName: Annotated[_Line, AfterValidator(_file_name)] | None = None


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class Wishes:
    """What may be said for all images and, in an image's entry, for that one; a preset says it too.

    ``Prompts`` stands in the place of ``Prompt`` where both are said.
    """

    Prompt: _Prose | None = None
    Prompts: Annotated[tuple[_Prompt, ...], Field(max_length=100), AfterValidator(_some)] | None = None
    NegativePrompt: _Prose | None = None
    Mode: ModeName | None = None
    Task: TaskName | None = None
    Variants: Annotated[_Int, Field(ge=1, le=5)] | None = None
    Subject: SubjectName | None = None
    MaskKey: Annotated[str, AfterValidator(_stored_key)] | None = None
    Backdrop: Annotated[str, AfterValidator(_backdrop)] | None = None
    Shadow: ShadowName | None = None
    Seed: Annotated[_Int, Field(ge=0, le=MAX_SEED)] | None = None
    Quality: QualityName | None = None
    CfgScale: Annotated[_Float, Field(ge=1.1, le=10)] | None = None
    Ref: _Line | None = None
    Renditions: Annotated[tuple[Rendition, ...], Field(max_length=20), AfterValidator(_some)] | None = None


@checked_dataclass(frozen=True, slots=True, kw_only=True, config=_CONFIG)
class ImageEntry(Wishes):
    """One image asked for; ``Labels`` is a comma-separated list of what is kept in it."""

    ImageName: Annotated[str, AfterValidator(_image_name)]
    Labels: Annotated[str, Field(max_length=2000), AfterValidator(_line)] | None = None


@checked_dataclass(frozen=True, kw_only=True, config=_CONFIG)
class BatchRequest(Wishes):
    """A request as its writer made it; from `read` it has its bucket and its prefixes, without a final slash.

    ``Images`` is None where every image in the folder is asked for.
    """

    Id: _Identifier
    S3Bucket: _Derived = ""
    InputS3Prefix: _Derived = ""
    OutputS3Prefix: _Derived = ""
    StatusS3Prefix: _Derived = ""
    MaxCostUSD: Annotated[_Float, Field(gt=0)] | None = None
    Sample: Annotated[_Int, Field(ge=1)] | None = None
    RetryOf: _Identifier | None = None
    Images: (
        Annotated[tuple[ImageEntry, ...], BeforeValidator(_not_too_many), AfterValidator(_some)] | None
    ) = None

    @cached_property
    def entries(self) -> Mapping[str, ImageEntry]:
        """The entry of each image that has one, by name, in the request's order."""
        return {entry.ImageName: entry for entry in self.Images or ()}

    @cached_property
    def named_keys(self) -> frozenset[str]:
        """The keys of the masks and backdrops it names, which are not images."""
        levels: list[Wishes] = [self, *(self.Images or ())]
        keys = {key for level in levels for key in (level.MaskKey, level.Backdrop) if key}
        return frozenset(key for key in keys if not key.startswith("#"))


NO_PRESETS: Final[Mapping[str, Wishes]] = MappingProxyType({})

_WISHES = tuple(field.name for field in fields(Wishes))
_KNOWN = {
    kind: tuple(field.name for field in fields(kind))
    for kind in (Rendition, Wishes, ImageEntry, BatchRequest)
}


# What it comes to for one image


@dataclass(frozen=True, slots=True)
class Wanted:
    """One picture asked for; ``position`` counts from 1 over all of an image's, ``prompt`` and ``variant`` too."""

    position: int
    prompt: int
    variant: int
    template: str


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What is asked for one image, with every default in its place.

    ``labels`` are the request's own, empty where it says none. ``mask_key`` is set exactly if ``subject`` is MASK.
    ``backdrop`` is a key or ``#rrggbb``. ``seed`` is None where it is to be derived. ``renditions`` is empty
    where the picture is wanted as it is.
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
    def outputs(self) -> tuple[Wanted, ...]:
        """The pictures to be made, prompt-major; a single one without a prompt where none is needed or given."""
        if not self.needs_prompt or not self.prompts:
            return (Wanted(1, 1, 1, ""),)
        return tuple(
            Wanted((prompt - 1) * self.variants + variant, prompt, variant, template)
            for prompt, template in enumerate(self.prompts, 1)
            for variant in range(1, self.variants + 1)
        )


def image_settings(
    request: BatchRequest, image: str, presets: Mapping[str, Wishes] = NO_PRESETS
) -> ImageSettings:
    """What ``request`` asks for the image: its entry first, then the top, then its renditions' presets.

    ``presets`` are those that the request was read with. An image without an entry has what the top says.
    """
    entry = request.entries.get(image)
    levels = _levels(request, entry, presets)

    def first(name: str, default: Any = None) -> Any:
        return next((value for level in levels if (value := getattr(level, name)) is not None), default)

    task = first("Task", "REPLACE")
    subjects = (_subject(level) for level in levels)
    subject: SubjectName = next((found for found in subjects if found), "LABELS")
    return ImageSettings(
        image=image,
        labels=_words(entry.Labels if entry else None),
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


def _levels(request: BatchRequest, entry: ImageEntry | None, presets: Mapping[str, Wishes]) -> list[Wishes]:
    said: list[Wishes] = [request] if entry is None else [entry, request]
    return said + [presets[name] for name in _preset_names(said) if name in presets]


def _preset_names(said: Iterable[Wishes]) -> dict[str, None]:
    """The presets of the renditions that count, in order."""
    renditions = next((level.Renditions for level in said if level.Renditions), ())
    return dict.fromkeys(rendition.Preset for rendition in renditions if rendition.Preset)


def _prompts(level: Wishes) -> tuple[str, ...]:
    if level.Prompts:
        return level.Prompts
    return (level.Prompt,) if level.Prompt and level.Prompt.strip() else ()


def _subject(level: Wishes) -> SubjectName | None:
    """What the level says; a mask that is given is meant to be used."""
    return level.Subject or ("MASK" if level.MaskKey else None)


def _words(labels: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for part in (labels or "").split(",") if (word := part.strip())))


# Reading


def read(
    data: bytes,
    *,
    bucket: str,
    batch: Batch,
    allowed_buckets: Collection[str] = (),
    presets: Mapping[str, Wishes] = NO_PRESETS,
) -> BatchRequest:
    """The request in ``data``, found as ``batch.request_key`` in ``bucket``, complete and within its rights.

    Its writer is not trusted: it may name only ``bucket`` and ``allowed_buckets``, prefixes under their own top-level
    ones and never another batch's output or status folder, masks and backdrops only under ``image-files/`` and
    ``assets/``. A `RequestError` names everything that is wrong by field.
    """
    document = _parsed(data)
    try:
        request: BatchRequest | None = _REQUEST.validate_python(document)
        errors: list[ErrorDetails] = []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        request = _without(document, errors)
    problems = _problems(errors)
    if request is not None:
        reported = {_field(error["loc"]) for error in errors}
        if any(_ON_PROMPTS.search(field) for field in reported):
            reported.add("Prompt")
        violations = dict.fromkeys(_violations(request, bucket, allowed_buckets, batch, presets))
        problems += [(field, text) for field, text in violations if field not in reported]
    if problems or request is None:
        raise RequestError(_first(problems))
    return replace(
        request,
        S3Bucket=request.S3Bucket or bucket,
        InputS3Prefix=request.InputS3Prefix.removesuffix("/") or batch.input_prefix,
        OutputS3Prefix=request.OutputS3Prefix.removesuffix("/") or batch.output_prefix,
        StatusS3Prefix=request.StatusS3Prefix.removesuffix("/") or batch.status_prefix,
    )


def read_wishes(document: Mapping[str, Any]) -> Wishes:
    """What a preset says, checked as in a request; a `RequestError` names what is wrong."""
    try:
        return TypeAdapter(Wishes).validate_python(document)
    except ValidationError as error:
        raise RequestError(_first(_problems(error.errors()))) from None


def _parsed(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise RequestError(
            [("", f"the request has {len(data):,} bytes and may have {MAX_BYTES:,}; split it")]
        )
    twice: list[str] = []

    def an_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice.extend(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        return found

    def no_number(name: str) -> Any:
        raise ValueError(name)

    try:
        document = json.loads(data.decode("utf-8-sig"), object_pairs_hook=an_object, parse_constant=no_number)
    except UnicodeDecodeError as error:
        raise RequestError([("", f"the request is not UTF-8 text (byte {error.start + 1})")]) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise RequestError([("", f"the request is not JSON: {error.msg} in {place}")]) from None
    except RecursionError:
        raise RequestError([("", "the request is nested too deeply")]) from None
    except ValueError:
        text = "the request holds what is no JSON number: NaN, Infinity, or thousands of digits"
        raise RequestError([("", text)]) from None
    if not isinstance(document, dict):
        raise RequestError([("", 'the request must be a JSON object, {"Id": …, "Prompt": …}')])
    if twice:
        raise RequestError(
            _first([(name[:100], "is given twice in one object") for name in dict.fromkeys(twice)])
        )
    return document


_REQUEST = TypeAdapter(BatchRequest)
_ON_PROMPTS = re.compile(r"(^|\.)(Prompts?|Task|Backdrop|Preset)(\[\d+\])?$|^Images$|Renditions")


def _without(document: dict[str, Any], errors: Iterable[ErrorDetails]) -> BatchRequest | None:
    """The request without its wrong fields, so that the others are checked together too; None if that is none."""
    for error in errors:
        _drop(document, error["loc"])
    document.setdefault("Id", "absent")
    try:
        return _REQUEST.validate_python(document)
    except ValidationError:
        return None


def _drop(document: Any, place: tuple[int | str, ...]) -> None:
    """Takes the field out of the document; a list loses no member, so that the others keep their numbers."""
    *path, name = place
    try:
        for step in path:
            document = document[step]
    except (KeyError, IndexError):
        return
    if isinstance(document, dict):
        document.pop(name, None)


def _problems(errors: Sequence[ErrorDetails]) -> list[tuple[str, str]]:
    """All of them by field; in words only those that `_first` will show."""
    return [
        (_field(error["loc"]), _sentence(error) if number < MAX_PROBLEMS else "")
        for number, error in enumerate(errors)
    ]


def _first(problems: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    more = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], *([("", f"and {more} more problems")] if more > 0 else [])]


def _field(place: tuple[int | str, ...]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:100]}" for step in place)
    return "".join(steps).removeprefix(".")


_SENTENCES: Final = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "holds half a character (a lone surrogate)",
    "string_too_long": "is longer than {max_length:,} characters",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
    "too_long": "may have at most {max_length} members",
    "dataclass_type": "must be an object",
    "literal_error": "must be {expected}, not {shown}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "value_error": "{error}",
}


def _sentence(error: ErrorDetails) -> str:
    if error["type"] == "unexpected_keyword_argument":
        return _unknown(error["loc"])
    template = _SENTENCES.get(error["type"])
    if template is None:
        return error["msg"]
    return template.format(**error.get("ctx", {}), shown=_shown(error["input"]))


def _unknown(place: tuple[int | str, ...]) -> str:
    where, known = "a request", _KNOWN[BatchRequest]
    if "Renditions" in place:
        where, known = "a rendition", _KNOWN[Rendition]
    elif "Images" in place:
        where, known = "an image's entry", _KNOWN[ImageEntry]
    name = str(place[-1])
    if name in _KNOWN[BatchRequest]:
        return f"is not a field of {where} but of the request"
    lower = {field.lower(): field for field in known}
    close = difflib.get_close_matches(name.lower()[:100], lower, 1)
    return f"is not a field of {where}" + (f"; did you mean '{lower[close[0]]}'?" if close else "")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _violations(
    request: BatchRequest,
    bucket: str,
    allowed_buckets: Collection[str],
    batch: Batch,
    presets: Mapping[str, Wishes],
) -> Iterator[tuple[str, str]]:
    """What is wrong with the request beyond its single fields."""
    if request.S3Bucket not in {"", bucket, *allowed_buckets}:
        yield "S3Bucket", f"{_shown(request.S3Bucket)} is neither BG_BUCKET nor among BG_ALLOWED_BUCKETS"
    for field, top, own in (
        ("InputS3Prefix", layout.UPLOADS, batch.input_prefix),
        ("OutputS3Prefix", layout.RESULTS, batch.output_prefix),
        ("StatusS3Prefix", layout.REPORTS, batch.status_prefix),
    ):
        if problem := _prefix_problem(getattr(request, field), top, own):
            yield field, problem

    entries = request.Images or ()
    input_prefix = request.InputS3Prefix.removesuffix("/") or batch.input_prefix
    places: dict[str, int] = {}
    for number, entry in enumerate(entries):
        field, name = f"Images[{number}].ImageName", entry.ImageName
        if places.setdefault(name, number) != number:
            yield field, f"{_shown(name)} is listed already, as Images[{places[name]}]"
        if f"{input_prefix}/{name}" in request.named_keys:
            yield field, f"{_shown(name)} is also named as a mask or backdrop"

    special = [
        (f"Images[{number}].", entry)
        for number, entry in enumerate(entries)
        if any(getattr(entry, wish) is not None for wish in _WISHES)
    ]
    plain: list[tuple[str, ImageEntry | None]] = (
        [("", None)] if not entries or len(special) < len(entries) else []
    )
    promptless = None
    for where, one in [*plain, *special]:
        settings = image_settings(request, one.ImageName if one else "", presets)
        if settings.needs_prompt and not settings.prompts and promptless is None:
            promptless = where.removesuffix(".") or "the request"
        yield from _mismatches(where, request, one, settings, presets)
    if promptless:
        yield "Prompt", f"is required: {promptless} has none; give one for all images or each image its own"


def _prefix_problem(given: str, top: str, own: str) -> str | None:
    prefix = given.removesuffix("/")
    if given == "" or prefix == own:
        return None
    if not prefix.startswith(f"{top}/"):
        return f"{_shown(given)} must lie under {top}/"
    if {"", ".", ".."} & set(prefix.split("/")):
        return f"{_shown(given)} holds an empty, '.' or '..' segment"
    if len(prefix.encode()) > layout.MAX_PREFIX_BYTES:
        return f"is longer than {layout.MAX_PREFIX_BYTES} bytes"
    dated = re.match(r"[0-9]{4}(/|$)", prefix.removeprefix(f"{top}/"))
    if top != layout.UPLOADS and dated and not prefix.startswith(f"{own}/"):
        return f"{_shown(given)} belongs to another batch; leave the field out to have {own}"
    return None


def _mismatches(
    where: str,
    request: BatchRequest,
    entry: ImageEntry | None,
    settings: ImageSettings,
    presets: Mapping[str, Wishes],
) -> Iterator[tuple[str, str]]:
    """What does not go together in what is said for one image (``where``), or for all without wishes of their own."""
    said: list[tuple[str, Wishes]] = [("", request)] if entry is None else [(where, entry), ("", request)]
    for place, level in said:
        if level.MaskKey and _subject(level) != "MASK":
            yield f"{place}MaskKey", f"is used only with Subject MASK, not {level.Subject}"
        for number, rendition in enumerate(level.Renditions or ()):
            field = f"{place}Renditions[{number}]"
            if rendition.Preset is not None and rendition.Preset not in presets:
                known = ", ".join(presets) or "none"
                yield f"{field}.Preset", f"{_shown(rendition.Preset)} is not a preset (there are: {known})"
            if "{preset}" in (rendition.FileName or "") and not rendition.Preset:
                yield f"{field}.FileName", "uses {preset} without a Preset"
    if settings.subject == "MASK" and settings.mask_key is None:
        yield f"{where}MaskKey", "is required with Subject MASK"
    if not settings.ref and any("{ref}" in (rendition.FileName or "") for rendition in settings.renditions):
        yield f"{where}Ref", "is required, since a FileName uses {ref}"
    if settings.task == "REMOVE":
        for place, level in said:
            if level.Backdrop:
                yield f"{place}Backdrop", "cannot be used with Task REMOVE, which leaves the background empty"
            if level.Task:
                break

    levels = [level for _, level in said]
    defaults = [presets[name] for name in _preset_names(levels) if name in presets]
    for wish in _WISHES if len(defaults) > 1 else ():
        values = [value for preset in defaults if (value := getattr(preset, wish)) is not None]
        differ = any(value != values[0] for value in values)
        if differ and all(getattr(level, wish) is None for level in levels):
            yield f"{where}Renditions", f"has presets that differ in {wish}; say it in the request"


# Prompts

_PLACEHOLDER = re.compile(r"\{(caption|labels|name|ref)\}")


def placeholders(template: str) -> frozenset[str]:
    """The names of the values that a prompt wants: some of ``caption``, ``labels``, ``name``, ``ref``."""
    return frozenset(_PLACEHOLDER.findall(template))


def placeholder_values(settings: ImageSettings, *, caption: str, labels: str) -> dict[str, str]:
    """The values for an image's prompts; its name is without folders and extension."""
    name = posixpath.splitext(posixpath.basename(settings.image))[0]
    return {"caption": caption, "labels": labels, "name": name, "ref": settings.ref}


def fill(template: str, values: Mapping[str, str], limit: int, field: str = "Prompt") -> str:
    """``template`` with the values in the place of their ``{names}``, at most ``limit`` characters long.

    Nothing else in it is special, nor anything in the values. The longest values are cut first, at a word; the
    writer's own words never are. An `ImageError` where these alone are too long, or where nothing is left at all.
    """
    lines = {name: " ".join(value.split()) for name, value in values.items()}

    def filled(most: int) -> str:
        return _PLACEHOLDER.sub(
            lambda one: _cut(lines[one[1]], most) if one[1] in lines else one[0], template
        )

    own = len(filled(0))
    if own > limit:
        raise ImageError(
            "PromptTooLong",
            f"{field} has {own} characters without its values and the model takes {limit}; "
            f"shorten it by {own - limit}",
        )
    lengths = [len(lines[name]) for name in _PLACEHOLDER.findall(template) if name in lines]
    text = filled(_fair_share(lengths, limit - own))
    if template.strip() and not text.strip():
        raise ImageError("NoPrompt", f"{field} is empty once its values are filled in; add words of your own")
    return text


def _fair_share(lengths: Iterable[int], room: int) -> int:
    """The length to which the longest must be cut for all to fit into ``room`` together."""
    ordered = sorted(lengths)
    for done, length in enumerate(ordered):
        share = room // (len(ordered) - done)
        if length > share:
            return share
        room -= length
    return ordered[-1] if ordered else 0


def _cut(line: str, most: int) -> str:
    if len(line) <= most:
        return line
    return line[: most + 1].rpartition(" ")[0].rstrip(" ,;:-–—")


# Writing


def write(request: BatchRequest) -> bytes:
    """The request as JSON that `read` takes, the same bytes for the same request; what is not said is left out."""
    return orjson.dumps(_document(request), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _document(said: Wishes | Rendition) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name in sorted(_KNOWN[type(said)], key=lambda name: (name == "Images", name in _WISHES)):
        value = getattr(said, name)
        if name in {"Images", "Renditions"} and value is not None:
            value = [_document(member) for member in value]
        if value is not None and not (name.endswith(("Prefix", "Bucket")) and value == ""):
            document[name] = value
    return document


def default_request(batch: Batch, bucket: str, prompt: str = "") -> BatchRequest:
    """What a folder without a request asks for: every image in it, with the default settings.

    Without a ``prompt`` its images have none, which is for the caller to see (`ImageSettings.prompts`).
    """
    return BatchRequest(
        Id=batch.derived_id(bucket),
        S3Bucket=bucket,
        InputS3Prefix=batch.input_prefix,
        OutputS3Prefix=batch.output_prefix,
        StatusS3Prefix=batch.status_prefix,
        Prompt=prompt or None,
    )


def retry_request(
    request: BatchRequest, images: Iterable[str], presets: Mapping[str, Wishes] = NO_PRESETS
) -> BatchRequest | None:
    """The request that asks again for ``images`` of a request, wherever it is put; None if it would ask for nothing.

    It reads the same uploads and writes to the folders of the batch it becomes. Its ``Id`` is new, and the same
    for the same images. Images that have no prompt and need one are left out, as a request without it is not valid.
    """
    settings = (image_settings(request, image, presets) for image in images)
    asked = [one.image for one in settings if one.prompts or not one.needs_prompt]
    if not asked:
        return None
    return replace(
        request,
        Id=str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([request.Id, *asked]))),
        OutputS3Prefix="",
        StatusS3Prefix="",
        Sample=None,
        RetryOf=request.Id,
        Images=tuple(request.entries.get(image) or ImageEntry(ImageName=image) for image in asked),
    )
