"""Prompts: their placeholders, and how these are filled without passing a model's limit."""

import posixpath
import re
from collections.abc import Iterable, Mapping

from bg_pipeline.domain.requests.placeholders import PLACEHOLDERS
from bg_pipeline.domain.requests.resolved import ImageSettings
from bg_pipeline.errors import ImageError

_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")


def placeholders(template: str) -> frozenset[str]:
    """The names of the values that a prompt wants: some of ``caption``, ``labels``, ``name``, ``ref``."""
    return frozenset(_PLACEHOLDER.findall(template))


def placeholder_values(settings: ImageSettings, *, caption: str, labels: str) -> dict[str, str]:
    """The values for an image's prompts; its name is without folders and extension."""
    name = posixpath.splitext(posixpath.basename(settings.image))[0]
    return {"caption": caption, "labels": labels, "name": name, "ref": settings.ref}


def fill(template: str, values: Mapping[str, str], limit: int, field: str = "Prompt") -> str:
    """``template`` with the values in the place of their ``{names}``, at most ``limit`` characters long.

    Nothing else in it is special, nor anything in the values. The longest values are cut first, at a word; the
    writer's own words never are. An `ImageError` where these alone are too long, or where nothing is left at all.
    """
    lines = {name: " ".join(value.split()) for name, value in values.items()}

    def filled(most: int) -> str:
        return _PLACEHOLDER.sub(
            lambda one: _cut(lines[one[1]], most) if one[1] in lines else one[0], template
        )

    own = len(filled(0))
    if own > limit:
        raise ImageError(
            "PromptTooLong",
            f"{field} has {own} characters without its values and the model takes {limit}; "
            f"shorten it by {own - limit}",
        )
    lengths = [len(lines[name]) for name in _PLACEHOLDER.findall(template) if name in lines]
    text = filled(_fair_share(lengths, limit - own))
    if template.strip() and not text.strip():
        raise ImageError("NoPrompt", f"{field} is empty once its values are filled in; add words of your own")
    return text


def _fair_share(lengths: Iterable[int], room: int) -> int:
    """The length to which the longest must be cut for all to fit into ``room`` together."""
    ordered = sorted(lengths)
    for done, length in enumerate(ordered):
        share = room // (len(ordered) - done)
        if length > share:
            return share
        room -= length
    return ordered[-1] if ordered else 0


def _cut(line: str, most: int) -> str:
    if len(line) <= most:
        return line
    return line[: most + 1].rpartition(" ")[0].rstrip(" ,;:-–—")
