"""Names that look the same and are spelt in two ways: é is one character, or an e and an accent (NFC and NFD).

Macs write the second form, most else the first, and S3 takes them for two names.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping


def same_name(name: str) -> str:
    """The form that all spellings of a name have in common."""
    return unicodedata.normalize("NFC", name)


def normal_forms(name: str, existing: Iterable[str]) -> list[str]:
    """Those of ``existing`` that look as ``name`` does: itself alone where it is there, else all, sorted."""
    alike = sorted(each for each in existing if same_name(each) == same_name(name))
    return [name] if name in alike else alike


def match_names(wanted: Iterable[str], existing: Collection[str]) -> Mapping[str, str]:
    """Which of ``existing`` each of ``wanted`` means; what means none, or may mean several, is not in the answer.

    A name that is there means itself. One that is not means the one that looks the same, if there is just one
    and no other of ``wanted`` means that. ``existing`` should find its members fast.
    """
    asked = list(dict.fromkeys(wanted))
    found = {name: name for name in asked if name in existing}
    # ASCII has one spelling only.
    missing = [name for name in asked if name not in found and not name.isascii()]
    if not missing:
        return found
    alike: dict[str, list[str]] = defaultdict(list)
    for name in existing:
        if not name.isascii() and name not in found:
            alike[same_name(name)].append(name)
    claimed: dict[str, list[str]] = defaultdict(list)
    for name in missing:
        claimed[same_name(name)].append(name)
    for form, names in claimed.items():
        if len(names) == 1 and len(alike[form]) == 1:
            found[names[0]] = alike[form][0]
    return found
