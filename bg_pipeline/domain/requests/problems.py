"""Turns validation errors of a request into sentences for its writer, by field."""

import difflib
from collections.abc import Sequence
from typing import Final

from pydantic_core import ErrorDetails

from bg_pipeline.domain.requests.fields import KNOWN, BatchRequest, ImageEntry, Rendition, shown

MAX_PROBLEMS: Final = 100


def problems_of(errors: Sequence[ErrorDetails]) -> list[tuple[str, str]]:
    """All errors by field; only the first `MAX_PROBLEMS`, which `first_of` shows, have a sentence."""
    return [
        (field_of(error["loc"]), _sentence(error) if number < MAX_PROBLEMS else "")
        for number, error in enumerate(errors)
    ]


def first_of(problems: Sequence[tuple[str, str]], where: str = "") -> list[tuple[str, str]]:
    """The first `MAX_PROBLEMS` problems and the number of the others; ``where`` names the part that was checked."""
    more = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], *([("", f"and {more} more problems{where}")] if more > 0 else [])]


def field_of(place: tuple[int | str, ...]) -> str:
    """The path of a field in the request's notation: ``Images[3].Prompt``."""
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:100]}" for step in place)
    return "".join(steps).removeprefix(".")


_SENTENCES: Final = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "contains half a character (a lone surrogate)",
    "string_too_long": "is longer than {max_length:,} characters",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "tuple_type": "must be a list",
    "too_long": "may have at most {max_length} members",
    "dataclass_type": "must be an object",
    "literal_error": "must be {expected}, not {shown}",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "value_error": "{error}",
}


def _sentence(error: ErrorDetails) -> str:
    if error["type"] == "unexpected_keyword_argument":
        return _unknown(error["loc"])
    template = _SENTENCES.get(error["type"])
    if template is None:
        return error["msg"]
    return template.format(**error.get("ctx", {}), shown=shown(error["input"]))


def _unknown(place: tuple[int | str, ...]) -> str:
    where, known = "a request", KNOWN[BatchRequest]
    if "Renditions" in place:
        where, known = "a rendition", KNOWN[Rendition]
    elif "Images" in place:
        where, known = "an image's entry", KNOWN[ImageEntry]
    name = str(place[-1])
    if name in KNOWN[BatchRequest]:
        return f"is not a field of {where} but of the request"
    lower = {field.lower(): field for field in known}
    close = difflib.get_close_matches(name.lower()[:100], lower, 1)
    return f"is not a field of {where}" + (f"; did you mean '{lower[close[0]]}'?" if close else "")
