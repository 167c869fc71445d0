"""Compares the answers of model calls with what the adapters expect, field by field.

A difference is not an error by itself: an adapter may read the answer all the same. It is reported so that the
adapter can be corrected before it matters.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pybase64

from bg_pipeline.captioners import nova
from bg_pipeline.doctor.redaction import PICTURE, describe_picture

Size = tuple[int, int]


@dataclass(frozen=True)
class FieldComparison:
    """One field of an answer: what the adapter expects, what arrived, and whether that is the same."""

    field: str
    expected: str
    found: str
    matches: bool


class Comparison:
    """Collects the comparisons of one answer."""

    def __init__(self) -> None:
        self.fields: list[FieldComparison] = []

    def expect(self, field: str, expected: str, found: Any, matches: bool) -> None:
        """Adds one field; ``found`` is shortened."""
        self.fields.append(FieldComparison(field, expected, _short(found), matches))

    def only(self, answer: Mapping[str, Any], known: Collection[str], where: str = "") -> None:
        """Adds each field of ``answer`` that the adapter does not know."""
        for name in answer:
            if name not in known:
                self.expect(f"{where}{name}", "no such field", answer[name], False)

    def number(self, field: str, value: Any, low: float, high: float) -> None:
        """Adds a number that must be within the bounds."""
        matches = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        self.expect(field, f"a number from {low:g} to {high:g}", value, matches)

    def picture(self, field: str, value: Any, format: str, size: Size, *, alpha: bool = False) -> None:
        """Adds a picture in base64, its format, size and, with ``alpha``, its transparency."""
        found = _picture(value)
        expected = f"{format} {size[0]} × {size[1]}" + (" with alpha" if alpha else "")
        if found is None:
            self.expect(field, expected, value, False)
            return
        matches = (found["Format"], found["Width"], found["Height"]) == (format, *size)
        matches = matches and (not alpha or "A" in found["Mode"] or found["Mode"] == "P")
        words = f"{found['Format']} {found['Width']} × {found['Height']} {found['Mode']}, {found['Bytes']:,} bytes"
        self.expect(field, expected, words, matches)


def compare_exchange(
    status: int, headers: Mapping[str, str], seconds: float, *, media_type: str, longest: float
) -> list[FieldComparison]:
    """Status, headers and duration of a served call; ``longest`` is the client's read timeout in seconds."""
    result = Comparison()
    result.expect("HTTP status", "200", status, status == 200)
    found = headers.get("content-type", "")
    result.expect("header content-type", media_type, found, found.partition(";")[0] == media_type)
    for name in ("input-token-count", "output-token-count", "invocation-latency"):
        value = headers.get(f"x-amzn-bedrock-{name}")
        if value is not None:
            result.expect(f"header x-amzn-bedrock-{name}", "a whole number", value, value.isdecimal())
    result.number("seconds", round(seconds, 3), 0, longest)
    return result.fields


def compare_image_answer(
    model_id: str, answer: Mapping[str, Any], request: Mapping[str, Any], size: Size, *, cut_out: bool = False
) -> list[FieldComparison]:
    """The answer of InvokeModel to a request for one picture of ``size``, or with ``cut_out`` for a cut-out.

    Only the models of `bg_pipeline.generators` are known; of others nothing is compared here.
    """
    result = Comparison()
    if model_id.startswith("stability."):
        _stability(result, answer, str(request.get("output_format", "png")), size, cut_out)
    elif model_id.startswith(("amazon.titan-image", "amazon.nova-canvas")):
        _titan(result, answer, size, cut_out)
    return result.fields


def compare_scene(answer: Mapping[str, Any], aspect: float) -> list[FieldComparison]:
    """The answer of a text-to-image model to a request for one PNG of this aspect; its size is the model's choice."""
    result = Comparison()
    found = _picture(_first(answer.get("images")))
    words = "" if found is None else f"{found['Format']} {found['Width']} × {found['Height']}"
    fits = (
        found is not None
        and found["Format"] == "png"
        and abs(found["Width"] / found["Height"] / aspect - 1) < 0.06
        and min(found["Width"], found["Height"]) >= 512
    )
    result.expect("images[0]", f"a png of aspect {aspect:g}, at least 512 pixels a side", words, fits)
    _stability_facts(result, answer)
    return result.fields


def _stability(result: Comparison, answer: Mapping[str, Any], format: str, size: Size, cut_out: bool) -> None:
    result.picture("images[0]", _first(answer.get("images")), format, size, alpha=cut_out)
    _stability_facts(result, answer)


def _stability_facts(result: Comparison, answer: Mapping[str, Any]) -> None:
    images = answer.get("images")
    result.expect("images", "a list of one picture", _length(images), _length(images) == 1)
    seeds = answer.get("seeds")
    seed = _first(seeds)
    is_seed = _length(seeds) == 1 and isinstance(seed, int) and 0 <= seed < 2**32
    result.expect("seeds", "a list of one whole number below 2^32", seeds, is_seed)
    reasons = answer.get("finish_reasons")
    result.expect("finish_reasons", "[None]", reasons, reasons == [None])
    result.only(answer, ("images", "seeds", "finish_reasons"))


def _titan(result: Comparison, answer: Mapping[str, Any], size: Size, cut_out: bool) -> None:
    images = answer.get("images")
    result.expect("images", "a list of one picture", _length(images), _length(images) == 1)
    result.picture("images[0]", _first(images), "png", size, alpha=cut_out)
    error = answer.get("error")
    result.expect("error", "None", error, not error)
    for name in ("maskImage", "mask"):
        if answer.get(name):
            result.picture(name, answer[name], "png", size)
    result.only(answer, ("images", "error", "maskImage", "mask"))


def compare_caption(
    answer: Mapping[str, Any], tokens: tuple[int, int], alt_text: int
) -> list[FieldComparison]:
    """The answer of Converse; ``tokens`` are the most that were expected (input, output)."""
    result = Comparison()
    message = (answer.get("output") or {}).get("message") or {}
    content = message.get("content")
    text = (_first(content) or {}).get("text") if isinstance(_first(content), Mapping) else None
    result.expect("output.message.role", "assistant", message.get("role"), message.get("role") == "assistant")
    result.expect("output.message.content", "a list of one text", _length(content), _length(content) == 1)
    result.expect("output.message.content[0].text", "a text", text, isinstance(text, str) and bool(text))
    if alt_text and isinstance(text, str):
        has_parts = re.search("alt text:", text, re.IGNORECASE) and re.search(
            "description:", text, re.IGNORECASE
        )
        result.expect("text", "the two parts 'Alt text:' and 'Description:'", text, bool(has_parts))
    reason = answer.get("stopReason")
    result.expect("stopReason", "end_turn or max_tokens", reason, reason in ("end_turn", "max_tokens"))
    usage = answer.get("usage") or {}
    used = nova.tokens_used(answer)
    result.number("usage.inputTokens", usage.get("inputTokens"), 1, tokens[0])
    result.number("usage.outputTokens", usage.get("outputTokens"), 1, tokens[1])
    total = usage.get("totalTokens")
    result.expect("usage.totalTokens", "input and output tokens together", total, total == sum(used))
    result.number("metrics.latencyMs", (answer.get("metrics") or {}).get("latencyMs"), 0, 330_000)
    known = ("output", "stopReason", "usage", "metrics", "serviceTier", "ResponseMetadata")
    result.only(answer, (*known, "additionalModelResponseFields", "performanceConfig", "trace"))
    return result.fields


def compare_labels(answer: Mapping[str, Any], least: float) -> list[FieldComparison]:
    """The answer of DetectLabels to a request for labels of at least ``least`` percent confidence."""
    result = Comparison()
    version = answer.get("LabelModelVersion")
    result.expect("LabelModelVersion", "a text", version, isinstance(version, str) and bool(version))
    labels = answer.get("Labels")
    result.expect("Labels", "a list", _length(labels), isinstance(labels, list))
    for index, label in enumerate(labels or ()):
        where = f"Labels[{index}]"
        name = label.get("Name")
        result.expect(f"{where}.Name", "a text", name, isinstance(name, str) and bool(name))
        result.number(f"{where}.Confidence", label.get("Confidence"), least, 100)
        for number, found in enumerate(label.get("Instances") or ()):
            _box(result, f"{where}.Instances[{number}]", found)
    return result.fields


def compare_custom_labels(answer: Mapping[str, Any], least: float) -> list[FieldComparison]:
    """The answer of DetectCustomLabels; which labels a model has, and whether it finds any, is its user's matter."""
    result = Comparison()
    labels = answer.get("CustomLabels")
    result.expect("CustomLabels", "a list", _length(labels), isinstance(labels, list))
    for index, label in enumerate(labels or ()):
        where = f"CustomLabels[{index}]"
        name = label.get("Name")
        result.expect(f"{where}.Name", "a text", name, isinstance(name, str) and bool(name))
        result.number(f"{where}.Confidence", label.get("Confidence"), least, 100)
        if "Geometry" in label:
            _box(result, where, {**label["Geometry"], "Confidence": label.get("Confidence")})
    return result.fields


def compare_mask(share: float, expected: float) -> list[FieldComparison]:
    """The share of the picture that a SAM endpoint's mask covers, where it should cover the ball and nothing else."""
    result = Comparison()
    found = f"{share:.0%} of the picture"
    result.expect("Mask", f"about {expected:.0%} of the picture", found, abs(share - expected) < 0.15)
    return result.fields


def compare_faces(answer: Mapping[str, Any]) -> list[FieldComparison]:
    """The answer of DetectFaces to the trial's picture, which has no face."""
    result = Comparison()
    faces = answer.get("FaceDetails")
    result.expect("FaceDetails", "a list, empty for a picture of a ball", _length(faces), faces == [])
    for index, face in enumerate(faces or ()):
        _box(result, f"FaceDetails[{index}]", face)
    return result.fields


def _box(result: Comparison, where: str, found: Mapping[str, Any]) -> None:
    box = found.get("BoundingBox") or {}
    for side in ("Left", "Top", "Width", "Height"):
        # Boxes of things that are cut off may reach beyond the picture.
        result.number(f"{where}.BoundingBox.{side}", box.get(side), -1, 2)
    result.number(f"{where}.Confidence", found.get("Confidence"), 0, 100)


def _picture(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            described = describe_picture(pybase64.b64decode(value, validate=True))
        except ValueError:
            return None
        return described[PICTURE] if described else None
    return None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list) else None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}… ({len(text):,} characters)"
