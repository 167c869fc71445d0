"""Finds what a manifest's cells name (photos, masks, backdrops) before anything is uploaded, and how to store each.

The caller chooses where cells may point: the command line to files beside the manifest, the web page to photos of
the draft, both to objects in ``BG_BUCKET`` and ``BG_ALLOWED_BUCKETS``.
"""

import io
import itertools
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from botocore.exceptions import ClientError

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import BatchRequest, names_object
from bg_pipeline.errors import SettingsError, UsageError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import ObjectInfo, Store
from bg_pipeline.uploads.manifest import Manifest, Problem, compose, find_name_problems
from bg_pipeline.uploads.submitting import LocalFile, StoredFile, Upload, as_s3_name
from bg_pipeline.uploads.unicode_names import normal_forms, same_name, similar_name

THREADS: Final = 16
"""Cells that are looked up at the same time."""

_MOST_LISTED: Final = 20_000
"""Files of a folder that are looked at for a name that resembles one that is missing."""

_MOST_SUGGESTIONS: Final = 50
"""Missing files of a manifest for which a similar name is looked for, which takes time."""

_PIPELINE_PREFIXES: Final = (s3_keys.STATE, s3_keys.PAYLOADS, s3_keys.AUDIT)
"""Prefixes of ``BG_BUCKET`` for the pipeline's own documents, which are never a source."""
_AMBIGUOUS: Final = "there is no '{}', but several names that differ from it only in how accents are encoded"
_REQUEST_PREFIXES: Final = (f"{s3_keys.UPLOADS}/", f"{s3_keys.ASSETS}/")
"""Prefixes under which a request may name a mask or a backdrop, so that it need not be copied."""


@dataclass(frozen=True)
class Source:
    """One file or object that a cell names; equal ``path`` means the same file or object.

    ``as_upload(name)`` is the upload that stores it in the batch as ``name``. ``key`` is set if it is already in
    ``BG_BUCKET`` where a request may name it as a mask or backdrop. ``name`` is set if it is already a photo of the
    batch.
    """

    path: str
    as_upload: Callable[[str], Upload]
    key: str = ""
    name: str = ""


class Sources(Protocol):
    """Where the cells of a manifest may point."""

    def find(self, cell: str) -> Source:
        """What the cell names. Raises `UsageError`, whose text is shown after the cell's line and column."""


@dataclass(frozen=True)
class S3Sources:
    """Existing objects in ``BG_BUCKET`` and ``BG_ALLOWED_BUCKETS``, named as ``s3://bucket/key``.

    A key of ``BG_BUCKET`` under ``image-files/`` or ``assets/`` may be written without ``s3://bucket/``. The
    pipeline's own documents in ``BG_BUCKET`` are refused, and what ``may_read`` (bucket, key) denies to the person.
    """

    settings: Settings
    store: Store
    may_read: Callable[[str, str], bool] = lambda bucket, key: True

    def find(self, cell: str) -> Source:
        if not cell.startswith("s3://"):
            if cell.startswith(_REQUEST_PREFIXES):
                return self._source(self.settings.bucket, cell)
            raise UsageError(f"'{cell}' is not an s3:// address")
        bucket, _, key = cell.removeprefix("s3://").partition("/")
        if bucket not in (self.settings.bucket, *self.settings.allowed_buckets):
            raise UsageError(f"bucket '{bucket}' is neither BG_BUCKET nor among BG_ALLOWED_BUCKETS")
        if not key or key.endswith("/"):
            raise UsageError(f"'{cell}' names a folder; each row names one object")
        if bucket == self.settings.bucket and key.partition("/")[0] in _PIPELINE_PREFIXES:
            raise UsageError(f"'{cell}' is one of the pipeline's own documents")
        return self._source(bucket, key)

    def _source(self, bucket: str, key: str) -> Source:
        if not self.may_read(bucket, key):
            raise UsageError(f"s3://{bucket}/{key} does not belong to a batch of yours")
        store = self.store.in_bucket(bucket)
        try:
            info = store.head(key)
            if info is None and not key.isascii():
                # The object's key may encode the same accents in the other Unicode form.
                forms = dict.fromkeys(unicodedata.normalize(form, key) for form in ("NFC", "NFD"))
                matches = [match for form in forms if form != key and (match := store.head(form))]
                if len(matches) > 1:
                    raise UsageError(f"{_AMBIGUOUS.format(f's3://{bucket}/{key}')}; rename one of them")
                info = matches[0] if matches else None
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            raise UsageError(f"s3://{bucket}/{key} cannot be read: S3 answered {code}") from None
        if info is None:
            raise UsageError(f"there is no s3://{bucket}/{key}")
        key = info.key
        usable_key = key if bucket == self.settings.bucket and key.startswith(_REQUEST_PREFIXES) else ""
        return Source(f"{bucket}/{key}", lambda name: StoredFile(store, info, name), usable_key)


@dataclass(frozen=True)
class LocalSources:
    """Files of this machine, by absolute path or by path relative to ``folder``; others are left to ``fallback``."""

    folder: Path
    fallback: Sources

    @cached_property
    def _asked(self) -> Iterator[int]:
        return itertools.count()

    def find(self, cell: str) -> Source:
        if "://" in cell:
            return self._find_address(cell)
        path = self.folder / Path(cell).expanduser()
        try:
            if path.is_file():
                if not os.access(path, os.R_OK):
                    raise UsageError(f"'{path}' cannot be read: permission denied")
                return Source(as_s3_name(os.path.abspath(path)), lambda name: LocalFile(path, name))
            if path.is_dir():
                raise UsageError(f"'{path}' is a folder; each row names one file")
            matches = _same_looking_files(path)
        except (OSError, ValueError) as error:  # for example a name that is too long or contains a NUL
            raise UsageError(f"'{cell}' cannot be the name of a file: {error}") from None
        if len(matches) > 1:
            raise UsageError(f"{_AMBIGUOUS.format(path)}; rename one of them")
        if matches:
            return self.find(
                os.path.relpath(matches[0], self.folder) if self.folder.parts else str(matches[0])
            )
        if cell.startswith(_REQUEST_PREFIXES):
            return self.fallback.find(cell)
        words = _did_you_mean(cell, self.folder) if next(self._asked) < _MOST_SUGGESTIONS else ""
        raise UsageError(f"there is no file '{path}'{words}")

    def _find_address(self, cell: str) -> Source:
        if not cell.startswith("s3://"):
            raise UsageError(f"'{cell}' is neither a file nor an s3:// address")
        return self.fallback.find(cell)


def _did_you_mean(cell: str, folder: Path) -> str:
    """The end of a sentence that names the file that was probably meant; empty if none is similar."""
    path = Path(cell.replace("\\", "/")).expanduser()
    try:
        beside = folder / path.parent
        if not beside.is_dir():
            return ""
        with os.scandir(beside) as entries:
            names = [
                entry.name for entry, _ in zip(entries, range(_MOST_LISTED), strict=False) if entry.is_file()
            ]
    except (OSError, ValueError):
        return ""
    meant = similar_name(path.name, names)
    return f"; did you mean '{path.parent / meant}'?" if meant else ""


def _same_looking_files(path: Path) -> list[Path]:
    """The existing files whose paths differ from ``path`` only in how accents are encoded; empty for ASCII paths."""
    if str(path).isascii():
        return []
    candidates = [Path(path.anchor)]
    for part in path.parts[1:] if path.anchor else path.parts:
        following: list[Path] = []
        for folder in candidates:
            if part.isascii() or (folder / part).exists():
                following.append(folder / part)
            elif folder.is_dir():
                following += [folder / name for name in normal_forms(part, os.listdir(folder))]
        candidates = following[:10]
    return [candidate for candidate in candidates if candidate.is_file()]


@dataclass(frozen=True)
class DraftSources:
    """Photos that are already uploaded to a draft, by name; ``s3://`` addresses are left to ``fallback``.

    ``photos`` maps each photo's name in the draft to its object in ``store``. A cell may name a photo with other
    folders than it has in the draft (``C:\\photos\\a.jpg``) if only one photo has that file name.
    """

    store: Store
    photos: Mapping[str, ObjectInfo]
    fallback: Sources

    @cached_property
    def _asked(self) -> Iterator[int]:
        return itertools.count()

    @cached_property
    def _by_file_name(self) -> Mapping[str, list[str]]:
        names: dict[str, list[str]] = {}
        for name in self.photos:
            names.setdefault(posixpath.basename(name), []).append(name)
        return names

    @cached_property
    def _by_normalized_file_name(self) -> Mapping[str, list[str]]:
        names: dict[str, list[str]] = {}
        for file_name, same in self._by_file_name.items():
            names.setdefault(same_name(file_name), []).extend(same)
        return names

    def find(self, cell: str) -> Source:
        if "://" in cell:
            return self.fallback.find(cell)
        path = cell.replace("\\", "/").removeprefix("./")
        file_name = posixpath.basename(path)
        names = [path] if path in self.photos else self._by_file_name.get(file_name, [])
        names = (
            names
            or normal_forms(path, self.photos)
            or self._by_normalized_file_name.get(same_name(file_name), [])
        )
        if len(names) == 1:
            info = self.photos[names[0]]
            return Source(names[0], lambda name: StoredFile(self.store, info, name), info.key, names[0])
        if names:
            raise UsageError(f"'{cell}' may be {' or '.join(map(repr, names[:3]))}; name one of them in full")
        if path.startswith(_REQUEST_PREFIXES):
            return self.fallback.find(path)
        meant = similar_name(path, self.photos) if next(self._asked) < _MOST_SUGGESTIONS else ""
        words = f"; did you mean '{meant}'?" if meant else ""
        raise UsageError(f"no photo named '{cell}' was uploaded{words}")


@dataclass(frozen=True)
class ResolvedManifest:
    """The batch that a manifest asks for, ready for `submitting.submit`.

    ``others`` are the files to store besides the photos (masks, backdrops, the manifest itself), by key.
    """

    request: BatchRequest
    data: bytes
    photos: Sequence[Upload]
    others: Mapping[str, Upload]

    def files(self, store: Store, batch: Batch) -> dict[str, Upload]:
        """What has to be stored in ``batch``, by key; photos that are already stored under their key are left out."""
        photos = {batch.upload_key(photo.name): photo for photo in self.photos}
        return {key: photo for key, photo in photos.items() if not _is_at(photo, store, key)} | dict(
            self.others
        )


def _is_at(upload: Upload, store: Store, key: str) -> bool:
    return isinstance(upload, StoredFile) and upload.store.bucket == store.bucket and upload.stored.key == key


def resolve_manifest(
    settings: Settings,
    batch: Batch,
    manifest: Manifest,
    text: bytes,
    sources: Sources,
    fields: Mapping[str, Any],
    stored_names: Collection[str] = (),
) -> ResolvedManifest:
    """The batch that ``manifest``, which was read from ``text``, asks for; nothing is uploaded.

    ``fields`` are request fields for all rows. An image gets the name in column ``name``, else the name that its
    photo already has in the batch, else the photo's file name with as many folders as needed to be unique.
    ``stored_names`` are the photos that are already in the batch's folder: no other photo may get their names. The
    manifest is stored in the batch too, so that the report can repeat its rows. Raises `RequestError` with every
    problem by line and column.
    """
    found, problems = _find_sources(manifest, sources)
    # A photo that was not found or has an unusable name gets a placeholder, so that all other problems are found too.
    cells = [line.values["source"] for line in manifest.lines]
    photos = [found.get(("source", cell)) for cell in cells]
    names = _image_names(
        [
            line.values.get("name") or (photo.name if photo else "")
            for line, photo in zip(manifest.lines, photos, strict=True)
        ],
        [photo.path if photo else cell for photo, cell in zip(photos, cells, strict=True)],
    )
    extra_files = _ExtraFiles(batch)
    keys = {
        cell: extra_files.key_of(cell[0], source) for cell, source in found.items() if cell[0] != "source"
    }
    others = {**extra_files.uploads, batch.manifest_key: MemoryFile(s3_keys.MANIFEST, text)}
    problems += find_name_problems(manifest, batch, names, others)
    for line, name, photo in zip(manifest.lines, names, photos, strict=True):
        if name in stored_names and photo is not None and photo.name != name:
            column = "name" if "name" in line.values else "source"
            sentence = f"'{name}' is another photo of this batch already; write another in column name"
            problems.append(line.problem(column, sentence))
    wrong_lines = {number for number, _, _ in problems}
    names = [
        f"line {line.number}" if line.number in wrong_lines else name
        for line, name in zip(manifest.lines, names, strict=True)
    ]
    data, request = compose(settings, batch, manifest, names, keys, fields, problems)
    uploads = [found["source", cell].as_upload(name) for cell, name in zip(cells, names, strict=True)]
    return ResolvedManifest(request, data, uploads, others)


@dataclass
class _ExtraFiles:
    """The masks and backdrops that have to be stored in the batch, each once even if several rows name it."""

    batch: Batch
    uploads: dict[str, Upload] = field(default_factory=dict)
    _keys: dict[tuple[str, str], str] = field(default_factory=dict)

    def key_of(self, column: str, source: Source) -> str:
        if source.key:
            return source.key
        if (column, source.path) not in self._keys:
            number = Counter(known_column for known_column, _ in self._keys)[column] + 1
            # A dot-file is never taken for a photo of the batch.
            name = f".{column}-{number}{posixpath.splitext(source.path)[1].lower()}"
            key = self._keys[column, source.path] = self.batch.upload_key(name)
            self.uploads[key] = source.as_upload(name)
        return self._keys[column, source.path]


@dataclass(frozen=True)
class MemoryFile:
    """Bytes in memory and the name they get in the batch."""

    name: str
    data: bytes

    def open(self) -> AbstractContextManager[BinaryIO]:
        return io.BytesIO(self.data)


def _find_sources(
    manifest: Manifest, sources: Sources
) -> tuple[dict[tuple[str, str], Source], list[Problem]]:
    """The sources by column and cell, each cell looked up once, and a problem for each that was not found."""
    cells = {
        (column, line.values[column]): line
        for line in reversed(manifest.lines)
        for column in ("source", "mask", "backdrop")
        if column in line.values and not (column == "backdrop" and not names_object(line.values[column]))
    }

    def find(cell: tuple[str, str]) -> Source | str:
        try:
            return sources.find(cell[1])
        except (UsageError, SettingsError) as error:
            return str(error)

    found: dict[tuple[str, str], Source] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(THREADS, "source") as pool:
        for (cell, line), result in zip(cells.items(), pool.map(find, cells), strict=True):
            if isinstance(result, Source):
                found[cell] = result
            else:
                problems.append(line.problem(cell[0], result))
    return found, problems


def _image_names(given: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The ``given`` names; where one is empty, the end of its path with as many folders as needed to be unique."""
    parts = {
        path: [part for part in path.split("/") if part]
        for path, name in zip(paths, given, strict=True)
        if not name
    }
    lengths = dict.fromkeys(parts, 1)
    while True:
        ends = {path: "/".join(parts[path][-length:]) for path, length in lengths.items()}
        counts = Counter([*ends.values(), *filter(None, given)])
        too_short = [
            path for path, end in ends.items() if counts[end] > 1 and lengths[path] < len(parts[path])
        ]
        if not too_short:
            return [name or ends[path] for name, path in zip(given, paths, strict=True)]
        for path in too_short:
            lengths[path] += 1
