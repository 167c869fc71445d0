"""Small pictures of a batch's photos and results, for its report and for pages that show many at once.

A run makes them from what it has decoded anyway and stores them together, in one object for each batch. What
is missing there (a large batch, a run that died) is made by `complete` from the stored pictures themselves.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import orjson
import pybase64

from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.imaging.workers import run_on_file, shared_workers
from bg_pipeline.storage.object_store import Store

RESULTS: Final = 5
"""Results of one image that have a small picture, the first ones; the source has one too."""
BUDGET: Final = 16_000_000
"""Bytes of all of a batch's, in memory and in its object."""
READERS: Final = 4
"""Stored pictures that `complete` reads at the same time."""


class Thumbnails:
    """The small pictures of one batch by key, each of the version of its object that a tag names.

    Safe for threads. Unless it is ``wanted``, nothing is kept. Once `BUDGET` is reached nothing more is.
    """

    def __init__(self, store: Store, batch: Batch, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self._store = store
        self._key = batch.thumbnails_key
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[str, bytes]] = {}
        self._stored: dict[str, str] = {}
        self._bytes = 0

    @property
    def full(self) -> bool:
        """Whether the budget is used up."""
        return self._bytes >= BUDGET

    def get(self, key: str, etag: str) -> bytes | None:
        """The small picture of this version of an object, if there is one."""
        kept = self._kept.get(key)
        return kept[1] if kept and kept[0] == etag else None

    def add(self, key: str, etag: str, make: Callable[[], bytes]) -> None:
        """Keeps the thumbnail that ``make`` returns, if it is needed; none if it raises `ImageError`."""
        if self.wanted and not self.full and self.get(key, etag) is None:
            self._make(key, etag, make)

    def _make(self, key: str, etag: str, make: Callable[[], bytes]) -> None:
        try:
            self._add(key, etag, make())
        except ImageError:
            return  # the image's own row tells what is wrong with it

    def _add(self, key: str, etag: str, small: bytes) -> None:
        with self._lock:
            _, before = self._kept.get(key, ("", b""))
            self._kept[key] = (etag, small)
            self._bytes += len(small) - len(before)

    def load(self) -> None:
        """Takes in what earlier runs stored; what cannot be read is made again one day."""
        content = self._store.read(self._key)
        for key, etag, small in _read(content.data) if content else ():
            self._stored[key] = etag
            if key not in self._kept and not self.full:
                self._add(key, etag, small)

    def save(self, keys: Iterable[str]) -> None:
        """Stores the small pictures of ``keys``, unless they are stored, and forgets all others."""
        self._kept = {key: self._kept[key] for key in keys if key in self._kept}
        self._bytes = sum(len(small) for _, small in self._kept.values())
        etags = {key: etag for key, (etag, _) in self._kept.items()}
        if etags != self._stored:
            lines = (
                orjson.dumps((key, etag, pybase64.b64encode_as_string(small)))
                for key, (etag, small) in self._kept.items()
            )
            self._store.write(self._key, b"\n".join(lines), media_type="application/jsonl")
            self._stored = etags

    def complete(self, read: Callable[[str, str], bytes | None], wanted: Iterable[tuple[str, str]]) -> None:
        """Makes what is missing of ``wanted`` (keys and tags) from the stored pictures, in worker processes.

        ``read`` gives the bytes of that version of an object, None where it is gone or has changed. Each is read
        whole, `READERS` at a time, until the budget is used up; what is no picture is left out.
        """

        workers = shared_workers()

        def make(key: str, etag: str) -> None:
            data = None if self.full else read(key, etag)
            if data is not None:
                self._make(key, etag, lambda: run_on_file(workers, thumbnail, data))

        missing = [(key, etag) for key, etag in wanted if self.get(key, etag) is None]
        with ThreadPoolExecutor(READERS, "thumbnail") as pool:
            list(pool.map(lambda each: make(*each), missing))


def _read(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    for line in data.splitlines():
        try:
            key, etag, text, *_ = orjson.loads(line)
            yield str(key), str(etag), pybase64.b64decode(text, validate=True)
        except (ValueError, TypeError):
            continue
