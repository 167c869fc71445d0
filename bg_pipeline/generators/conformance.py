"""Tests whether a generator fulfils the contract that the pipeline relies on.

Use it in a test of your own generator:

    from bg_pipeline.generators.conformance import check

    def test_my_generator_conforms():
        assert check(MyGenerator(), answers, blocked=refuses) == []

``answers`` is an `Invoke` that stands in for the model: it returns a recorded or synthetic response to the given
body, with pictures of the size that was sent. ``refuses`` returns or raises what the model's content filter would.
This module makes no network calls.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from typing import Any

import orjson
from PIL import Image, ImageDraw, UnidentifiedImageError

from bg_pipeline import errors
from bg_pipeline.generators import Ask, Generator, Invoke, Made, Operation, Size

MAX_BODY_BYTES = 25_000_000
"""Maximum request body of Bedrock InvokeModel."""

PHOTO_SIZES: tuple[Size, ...] = ((1200, 900), (900, 1200), (4032, 3024), (640, 640), (200, 90), (3000, 1000))


def check(generator: Generator, answers: Invoke, blocked: Invoke | None = None) -> list[str]:
    """Returns a sentence for each violation of the contract; an empty list if the generator conforms.

    Calls the generator about a dozen times with synthetic pictures through ``answers``, and through ``blocked`` if
    given. If it raises one of the pipeline's errors on a valid response, that is reported as a violation; any other
    exception is a bug of the generator and is not caught.
    """
    problems = _check_attributes(generator)
    if problems:
        return problems
    for photo in PHOTO_SIZES:
        canvas = generator.sizes.canvas(photo).canvas
        problems += [
            f"{photo[0]} x {photo[1]} photo: {text}" for text in _check_size(generator, answers, canvas)
        ]
    if generator.replaces and not problems:
        problems += _check_variations(generator, answers)
    if blocked:
        problems += _check_refusals(generator, blocked)
    return list(dict.fromkeys(problems))


def _check_attributes(generator: Generator) -> list[str]:
    rules = (
        (bool(generator.name), "it has no name"),
        (bool(generator.replaces or generator.removes), "it neither replaces nor removes a background"),
        (generator.prompt_limit > 0, "prompt_limit is not positive"),
        (generator.max_picture_bytes > 0, "max_picture_bytes is not positive"),
        (generator.images_per_call >= 1, "images_per_call is less than 1"),
        (len(generator.seeds) > 0, "seeds is empty"),
        (
            generator.takes_words or not generator.returns_mask,
            "returns_mask is set without takes_words",
        ),
    )
    return [text for is_met, text in rules if not is_met]


def _check_size(generator: Generator, answers: Invoke, size: Size) -> list[str]:
    problems: list[str] = []
    if generator.replaces:
        spy = _Spy(answers)
        with _expecting_success("replace", problems):
            ask = _ask(generator, size)
            made = generator.replace(ask, spy)
            problems += _check_result(made, ask, generator) + spy.problems(generator.replaces)
    if generator.removes:
        spy = _Spy(answers)
        with _expecting_success("remove", problems):
            cut_out = generator.remove(_picture(size), size, spy)
            problems += _check_cut_out(cut_out, size) + spy.problems(generator.removes)
    return problems


def _check_variations(generator: Generator, answers: Invoke) -> list[str]:
    """Checks the limits of all parameters, and that the request depends on the `Ask` only."""
    size = generator.sizes.canvas(PHOTO_SIZES[0]).canvas
    plain = _ask(generator, size)
    asks = [
        plain,
        replace(plain, prompt="x" * generator.prompt_limit, negative_prompt="y" * generator.prompt_limit),
        replace(plain, prompt='café 🏔 "quoted"\nnew line'),
        replace(plain, seed=generator.seeds[0], mode="DEFAULT", quality="standard", cfg_scale=8.0),
        replace(plain, seed=generator.seeds[-1], images=generator.images_per_call),
    ]
    if generator.takes_words:
        asks.append(replace(plain, mask=None, mask_prompt="Dog, Person"))
    problems: list[str] = []
    bodies: list[Mapping[str, Any]] = []
    for ask in (*asks, plain):
        spy = _Spy(answers)
        with _expecting_success("replace", problems):
            made = generator.replace(ask, spy)
            problems += _check_result(made, ask, generator)
        bodies += spy.bodies
    if len(bodies) > 1 and bodies[0] != bodies[-1]:
        problems.append("the same Ask did not make the same request twice")
    return problems


def _check_refusals(generator: Generator, blocked: Invoke) -> list[str]:
    size = generator.sizes.canvas(PHOTO_SIZES[0]).canvas
    calls: dict[str, Callable[[], object]] = {}
    if generator.replaces:
        calls["replace"] = lambda: generator.replace(_ask(generator, size), blocked)
    if generator.removes:
        calls["remove"] = lambda: generator.remove(_picture(size), size, blocked)
    problems = []
    for name, call in calls.items():
        try:
            call()
        except errors.Blocked as error:
            if not str(error).strip():
                problems.append(f"{name}: Blocked does not contain the model's message")
        except errors.CallError as error:
            problems.append(
                f"{name}: a refusal by the content filter raises {type(error).__name__}, not Blocked"
            )
        else:
            problems.append(f"{name}: a refusal by the content filter raises no error")
    return problems


class _Spy:
    """An `Invoke` that records its calls."""

    def __init__(self, invoke: Invoke) -> None:
        self._invoke = invoke
        self.bodies: list[Mapping[str, Any]] = []
        self.operations: list[Operation] = []

    def __call__(self, operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.operations.append(operation)
        self.bodies.append(body)
        return self._invoke(operation, body)

    def problems(self, expected: Operation) -> list[str]:
        problems = []
        if len(self.operations) > 1:
            problems.append(f"{len(self.operations)} calls were made; one is planned and paid for")
        if any(operation != expected for operation in self.operations):
            problems.append(f"it called another operation than {expected.name}")
        for body in self.bodies:
            try:
                size = len(orjson.dumps(body))
            except TypeError as error:
                problems.append(f"the request is not valid JSON: {error}")
            else:
                if size > MAX_BODY_BYTES:
                    problems.append(f"the request has {size:,} bytes; InvokeModel takes {MAX_BODY_BYTES:,}")
        return problems


@contextmanager
def _expecting_success(call: str, problems: list[str]) -> Iterator[None]:
    try:
        yield
    except errors.BgPipelineError as error:
        problems.append(f"{call} raises {type(error).__name__} on a valid response: {error}")


def _check_result(made: Made, ask: Ask, generator: Generator) -> list[str]:
    problems = []
    if not 1 <= len(made.images) <= ask.images:
        problems.append(f"{len(made.images)} pictures were returned, {ask.images} were requested")
    if len(made.seeds) != len(made.images):
        problems.append(f"there are {len(made.seeds)} seeds for {len(made.images)} pictures")
    problems += [text for data in made.images for text in _wrong_size(data, ask.size, "a picture")]
    if made.mask is not None:
        problems += _wrong_size(made.mask, ask.size, "the mask")
    elif generator.returns_mask and ask.mask_prompt:
        problems.append("returns_mask is set, but no mask was returned for a mask prompt")
    return problems


def _check_cut_out(data: bytes, size: Size) -> list[str]:
    problems = _wrong_size(data, size, "the cut-out")
    if not problems:
        with Image.open(BytesIO(data)) as image:
            if not image.has_transparency_data:
                problems.append("the cut-out has no transparency")
    return problems


def _wrong_size(data: bytes, size: Size, what: str) -> list[str]:
    try:
        with Image.open(BytesIO(data)) as image:
            image.load()
            if image.size != size:
                return [f"{what} is {image.width} x {image.height}, but {size[0]} x {size[1]} was sent"]
    except (UnidentifiedImageError, OSError) as error:
        return [f"{what} cannot be opened: {error}"]
    return []


def _ask(generator: Generator, size: Size) -> Ask:
    return Ask(
        picture=_picture(size),
        size=size,
        prompt="a street in London in the rain",
        negative_prompt="low quality",
        mask=_mask(size),
        seed=generator.seeds[len(generator.seeds) // 2],
    )


def _picture(size: Size) -> bytes:
    image = Image.new("RGB", size, (90, 140, 200))
    ImageDraw.Draw(image).ellipse(_subject(size), fill=(200, 60, 40))
    return _png(image)


def _mask(size: Size) -> bytes:
    mask = Image.new("L", size, 255)
    ImageDraw.Draw(mask).ellipse(_subject(size), fill=0)
    return _png(mask)


def _subject(size: Size) -> tuple[float, float, float, float]:
    width, height = size
    return (width * 0.3, height * 0.3, width * 0.7, height * 0.7)


def _png(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()
