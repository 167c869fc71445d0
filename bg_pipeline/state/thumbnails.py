"""Thumbnails of a batch's photos and results, for its report and for overview pages.

A run makes them from pictures that it has already decoded and stores them in one object for each batch. `complete`
makes missing ones (of a large batch, or after a killed run) from the stored pictures.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile
from typing import Final

import orjson
import pybase64

from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.imaging.workers import run_on_file, shared_workers
from bg_pipeline.storage.object_store import Store

RESULTS: Final = 5
"""Number of results of one image that get a thumbnail, in addition to the source."""
BUDGET: Final = 16_000_000
"""Total bytes of one batch's thumbnails, in memory and in the stored object; no more are made beyond it."""
_IN_MEMORY: Final = 2 << 20
"""Larger documents are written through a temporary file."""
READERS: Final = 4
"""Stored pictures that `complete` reads at a time."""


class Thumbnails:
    """The thumbnails of one batch by object key, each made from the version with a certain ETag; thread-safe.

    With ``enabled=False`` `add` does nothing. No more are added once `BUDGET` is reached.
    """

    def __init__(self, store: Store, batch: Batch, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._store = store
        self._key = batch.thumbnails_key
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._stored: dict[str, str] = {}
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether `BUDGET` is used up."""
        return self._bytes >= BUDGET

    def get(self, key: str, etag: str) -> bytes | None:
        """The thumbnail of this version of an object; None if there is none."""
        kept = self._kept.get(key)
        return kept[1] if kept and kept[0] == etag else None

    def add(self, key: str, etag: str, make: Callable[[], bytes], *, again: bool = False) -> None:
        """Keeps the thumbnail that ``make`` returns unless there is one, or ``again`` instead of that one.

        None is kept if ``make`` raises `ImageError`.
        """
        if self.enabled and not self.full and (again or self.get(key, etag) is None):
            self._make(key, etag, make)

    def _make(self, key: str, etag: str, make: Callable[[], bytes]) -> None:
        try:
            self._add(key, etag, make())
        except ImageError:
            return  # the image's row in the report contains this error

    def _add(self, key: str, etag: str, small: bytes) -> None:
        with self._lock:
            _, before = self._kept.get(key, ("", b""))
            self._kept[key] = (etag, small)
            self._bytes += len(small) - len(before)

    def load(self) -> None:
        """Loads the stored thumbnails; unreadable ones are skipped and can be made again."""
        content = self._store.read(self._key)
        for key, etag, small in _read(content.data) if content else ():
            self._stored[key] = etag
            if key not in self._kept and not self.full:
                self._add(key, etag, small)

    def save(self, keys: Iterable[str]) -> None:
        """Stores the thumbnails of ``keys`` if they changed, and drops all others."""
        keys = list(keys)
        # An interrupted run reports its batches while threads still add thumbnails.
        with self._lock:
            self._kept = {key: self._kept[key] for key in keys if key in self._kept}
            self._bytes = sum(len(small) for _, small in self._kept.values())
            kept = dict(self._kept)
        etags = {key: etag for key, (etag, _) in kept.items()}
        if etags != self._stored:
            lines = (
                orjson.dumps(
                    (key, etag, pybase64.b64encode_as_string(small)), option=orjson.OPT_APPEND_NEWLINE
                )
                for key, (etag, small) in kept.items()
            )
            with SpooledTemporaryFile(_IN_MEMORY) as file:
                file.writelines(lines)
                self._store.write(self._key, file, media_type="application/jsonl")
            self._stored = etags

    def complete(self, read: Callable[[str, str], bytes | None], objects: Iterable[tuple[str, str]]) -> None:
        """Makes the missing thumbnails of ``objects`` (pairs of key and ETag) from the stored pictures.

        ``read`` returns the bytes of that version of an object, or None if it is gone or has changed. Each is read
        whole, `READERS` at a time, until `BUDGET` is used up; undecodable pictures are skipped.
        """

        workers = shared_workers()

        def make(key: str, etag: str) -> None:
            data = None if self.full else read(key, etag)
            if data is not None:
                self._make(key, etag, lambda: run_on_file(workers, thumbnail, data))

        missing = [(key, etag) for key, etag in objects if self.get(key, etag) is None]
        with ThreadPoolExecutor(READERS, "thumbnail") as pool:
            list(pool.map(lambda each: make(*each), missing))


def _read(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    for line in data.splitlines():
        try:
            key, etag, text, *_ = orjson.loads(line)
            yield str(key), str(etag), pybase64.b64decode(text, validate=True)
        except (ValueError, TypeError):
            continue
