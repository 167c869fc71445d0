"""Matches names that look the same in two Unicode forms: é as one character (NFC), or as e and an accent (NFD).

macOS writes NFD and most other systems NFC; S3 treats the two as different names.
"""

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
