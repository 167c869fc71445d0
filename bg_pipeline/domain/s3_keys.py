"""Every S3 key and every result's name, made and parsed here and nowhere else.

A prefix never ends with a slash; ``within`` puts a name under it. Names are taken as they come (spaces,
``+``, ``%``, quotes, emoji, ``..``, sub-folders): S3 knows no folders and resolves nothing, so a key is its
prefix, a slash and the name, unchanged. Only what is written on this machine is mapped, by ``local_path``.

No two documents share a key. Labels, captions, masks, ledger and payloads append to the image's whole name
inside their own top-level prefix. Provenance lies beside its result as ``<result name>.json``, and nothing
that ends in ``.json`` is an image or a result, so that no provenance is ever a result's key.
"""

import datetime
import hashlib
import posixpath
import re
import threading
import unicodedata
import uuid
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from bg_pipeline.errors import ImageError

UploadDate = datetime.date
"""The date in a key: the day of the upload in UTC, and the partition."""

UPLOADS: Final = "image-files"
LABELS: Final = "image-labels"
CAPTIONS: Final = "image-captions"
MASKS: Final = "image-masks"
RESULTS: Final = "generated-image-files"
REPORTS: Final = "status-report-files"
STATE: Final = "pipeline-state"
HEARTBEATS: Final = f"{STATE}/heartbeats"
PAYLOADS: Final = "model-payloads"
REVIEWS: Final = "reviews"
PUBLISHED: Final = "published"
ARCHIVE: Final = "archive"
ASSETS: Final = "assets"
OUTPUTS: Final = "outputs"
PHOTOS: Final = "photo"

REQUEST: Final = "request.json"
DRAFT: Final = "draft.json"
APPROVAL: Final = "approved.json"
MANIFEST: Final = ".manifest.csv"
"""The table that a batch was asked for with, if it was; a dot-file, so that it is no image."""

MAX_KEY_BYTES: Final = 1024
"""What S3 takes, in bytes of UTF-8 (Amazon S3 user guide, "Naming Amazon S3 objects")."""

MAX_PREFIX_BYTES: Final = 800
"""The longest batch name or prefix: with it every document of a batch but an image's own has a valid key."""

EXTENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "jpeg": ("jpg", "jpeg", "jpe", "jfif"),
    "png": ("png",),
    "webp": ("webp",),
    "tiff": ("tif", "tiff"),
    "bmp": ("bmp",),
    "gif": ("gif",),
    "heif": ("heic", "heif"),
    "avif": ("avif",),
}
"""File name extensions by picture format, the one that is written first."""

_PICTURE_ENDINGS: Final = frozenset(ending for endings in EXTENSIONS.values() for ending in endings)

_DATED = re.compile(r"([0-9]{4})/([0-9]{2})/([0-9]{2})/([^/]+)(?:/(.*))?", re.DOTALL)
_ORDER = re.compile(r"api-[0-9]{6}-[0-9a-f]{16}")
_DATED_PREFIXES = (UPLOADS, LABELS, CAPTIONS, MASKS, RESULTS, REPORTS, PAYLOADS, REVIEWS, PUBLISHED, ARCHIVE)


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


def within(prefix: str, name: str) -> str:
    """The key of ``name`` under ``prefix``; an ``ImageError`` where it is longer than S3 takes."""
    key = f"{prefix}/{name}"
    excess = len(key.encode()) - MAX_KEY_BYTES
    if excess > 0:
        raise ImageError(
            "KeyTooLong",
            f"'{name}' makes a key under '{prefix}' that is {excess} bytes longer than the {MAX_KEY_BYTES} "
            "that S3 takes; give the image or its folders a shorter name",
        )
    return key


def date_path(date: UploadDate) -> str:
    """``YYYY/MM/DD``."""
    return f"{date.year:04}/{date.month:02}/{date.day:02}"


def uploads_of(date: UploadDate) -> str:
    """The prefix that holds all batches of a date."""
    return f"{UPLOADS}/{date_path(date)}"


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """One folder of uploads: the date and one path segment, which may hold any character but a slash.

    A ``ValueError`` where ``name`` is empty, holds a slash, or is longer than ``MAX_PREFIX_BYTES``.
    """

    date: UploadDate
    name: str

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or len(self.name.encode()) > MAX_PREFIX_BYTES:
            raise ValueError(f"not the name of a batch: {self.name[:100]!r}")

    @property
    def path(self) -> str:
        """``YYYY/MM/DD/<batch>``, the part that all its keys have in common."""
        return f"{date_path(self.date)}/{self.name}"

    @property
    def is_order(self) -> bool:
        """Whether it is a call of the one-image API: nobody asked for more than its picture."""
        return _ORDER.fullmatch(self.name) is not None

    @property
    def input_prefix(self) -> str:
        return f"{UPLOADS}/{self.path}"

    @property
    def output_prefix(self) -> str:
        """Where its results go unless its request says otherwise."""
        return f"{RESULTS}/{self.path}"

    @property
    def status_prefix(self) -> str:
        """Where its reports go unless its request says otherwise."""
        return f"{REPORTS}/{self.path}"

    @property
    def request_key(self) -> str:
        return within(self.input_prefix, REQUEST)

    @property
    def draft_key(self) -> str:
        return within(self.input_prefix, DRAFT)

    @property
    def approval_key(self) -> str:
        """What says that a person approved its sample; among the uploads, so that sensors see it come."""
        return within(self.input_prefix, APPROVAL)

    @property
    def manifest_key(self) -> str:
        return within(self.input_prefix, MANIFEST)

    def derived_id(self, bucket: str) -> str:
        """The ``Id`` of a batch whose request is absent or cannot be read: the same one every time."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"s3://{bucket}/{self.input_prefix}"))

    def upload_key(self, image: str) -> str:
        return within(self.input_prefix, image)

    def labels_key(self, image: str) -> str:
        return within(f"{LABELS}/{self.path}", f"{image}.json")

    def caption_key(self, image: str) -> str:
        return within(f"{CAPTIONS}/{self.path}", f"{image}.json")

    def mask_key(self, image: str) -> str:
        return within(f"{MASKS}/{self.path}", f"{image}.png")

    def archive_key(self, image: str) -> str:
        return within(f"{ARCHIVE}/{self.path}", image)

    def payload_key(self, image: str, call: str) -> str:
        """Where one model call's exact JSON is kept; ``call`` is one path segment without extension."""
        return within(f"{PAYLOADS}/{self.path}/{image}", f"{call}.json")

    @property
    def ledger_prefix(self) -> str:
        return f"{STATE}/ledger/{self.path}"

    def ledger_key(self, name: str) -> str:
        return within(self.ledger_prefix, name)

    @property
    def thumbnails_key(self) -> str:
        """The small pictures of all its photos and results together."""
        return within(f"{STATE}/thumbnails", f"{self.path}.jsonl")

    @property
    def published_list_key(self) -> str:
        """What was published of it."""
        return within(f"{STATE}/published", f"{self.path}.json")

    @property
    def lease_key(self) -> str:
        return within(f"{STATE}/leases", f"{self.path}.json")

    @property
    def spend_key(self) -> str:
        """What all runs of this batch spent together."""
        return within(f"{STATE}/spend/batches", f"{self.path}.json")

    @property
    def family_spend_key(self) -> str:
        """What this batch and all that is asked for again of it spent together, where it has a cap."""
        return within(f"{STATE}/spend/families", f"{self.path}.json")


@dataclass(frozen=True, slots=True)
class Upload:
    """One object under ``image-files/``: its batch, its name in the batch's folder, and what it is."""

    batch: Batch
    name: str
    kind: Kind


def parse_upload(key: str) -> Upload | None:
    """What an object under ``image-files/`` is, or None where no batch's folder holds it (a stray).

    ``parse_upload(batch.upload_key(name))`` gives back the batch and the name, whatever they hold.
    """
    top, _, rest = key.partition("/")
    if top != UPLOADS:
        return None
    batch, name = _split(rest)
    return None if batch is None or name is None else Upload(batch, name, kind_of(name))


def find_batch(key: str) -> Batch | None:
    """The batch that any of its documents' keys, any of its prefixes, or its bare ``YYYY/MM/DD/<batch>`` names.

    Keys under ``pipeline-state/`` and under prefixes of a request's own choice name none.
    """
    top, _, rest = key.partition("/")
    batch, _ = _split(rest if top in _DATED_PREFIXES else key)
    return batch


def _split(path: str) -> tuple[Batch | None, str | None]:
    match = _DATED.fullmatch(path)
    if not match:
        return None, None
    year, month, day, name, rest = match.groups()
    try:
        return Batch(datetime.date(int(year), int(month), int(day)), name), rest
    except ValueError:
        return None, None


def result_key(output_prefix: str, result: str) -> str:
    return within(output_prefix, result)


def provenance_key(result: str) -> str:
    """The provenance lies beside its result, whose key is ``result``."""
    prefix, _, name = result.rpartition("/")
    return within(prefix, f"{name}.json")


def review_key(result: str) -> str:
    """What people said of the result whose key is ``result``."""
    return within(REVIEWS, f"{result.removeprefix(RESULTS + '/')}.json")


def reviews_of(output_prefix: str) -> str:
    """The prefix of all reviews of the results under ``output_prefix``."""
    return within(REVIEWS, f"{output_prefix.removeprefix(RESULTS + '/')}/")


def published_key(result: str) -> str:
    """Where the result whose key is ``result`` is delivered once it is approved."""
    return within(PUBLISHED, result.removeprefix(f"{RESULTS}/"))


def result_of_published(key: str) -> str:
    """The result that was delivered as ``key``: the other way round than `published_key`."""
    return within(RESULTS, key.removeprefix(f"{PUBLISHED}/"))


def report_key(status_prefix: str, batch_id: str, extension: str = "json") -> str:
    """``extension`` is ``json``, ``csv`` or ``html``."""
    return within(status_prefix, f"status_report_{batch_id}.{extension}")


def is_report(key: str) -> bool:
    """Whether the object is a report as JSON, which is written last of all its forms."""
    name = key.rpartition("/")[2]
    return name.startswith("status_report_") and name.endswith(".json")


def retry_key(status_prefix: str, batch_id: str) -> str:
    """The ready-made request that asks again for what failed."""
    return within(status_prefix, f"retry_{batch_id}.json")


def retried_key(batch: Batch) -> str:
    """Which batches ask again for what failed of ``batch``."""
    return within(f"{STATE}/retries/{batch.path}", "batch.json")


def redone_key(batch: Batch) -> str:
    """Which batches ask again for pictures of ``batch`` that a person did not like."""
    return within(f"{STATE}/redoes/{batch.path}", "batch.json")


def origin_key(batch: Batch) -> str:
    """Of which batch ``batch`` asks again for something."""
    return within(f"{STATE}/retries/{batch.path}", "origin.json")


def manifest_report_key(status_prefix: str, batch_id: str) -> str:
    """The batch's manifest with what became of each of its rows."""
    return within(status_prefix, f"manifest_{batch_id}.csv")


def claims_of(prefix: str) -> str:
    """The prefix of the claims on all that lies inside a prefix."""
    return within(f"{STATE}/claims", prefix)


def claim_key(prefix: str) -> str:
    """The object that says which batch writes under an output or status prefix, since no two share one."""
    return within(f"{STATE}/claims", f"{prefix}.json")


def parse_claim(key: str) -> str:
    """The prefix on which the object called ``key`` is a claim."""
    return key.removeprefix(f"{STATE}/claims/").removesuffix(".json")


def call_key(identity: str) -> str:
    """The mark that a paid call was begun, by the identity of its answer."""
    return within(f"{STATE}/calls/{identity[:2]}", f"{identity}.json")


def answer_key(kind: str, identity: str) -> str:
    """A paid answer, stored raw; ``identity`` is the SHA-256 in hex of what was paid for."""
    return within(f"{STATE}/answers/{kind}/{identity[:2]}", identity)


def spend_key(day: datetime.date) -> str:
    """What all runs spent together on a calendar day."""
    return within(f"{STATE}/spend/days", f"{date_path(day)}.json")


WINDOWS: Final = f"{STATE}/window"
"""What is known of the windows in which a Custom Labels model runs."""

WAITING: Final = f"{WINDOWS}/waiting"


def window_key(model: str, name: str) -> str:
    """A document about the Custom Labels model whose ARN is ``model``: its lease, its start, what was tried."""
    return within(f"{WINDOWS}/models/{model}", f"{name}.json")


def window_run_key(run: str) -> str:
    """The lease that says that a window run is at work."""
    return within(f"{WINDOWS}/runs", f"{run}.json")


def window_report_key(opened: datetime.datetime, run: str) -> str:
    """The report of one window, by when it was opened (UTC) and by whom."""
    return within(f"{WINDOWS}/reports/{date_path(opened.date())}", f"{opened:%H%M%S}-{run}.json")


def waiting_key(date: UploadDate) -> str:
    """The mark that photos of a date wait for a window."""
    return within(WAITING, f"{date_path(date)}.json")


def parse_waiting(key: str) -> UploadDate | None:
    """The date of such a mark."""
    batch = find_batch(f"{key.removeprefix(WAITING + '/').removesuffix('.json')}/any")
    return batch.date if batch else None


NOTICES: Final = f"{STATE}/notices"
"""Marks of what people were told; those of a date's reports lie under its ``YYYY/MM/DD``."""


def notice_key(report: str, sender: str) -> str:
    """The mark that the report whose key is ``report`` was told of, and in which state, through a sender."""
    return within(NOTICES, f"{report.removeprefix(f'{REPORTS}/')}.{sender}.json")


def run_notice_key(run_id: str, date: UploadDate, sender: str) -> str:
    """The mark that people were told of a run that left batches of a date without a report."""
    return within(f"{NOTICES}/runs", f"{run_id}.{date}.{sender}.json")


def poison_key(message_id: str) -> str:
    """Where a queue's message is kept that was no event and had no dead-letter queue to go to."""
    return within(f"{STATE}/poison", f"{message_id}.txt")


def idempotency_key(digest: str) -> str:
    """What a call of the HTTP API with an idempotency key came to; ``digest`` stands for the caller and the key."""
    return within(f"{STATE}/idempotency/{digest[:2]}", f"{digest}.json")


def output_key(name: str) -> str:
    """A result of the one-image API."""
    return within(OUTPUTS, name)


def photo_key(name: str) -> str:
    """A photo, or a picture made from it, of the photo-booth API."""
    return within(PHOTOS, name)


# Names of results


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


# Names on this machine

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
