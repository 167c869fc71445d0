"""Downloads a batch's results into a folder: only what is missing, each file whole or not at all.

A picture that was made again arrives in the place of its original: with its name, in its folder. What was downloaded
is recorded in the folder (`RECORD`), one line for each file. A file that somebody else put there, or changed since,
is never replaced unless the caller asks for it, and no file is ever deleted.
"""

import contextlib
import fcntl
import hashlib
import os
import posixpath
import secrets
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain.file_names import archive_path
from bg_pipeline.errors import PreconditionFailed, UsageError
from bg_pipeline.review.decisions import State
from bg_pipeline.review.places import Place
from bg_pipeline.run.batch_work import BatchWork

RECORD: Final = ".bg-pipeline-downloads.jsonl"
"""The file, in the folder of a download, that says which version of which result each file is."""
THREADS: Final = 8
_PART: Final = ".bg-pipeline-part-"
BLOCK: Final = 1 << 20


class FileState(StrEnum):
    """What a download did for one result."""

    DOWNLOADED = "downloaded"
    KEPT = "kept"
    """The same version was downloaded before, and the file is as it was."""
    CHANGED = "changed"
    """The result was made again, or replaced, since the list of results was read; it was not downloaded."""
    GONE = "gone"
    """The result was deleted from the bucket."""
    TAKEN = "taken"
    """Another file is in its place, or the file was changed after the download; it was not replaced."""
    UNREADABLE = "unreadable"
    """S3 did not return it; `DownloadedFile.cause` says why."""
    WITHDRAWN = "withdrawn"
    """Only approved results were asked for, and the file is an earlier download of one that is not, or of a place
    where no result stands any more. The file stays; `DownloadedFile.cause` says what happened."""


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """One result and its file, whose ``path`` is always inside the folder of the download."""

    image: str
    result: str
    path: Path
    state: FileState
    cause: str = ""

    @property
    def complete(self) -> bool:
        """Whether the file is the present version of the result."""
        return self.state in (FileState.DOWNLOADED, FileState.KEPT)


def download(
    work: BatchWork,
    places: Sequence[Place],
    folder: Path,
    *,
    approved: bool = False,
    overwrite: bool = False,
    done: Callable[[DownloadedFile], None] = lambda file: None,
) -> list[DownloadedFile]:
    """Downloads the results of ``places``, all places of the batch of ``work``, or only the ``approved`` ones.

    Returns a `DownloadedFile` for each result, and with ``approved`` one for each file of an earlier download whose
    result is not approved any more (`FileState.WITHDRAWN`). ``folder`` is created if there is something to download.
    Names keep their folders and are escaped as in `archive_path`; a name that a file system could take for another
    one of the batch gets a digest of its own. A replacement has the name of the original, and replaces the file of an
    earlier download. With ``overwrite``, files that were changed or that somebody else put there are replaced.
    ``done`` is called after each file. Raises `UsageError` if another download into the folder is running, or if a
    folder inside it is a link that leads out of it; ``OSError`` if a file cannot be written.
    """
    # Names depend on all results, so that they stay when one more of them is approved.
    named = _targets(work, [place for place in places if place.item.key])
    wanted = [each for each in named if not approved or each.place.item.state is State.APPROVED]
    if not wanted and not (approved and (folder / RECORD).is_file()):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with _Record.opened(folder) as record:
        for parent in {(folder / each.path).parent for each in wanted}:
            _check_inside(folder, parent)
            for left in parent.glob(f"{_PART}*"):
                # Of a download that was killed: this one is alone in the folder.
                left.unlink(missing_ok=True)

        def fetch(target: _Target) -> DownloadedFile:
            state, cause = _fetch(target, folder, record, overwrite=overwrite)
            item = target.place.item
            return DownloadedFile(item.image, item.key, folder / target.path, state, cause)

        files = []
        with ThreadPoolExecutor(THREADS, "download") as pool:
            try:
                for file in pool.map(fetch, wanted):
                    files.append(file)
                    done(file)
            finally:
                pool.shutdown(cancel_futures=True)
        if approved:
            files += _withdrawn(work, places, wanted, folder, record)
        return files


@dataclass(frozen=True, slots=True)
class _Target:
    """A place with a result, and the path of its file in the folder.

    ``batch`` is the path of the batch that is downloaded, and ``key`` that of the result in whose place this one is.
    """

    place: Place
    batch: str
    key: str
    path: str


def _targets(work: BatchWork, places: Sequence[Place]) -> list[_Target]:
    batch, prefix = work.locations.batch.path, f"{work.locations.output_prefix}/"
    keys = [place.item.place or place.item.key for place in places]
    paths = _paths([key.removeprefix(prefix) for key in keys])
    return [_Target(place, batch, *each) for place, *each in zip(places, keys, paths, strict=True)]


def _withdrawn(
    work: BatchWork, places: Sequence[Place], wanted: Sequence[_Target], folder: Path, record: "_Record"
) -> list[DownloadedFile]:
    """The files of earlier downloads of this batch whose results are not among the ``wanted`` ones."""
    by_key = {place.item.place or place.item.key: place for place in places if place.item.key}
    now, batch = {each.key for each in wanted}, work.locations.batch.path
    found = []
    for path, entry in record.entries():
        if entry.batch != batch or entry.place in now or not os.path.lexists(folder / path):
            continue
        place = by_key.get(entry.place)
        cause = "its result does not exist any more" if place is None else _why_not(place, entry)
        image = place.item.image if place else posixpath.basename(entry.place)
        found.append(DownloadedFile(image, entry.result, folder / path, FileState.WITHDRAWN, cause))
    return found


def _why_not(place: Place, entry: "_Entry") -> str:
    item = place.item
    if place.remaking is not None:
        return f"another picture is being made in its place, as batch {place.remaking.path}"
    if entry.result != item.key:
        return f"another picture is in its place by now, which is {item.state.value}: {item.why}"
    return item.why if item.state is State.REJECTED else f"it is {item.state.value}: {item.why}"


def _paths(names: Sequence[str]) -> list[str]:
    """A relative path for each name; no two are equal for any file system, and none is a folder of another."""
    escaped = [archive_path(name) for name in names]
    folders = {
        _folded(parent) for path in escaped for parent in map(str, Path(path).parents) if parent != "."
    }
    used: set[str] = set()
    paths = []
    for name, path in zip(names, escaped, strict=True):
        if _folded(path) in used or _folded(path) in folders or path == RECORD:
            stem, extension = posixpath.splitext(path)
            path = f"{stem}~{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:12]}{extension}"
        used.add(_folded(path))
        paths.append(path)
    return paths


def _folded(path: str) -> str:
    """The same for paths that a file system which ignores case or the form of accents takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _check_inside(folder: Path, parent: Path) -> None:
    if not parent.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"'{parent}' is a link that leads out of '{folder}'; nothing was downloaded")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A recorded file: the result's key and ETag, and the file's size and modification time after the download.

    ``place`` is the key of the result in whose place this one was, its own if it replaced none. ``batch`` is the path
    of the batch that was downloaded, empty in records of earlier versions.
    """

    result: str
    etag: str
    size: int
    modified: int
    place: str
    batch: str


class _Record:
    """The record of a folder; one process at a time has it open. `put` is thread-safe."""

    def __init__(self, folder: Path, descriptor: int, entries: dict[str, _Entry]) -> None:
        self._folder = folder
        self._descriptor = descriptor
        self._entries = entries

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path) -> "Iterator[_Record]":
        """Opens or creates the record; `UsageError` if another process has it open."""
        descriptor = os.open(folder / RECORD, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another download into '{folder}' is running") from None
            data = b""
            while block := os.read(descriptor, BLOCK):
                data += block
            if data and not data.endswith(b"\n"):
                os.write(descriptor, b"\n")
            yield cls(folder, descriptor, _entries(data))
        finally:
            os.close(descriptor)

    def get(self, path: str) -> _Entry | None:
        return self._entries.get(path)

    def entries(self) -> list[tuple[str, _Entry]]:
        """What was recorded when the record was opened, by path."""
        return list(self._entries.items())

    def put(self, target: _Target) -> None:
        """Records that the file is this version of the result."""
        stat = (self._folder / target.path).stat()
        item = target.place.item
        line = {
            "File": target.path,
            "Batch": target.batch,
            "Place": target.key,
            "Result": item.key,
            "ETag": item.etag,
            "Size": stat.st_size,
            "Modified": stat.st_mtime_ns,
        }
        # One write of a file that was opened for appending: lines of several threads do not mix.
        os.write(self._descriptor, orjson.dumps(line) + b"\n")


def _entries(data: bytes) -> dict[str, _Entry]:
    """The newest entry of each file; lines that are cut or not of this program are left out."""
    entries = {}
    for line in data.splitlines():
        try:
            fields = orjson.loads(line)
            entry = _Entry(
                *(fields["Result"], fields["ETag"], int(fields["Size"]), int(fields["Modified"])),
                *(str(fields.get("Place") or fields["Result"]), str(fields.get("Batch") or "")),
            )
            entries[str(fields["File"])] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return entries


def _fetch(target: _Target, folder: Path, record: _Record, *, overwrite: bool) -> tuple[FileState, str]:
    item, data = target.place.item, target.place.work.locations.data
    file, entry = folder / target.path, record.get(target.path)
    untouched = entry is not None and _stat(file) == (entry.size, entry.modified)
    if entry is not None and untouched and (entry.result, entry.etag) == (item.key, item.etag):
        return FileState.KEPT, ""
    # A file of another batch with the same name is not ours.
    ours = entry is not None and untouched and entry.place == target.key
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.parent / f"{_PART}{secrets.token_hex(8)}"
    try:
        with part.open("xb") as out:
            size = 0
            for block in data.blocks(item.key, if_etag=item.etag):
                size += out.write(block)
            out.flush()
            os.fsync(out.fileno())
        if not size:
            return FileState.GONE, "it was deleted from the bucket"
        if not (overwrite or ours) and os.path.lexists(file):
            if not _same_bytes(file, part):
                return FileState.TAKEN, "another file has its name, or it was changed after the download"
        else:
            os.replace(part, file)
        record.put(target)
        return FileState.DOWNLOADED, ""
    except PreconditionFailed:
        return FileState.CHANGED, "it was made again meanwhile; download it again"
    except (ClientError, BotoCoreError) as error:
        return FileState.UNREADABLE, str(error)
    finally:
        part.unlink(missing_ok=True)


def _stat(file: Path) -> tuple[int, int] | None:
    """Size and modification time of a regular file, not of what a link points to; None if there is none."""
    try:
        stat = file.lstat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _same_bytes(file: Path, other: Path) -> bool:
    if file.is_symlink() or not file.is_file() or file.stat().st_size != other.stat().st_size:
        return False
    with file.open("rb") as one, other.open("rb") as two:
        while block := one.read(BLOCK):
            if block != two.read(BLOCK):
                return False
    return True
