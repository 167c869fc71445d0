"""Captions and alternative texts from Amazon Nova or any other vision model of Bedrock's Converse API.

Pure functions that build requests and parse responses of ``bedrock-runtime`` Converse, which takes raw picture bytes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bg_pipeline import errors
from bg_pipeline.aws.clients import Aws
from bg_pipeline.domain.model_facts import facts_of, split_profile
from bg_pipeline.generators import Operation
from bg_pipeline.models.geography import caption_models
from bg_pipeline.settings import Settings

PROMPT = "Generate a detailed description of the image."
WITHIN = (1280, 720)
"""The maximum width and height of the photo that is sent; its aspect ratio is kept."""
MAX_BYTES = 3_750_000
"""Maximum bytes of the photo: the stricter of two documented limits (Converse: 3.75 MB; Nova: 25 MB in all)."""

_MAX_TOKENS = 300
_ALT_TEXT_INSTRUCTIONS = (
    "Answer in two parts. First a line that begins with 'Alt text:' and goes on with one plain sentence of at "
    "most {length} characters for people who cannot see the image. Then a line that begins with "
    "'Description:' and goes on with the answer to this: "
)
_ALT_TEXT = re.compile(r"^[\W_]*alt(?:ernative)?[ _-]?text[\W_]*?:[\W_]*(.*)$", re.IGNORECASE | re.MULTILINE)
_DESCRIPTION = re.compile(r"^[\W_]*description[\W_]*?:[*_\s]*", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Caption:
    """A caption; ``alt_text`` is empty unless it was requested."""

    text: str
    alt_text: str


def operation(model_id: str) -> Operation:
    """The operation of a caption model; ``model_id`` is as in ``BG_CAPTION_MODELS``, with or without a profile."""
    profile, bare = split_profile(model_id)
    return Operation("CAPTION", bare, profile)


def regions(settings: Settings, aws: Aws) -> tuple[str, ...]:
    """The Regions for captions: ``BG_CAPTION_REGIONS`` if set, else those of the image models."""
    return settings.caption_regions or aws.regions


def models(settings: Settings, aws: Aws) -> tuple[str, ...]:
    """The ids of the caption models, in order of preference.

    Models named in the settings are used unchanged; the default models with the profiles of the Regions in use.
    """
    if "caption_models" in settings.model_fields_set:
        return settings.caption_models
    return caption_models(settings.caption_models, regions(settings, aws))


def request(
    model_id: str, jpeg: bytes, prompt: str = PROMPT, alt_text: int = 0, tier: str = ""
) -> dict[str, Any]:
    """The arguments of ``converse`` for one photo, a JPEG within `WITHIN` and `MAX_BYTES`.

    ``alt_text`` is the maximum length of the alternative text in characters; 0 requests none. ``tier`` is Bedrock's
    service tier; empty or ``default`` is the standard tier.
    """
    body: dict[str, Any] = {
        "modelId": model_id,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"image": {"format": "jpeg", "source": {"bytes": jpeg}}},
                    {"text": _instructions(alt_text) + prompt},
                ],
            }
        ],
        "inferenceConfig": {"maxTokens": _max_tokens(alt_text)},
    }
    if is_nova(model_id):
        # Other models accept at most one of temperature and topP, and the newest ones neither. Converse has no topK
        # parameter; Nova reads it from the additional fields.
        body["inferenceConfig"] |= {"temperature": 0.3, "topP": 0.1}
        body["additionalModelRequestFields"] = {"inferenceConfig": {"topK": 20}}
    if tier not in ("", "default"):
        body["serviceTier"] = {"type": tier}
    return body


def prompt_of(body: Mapping[str, Any]) -> str:
    """The text that a `request` sends with its picture."""
    return str(body["messages"][0]["content"][1]["text"])


def is_nova(model_id: str) -> bool:
    """Whether a model id, profile id or ARN belongs to an Amazon Nova model."""
    return split_profile(model_id.rpartition("/")[2])[1].startswith("amazon.nova")


def tokens_at_most(model_id: str, prompt: str = PROMPT, alt_text: int = 0) -> tuple[int, int]:
    """The maximum input and output tokens of one call, for rate limiting and cost planning."""
    words = len(_instructions(alt_text) + prompt)
    return facts_of("CAPTION", model_id).picture_tokens + words // 3 + 20, _max_tokens(alt_text)


def cost(model_id: str, tokens: tuple[int, int], tier: str = "") -> float | None:
    """US dollars for ``tokens`` (input, output) in a service tier; None if the model's price is unknown."""
    facts = facts_of("CAPTION", model_id)
    return facts.cost(input_tokens=tokens[0], output_tokens=tokens[1], tier=tier)


def read(response: Mapping[str, Any], alt_text: int = 0) -> Caption:
    """Parses the response of ``converse`` to a `request` with the same ``alt_text``.

    Raises `errors.Blocked` for a filtered answer, which arrives as a success, and `errors.Transient` for an empty
    one. A requested alternative text is never longer than ``alt_text`` and never missing: if the model returned none,
    it is the beginning of the caption.
    """
    message = (response.get("output") or {}).get("message") or {}
    answer = "".join(block.get("text", "") for block in message.get("content") or ()).strip()
    reason = response.get("stopReason", "")
    if reason in ("content_filtered", "guardrail_intervened"):
        raise errors.Blocked(reason, answer or "The caption was refused by the model's content policy.")
    text, alternative = _split_answer(answer) if alt_text else (answer, "")
    if reason == "max_tokens":
        text = _whole_sentences(text)
    if not text:
        raise errors.Transient(
            "EmptyCaption", f"The model returned no caption (stop reason: {reason or 'none'})."
        )
    return Caption(
        text=text,
        alt_text=shortened(alternative or _first_sentence(text), alt_text),
    )


def tokens_used(response: Mapping[str, Any]) -> tuple[int, int]:
    """The billed input and output tokens in a response of ``converse``."""
    usage = response.get("usage") or {}
    return int(usage.get("inputTokens", 0)), int(usage.get("outputTokens", 0))


def tier_used(response: Mapping[str, Any]) -> str:
    """The service tier in a response of ``converse``; empty if it contains none."""
    return str((response.get("serviceTier") or {}).get("type", ""))


def _instructions(alt_text: int) -> str:
    return _ALT_TEXT_INSTRUCTIONS.format(length=alt_text) if alt_text else ""


def _max_tokens(alt_text: int) -> int:
    """The token limit of the answer: 4 characters per token, and alternative texts up to 1.5 times the requested
    length.
    """
    return _MAX_TOKENS + (10 + alt_text * 2 // 5 if alt_text else 0)


def _split_answer(answer: str) -> tuple[str, str]:
    """Description and alternative text of an answer with two parts, in any markup the model uses."""
    match = _ALT_TEXT.search(answer)
    alternative = match[1].strip(" *_\"'") if match else ""
    rest = answer[: match.start()] + answer[match.end() :] if match else answer
    return _DESCRIPTION.sub("", rest, count=1).strip() or alternative, alternative


def _whole_sentences(text: str) -> str:
    end = max(text.rfind(mark) for mark in (". ", "! ", "? ", ".\n"))
    return text[: end + 1] if end > 0 else text


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]


def shortened(text: str, length: int) -> str:
    """The text on one line; if longer than ``length`` characters it is cut after a word and ends with an ellipsis."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    return text[:length].rsplit(" ", 1)[0].rstrip(" ,;:.-")[: length - 1] + "…" if length else ""
