"""One interface to every image model, and the way from a name in ``BG_IMAGE_MODELS`` to a model.

A generator turns what is asked into the model's own request and the model's answer into pictures. It makes
no call itself: it is handed ``invoke``, which is paced, counted and classified by whoever runs it. A
generator of one's own is a class with these attributes and methods, named ``package.module:Class``;
`bg_pipeline.generators.conformance` tests it.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from bg_pipeline.errors import SettingsError
from bg_pipeline.imaging import Sizes

Mode = Literal["PRECISE", "DEFAULT"]
Quality = Literal["standard", "premium"]
Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Operation:
    """Something that is called, paced and billed: ``name`` is its key for quotas, prices and settings."""

    name: str
    model_id: str
    """The catalogue's id, as the control plane knows it."""
    profile: str = ""
    """The geography prefix of the inference profile it has to be called through, for example ``us.``."""
    service: str = "bedrock-runtime"

    @property
    def invoke_id(self) -> str:
        """The id to call it by."""
        return self.profile + self.model_id


@dataclass(frozen=True)
class Ask:
    """One call for a new background. Exactly one of ``mask_prompt`` and ``mask`` is given, and not empty.

    ``picture`` is a whole PNG or JPEG file, upright, 8-bit sRGB without alpha, of ``size``, one of the sizes
    that the generator takes. ``mask`` is a PNG of the same size: subject pure black, background pure white.
    ``prompt`` fits ``prompt_limit``, ``seed`` lies in ``seeds`` and ``images`` in 1..``images_per_call``
    of the generator. ``cfg_scale`` None leaves it to the model.
    """

    picture: bytes
    size: Size
    prompt: str
    seed: int
    negative_prompt: str = ""
    mask_prompt: str | None = None
    mask: bytes | None = None
    mode: Mode = "PRECISE"
    quality: Quality = "premium"
    cfg_scale: float | None = None
    images: int = 1

    def __post_init__(self) -> None:
        if bool(self.mask_prompt) == bool(self.mask):
            raise ValueError("a call needs either words for the mask or a mask, and not both")


@dataclass(frozen=True)
class Made:
    """What a call returned: at least one picture, at most as many as were asked for."""

    images: tuple[bytes, ...]
    """Picture files as they came, in order, of the size asked for."""
    seeds: tuple[int | None, ...]
    """For each picture the seed that makes it again, where the model says or was told one."""
    mask: bytes | None = None
    """The mask the model made from words: black is the subject."""
    note: str | None = None
    """What the model said besides, such as why fewer pictures came back."""


Invoke = Callable[[Operation, Mapping[str, Any]], Mapping[str, Any]]
"""Calls the operation's model with a JSON body and returns the answer's JSON; raises `errors.CallError`."""


class Generator(Protocol):
    """An image model. One object serves many threads at once and keeps no state between calls."""

    @property
    def name(self) -> str:
        """Its name in settings, reports and provenance."""

    @property
    def replaces(self) -> Operation | None:
        """What `replace` calls; None if the model cannot replace a background."""

    @property
    def removes(self) -> Operation | None:
        """What `remove` calls; None if the model cannot cut a subject out."""

    @property
    def sizes(self) -> Sizes:
        """The sizes of picture it takes, and how a photo is fitted into one of them."""

    @property
    def max_picture_bytes(self) -> int:
        """The largest picture file it takes, before base64."""

    @property
    def prompt_limit(self) -> int:
        """Longest prompt and negative prompt, in characters."""

    @property
    def takes_words(self) -> bool:
        """Whether the subject may be named in words (`Ask.mask_prompt`) instead of drawn."""

    @property
    def returns_mask(self) -> bool:
        """Whether the mask that was made from words comes back in `Made.mask`."""

    @property
    def images_per_call(self) -> int:
        """How many pictures one call may ask for."""

    @property
    def seeds(self) -> range:
        """The seeds that make a call repeatable."""

    def replace(self, ask: Ask, invoke: Invoke) -> Made:
        """Pictures with a new background, from one call.

        Raises `errors.Blocked` in the model's words when its content policy left nothing, `SubjectNotFound`
        when the words for the mask match nothing, `CallError` for any other end without a picture.
        """

    def remove(self, picture: bytes, size: Size, invoke: Invoke) -> bytes:
        """The picture's subject on a transparent background, as a PNG or WebP of ``size``; errors as `replace`."""


BUILT_IN = {
    "titan-v1": "bg_pipeline.generators.titan:TitanV1",
    "titan-v2": "bg_pipeline.generators.titan:TitanV2",
    "nova-canvas": "bg_pipeline.generators.nova_canvas:NovaCanvas",
    "stability": "bg_pipeline.generators.stability:Stability",
}


def generator(name: str) -> Generator:
    """The generator that a name of ``BG_IMAGE_MODELS`` means: a built-in one or ``package.module:Class``.

    Raises `SettingsError` when there is none, or when the class lacks something a generator has.
    """
    module, colon, attribute = BUILT_IN.get(name, name).partition(":")
    if not (module and colon and attribute):
        raise SettingsError(
            f"BG_IMAGE_MODELS: there is no image model {name!r}; use one of {', '.join(BUILT_IN)}, "
            "or package.module:Class for a generator of your own"
        )
    try:
        made: Generator = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise SettingsError(f"BG_IMAGE_MODELS: {name!r} cannot be loaded: {error}") from error
    missing = [part for part in vars(Generator) if not part.startswith("_") and not hasattr(made, part)]
    if missing:
        raise SettingsError(f"BG_IMAGE_MODELS: {name!r} is no generator: it lacks {', '.join(missing)}")
    return made


MAX_BODY = 25_000_000
"""Bytes of the longest request, and of the longest answer, that InvokeModel carries; pictures in it are in base64."""


def fits_as_png(size: Size, pictures: int = 1, channels: int = 3) -> bool:
    """Whether an answer can carry so many pictures as PNG, however badly they can be compressed."""
    width, height = size
    return pictures * channels * width * height * 4 / 3 < 0.98 * MAX_BODY


def images_at_once(generator: Generator, size: Size) -> int:
    """How many pictures of ``size`` one call may ask for, so that its answer can carry them."""
    most = range(generator.images_per_call, 1, -1)
    return next((number for number in most if fits_as_png(size, number)), 1)


def by_words(generator: Generator, mode: Mode) -> bool:
    """Whether the subject may be named in words: the model takes them, and tells afterwards what it kept.

    It returns its mask, or it leaves the subject's pixels as they were, which only ``PRECISE`` does.
    """
    return generator.takes_words and (generator.returns_mask or mode == "PRECISE")


def seed_within(seed: int, seeds: range) -> int:
    """A seed the model takes: ``seed`` itself where it does, and otherwise always the same other one."""
    return seeds[(seed - seeds.start) % len(seeds)]
