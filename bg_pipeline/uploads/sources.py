"""What a manifest's cells name: photos, masks and backdrops, found before anything is uploaded, and how each is sent.

Whoever takes a manifest says where its cells may lead: the command line to files beside the manifest, a page to
what was dropped on it, both to the buckets of ``BG_BUCKET`` and ``BG_ALLOWED_BUCKETS``.
"""

import io
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from botocore.exceptions import ClientError

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.errors import SettingsError, UsageError
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.manifest import Manifest, Problem, compose, find_name_problems
from bg_pipeline.uploads.submitting import LocalFile, StoredFile, Upload, as_s3_name
from bg_pipeline.uploads.unicode_names import normal_forms, same_name

THREADS: Final = 16
"""Objects that are looked up at a time."""

_OWN: Final = (s3_keys.STATE, s3_keys.PAYLOADS)
"""Prefixes of BG_BUCKET that hold no photo of anybody's."""
AMBIGUOUS: Final = "there is no '{}', and several that look the same but for how their accents are spelt"
_NAMEABLE: Final = (f"{s3_keys.UPLOADS}/", f"{s3_keys.ASSETS}/")
"""Where a mask or a backdrop may stay, as a request may name it there."""


@dataclass(frozen=True)
class Source:
    """One thing that a cell names: ``path`` is the same for the same thing; ``named`` makes it an upload.

    ``key`` is set where it lies in BG_BUCKET and a request may name it there, so that it need not be sent.
    """

    path: str
    named: Callable[[str], Upload]
    key: str = ""


class Sources(Protocol):
    """Where the cells of a manifest lead."""

    def find(self, cell: str) -> Source:
        """What the cell names; raises `UsageError` with a sentence that fits behind the name of its place."""


@dataclass(frozen=True)
class S3Sources:
    """Objects by their addresses, ``s3://bucket/key``, in BG_BUCKET and BG_ALLOWED_BUCKETS; each must be there.

    In BG_BUCKET the pipeline's own documents are out of reach. A key under ``image-files/`` or ``assets/`` may
    stand alone.
    """

    settings: Settings
    store: Store

    def find(self, cell: str) -> Source:
        if not cell.startswith("s3://"):
            if cell.startswith(_NAMEABLE):
                return self._look(self.settings.bucket, cell)
            raise UsageError(f"'{cell}' is no s3:// address")
        bucket, _, key = cell.removeprefix("s3://").partition("/")
        if bucket not in (self.settings.bucket, *self.settings.allowed_buckets):
            raise UsageError(f"bucket '{bucket}' is neither BG_BUCKET nor among BG_ALLOWED_BUCKETS")
        if not key or key.endswith("/"):
            raise UsageError(f"'{cell}' names a folder; each row names one object")
        if bucket == self.settings.bucket and key.partition("/")[0] in _OWN:
            raise UsageError(f"'{cell}' is one of the pipeline's own documents")
        return self._look(bucket, key)

    def _look(self, bucket: str, key: str) -> Source:
        store = self.store.in_bucket(bucket)
        try:
            found = store.head(key)
            if found is None and not key.isascii():
                # It may be there in the other spelling of its accents.
                forms = dict.fromkeys(unicodedata.normalize(form, key) for form in ("NFC", "NFD"))
                there = [each for form in forms if form != key and (each := store.head(form))]
                if len(there) > 1:
                    raise UsageError(f"{AMBIGUOUS.format(f's3://{bucket}/{key}')}; rename one of them")
                found = there[0] if there else None
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            raise UsageError(f"s3://{bucket}/{key} cannot be read: S3 says {code}") from None
        if found is None:
            raise UsageError(f"there is no s3://{bucket}/{key}")
        key = found.key
        stays = key if bucket == self.settings.bucket and key.startswith(_NAMEABLE) else ""
        return Source(f"{bucket}/{key}", lambda name: StoredFile(store, found, name), stays)


@dataclass(frozen=True)
class LocalSources:
    """Files of this machine, by paths from ``folder``, and what ``elsewhere`` finds."""

    folder: Path
    elsewhere: Sources

    def find(self, cell: str) -> Source:
        if "://" in cell:
            return self._not_a_file(cell)
        path = self.folder / Path(cell).expanduser()
        try:
            if path.is_file():
                if not os.access(path, os.R_OK):
                    raise UsageError(f"'{path}' cannot be read: permission denied")
                return Source(as_s3_name(os.path.abspath(path)), lambda name: LocalFile(path, name))
            if path.is_dir():
                raise UsageError(f"'{path}' is a folder; each row names one file")
            alike = _spelt_alike(path)
        except (OSError, ValueError) as error:  # a name that is too long, or has a NUL in it
            raise UsageError(f"'{cell}' cannot be the name of a file: {error}") from None
        if len(alike) > 1:
            raise UsageError(f"{AMBIGUOUS.format(path)}; rename one of them")
        if alike:
            return self.find(os.path.relpath(alike[0], self.folder) if self.folder.parts else str(alike[0]))
        if cell.startswith(_NAMEABLE):
            return self.elsewhere.find(cell)
        raise UsageError(f"there is no file '{path}'")

    def _not_a_file(self, cell: str) -> Source:
        if not cell.startswith("s3://"):
            raise UsageError(f"'{cell}' is neither a file nor an s3:// address")
        return self.elsewhere.find(cell)


def _spelt_alike(path: Path) -> list[Path]:
    """The files whose paths look the same and spell their accents otherwise."""
    if str(path).isascii():
        return []
    found = [Path(path.anchor)]
    for part in path.parts[1:] if path.anchor else path.parts:
        following: list[Path] = []
        for folder in found:
            if part.isascii() or (folder / part).exists():
                following.append(folder / part)
            elif folder.is_dir():
                following += [folder / name for name in normal_forms(part, os.listdir(folder))]
        found = following[:10]
    return [each for each in found if each.is_file()]


@dataclass(frozen=True)
class AmongUploads:
    """Photos that somebody has sent already, by the names they came with, and what ``elsewhere`` finds.

    A name without its folders is enough where only one photo has it. ``renamed`` makes an upload of one under
    another name.
    """

    names: Sequence[str]
    renamed: Callable[[str, str], Upload]
    elsewhere: Sources

    @cached_property
    def _by_last(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.names:
            found.setdefault(posixpath.basename(name), []).append(name)
        return found

    @cached_property
    def _alike(self) -> Mapping[str, list[str]]:
        found: dict[str, list[str]] = {}
        for last, names in self._by_last.items():
            found.setdefault(same_name(last), []).extend(names)
        return found

    def find(self, cell: str) -> Source:
        if "://" in cell:
            return self.elsewhere.find(cell)
        cell = cell.removeprefix("./")
        found = [cell] if cell in self.names else self._by_last.get(posixpath.basename(cell), [])
        found = (
            found
            or normal_forms(cell, self.names)
            or self._alike.get(same_name(posixpath.basename(cell)), [])
        )
        if len(found) == 1:
            name = found[0]
            return Source(name, lambda wanted: self.renamed(name, wanted))
        if found:
            raise UsageError(f"'{cell}' may be {' or '.join(map(repr, found[:3]))}; say which")
        if cell.startswith(_NAMEABLE):
            return self.elsewhere.find(cell)
        raise UsageError(f"no photo named '{cell}' was added")


@dataclass(frozen=True)
class ResolvedManifest:
    """A batch that a manifest asks for, ready for `submitting.submit`; ``others`` go beside its photos, by key."""

    request: BatchRequest
    data: bytes
    photos: Sequence[Upload]
    others: Mapping[str, Upload]


def resolve_manifest(
    settings: Settings,
    batch: Batch,
    manifest: Manifest,
    text: bytes,
    sources: Sources,
    wishes: Mapping[str, Any],
) -> ResolvedManifest:
    """What ``manifest``, which was read from ``text``, asks for as ``batch``; nothing is uploaded yet.

    ``wishes`` are the request's fields for all rows. A photo is named by its column ``name``, else after its file,
    with as many of its folders as tell it from the others. The manifest goes into the batch as well, so that
    the report can mirror it. Raises `RequestError` with everything that is wrong, by line and column.
    """
    found, problems = _find(manifest, sources)
    # A photo that was not found, or has no good name, gets one all the same: the other problems are found as well.
    cells = [line.said["source"] for line in manifest.lines]
    paths = [each.path if (each := found.get(("source", cell))) else cell for cell in cells]
    names = _names([line.said.get("name", "") for line in manifest.lines], paths)
    beside = _Beside(batch)
    keys = {cell: beside.key_of(cell[0], each) for cell, each in found.items() if cell[0] != "source"}
    others = {**beside.uploads, batch.manifest_key: Text(s3_keys.MANIFEST, text)}
    problems += find_name_problems(manifest, batch, names, others)
    troubled = {number for number, _, _ in problems}
    names = [
        f"line {line.number}" if line.number in troubled else name
        for line, name in zip(manifest.lines, names, strict=True)
    ]
    data, request = compose(settings, batch, manifest, names, keys, wishes, problems)
    photos = [found["source", cell].named(name) for cell, name in zip(cells, names, strict=True)]
    return ResolvedManifest(request, data, photos, others)


@dataclass
class _Beside:
    """The masks and backdrops of a batch that have to be sent, each once, however many rows name it."""

    batch: Batch
    uploads: dict[str, Upload] = field(default_factory=dict)
    _keys: dict[tuple[str, str], str] = field(default_factory=dict)

    def key_of(self, column: str, source: Source) -> str:
        if source.key:
            return source.key
        if (column, source.path) not in self._keys:
            number = Counter(one for one, _ in self._keys)[column] + 1
            # A dot-file is never taken for one of the photos.
            name = f".{column}-{number}{posixpath.splitext(source.path)[1].lower()}"
            key = self._keys[column, source.path] = self.batch.upload_key(name)
            self.uploads[key] = source.named(name)
        return self._keys[column, source.path]


@dataclass(frozen=True)
class Text:
    """Bytes that are at hand."""

    name: str
    data: bytes

    def open(self) -> AbstractContextManager[BinaryIO]:
        return io.BytesIO(self.data)


def _find(manifest: Manifest, sources: Sources) -> tuple[dict[tuple[str, str], Source], list[Problem]]:
    """What the cells lead to, by column and cell, each looked up once; and which lead nowhere."""
    cells = {
        (column, line.said[column]): line
        for line in reversed(manifest.lines)
        for column in ("source", "mask", "backdrop")
        if column in line.said and not (column == "backdrop" and line.said[column].startswith("#"))
    }

    def look(cell: tuple[str, str]) -> Source | str:
        try:
            return sources.find(cell[1])
        except (UsageError, SettingsError) as error:
            return str(error)

    found: dict[tuple[str, str], Source] = {}
    problems: list[Problem] = []
    with ThreadPoolExecutor(THREADS, "source") as pool:
        for (cell, line), each in zip(cells.items(), pool.map(look, cells), strict=True):
            if isinstance(each, Source):
                found[cell] = each
            else:
                problems.append(line.problem(cell[0], each))
    return found, problems


def _names(given: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The images' names: those given, else the ends of their paths, of several alike as long as tells them apart."""
    parts = {
        path: [part for part in path.split("/") if part]
        for path, name in zip(paths, given, strict=True)
        if not name
    }
    lengths = dict.fromkeys(parts, 1)
    while True:
        ends = {path: "/".join(parts[path][-length:]) for path, length in lengths.items()}
        often = Counter([*ends.values(), *filter(None, given)])
        longer = [path for path, end in ends.items() if often[end] > 1 and lengths[path] < len(parts[path])]
        if not longer:
            return [name or ends[path] for name, path in zip(given, paths, strict=True)]
        for path in longer:
            lengths[path] += 1
