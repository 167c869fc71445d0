import pybase64
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bg_pipeline import errors
from bg_pipeline.aws.clients import Aws
from bg_pipeline.captioners import nova
from bg_pipeline.settings import settings
from bg_pipeline_tests.golden import golden

SEEN = "A red double-decker bus stands at a stop. A woman in a yellow coat waits beside it."
ALT_TEXT = "A red double-decker bus at a stop with a woman in a yellow coat."
NOVA_PRO = "us.amazon.nova-pro-v1:0"


def _said(text: str) -> dict[str, object]:
    return {"output": {"message": {"content": [{"text": text}]}}, "stopReason": "end_turn", "usage": {}}


def test_the_request_equals_the_source_notebooks_with_raw_bytes():
    expected = golden("captions/nova_pro.request")
    source = expected["messages"][0]["content"][0]["image"]["source"]
    source["bytes"] = pybase64.b64decode(source["bytes"])
    assert nova.request(NOVA_PRO, source["bytes"]) == expected


@pytest.mark.parametrize("model", ["eu.acme.seer-v1:0", "us.anthropic.claude-haiku-4-5-20251001-v1:0"])
def test_parameters_of_nova_are_not_sent_to_other_models(model):
    body = nova.request(model, b"")
    assert "additionalModelRequestFields" not in body
    assert set(body["inferenceConfig"]) == {"maxTokens"}


def test_only_a_non_default_service_tier_is_sent():
    assert nova.request(NOVA_PRO, b"", tier="flex")["serviceTier"] == {"type": "flex"}
    assert "serviceTier" not in nova.request(NOVA_PRO, b"", tier="default")
    assert nova.tier_used({"serviceTier": {"type": "flex"}}) == "flex"
    assert nova.tier_used({}) == ""


def test_configured_models_are_used_unchanged():
    aws = Aws(("eu-west-1",))
    assert nova.models(settings(), aws)[0] == "eu.amazon.nova-pro-v1:0"
    assert nova.models(settings(caption_regions="us-west-2"), aws)[0] == NOVA_PRO
    assert nova.models(settings(caption_models=NOVA_PRO), aws) == (NOVA_PRO,)


def test_a_custom_prompt_is_sent_unchanged():
    content = nova.request(NOVA_PRO, b"", prompt="Say it in French.")["messages"][0]["content"]
    assert content[1] == {"text": "Say it in French."}


def test_an_answer_has_a_caption_and_token_counts():
    answer = golden("captions/described.answer")
    assert nova.read(answer) == nova.Caption(text=SEEN, alt_text="")
    assert nova.tokens_used(answer) == (1687, 58)


@pytest.mark.parametrize("answer", ["captions/alt_text.answer", "captions/alt_text_in_markdown.answer"])
def test_description_and_alternative_text_come_from_one_call(answer):
    body = nova.request(NOVA_PRO, b"", alt_text=125)
    text = body["messages"][0]["content"][1]["text"]
    assert "125 characters" in text
    assert text.endswith(nova.PROMPT)
    assert body["inferenceConfig"]["maxTokens"] == 360
    caption = nova.read(golden(answer), alt_text=125)
    assert (caption.text, caption.alt_text) == (SEEN, ALT_TEXT)


@pytest.mark.parametrize(
    ("said", "text", "alt_text"),
    [
        (SEEN, SEEN, "A red double-decker bus stands at a stop."),
        (f"Description: {SEEN}\nAlt text: A bus.", SEEN, "A bus."),
        (f"## Alt text:\nA bus.\n\n## Description:\n{SEEN}", SEEN, "A bus."),
        (f"Alt text:\n{SEEN}", SEEN, SEEN),
        ("Alt text: A bus.", "A bus.", "A bus."),
        (f"alternative text: A bus.\n{SEEN}", SEEN, "A bus."),
        ("The sign says alt text: bus.", "The sign says alt text: bus.", "The sign says alt text: bus."),
    ],
)
def test_an_alternative_text_is_found_in_any_markup_and_never_missing(said, text, alt_text):
    caption = nova.read(_said(said), alt_text=125)
    assert (caption.text, caption.alt_text) == (text, alt_text)


def test_a_long_alternative_text_ends_at_a_word():
    caption = nova.read(_said("Alt text: " + "a long word " * 20 + "\nDescription: A bus."), alt_text=125)
    assert 115 < len(caption.alt_text) <= 125
    assert set(caption.alt_text.removesuffix("…").split()) == {"a", "long", "word"}


@given(st.text(min_size=1))
def test_the_alternative_text_is_always_one_short_line(said):
    try:
        caption = nova.read(_said(said), alt_text=125)
    except errors.Transient:
        return
    assert 0 < len(caption.alt_text) <= 125
    assert caption.alt_text.splitlines() == [caption.alt_text]
    assert caption.text.strip()


def test_a_caption_that_ran_out_of_tokens_ends_with_its_last_whole_sentence():
    assert (
        nova.read(golden("captions/out_of_tokens.answer")).text == "A red double-decker bus stands at a stop."
    )


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("captions/filtered.answer", "blocked by our content filters"),
        ("captions/guardrail.answer", "cannot be described"),
    ],
)
def test_a_filtered_answer_is_blocked_although_it_arrives_as_a_success(answer, words):
    with pytest.raises(errors.Blocked, match=words):
        nova.read(golden(answer))


@pytest.mark.parametrize("answer", [golden("captions/empty.answer"), {}, _said("  \n")])
def test_an_empty_answer_is_transient(answer):
    with pytest.raises(errors.Transient):
        nova.read(answer)


def test_the_maximum_tokens_include_picture_prompt_and_longest_answer():
    assert nova.tokens_at_most(NOVA_PRO) == (1835, 300)
    assert nova.tokens_at_most("us.amazon.nova-2-lite-v1:0", alt_text=125)[0] < 400


def test_a_model_is_called_with_its_profile_and_looked_up_without_it():
    operation = nova.operation(NOVA_PRO)
    assert (operation.name, operation.model_id, operation.invoke_id) == (
        "CAPTION",
        "amazon.nova-pro-v1:0",
        NOVA_PRO,
    )
