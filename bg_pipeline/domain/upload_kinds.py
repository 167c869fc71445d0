"""The kinds of objects in a batch's folder: image, request, sidecar and so on, recognized by name."""

import posixpath
from collections.abc import Iterable
from enum import Enum
from typing import Final

from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.s3_keys import APPROVAL, DRAFT, REQUEST

_PICTURE_ENDINGS: Final = frozenset(ending for endings in EXTENSIONS.values() for ending in endings)


class Kind(Enum):
    """The kind of an object in a batch's folder."""

    IMAGE = "image"
    REQUEST = "request"
    DRAFT = "draft"
    APPROVAL = "approval"
    OTHER_JSON = "other JSON"
    DOT_FILE = "dot-file"
    SIDECAR = "sidecar"
    FOLDER = "folder marker"


NAMEABLE: Final = frozenset({Kind.IMAGE, Kind.DOT_FILE, Kind.SIDECAR})
"""Kinds that a request may list under ``Images``; only the first is an image without being listed."""

_SIDECAR_ENDINGS: Final = (".aae", ".xmp", ".thm", ".lrv", ".pp3", ".dop", ".on1")

_SIDECAR_NAMES: Final = frozenset(
    {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"}
)

_SIDECAR_FOLDERS: Final = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin"})

_FILM_ENDINGS: Final = (".mov", ".mp4")


def kind_of(name: str) -> Kind:
    """The kind of the object ``name`` inside a batch's folder, by its name alone.

    A dot-file or a sidecar (a file that cameras, programs and systems store with photos) becomes an image if a
    request lists it under ``Images``. An object that a request names as a mask or a backdrop is not an image. Other
    kinds never become images. Whether a film is a sidecar depends on other names: see `films_of_photos`.
    """
    if name == "" or name.endswith("/"):
        return Kind.FOLDER
    if name == REQUEST:
        return Kind.REQUEST
    if name == DRAFT:
        return Kind.DRAFT
    if name == APPROVAL:
        return Kind.APPROVAL
    lower = name.lower()
    if lower.endswith(".json"):
        return Kind.OTHER_JSON
    folder, _, last = lower.rpartition("/")
    if last.startswith("."):
        return Kind.DOT_FILE
    if last in _SIDECAR_NAMES or last.endswith(_SIDECAR_ENDINGS):
        return Kind.SIDECAR
    return Kind.SIDECAR if folder and _SIDECAR_FOLDERS.intersection(folder.split("/")) else Kind.IMAGE


def live_photo_videos(names: Iterable[str]) -> frozenset[str]:
    """The films among a batch's names that belong to a photo of the same name (``IMG_1.MOV`` with ``IMG_1.HEIC``).

    They are sidecars. A film without a photo is not, and is reported as an image that cannot be read.
    """
    names = list(names)
    films = [name for name in names if name.lower().endswith(_FILM_ENDINGS)]
    if not films:
        return frozenset()
    parts = (posixpath.splitext(name.lower()) for name in names)
    photos = {stem for stem, ending in parts if ending[1:] in _PICTURE_ENDINGS}
    return frozenset(name for name in films if posixpath.splitext(name.lower())[0] in photos)


def is_misspelt_request(name: str) -> bool:
    """Whether ``name`` looks like a misspelt ``request.json``: with capitals, spaces or a second extension."""
    return name != REQUEST and name.strip().lower() in (REQUEST, f"{REQUEST}.json", f"{REQUEST}.txt")
