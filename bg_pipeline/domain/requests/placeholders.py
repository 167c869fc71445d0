"""Placeholders in requests: valid ones, misspelt ones, and template text that was not replaced."""

import difflib
import re
from collections.abc import Sequence
from typing import Final

PLACEHOLDERS: Final = ("caption", "labels", "name", "ref")
"""Names that a prompt may contain in braces."""

# One word in braces. Other braces, such as {} or those of JSON, are plain text.
_WORD = re.compile(r"\{\s*(\w[\w.-]*)\s*\}")
# A text that is completely in angle brackets is an example that was not replaced.
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
    """A sentence about the first word in braces that is not in ``known``; None if there is none."""
    for match in _WORD.finditer(text):
        name = match[1]
        if name in known and match[0] == f"{{{name}}}":
            continue
        close = difflib.get_close_matches(name.lower()[:100], known, 1, 0.5)
        if not close and match[0] != f"{{{name}}}":
            # A word with spaces inside the braces that resembles no placeholder is probably plain text.
            continue
        hint = f"; did you mean {{{close[0]}}}?" if close else ""
        return f"unknown placeholder {match[0][:60]}{hint}"
    return None


def prompt_problem(text: str) -> str | None:
    """A sentence about a placeholder that would stay in a prompt, or None."""
    if problem := unknown_placeholder(text):
        if "did you mean" in problem:
            return problem
        return f"{problem}; valid are {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}"
    if _EXAMPLE.fullmatch(text):
        return f"a placeholder was left in: {text.strip()[:60]}"
    return None


def plain_problem(text: str) -> str | None:
    """A sentence about a placeholder in a field in which placeholders are not replaced, or None."""
    match = _WORD.search(text)
    if match and match[1].lower() in PLACEHOLDERS:
        return f"{match[0]} is filled in only in Prompt and Prompts; write the words themselves"
    return prompt_problem(text)


def left_in(place: str) -> str | None:
    """The placeholder that was not replaced in a key, a prefix or a bucket name, or None."""
    match = _LEFT_IN.search(place)
    return match[0] if match else None
