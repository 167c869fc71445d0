"""Fills the placeholders of prompts without exceeding a model's length limit."""

import posixpath
import re
from collections.abc import Iterable, Mapping

from bg_pipeline.domain.requests.placeholders import PLACEHOLDERS
from bg_pipeline.domain.requests.resolved import ImageSettings
from bg_pipeline.errors import ImageError

_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")


def placeholders(template: str) -> frozenset[str]:
    """The names of the placeholders in a prompt: some of ``caption``, ``labels``, ``name``, ``ref``."""
    return frozenset(_PLACEHOLDER.findall(template))


def placeholder_values(settings: ImageSettings, *, caption: str, labels: str) -> dict[str, str]:
    """The values of the placeholders in an image's prompts; ``name`` is without folders and extension."""
    name = posixpath.splitext(posixpath.basename(settings.image))[0]
    return {"caption": caption, "labels": labels, "name": name, "ref": settings.ref}


def fill(template: str, values: Mapping[str, str], limit: int, field: str = "Prompt") -> str:
    """``template`` with each ``{name}`` replaced by its value, at most ``limit`` characters long.

    Nothing else in the template and nothing in the values is special. If the text is too long, the longest values
    are cut first, at a word; the template itself never is. Raises `ImageError` if the template alone is too long or
    if the result is empty.
    """
    lines = {name: " ".join(value.split()) for name, value in values.items()}

    def filled(max_length: int) -> str:
        return _PLACEHOLDER.sub(
            lambda match: _cut(lines[match[1]], max_length) if match[1] in lines else match[0], template
        )

    own_length = len(filled(0))
    if own_length > limit:
        raise ImageError(
            "PromptTooLong",
            f"{field} has {own_length} characters without its values and the model takes {limit}; "
            f"shorten it by {own_length - limit}",
        )
    lengths = [len(lines[name]) for name in _PLACEHOLDER.findall(template) if name in lines]
    text = filled(_fair_share(lengths, limit - own_length))
    if template.strip() and not text.strip():
        raise ImageError("NoPrompt", f"{field} is empty once its values are filled in; add words of your own")
    return text


def _fair_share(lengths: Iterable[int], room: int) -> int:
    """The maximum length to which each value must be cut so that all fit into ``room`` characters together."""
    ordered = sorted(lengths)
    for number, length in enumerate(ordered):
        share = room // (len(ordered) - number)
        if length > share:
            return share
        room -= length
    return ordered[-1] if ordered else 0


def _cut(line: str, max_length: int) -> str:
    if len(line) <= max_length:
        return line
    return line[: max_length + 1].rpartition(" ")[0].rstrip(" ,;:-–—")
