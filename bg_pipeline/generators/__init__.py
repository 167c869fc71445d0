"""The common interface of all image models, and the lookup of a model by its name in ``BG_IMAGE_MODELS``.

A generator converts an `Ask` into the model's request, and the model's response into pictures. It makes no call
itself but uses the ``invoke`` function passed to it; the caller does the rate limiting, accounting and error
classification in there. A custom generator is a class with these attributes and methods, named
``package.module:Class``; `bg_pipeline.generators.conformance` tests it.
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
    """A billed operation of a service; ``name`` is its key for quotas, prices and settings."""

    name: str
    model_id: str
    """The model id in Bedrock's catalogue."""
    profile: str = ""
    """The geography prefix of the inference profile through which it must be called, such as ``us.``; or empty."""
    service: str = "bedrock-runtime"

    @property
    def invoke_id(self) -> str:
        """The id with which it is called: profile prefix and model id."""
        return self.profile + self.model_id


@dataclass(frozen=True)
class Ask:
    """The parameters of one call for a new background. Exactly one of ``mask_prompt`` and ``mask`` is set and not
    empty.

    ``picture`` is a PNG or JPEG file, upright, 8-bit sRGB without alpha, of ``size``, which is one of the generator's
    ``sizes``. ``mask`` is a PNG of the same size: subject pure black, background pure white. ``prompt`` is within the
    generator's ``prompt_limit``, ``seed`` in its ``seeds``, and ``images`` in 1..``images_per_call``. With
    ``cfg_scale`` None the model uses its default. Raises `ValueError` if both or none of the two masks are set.
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
            raise ValueError("a call needs either a mask or a mask prompt (words), and not both")


@dataclass(frozen=True)
class Made:
    """The result of a call: at least one picture, and at most as many as requested."""

    images: tuple[bytes, ...]
    """Picture files exactly as returned, in order, of the requested size."""
    seeds: tuple[int | None, ...]
    """For each picture the seed that reproduces it, if the model returned one or was given one."""
    mask: bytes | None = None
    """The mask that the model made from the mask prompt; the subject is black."""
    note: str | None = None
    """A message of the model, such as why it returned fewer pictures."""


Invoke = Callable[[Operation, Mapping[str, Any]], Mapping[str, Any]]
"""Calls the operation's model with a JSON body and returns the response's JSON; raises `errors.CallError`."""


class Generator(Protocol):
    """An image model. One object is used by many threads at once and keeps no state between calls."""

    @property
    def name(self) -> str:
        """Its name in settings, reports and provenance."""

    @property
    def replaces(self) -> Operation | None:
        """The operation that `replace` calls; None if the model cannot replace a background."""

    @property
    def removes(self) -> Operation | None:
        """The operation that `remove` calls; None if the model cannot cut out a subject."""

    @property
    def sizes(self) -> Sizes:
        """The picture sizes that it accepts, and how a photo is fitted into one of them."""

    @property
    def max_picture_bytes(self) -> int:
        """Maximum size of a picture file in bytes, before base64."""

    @property
    def prompt_limit(self) -> int:
        """Maximum length of the prompt, and of the negative prompt, in characters."""

    @property
    def takes_words(self) -> bool:
        """Whether the subject may be described in words (`Ask.mask_prompt`) instead of by a mask."""

    @property
    def returns_mask(self) -> bool:
        """Whether the mask made from the words is returned in `Made.mask`."""

    @property
    def images_per_call(self) -> int:
        """Maximum number of pictures of one call."""

    @property
    def seeds(self) -> range:
        """The valid seeds; equal seeds make equal calls repeatable."""

    def replace(self, ask: Ask, invoke: Invoke) -> Made:
        """Makes pictures with a new background in one call.

        Raises `errors.Blocked` with the model's message if its content policy left no picture, `SubjectNotFound` if
        the mask prompt matches nothing, and another `CallError` for any other result without a picture.
        """

    def remove(self, picture: bytes, size: Size, invoke: Invoke) -> bytes:
        """Cuts out the subject; returns it on a transparent background as a PNG or WebP of ``size``. Errors as
        `replace`.
        """


BUILT_IN = {
    "titan-v1": "bg_pipeline.generators.titan:TitanV1",
    "titan-v2": "bg_pipeline.generators.titan:TitanV2",
    "nova-canvas": "bg_pipeline.generators.nova_canvas:NovaCanvas",
    "stability": "bg_pipeline.generators.stability:Stability",
}


def generator(name: str) -> Generator:
    """The generator for a name in ``BG_IMAGE_MODELS``: a built-in one, or ``package.module:Class``.

    Raises `SettingsError` if it does not exist, cannot be loaded, or lacks an attribute of a generator.
    """
    module, colon, attribute = BUILT_IN.get(name, name).partition(":")
    if not (module and colon and attribute):
        raise SettingsError(
            f"BG_IMAGE_MODELS: there is no image model {name!r}; use one of {', '.join(BUILT_IN)}, "
            "or package.module:Class for a generator of your own"
        )
    try:
        instance: Generator = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise SettingsError(f"BG_IMAGE_MODELS: {name!r} cannot be loaded: {error}") from error
    missing = [part for part in vars(Generator) if not part.startswith("_") and not hasattr(instance, part)]
    if missing:
        raise SettingsError(f"BG_IMAGE_MODELS: {name!r} is not a generator: it lacks {', '.join(missing)}")
    return instance


MAX_BODY = 25_000_000
"""Maximum bytes of a request and of a response of InvokeModel; pictures in them are in base64."""


def fits_as_png(size: Size, pictures: int = 1, channels: int = 3) -> bool:
    """Whether a response can contain this many PNG pictures of ``size`` even if they cannot be compressed at all."""
    width, height = size
    return pictures * channels * width * height * 4 / 3 < 0.98 * MAX_BODY


def images_at_once(generator: Generator, size: Size) -> int:
    """The maximum number of pictures of ``size`` in one call whose response can contain them."""
    counts = range(generator.images_per_call, 1, -1)
    return next((number for number in counts if fits_as_png(size, number)), 1)


def by_words(generator: Generator, mode: Mode) -> bool:
    """Whether the subject may be described in words: the model accepts them, and the result shows what it kept.

    It shows that by the returned mask, or because the subject's pixels are unchanged, which only ``PRECISE`` ensures.
    """
    return generator.takes_words and (generator.returns_mask or mode == "PRECISE")


def seed_within(seed: int, seeds: range) -> int:
    """``seed`` if it is in ``seeds``, else another seed in ``seeds`` that depends on ``seed`` only."""
    return seeds[(seed - seeds.start) % len(seeds)]
