"""Captions and alternative texts from Amazon Nova, or another model of Bedrock's Converse API that sees.

Pure functions over the request and the answer of ``bedrock-runtime`` Converse, which takes picture bytes raw.
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
"""The box a photo is fitted into, keeping its aspect ratio."""
MAX_BYTES = 3_750_000
"""The stricter of the two documented limits of a picture (Converse: 3.75 MB; Nova: 25 MB in all)."""

_MAX_TOKENS = 300
_ALT_TEXT_ORDER = (
    "Answer in two parts. First a line that begins with 'Alt text:' and goes on with one plain sentence of at "
    "most {length} characters for people who cannot see the image. Then a line that begins with "
    "'Description:' and goes on with the answer to this: "
)
_ALT_TEXT = re.compile(r"^[\W_]*alt(?:ernative)?[ _-]?text[\W_]*?:[\W_]*(.*)$", re.IGNORECASE | re.MULTILINE)
_DESCRIPTION = re.compile(r"^[\W_]*description[\W_]*?:[*_\s]*", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Caption:
    """What the model said; ``alt_text`` is "" unless it was asked for."""

    text: str
    alt_text: str


def operation(model_id: str) -> Operation:
    """The operation of a caption model given as in ``BG_CAPTION_MODELS``, bare or through a profile."""
    profile, bare = split_profile(model_id)
    return Operation("CAPTION", bare, profile)


def regions(settings: Settings, aws: Aws) -> tuple[str, ...]:
    """The Regions in which captions are asked for: those of ``BG_CAPTION_REGIONS``, else those of the pictures."""
    return settings.caption_regions or aws.regions


def models(settings: Settings, aws: Aws) -> tuple[str, ...]:
    """The caption models in order of preference.

    Those that a person named are taken as they are; the default ones through the profiles of the Regions in use.
    """
    if "caption_models" in settings.model_fields_set:
        return settings.caption_models
    return caption_models(settings.caption_models, regions(settings, aws))


def request(
    model_id: str, jpeg: bytes, prompt: str = PROMPT, alt_text: int = 0, tier: str = ""
) -> dict[str, Any]:
    """The arguments of ``converse`` for one photo, a JPEG within `WITHIN` and `MAX_BYTES`.

    ``alt_text`` is the most characters that an alternative text may have; with 0 none is asked for. ``tier`` is
    Bedrock's service tier; empty or ``default`` is the usual one.
    """
    body: dict[str, Any] = {
        "modelId": model_id,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"image": {"format": "jpeg", "source": {"bytes": jpeg}}},
                    {"text": _order(alt_text) + prompt},
                ],
            }
        ],
        "inferenceConfig": {"maxTokens": _max_tokens(alt_text)},
    }
    if is_nova(model_id):
        # Others take at most one of temperature and topP, and the newest none of them. Converse has no topK of its
        # own: this is where Nova takes it.
        body["inferenceConfig"] |= {"temperature": 0.3, "topP": 0.1}
        body["additionalModelRequestFields"] = {"inferenceConfig": {"topK": 20}}
    if tier not in ("", "default"):
        body["serviceTier"] = {"type": tier}
    return body


def prompt_of(body: Mapping[str, Any]) -> str:
    """The words that a `request` sends with its picture."""
    return str(body["messages"][0]["content"][1]["text"])


def is_nova(model_id: str) -> bool:
    """Whether an id, a profile's id or the ARN of either is that of one of Amazon's Nova models."""
    return split_profile(model_id.rpartition("/")[2])[1].startswith("amazon.nova")


def tokens_at_most(model_id: str, prompt: str = PROMPT, alt_text: int = 0) -> tuple[int, int]:
    """Input and output tokens of one call at worst, for its place in the quota and the plan of its cost."""
    words = len(_order(alt_text) + prompt)
    return facts_of("CAPTION", model_id).picture_tokens + words // 3 + 20, _max_tokens(alt_text)


def cost(model_id: str, tokens: tuple[int, int], tier: str = "") -> float | None:
    """US dollars for input and output tokens in a service tier; None where the model's price is not known."""
    facts = facts_of("CAPTION", model_id)
    return facts.cost(input_tokens=tokens[0], output_tokens=tokens[1], tier=tier)


def read(response: Mapping[str, Any], alt_text: int = 0) -> Caption:
    """The caption in an answer of ``converse`` to `request` with the same ``alt_text``.

    Raises `errors.Blocked` for a filtered answer, which arrives as a success, and `errors.Transient` for an
    empty one. An alternative text is never longer than asked for, and never missing: where the model gave
    none, it is the caption's beginning.
    """
    message = (response.get("output") or {}).get("message") or {}
    said = "".join(block.get("text", "") for block in message.get("content") or ()).strip()
    reason = response.get("stopReason", "")
    if reason in ("content_filtered", "guardrail_intervened"):
        raise errors.Blocked(reason, said or "The caption was refused by the model's content policy.")
    text, alternative = _parts(said) if alt_text else (said, "")
    if reason == "max_tokens":
        text = _whole_sentences(text)
    if not text:
        raise errors.Transient(
            "EmptyCaption", f"The model gave no caption (it stopped for: {reason or 'no reason'})."
        )
    return Caption(
        text=text,
        alt_text=shortened(alternative or _first_sentence(text), alt_text),
    )


def tokens_used(response: Mapping[str, Any]) -> tuple[int, int]:
    """Input and output tokens that an answer of ``converse`` says are billed."""
    usage = response.get("usage") or {}
    return int(usage.get("inputTokens", 0)), int(usage.get("outputTokens", 0))


def tier_used(response: Mapping[str, Any]) -> str:
    """The service tier that an answer of ``converse`` says it was given in."""
    return str((response.get("serviceTier") or {}).get("type", ""))


def _order(alt_text: int) -> str:
    return _ALT_TEXT_ORDER.format(length=alt_text) if alt_text else ""


def _max_tokens(alt_text: int) -> int:
    """A token is four letters, and a sentence may be one and a half times as long as it was asked to be."""
    return _MAX_TOKENS + (10 + alt_text * 2 // 5 if alt_text else 0)


def _parts(said: str) -> tuple[str, str]:
    """Description and alternative text of an answer in two parts, however the model marked them."""
    found = _ALT_TEXT.search(said)
    alternative = found[1].strip(" *_\"'") if found else ""
    rest = said[: found.start()] + said[found.end() :] if found else said
    return _DESCRIPTION.sub("", rest, count=1).strip() or alternative, alternative


def _whole_sentences(text: str) -> str:
    end = max(text.rfind(mark) for mark in (". ", "! ", "? ", ".\n"))
    return text[: end + 1] if end > 0 else text


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]


def shortened(text: str, length: int) -> str:
    """The text on one line, ended at a word with an ellipsis where it has more than ``length`` characters."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    return text[:length].rsplit(" ", 1)[0].rstrip(" ,;:.-")[: length - 1] + "…" if length else ""
