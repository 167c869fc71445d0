"""Matches names that look the same in two Unicode forms: é as one character (NFC), or as e and an accent (NFD).

macOS writes NFD and most other systems NFC; S3 treats the two as different names.
"""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping


def same_name(name: str) -> str:
    """The NFC form of a name, which is equal for all names that look the same."""
    return unicodedata.normalize("NFC", name)


def normal_forms(name: str, existing: Iterable[str]) -> list[str]:
    """``[name]`` if it is in ``existing``, else all names in ``existing`` that look like it, sorted."""
    matches = sorted(other for other in existing if same_name(other) == same_name(name))
    return [name] if name in matches else matches


_ALIKE = str.maketrans(
    {"’": "'", "‘": "'", "`": "'", "“": '"', "”": '"', "–": "-", "—": "-", "‐": "-", "‑": "-", "−": "-"}
)


def _at_a_glance(name: str) -> str:
    """A form that is equal for names that people take for the same: case, spaces, dashes, quotes, accents."""
    folded = unicodedata.normalize("NFKC", name.replace("\\", "/")).translate(_ALIKE).casefold()
    seen = "".join(char for char in folded if unicodedata.category(char) not in ("Cf", "Cc", "Mn"))
    return re.sub(r"\s+", "", seen)


def similar_name(name: str, existing: Iterable[str]) -> str:
    """The name in ``existing`` that was probably meant by ``name``; empty if none is close, or several are equal."""
    names = list(existing)
    wanted = _at_a_glance(name)
    alike = [other for other in names if _at_a_glance(other) == wanted]
    if alike:
        return alike[0] if len(alike) == 1 else ""
    # Another ending of the same kind of picture, such as jpeg for jpg.
    stems = [other for other in names if _at_a_glance(other).rpartition(".")[0] == wanted.rpartition(".")[0]]
    if stems and "." in wanted:
        return stems[0] if len(stems) == 1 else ""
    return next(iter(difflib.get_close_matches(name, names[:2000], 1, 0.85)), "")


def match_names(wanted: Iterable[str], existing: Collection[str]) -> Mapping[str, str]:
    """The name in ``existing`` that each of ``wanted`` means; names without a unique match are left out.

    A name in ``existing`` means itself. Any other means the only name that looks the same, unless another of
    ``wanted`` looks the same too. ``existing`` should be fast to search, such as a set.
    """
    unique = list(dict.fromkeys(wanted))
    result = {name: name for name in unique if name in existing}
    # ASCII names have only one form.
    missing = [name for name in unique if name not in result and not name.isascii()]
    if not missing:
        return result
    candidates: dict[str, list[str]] = defaultdict(list)
    for name in existing:
        if not name.isascii() and name not in result:
            candidates[same_name(name)].append(name)
    missing_by_form: dict[str, list[str]] = defaultdict(list)
    for name in missing:
        missing_by_form[same_name(name)].append(name)
    for form, names in missing_by_form.items():
        if len(names) == 1 and len(candidates[form]) == 1:
            result[names[0]] = candidates[form][0]
    return result
