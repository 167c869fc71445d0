"""Names of results, of files on this machine, and of files in archives."""

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
    """The name that the ``number``-th of ``of`` results of an image would have if no other had it.

    ``number`` counts from 1: prompt-major, and within one picture in the order of its renditions.
    ``format`` and ``source_format`` are keys of ``EXTENSIONS``.
    """
    stem, extension = posixpath.splitext(image)
    name = image if of == 1 else f"{stem}_{number}{extension}"
    return name if format == source_format else f"{name}.{EXTENSIONS[format][0]}"


FILE_NAME_FIELDS: Final = ("name", "ref", "n", "preset")


def file_name_problem(template: str) -> str | None:
    """Why ``template`` cannot be a ``FileName``, in a sentence, or None where it can."""
    if not template.strip("/ "):
        return "is empty"
    if any(unicodedata.category(char) in {"Cc", "Cs"} for char in template):
        return "holds a control character"
    fields = ", ".join(f"{{{field}}}" for field in FILE_NAME_FIELDS)
    rest = _FIELD.sub("", template)
    if "{" in rest or "}" in rest:
        return f"may hold {fields} and no other braces"
    return path_problem(_FIELD.sub("x", template))


def path_problem(name: str) -> str | None:
    """Why ``name``, folders and all, may not be made the path of a file by somebody else; None where it may.

    A slash at its start is no problem, as it is left out.
    """
    if "\\" in name:
        return "holds a backslash"
    for segment in name.split("/"):
        if segment.strip() in {".", ".."}:
            return "holds a '.' or '..' segment"
        if re.match("[A-Za-z]:", segment):
            return f"holds a drive letter, {segment[:2]}"
        if _RESERVED.match(segment):
            return f"holds a name that Windows keeps for itself, {segment[:20]}"
    return None


def file_name(template: str, *, image: str, number: int, ref: str, preset: str, format: str) -> str:
    """A result's name from a ``FileName`` template that ``file_name_problem`` has nothing against.

    ``{name}`` is the image's name without its extension, its folders kept; ``{n}`` is ``number``, as for
    `result_name`. The format's extension is appended where the outcome has it not.
    """
    values = {"name": posixpath.splitext(image)[0], "ref": ref, "n": str(number), "preset": preset}
    filled = _FIELD.sub(lambda match: values[match[1]], template)
    name = "/".join(segment for segment in filled.split("/") if segment)
    extension = posixpath.splitext(name)[1].lower()
    return name if extension[1:] in EXTENSIONS[format] else f"{name}.{EXTENSIONS[format][0]}"


_FIELD = re.compile("{(" + "|".join(FILE_NAME_FIELDS) + ")}")


class ResultNames:
    """The names of one batch's results: no two share one, and none is another input's name.

    ``images`` are the names of all inputs of the batch, not copied. ``kept`` are the names assigned before, by image
    and number; they stay bound to both and are never given to another, even where an input of that name has come
    since.
    With the same ``kept``, the same questions get the same answers in whatever order they are asked,
    unless two images would have the same new name; then the first to ask has it. Threads may share one object.
    """

    def __init__(self, images: Container[str], kept: Mapping[tuple[str, int], str]) -> None:
        self._inputs = images
        self._kept = dict(kept)
        self._owner: dict[str, tuple[str, int]] = {}
        for slot, name in kept.items():
            self._owner.setdefault(name, slot)
        self._lock = threading.Lock()

    def assign(self, image: str, number: int, candidate: str, format: str) -> str:
        """The name of an image's result: ``candidate``, or ``<image>~<n>.<ext>`` where that is not free.

        ``number`` counts the image's results from 1. A kept name is given back while ``candidate`` is still what it
        was given for; once the settings ask for another (more results, another format), so is another name.
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

_MAX_LOCAL_BYTES = 200  # of the 255 that file systems take, so that a caller may add an ending


def local_path(folder: Path, name: str) -> Path:
    """A file directly inside ``folder`` for ``name``, whatever it holds; different names have different files.

    A slash and what a file system gives a meaning to are percent-escaped (``a/b.jpg`` → ``a%2Fb.jpg``, ``..`` →
    ``%2E%2E``), names that are too long end in their digest. File systems that take two spellings for one
    (capitals, composed accents) do so with these names too.
    """
    return folder / _local_name(name)


def archive_path(name: str) -> str:
    """The path of ``name`` in an archive that people unpack: its folders stay, and none leads out of where they are.

    Each segment is what `local_path` makes of it, so different names have different paths.
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
