"""Placeholders in what people write: those that are filled in, those misspelt, and those that were left in."""

import difflib
import re
from collections.abc import Sequence
from typing import Final

PLACEHOLDERS: Final = ("caption", "labels", "name", "ref")
"""What a prompt may hold in braces."""

# One word in braces. Other braces, as of JSON or {}, are text.
_WORD = re.compile(r"\{\s*(\w[\w.-]*)\s*\}")
# A whole text between angle brackets is an example that was not replaced.
_EXAMPLE = re.compile(r"\s*<[^<>]+>\s*")
_LEFT_IN = re.compile(
    r"<[^<>/]*>"
    r"|\$?\{[^{}/]*\}"
    r"|\$\([^()/]*\)"
    r"|%[YmdHMS](?![0-9A-Fa-f])"
    r"|\[(?:year|month|day|date|batch|bucket|name|your[^\]/]*)\]"
    r"|(?<![^/_-])(?:YYYY|yyyy)(?:MMDD|mmdd)?(?![^/_-])"
    r"|(?<=/)(?:MM/DD|mm/dd)(?![^/_-])"
)


def unknown_placeholder(text: str, known: Sequence[str] = PLACEHOLDERS) -> str | None:
    """What is wrong with the first word in braces that is none of ``known``, in words; None where all are."""
    for found in _WORD.finditer(text):
        name = found[1]
        if name in known and found[0] == f"{{{name}}}":
            continue
        close = difflib.get_close_matches(name.lower()[:100], known, 1, 0.5)
        if not close and found[0] != f"{{{name}}}":
            # With blanks around it, a word that resembles none is more likely text.
            continue
        meant = f"; did you mean {{{close[0]}}}?" if close else ""
        return f"unknown placeholder {found[0][:60]}{meant}"
    return None


def prompt_problem(text: str) -> str | None:
    """Why a prompt would be painted with a placeholder in it, in a sentence, or None."""
    if problem := unknown_placeholder(text):
        if "did you mean" in problem:
            return problem
        return f"{problem}; there are {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}"
    if _EXAMPLE.fullmatch(text):
        return f"a placeholder was left in: {text.strip()[:60]}"
    return None


def plain_problem(text: str) -> str | None:
    """Why a text in which nothing is filled in would be sent with a placeholder in it, or None."""
    found = _WORD.search(text)
    if found and found[1].lower() in PLACEHOLDERS:
        return f"{found[0]} is filled in only in Prompt and Prompts; write the words themselves"
    return prompt_problem(text)


def left_in(place: str) -> str | None:
    """The placeholder that was left in a key, a prefix or the name of a bucket, or None."""
    found = _LEFT_IN.search(place)
    return found[0] if found else None
