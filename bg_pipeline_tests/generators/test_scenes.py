"""Requests and answers of the text-to-image models."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import pytest
from PIL import Image

from bg_pipeline.domain.model_facts import facts_of
from bg_pipeline.errors import Blocked, OutcomeUnknown, SettingsError, Transient
from bg_pipeline.generators import Operation
from bg_pipeline.generators.scenes import COMPOSITION, SCENE_PAINTERS, SceneAsk, aspect_of, scene_painter


def png() -> str:
    out = io.BytesIO()
    Image.new("RGB", (12, 8)).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def painted(name: str, answer: Mapping[str, Any], ask: SceneAsk) -> tuple[Any, list[Any]]:
    sent: list[Any] = []

    def invoke(operation: Operation, body: Mapping[str, Any]) -> Mapping[str, Any]:
        sent.append((operation.invoke_id, dict(body)))
        return answer

    return scene_painter(name).paint(ask, invoke), sent


GOOD = {"seeds": [77], "finish_reasons": [None], "images": [png()]}


@pytest.mark.parametrize(
    ("name", "model", "more"),
    [
        ("stable-image-ultra", "stability.stable-image-ultra-v1:1", {}),
        ("stable-image-core", "stability.stable-image-core-v1:1", {}),
        ("sd3-5-large", "stability.sd3-5-large-v1:0", {"mode": "text-to-image"}),
    ],
)
def test_the_request_is_the_documented_one(name: str, model: str, more: dict[str, str]) -> None:
    (_, seed), sent = painted(name, GOOD, SceneAsk("an oak table", "3:2", 5, "people"))
    assert seed == 77
    assert sent == [
        (
            model,
            {
                "prompt": f"an oak table, {COMPOSITION}",
                "negative_prompt": "people",
                "aspect_ratio": "3:2",
                "seed": 5,
                "output_format": "png",
                **more,
            },
        )
    ]
    facts = facts_of(SCENE_PAINTERS[name].paints.name, model)
    assert facts.regions == ("us-west-2",)
    assert facts.cost(images=1)


def test_refusals_faults_and_nonsense_are_told_apart() -> None:
    ask = SceneAsk("x", "1:1", 1)
    with pytest.raises(Blocked, match="Filter reason: prompt"):
        painted("stable-image-core", {"finish_reasons": ["Filter reason: prompt"]}, ask)
    with pytest.raises(Transient, match="Inference error"):
        painted("stable-image-core", {"finish_reasons": ["Inference error"], "images": []}, ask)
    with pytest.raises(OutcomeUnknown):
        painted("stable-image-core", {"images": ["no picture"]}, ask)


def test_an_answer_without_a_seed_has_that_of_the_request() -> None:
    (_, seed), _ = painted("stable-image-core", {"images": [png()]}, SceneAsk("x", "1:1", 9))
    assert seed == 9


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="stable-image-ultra, stable-image-core, sd3-5-large"):
        scene_painter("dall-e")


def test_words_of_the_greatest_length_fit_the_model() -> None:
    longest = SCENE_PAINTERS["stable-image-core"].prompt_limit
    _, sent = painted("stable-image-core", GOOD, SceneAsk("x" * longest, "1:1", 1))
    assert len(sent[0][1]["prompt"]) == 10_000


@pytest.mark.parametrize(
    ("size", "aspect"),
    [((4000, 3000), "3:2"), ((1920, 1080), "3:2"), ((1000, 1000), "1:1"), ((1100, 1000), "1:1"),
     ((3000, 4000), "2:3"), ((1080, 1920), "2:3"), ((10, 1), "3:2"), ((1, 10), "2:3")],
)  # fmt: skip
def test_a_photo_gets_the_scene_of_the_nearest_aspect(size: tuple[int, int], aspect: str) -> None:
    assert aspect_of(size) == aspect
