"""Tests whether a generator keeps the promises that the pipeline builds on.

For a generator of one's own, in a test:

    from bg_pipeline.generators.conformance import check

    def test_my_generator_conforms():
        assert check(MyGenerator(), answers, blocked=refuses) == []

``answers`` stands in for the model: an `Invoke` that returns what the model would for the body it is given,
recorded or painted, with pictures of the size that was sent. ``refuses`` returns, or raises, what the
model's content filter does. Nothing is sent anywhere by this module.
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
"""The largest request body that Bedrock's InvokeModel takes."""

PHOTO_SIZES: tuple[Size, ...] = ((1200, 900), (900, 1200), (4032, 3024), (640, 640), (200, 90), (3000, 1000))


def check(generator: Generator, answers: Invoke, blocked: Invoke | None = None) -> list[str]:
    """What the generator does wrong, a sentence each; empty if it conforms.

    Calls it a dozen times with made-up pictures through ``answers``, and through ``blocked`` where that is
    given. An error that the generator raises on a good answer is reported, not raised, if it is one of the
    pipeline's; any other is a bug of the generator and escapes.
    """
    problems = _card(generator)
    if problems:
        return problems
    for photo in PHOTO_SIZES:
        canvas = generator.sizes.canvas(photo).canvas
        problems += [
            f"{photo[0]} x {photo[1]} photo: {text}" for text in _at_size(generator, answers, canvas)
        ]
    if generator.replaces and not problems:
        problems += _variations(generator, answers)
    if blocked:
        problems += _refusals(generator, blocked)
    return list(dict.fromkeys(problems))


def _card(generator: Generator) -> list[str]:
    rules = (
        (bool(generator.name), "it has no name"),
        (bool(generator.replaces or generator.removes), "it neither replaces nor removes a background"),
        (generator.prompt_limit > 0, "prompt_limit is not positive"),
        (generator.max_picture_bytes > 0, "max_picture_bytes is not positive"),
        (generator.images_per_call >= 1, "images_per_call is less than 1"),
        (len(generator.seeds) > 0, "seeds is empty"),
        (
            generator.takes_words or not generator.returns_mask,
            "it returns a mask made from words it does not take",
        ),
    )
    return [text for holds, text in rules if not holds]


def _at_size(generator: Generator, answers: Invoke, size: Size) -> list[str]:
    problems: list[str] = []
    if generator.replaces:
        spy = _Spy(answers)
        with _expecting_success("replace", problems):
            ask = _ask(generator, size)
            made = generator.replace(ask, spy)
            problems += _looked_at(made, ask, generator) + spy.problems(generator.replaces)
    if generator.removes:
        spy = _Spy(answers)
        with _expecting_success("remove", problems):
            cut_out = generator.remove(_picture(size), size, spy)
            problems += _cut_out(cut_out, size) + spy.problems(generator.removes)
    return problems


def _variations(generator: Generator, answers: Invoke) -> list[str]:
    """The ends of every range that a call may use, and that a call depends on what it is asked only."""
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
            problems += _looked_at(made, ask, generator)
        bodies += spy.bodies
    if len(bodies) > 1 and bodies[0] != bodies[-1]:
        problems.append("the same Ask did not make the same request twice")
    return problems


def _refusals(generator: Generator, blocked: Invoke) -> list[str]:
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
                problems.append(f"{name}: Blocked does not carry the model's words")
        except errors.CallError as error:
            problems.append(f"{name}: a refusal by the content filter is {type(error).__name__}, not Blocked")
        else:
            problems.append(f"{name}: a refusal by the content filter passes as a success")
    return problems


class _Spy:
    """An `Invoke` that remembers what went through it."""

    def __init__(self, invoke: Invoke) -> None:
        self._invoke = invoke
        self.bodies: list[Mapping[str, Any]] = []
        self.operations: list[Operation] = []

    def __call__(self, operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.operations.append(operation)
        self.bodies.append(body)
        return self._invoke(operation, body)

    def problems(self, expected: Operation) -> list[str]:
        found = []
        if len(self.operations) > 1:
            found.append(f"{len(self.operations)} calls were made where one is planned and paid for")
        if any(operation != expected for operation in self.operations):
            found.append(f"it called something else than {expected.name}")
        for body in self.bodies:
            try:
                size = len(orjson.dumps(body))
            except TypeError as error:
                found.append(f"the request is no JSON: {error}")
            else:
                if size > MAX_BODY_BYTES:
                    found.append(f"the request has {size:,} bytes; InvokeModel takes {MAX_BODY_BYTES:,}")
        return found


@contextmanager
def _expecting_success(call: str, problems: list[str]) -> Iterator[None]:
    try:
        yield
    except errors.BgPipelineError as error:
        problems.append(f"{call} raises {type(error).__name__} on a good answer: {error}")


def _looked_at(made: Made, ask: Ask, generator: Generator) -> list[str]:
    problems = []
    if not 1 <= len(made.images) <= ask.images:
        problems.append(f"{len(made.images)} pictures came back where {ask.images} were asked for")
    if len(made.seeds) != len(made.images):
        problems.append(f"there are {len(made.seeds)} seeds for {len(made.images)} pictures")
    problems += [text for data in made.images for text in _wrong_size(data, ask.size, "a picture")]
    if made.mask is not None:
        problems += _wrong_size(made.mask, ask.size, "the mask")
    elif generator.returns_mask and ask.mask_prompt:
        problems.append("no mask came back for words, though returns_mask says so")
    return problems


def _cut_out(data: bytes, size: Size) -> list[str]:
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
                return [f"{what} is {image.width} x {image.height} where {size[0]} x {size[1]} was sent"]
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
