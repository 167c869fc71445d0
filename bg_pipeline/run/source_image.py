"""One uploaded photo while it is worked on: fetched once, hashed once, decoded only when somebody looks.

At most `DecodeLimiter.places` photos are held decoded at full size at a time, and at most `SMALL_PLACES` of the small
pictures that labels, captions and masks are made from, whatever the number of images in work.
"""

import hashlib
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO

from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image

from bg_pipeline.errors import ImageError, SourceUnreadable
from bg_pipeline.imaging import ImageHeader, Photo, open_photo, read_header, small_jpeg
from bg_pipeline.imaging.photo import scaled_down
from bg_pipeline.storage.object_store import ObjectContent, Store

SMALL_SIDE = 1408
"""The longest side any Titan size has; enough to find a subject in."""

SMALL_PLACES = 8
"""Photos on their way from the first look to the waiting for a model; each takes up to 6 MB."""

ASIDE_BYTES = 256_000
"""Larger sources wait on disk: with 64 images in work they would take a quarter of a gigabyte."""


MAX_STORED_DECODES = 64_000_000
"""Bytes of finished files on their way to the store; reading them back takes as much again."""


def read_source(store: Store, key: str) -> ObjectContent | None:
    """An object that people uploaded, None if there is none.

    Raises `SourceUnreadable`, which names the object and says what to do, where S3 does not hand it out: that is the
    trouble of this one image.
    """
    try:
        return store.read(key)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        name = f"s3://{store.bucket}/{key}"
        words = str(error.response.get("Error", {}).get("Message", "")) or code
        raise SourceUnreadable(
            code or "S3", f"{name} cannot be read ({code}: {words}): {_advice(code)}"
        ) from error
    except BotoCoreError as error:
        name = f"s3://{store.bucket}/{key}"
        raise SourceUnreadable(
            "S3", f"{name} could not be read ({error}); the next run tries again"
        ) from error


def _advice(code: str) -> str:
    if code == "InvalidObjectState":
        return "it is in an archive class such as Glacier; restore it, then run the date again"
    if code.startswith("KMS"):
        return "grant the pipeline kms:Decrypt on its key, or enable the key, then run the date again"
    if code in ("AccessDenied", "403", "AllAccessDisabled"):
        return (
            "grant the pipeline s3:GetObject on it (and kms:Decrypt on its key, if it has one of its own), "
            "then run the date again"
        )
    return "run the date again; upload it anew if that does not help"


class DecodeLimiter:
    """Bounds what is in memory of pictures: decoded ones at full size, small ones, and files to be stored."""

    def __init__(self, places: int) -> None:
        self.places = places
        self._free = threading.BoundedSemaphore(places)
        self._lock = threading.Lock()
        self._with_small: deque[weakref.ref[SourceImage]] = deque()
        self._stored = threading.Condition()
        self._to_store = 0

    @contextmanager
    def decode(self, data: bytes) -> Iterator[Photo]:
        """The photo, decoded, for as long as the block lasts; errors as `open_photo`."""
        with self._free:
            yield open_photo(data)

    @contextmanager
    def to_be_stored(self, size: int) -> Iterator[None]:
        """Waits while there is no room for ``size`` bytes among `MAX_STORED_DECODES`, which they take for the block.

        A larger file is admitted alone. The code in the block must not wait for another place.
        """
        with self._stored:
            self._stored.wait_for(lambda: not self._to_store or self._to_store + size <= MAX_STORED_DECODES)
            self._to_store += size
        try:
            yield
        finally:
            with self._stored:
                self._to_store -= size
                self._stored.notify_all()

    def decode_small(self, photograph: "SourceImage") -> Photo:
        """The small picture of a photo; if too many are held, the oldest is dropped."""
        data = photograph.data
        with self._free:
            small = open_photo(data, within=(SMALL_SIDE, SMALL_SIDE))
        with self._lock:
            self._with_small.append(weakref.ref(photograph))
            oldest = self._with_small.popleft()() if len(self._with_small) > SMALL_PLACES else None
        if oldest is not None:
            oldest.drop_decoded()
        return small


class SourceImage:
    """An uploaded image. Safe for threads.

    ``key`` is its name. If it was moved since, it lies at ``lies_at``, and ``etag`` is what it was uploaded under.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        darkroom: DecodeLimiter,
        *,
        lies_at: str = "",
        etag: str = "",
    ) -> None:
        self.key = key
        self._store = store
        self._lies_at = lies_at or key
        self._uploaded_as = etag
        self._darkroom = darkroom
        self._lock = threading.RLock()
        self._data: bytes | None = None
        self._aside: IO[bytes] | None = None
        self._etag = ""
        self._sha256 = ""
        self._facts: ImageHeader | None = None
        self._view: bytes | None = None
        self._small: Photo | None = None

    @property
    def data(self) -> bytes:
        """The source's bytes. Raises `ImageError` if the object is gone."""
        with self._lock:
            if self._data is None:
                self._data = self._fetched() if self._aside is None else self._read_spilled(self._aside)
            return self._data

    def _fetched(self) -> bytes:
        content = read_source(self._store, self._lies_at)
        if content is None:
            raise ImageError("NotFound", "there is no such object; upload it or take it off the request")
        self._etag, self._sha256 = self._uploaded_as or content.etag, hashlib.sha256(content.data).hexdigest()
        return content.data

    def _read_spilled(self, aside: IO[bytes]) -> bytes:
        with aside:
            aside.seek(0)
            self._aside = None
            return aside.read()

    @property
    def fetched(self) -> bool:
        """Whether the bytes were read, so that `etag` and `sha256` cost nothing."""
        return bool(self._sha256)

    @property
    def etag(self) -> str:
        """The tag of the bytes in `data`."""
        if not self.fetched:
            _ = self.data
        return self._etag

    @property
    def sha256(self) -> str:
        if not self.fetched:
            _ = self.data
        return self._sha256

    @property
    def facts(self) -> ImageHeader:
        """What the source's header says."""
        if self._facts is None:
            self._facts = read_header(self.data)
        return self._facts

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, upright."""
        return self.facts.size

    @property
    def small_size(self) -> tuple[int, int]:
        """The size of `small`, known without decoding it."""
        return scaled_down(self.size, (SMALL_SIDE, SMALL_SIDE))

    @property
    def view(self) -> bytes:
        """An upright sRGB JPEG within `SMALL_SIDE`, for services that only look at the photo."""
        with self._lock:
            if self._view is None:
                self._view = self.jpeg((SMALL_SIDE, SMALL_SIDE), min_side=80, max_bytes=3_700_000)
            return self._view

    def jpeg(
        self, within: tuple[int, int], *, min_side: int | None = None, max_bytes: int | None = None
    ) -> bytes:
        """What `small_jpeg` makes of the photo, which is not decoded if its own bytes will do."""
        will_do = self.facts.plain and scaled_down(self.size, within) == self.size
        source = self.data if will_do else self.small
        return small_jpeg(source, within=within, min_side=min_side, max_bytes=max_bytes, facts=self.facts)

    @property
    def small(self) -> Photo:
        """The photo decoded at no more than about `SMALL_SIDE`, with its own transparency."""
        with self._lock:
            small = self._small
            if small is None:
                self._small = small = self._darkroom.decode_small(self)
            return small

    @property
    def cached_preview(self) -> Image.Image | bytes:
        """What of `small` and `view` is in memory now, for a look that is worth no decoding of its own."""
        return self._view if self._view and not self._small else self.small.image

    @contextmanager
    def full(self) -> Iterator[Photo]:
        """The photo decoded at full size, while one of the darkroom's places is held."""
        with self._darkroom.decode(self.data) as photo:
            yield photo

    def drop_decoded(self) -> None:
        """Lets go of what is decoded; it is decoded again when somebody looks."""
        self._small = None

    def spill_to_disk(self) -> None:
        """Takes a photo that waits for a service out of memory: what is large of its source waits on disk."""
        with self._lock:
            self._view = None
            if self._data is not None and len(self._data) > ASIDE_BYTES:
                with suppress(OSError):  # a disk without room is no reason to stop
                    aside = TemporaryFile()  # noqa: SIM115 (open until its bytes are wanted)
                    weakref.finalize(self, aside.close)
                    aside.write(self._data)
                    self._aside, self._data = aside, None
