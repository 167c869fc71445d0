"""What each object in a batch's folder is: an image, a request, a sidecar, ..."""

import posixpath
from collections.abc import Iterable
from enum import Enum
from typing import Final

from bg_pipeline.domain.formats import EXTENSIONS
from bg_pipeline.domain.s3_keys import APPROVAL, DRAFT, REQUEST

_PICTURE_ENDINGS: Final = frozenset(ending for endings in EXTENSIONS.values() for ending in endings)


class Kind(Enum):
    """What an object in a batch's folder is."""

    IMAGE = "image"
    REQUEST = "request"
    DRAFT = "draft"
    APPROVAL = "approval"
    OTHER_JSON = "other JSON"
    DOT_FILE = "dot-file"
    SIDECAR = "sidecar"
    FOLDER = "folder marker"


NAMEABLE: Final = frozenset({Kind.IMAGE, Kind.DOT_FILE, Kind.SIDECAR})
"""What a request may list under ``Images``: only the first is an image without that."""

_SIDECAR_ENDINGS: Final = (".aae", ".xmp", ".thm", ".lrv", ".pp3", ".dop", ".on1")

_SIDECAR_NAMES: Final = frozenset(
    {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"}
)

_SIDECAR_FOLDERS: Final = frozenset({"__macosx", "@eadir", "#recycle", "$recycle.bin"})

_FILM_ENDINGS: Final = (".mov", ".mp4")


def kind_of(name: str) -> Kind:
    """What the object called ``name`` inside a batch's folder is, by its name alone.

    A request that lists a dot-file or a sidecar (what cameras, programs and systems put beside photos) under
    ``Images`` makes an image of it, and one that names an object as a mask or a backdrop takes it out of the
    images; nothing makes an image of the other kinds. Of a film only `films_of_photos` tells whether it is one.
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


def films_of_photos(names: Iterable[str]) -> frozenset[str]:
    """Those of a batch's names that are the film of a photo beside them (``IMG_1.MOV`` with ``IMG_1.HEIC``).

    They are sidecars; a film without its photo is not, and is told as a file that is no picture.
    """
    names = list(names)
    films = [name for name in names if name.lower().endswith(_FILM_ENDINGS)]
    if not films:
        return frozenset()
    parts = (posixpath.splitext(name.lower()) for name in names)
    photos = {stem for stem, ending in parts if ending[1:] in _PICTURE_ENDINGS}
    return frozenset(name for name in films if posixpath.splitext(name.lower())[0] in photos)


def is_misspelt_request(name: str) -> bool:
    """Whether an object is meant as the request and is none, as its name has capitals or a second ending."""
    return name != REQUEST and name.strip().lower() in (REQUEST, f"{REQUEST}.json", f"{REQUEST}.txt")
