"""Prints the name, version and licence of every package that is pinned in constraints.txt and installed here.

``make licenses``. It needs no network and not the bg_pipeline package. A package without a statement is listed as
UNKNOWN, and then the exit code is 1.
"""

import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

UNKNOWN = "UNKNOWN"
CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def pinned(constraints: str) -> list[str]:
    """The names of the packages that a constraints file pins to a version."""
    return [line.partition("==")[0].strip() for line in constraints.splitlines() if "==" in line]


def licence_of(package: Distribution) -> str:
    """The licence that a package states.

    That is its SPDX expression, else its classifiers, else the first line of its licence field or licence file.
    """
    stated = package.metadata
    if expression := stated.get("License-Expression"):
        return expression
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in stated.get_all("Classifier") or ()
        if each.startswith("License ::") and each != "License :: OSI Approved"
    ]
    if classifiers:
        return ", ".join(classifiers)
    files = [file for file in package.files or () if file.name.upper().startswith(("LICEN", "COPYING"))]
    for text in [stated.get("License") or "", *(file.read_text() for file in files)]:
        lines = text.strip().splitlines()
        if lines and lines[0].upper() != UNKNOWN:
            return lines[0][:60]
    return UNKNOWN


def rows(names: list[str]) -> list[tuple[str, str, str]]:
    """Name, version and licence of the packages among ``names`` that are installed."""
    found = []
    for name in names:
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found.append((name, package.version, licence_of(package)))
    return found


if __name__ == "__main__":
    listed = rows(pinned(CONSTRAINTS.read_text(encoding="utf-8")))
    for name, version, licence in listed:
        print(f"{name:32} {version:16} {licence}")
    sys.exit(any(licence == UNKNOWN for _, _, licence in listed))
