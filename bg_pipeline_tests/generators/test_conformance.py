import base64
import threading
from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from bg_pipeline import errors
from bg_pipeline.generators import Operation, generator
from bg_pipeline.generators.conformance import check
from bg_pipeline.generators.refusals import refusal
from bg_pipeline_tests.generators.own_generator import Sepia


def _png(sent: str, mode: str = "RGB", scale: float = 1.0) -> str:
    """A synthetic picture of the same size as the one that was sent."""
    with Image.open(BytesIO(base64.b64decode(sent))) as image:
        size = (round(image.width * scale), round(image.height * scale))
    out = BytesIO()
    Image.new(mode, size, 0).save(out, "PNG", compress_level=1)
    return base64.b64encode(out.getvalue()).decode()


def titan_family(operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
    if body["taskType"] == "BACKGROUND_REMOVAL":
        return {"images": [_png(body["backgroundRemovalParams"]["image"], "RGBA")], "error": None}
    params = body["outPaintingParams"]
    count = body["imageGenerationConfig"]["numberOfImages"]
    mask = {"maskImage": _png(params["image"])} if params.get("returnMask") else {}
    return {"images": [_png(params["image"])] * count, "error": None, **mask}


def stability(operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
    mode = "RGB" if "mask" in body else "RGBA"
    return {"seeds": [body.get("seed", 1)], "finish_reasons": [None], "images": [_png(body["image"], mode)]}


def sepia(operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"result": _png(body["photo"])}


def in_an_error(operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
    error = refusal("ValidationException", "This request has been blocked by our content filters.")
    assert error is not None
    raise error


def in_an_answer(operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
    words = "All of the generated images have been blocked by our content filters."
    return {"error": words, "finish_reasons": ["Filter reason: output image"], "refused": words}


@pytest.mark.parametrize("refuses", [in_an_error, in_an_answer])
@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("titan-v1", titan_family),
        ("titan-v2", titan_family),
        ("nova-canvas", titan_family),
        ("stability", stability),
        ("bg_pipeline_tests.generators.own_generator:Sepia", sepia),
    ],
)
def test_every_generator_conforms(name, answers, refuses):
    assert check(generator(name), answers, blocked=refuses) == []


class Careless(Sepia):
    """Base of generators that each violate one rule of the contract."""


class Swallowing(Careless):
    def replace(self, ask, invoke):
        invoke(self.replaces, {"photo": base64.b64encode(ask.picture).decode()})
        return Sepia().replace(replace(ask, seed=1), lambda operation, body: sepia(operation, body))


class Twice(Careless):
    def replace(self, ask, invoke):
        super().replace(ask, invoke)
        return super().replace(ask, invoke)


class Bytes(Careless):
    def replace(self, ask, invoke):
        made = super().replace(ask, invoke)
        invoke(self.replaces, {"photo": ask.picture})
        return made


class Elsewhere(Careless):
    def replace(self, ask, invoke):
        return super().replace(ask, lambda operation, body: invoke(Operation("OTHER", "x"), body))


class Counting(Careless):
    calls = 0

    def replace(self, ask, invoke):
        self.calls += 1
        return super().replace(replace(ask, seed=self.calls), invoke)


class Greedy(Careless):
    def replace(self, ask, invoke):
        made = super().replace(ask, invoke)
        return replace(made, images=made.images * 2)


class Empty(Careless):
    def replace(self, ask, invoke):
        return replace(super().replace(ask, invoke), images=(), seeds=())


class Garbage(Careless):
    def replace(self, ask, invoke):
        return replace(super().replace(ask, invoke), images=(b"no picture",))


class Promising(Careless):
    takes_words = True
    returns_mask = True


class Refusing(Careless):
    def replace(self, ask, invoke):
        raise errors.Transient("Never", "not today")


class Opaque(Careless):
    removes = Operation("SEPIA_CUT", "acme.sepia-cut-v1")

    def remove(self, picture, size, invoke):
        return base64.b64decode(invoke(self.removes, {"photo": base64.b64encode(picture).decode()})["result"])


class Nameless(Careless):
    name = ""
    replaces = None
    prompt_limit = 0
    images_per_call = 0
    seeds = range(0)
    max_picture_bytes = 0
    returns_mask = True


@pytest.mark.parametrize(
    ("careless", "problem"),
    [
        (Twice, "2 calls were made; one is planned and paid for"),
        (Elsewhere, "it called another operation than SEPIA"),
        (Counting, "the same Ask did not make the same request twice"),
        (Greedy, "2 pictures were returned, 1 were requested"),
        (Greedy, "there are 1 seeds for 2 pictures"),
        (Empty, "0 pictures were returned, 1 were requested"),
        (Garbage, "a picture cannot be opened"),
        (Promising, "returns_mask is set, but no mask was returned for a mask prompt"),
        (Refusing, "replace raises Transient on a valid response: not today"),
        (Opaque, "the cut-out has no transparency"),
        (Nameless, "it neither replaces nor removes a background"),
        (Nameless, "it has no name"),
        (Nameless, "seeds is empty"),
    ],
)
def test_a_violation_of_the_contract_is_reported(careless, problem):
    assert any(problem in found for found in check(careless(), sepia))


def test_a_request_that_is_not_json_is_reported():
    def lenient(operation, body):
        return (
            {"result": _png(base64.b64encode(body["photo"]).decode())}
            if len(body) == 1
            else sepia(operation, body)
        )

    assert any("the request is not valid JSON" in found for found in check(Bytes(), lenient))


def test_a_picture_of_another_size_is_reported():
    def half(operation, body):
        return {"result": _png(body["photo"], scale=0.5)}

    assert any("a picture is 320 x 320, but 640 x 640 was sent" in found for found in check(Sepia(), half))


def test_a_refusal_without_an_error_is_reported():
    found = check(Swallowing(), sepia, blocked=in_an_answer)
    assert any("raises no error" in text for text in found)


def test_a_refusal_with_another_error_is_reported():
    found = check(Refusing(), sepia, blocked=in_an_answer)
    assert any("raises Transient, not Blocked" in text for text in found)


def test_one_generator_serves_many_threads():
    found: list[list[str]] = []
    titan = generator("titan-v2")
    threads = [threading.Thread(target=lambda: found.append(check(titan, titan_family))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[], [], []]
