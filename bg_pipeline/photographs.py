"""One uploaded photo while it is worked on: fetched once, hashed once, decoded only when somebody looks.

At most `Darkroom.places` photos are held decoded at full size at a time, whatever the number of images in
work; the small picture that labels, captions and masks are made from is at most `SMALL_SIDE` pixels long.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import Photo, look, open_photo, small_jpeg
from bg_pipeline.store import Store

SMALL_SIDE = 1408
"""The longest side any Titan size has; enough to find a subject in."""

VIEW_SIDE = 1280


class Darkroom:
    """Lets only so many threads hold a photo decoded at full size."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._free = threading.BoundedSemaphore(places)

    @contextmanager
    def open(self, data: bytes) -> Iterator[Photo]:
        """The photo, decoded, for as long as the block lasts; errors as `open_photo`."""
        with self._free:
            yield open_photo(data)

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place without a photo in it, for other work on large pictures."""
        with self._free:
            yield


class Photograph:
    """An uploaded image; for one thread, but for `view`, which may be asked from several."""

    def __init__(self, store: Store, key: str, darkroom: Darkroom) -> None:
        self.key = key
        self._store = store
        self._darkroom = darkroom
        self._lock = threading.RLock()
        self._data: bytes | None = None
        self._etag = ""
        self._sha256 = ""
        self._view: bytes | None = None
        self._small: Photo | None = None
        self._size: tuple[int, int] | None = None

    @property
    def data(self) -> bytes:
        """The source's bytes. Raises `ImageError` if the object is gone."""
        with self._lock:
            if self._data is None:
                content = self._store.read(self.key)
                if content is None:
                    raise ImageError(
                        "NotFound", "there is no such object; upload it or take it off the request"
                    )
                self._data, self._etag = content.data, content.etag
                self._sha256 = hashlib.sha256(content.data).hexdigest()
            return self._data

    @property
    def fetched(self) -> bool:
        """Whether the bytes were read, so that `etag` and `sha256` cost nothing."""
        return self._data is not None

    @property
    def etag(self) -> str:
        """The tag of the bytes in `data`."""
        _ = self.data
        return self._etag

    @property
    def sha256(self) -> str:
        _ = self.data
        return self._sha256

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright, from the header."""
        if self._size is None:
            self._size = look(self.data).size
        return self._size

    @property
    def view(self) -> bytes:
        """An upright sRGB JPEG within `VIEW_SIDE`, for services that only look at the photo."""
        with self._lock:
            if self._view is None:
                _ = self.size  # an unreadable header is told before a place is waited for
                with self._darkroom.place():
                    self._view = small_jpeg(
                        self.data, within=(VIEW_SIDE, VIEW_SIDE), min_side=80, max_bytes=3_700_000
                    )
            return self._view

    @property
    def small(self) -> Photo:
        """The photo decoded at no more than about `SMALL_SIDE`, with its own transparency."""
        with self._lock:
            if self._small is None:
                with self._darkroom.place():
                    self._small = open_photo(self.data, within=(SMALL_SIDE, SMALL_SIDE))
            return self._small

    @contextmanager
    def full(self) -> Iterator[Photo]:
        """The photo decoded at full size, while one of the darkroom's places is held."""
        with self._darkroom.open(self.data) as photo:
            yield photo

    def forget_pictures(self) -> None:
        """Lets go of what is decoded, before a long wait."""
        with self._lock:
            self._small = None
