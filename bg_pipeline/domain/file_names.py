"""File names: of results, of files on this machine and of files in archives."""

import hashlib
import posixpath
import re
import threading
import unicodedata
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Final

from bg_pipeline.domain.formats import EXTENSIONS


def result_name(image: str, *, number: int, of: int, format: str, source_format: str) -> str:
    """The default name of result ``number`` of an image with ``of`` results; `ResultNames` makes it unique.

    ``number`` counts from 1 over prompts, variants and renditions, in this nesting order. ``format`` and
    ``source_format`` are keys of `EXTENSIONS`.
    """
    stem, extension = posixpath.splitext(image)
    name = image if of == 1 else f"{stem}_{number}{extension}"
    return name if format == source_format else f"{name}.{EXTENSIONS[format][0]}"


FILE_NAME_FIELDS: Final = ("name", "ref", "n", "preset")


def file_name_problem(template: str) -> str | None:
    """Why ``template`` is not a valid ``FileName``, as the end of a sentence, or None if it is valid."""
    if not template.strip("/ "):
        return "is empty"
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in template):
        return "contains a control character"
    fields = ", ".join(f"{{{field}}}" for field in FILE_NAME_FIELDS)
    rest = _FIELD.sub("", template)
    if "{" in rest or "}" in rest:
        return f"may contain {fields} and no other braces"
    return path_problem(_FIELD.sub("x", template))


def path_problem(name: str) -> str | None:
    """Why ``name``, which may contain folders, is unsafe or invalid as a file path somewhere, or None.

    A slash at its start is allowed because it is removed.
    """
    if "\\" in name:
        return "contains a backslash"
    for segment in name.split("/"):
        if segment.strip() in {".", ".."}:
            return "contains a '.' or '..' segment"
        if re.match("[A-Za-z]:", segment):
            return f"contains a drive letter, {segment[:2]}"
        if _RESERVED.match(segment):
            return f"contains a name that Windows reserves, {segment[:20]}"
    return None


def file_name(template: str, *, image: str, number: int, ref: str, preset: str, format: str) -> str:
    """A result's name from a ``FileName`` template, for which `file_name_problem` returned None.

    ``{name}`` is the image's name with its folders and without its extension; ``{n}`` is ``number``, as for
    `result_name`. The format's extension is appended if the filled template does not end in it.
    """
    values = {"name": posixpath.splitext(image)[0], "ref": ref, "n": str(number), "preset": preset}
    filled = _FIELD.sub(lambda match: values[match[1]], template)
    name = "/".join(segment for segment in filled.split("/") if segment)
    extension = posixpath.splitext(name)[1].lower()
    return name if extension[1:] in EXTENSIONS[format] else f"{name}.{EXTENSIONS[format][0]}"


_FIELD = re.compile("{(" + "|".join(FILE_NAME_FIELDS) + ")}")


class ResultNames:
    """Assigns the names of one batch's results: unique, and never the name of another image of the batch.

    ``images`` are the names of all images of the batch; the container is not copied. ``kept`` are the names assigned
    in earlier runs, by image and number; each stays reserved for them, even if an image of that name was uploaded
    since. For the same ``kept`` the assigned names do not depend on the order of calls, unless two images would get
    the same new name: then the first call gets it. Thread-safe.
    """

    def __init__(self, images: Container[str], kept: Mapping[tuple[str, int], str]) -> None:
        self._inputs = images
        self._kept = dict(kept)
        self._owner: dict[str, tuple[str, int]] = {}
        for slot, name in kept.items():
            self._owner.setdefault(name, slot)
        self._lock = threading.Lock()

    def assign(self, image: str, number: int, candidate: str, format: str) -> str:
        """The name of an image's result: ``candidate``, or ``<image>~<n>.<ext>`` if that is taken.

        ``number`` counts the image's results from 1. A kept name is returned as long as it was assigned for the same
        ``candidate``; if the settings lead to another candidate (more results, another format), a new name is.
        """
        slot = (image, number)
        extension = posixpath.splitext(candidate)[1] or f".{EXTENSIONS[format][0]}"
        with self._lock:
            kept = self._kept.get(slot, "")
            if self._owner.get(kept) == slot and _stands_for(kept, image, candidate, extension):
                return kept
            name, n = candidate, number
            while self._owner.get(name, slot) != slot or (name in self._inputs and name != image):
                name, n = f"{image}~{n}{extension}", n + 1
            self._kept[slot] = name
            self._owner[name] = slot
            return name


def _stands_for(kept: str, image: str, candidate: str, extension: str) -> bool:
    if kept == candidate:
        return True
    number = kept.removeprefix(f"{image}~").removesuffix(extension)
    return kept == f"{image}~{number}{extension}" and number.isdecimal()


_UNSAFE = frozenset('/\\:*?"<>|%')

_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)

_MAX_LOCAL_BYTES = 200  # File systems allow 255; the rest is for extensions that callers add.


def local_path(folder: Path, name: str) -> Path:
    """The path of a file directly inside ``folder`` for any ``name``; different names get different files.

    Slashes and characters with a meaning for file systems are percent-escaped (``a/b.jpg`` → ``a%2Fb.jpg``, ``..`` →
    ``%2E%2E``); names that are too long are cut and end in their digest. File systems that ignore case or the
    encoding of accents can still take two of these names for the same file.
    """
    return folder / _local_name(name)


def archive_path(name: str) -> str:
    """The path of ``name`` in an archive: it keeps its folders and never leads out of the folder of unpacking.

    Each segment is escaped as in `local_path`, so different names get different paths.
    """
    return "/".join(_local_name(segment) for segment in name.split("/"))


def _local_name(name: str) -> str:
    safe = "".join(_escaped(char) if _has_meaning(char) else char for char in name)
    if safe[:1] == "." or _RESERVED.match(safe):
        safe = _escaped(safe[0]) + safe[1:]
    if safe[-1:] in {".", " "}:
        safe = safe[:-1] + _escaped(safe[-1])
    if len(safe.encode()) > _MAX_LOCAL_BYTES:
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
        ending = posixpath.splitext(safe)[1]
        ending = f"%~{digest}{ending if len(ending.encode()) <= 12 else ''}"
        safe = safe.encode()[: _MAX_LOCAL_BYTES - len(ending.encode())].decode(errors="ignore") + ending
    return safe or "%"


def _has_meaning(char: str) -> bool:
    return char in _UNSAFE or unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"}


def _escaped(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode(errors="surrogatepass"))
