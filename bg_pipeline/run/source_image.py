"""One uploaded photo while it is worked on: read from S3 once, decoded in worker processes only when needed.

What is large of a source, and the small picture that its subject is looked for in, is in files and not in memory,
however many images are worked on.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image

from bg_pipeline.errors import ImageError, SourceUnreadable
from bg_pipeline.imaging import Fitted, ImageHeader, fit, jpeg, small_jpeg
from bg_pipeline.imaging.parcels import Blob, StoredPhoto, open_stored
from bg_pipeline.imaging.photo import scaled_down
from bg_pipeline.imaging.thumbnail import marked_thumbnail, thumbnail
from bg_pipeline.imaging.workers import Limit, PictureWorkers, header_of
from bg_pipeline.storage.object_store import ObjectContent, Store

Size = tuple[int, int]

SMALL_SIDE = 1408
"""The longest side that a Titan size has, and enough to find a subject in."""

MAX_STORED_BYTES = 32_000_000
"""Bytes of finished files in memory while they are stored; reading them back takes as much again."""


def read_source(store: Store, key: str) -> ObjectContent | None:
    """An uploaded object; None if there is none.

    Raises `SourceUnreadable`, which names the object and the remedy, if S3 refuses to return it: only this image
    fails.
    """
    try:
        return store.read(key)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        name = f"s3://{store.bucket}/{key}"
        message = str(error.response.get("Error", {}).get("Message", "")) or code
        raise SourceUnreadable(
            code or "S3", f"{name} cannot be read ({code}: {message}): {_advice(code)}"
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


class PictureMemory:
    """Bounds the finished files that a process has in memory while it stores them. Safe for threads.

    ``workers`` do all that needs decoded pictures.
    """

    def __init__(self, workers: PictureWorkers) -> None:
        self.workers = workers
        self._stored = threading.Condition()
        self._stored_bytes = 0

    @contextmanager
    def storing(self, size: int) -> Iterator[None]:
        """Waits until ``size`` more bytes fit into `MAX_STORED_BYTES`, and counts them while the block lasts.

        A larger file is admitted alone. The code in the block must not wait for another place.
        """
        with self._stored:
            self._stored.wait_for(
                lambda: not self._stored_bytes or self._stored_bytes + size <= MAX_STORED_BYTES
            )
            self._stored_bytes += size
        try:
            yield
        finally:
            with self._stored:
                self._stored_bytes -= size
                self._stored.notify_all()


class SourceImage:
    """An uploaded image. Safe for threads.

    ``key`` is the key it was uploaded under. If it was moved since then, ``stored_at`` is its key now, and ``etag``
    the tag of the upload.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        memory: PictureMemory,
        *,
        stored_at: str = "",
        etag: str = "",
    ) -> None:
        self.key = key
        self._store = store
        self._stored_at = stored_at or key
        self._upload_etag = etag
        self._workers = memory.workers
        self._lock = threading.RLock()
        self._source: Blob | None = None
        self._etag = ""
        self._sha256 = ""
        self._header: ImageHeader | None = None
        self._whole = False
        self._view: bytes | None = None
        self._small: StoredPhoto | None = None

    @property
    def source(self) -> Blob:
        """The source's bytes. Raises `ImageError` if the object is gone."""
        with self._lock:
            if self._source is None:
                self._source = self._read()
            return self._source

    def _read(self) -> Blob:
        content = read_source(self._store, self._stored_at)
        if content is None:
            raise ImageError("NotFound", "there is no such object; upload it or take it off the request")
        self._etag = self._upload_etag or content.etag
        self._sha256 = hashlib.sha256(content.data).hexdigest()
        return self._workers.blob(content.data)

    @property
    def fetched(self) -> bool:
        """Whether the bytes were read, so that `etag` and `sha256` cost nothing."""
        return bool(self._sha256)

    @property
    def etag(self) -> str:
        """The tag of the bytes in `source`."""
        if not self.fetched:
            _ = self.source
        return self._etag

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bytes in `source`, in hexadecimal digits."""
        if not self.fetched:
            _ = self.source
        return self._sha256

    @property
    def header(self) -> ImageHeader:
        """The facts in the source's header."""
        with self._lock:
            if self._header is None:
                self._header = header_of(self._workers, self.source)
            return self._header

    @property
    def size(self) -> Size:
        """Width and height in pixels, upright."""
        return self.header.size

    @property
    def small_size(self) -> Size:
        """The size of `small`, known without decoding it."""
        return scaled_down(self.size, (SMALL_SIDE, SMALL_SIDE))

    def limit(self, *others: Size, rounds: int = 1, doing: str = "decode") -> Limit:
        """The limit for work that goes through the photo, and pictures of other sizes, ``rounds`` times."""
        return Limit.of(self.size, *others, files=len(self.source), rounds=rounds, doing=doing)

    @property
    def view(self) -> bytes:
        """An upright sRGB JPEG within `SMALL_SIDE`, for services that only look at the photo."""
        with self._lock:
            if self._view is None:
                self._view = self.jpeg((SMALL_SIDE, SMALL_SIDE), min_side=80, max_bytes=3_700_000)
            return self._view

    def jpeg(self, within: Size, *, min_side: int | None = None, max_bytes: int | None = None) -> bytes:
        """The photo as `small_jpeg` returns it; the source's own bytes if they are such a JPEG."""
        unscaled = self.header.plain and scaled_down(self.size, within) == self.size
        if (
            unscaled
            and min(self.size) >= (min_side or 1)
            and len(self.source) <= (max_bytes or len(self.source))
        ):
            with self._lock:
                if not self._whole:
                    # Services are paid for looking at it, so damage must be seen before.
                    self._workers.run(self.limit(), jpeg.check, self.source)
                    self._whole = True
            return self.source.read()
        return self._workers.run(
            self.limit(),
            small_jpeg,
            self.source if unscaled else self.small,
            within=within,
            min_side=min_side,
            max_bytes=max_bytes,
            header=self.header,
        )

    @property
    def small(self) -> StoredPhoto:
        """The photo decoded at no more than about `SMALL_SIDE`, with its own transparency."""
        with self._lock:
            if self._small is None:
                within = (SMALL_SIDE, SMALL_SIDE)
                self._small = self._workers.run(self.limit(), open_stored, self.source, within=within)
            return self._small

    def thumbnail(self) -> bytes:
        """A thumbnail from what is decoded already, if anything is."""
        picture = self._view if self._view and not self._small else self.small.pixels
        return self._workers.run(self.limit(), thumbnail, picture)

    def marked_thumbnail(self, where: Image.Image) -> bytes:
        """A thumbnail with the places in ``where`` (`marked_thumbnail`) in red."""
        return self._workers.run(self.limit(), marked_thumbnail, self.small.pixels, where)

    def fitted(self, fitted: Fitted, *, max_bytes: int | None) -> bytes:
        """The photo as a JPEG of the size that a model takes; see `fit`."""
        source = self.small if max(fitted.inner) <= SMALL_SIDE else self.source
        return self.fitted_from(source, fitted, max_bytes=max_bytes)

    def fitted_from(self, source: StoredPhoto | Blob, fitted: Fitted, *, max_bytes: int | None) -> bytes:
        """The same from `small` or from `source`."""
        limit = self.limit(fitted.canvas)
        return self._workers.run(limit, fit, source, fitted, media="jpeg", max_bytes=max_bytes)

    def drop_decoded(self) -> None:
        """Drops what is decoded; it is decoded again when it is needed."""
        self._small = None

    def drop_view(self) -> None:
        """Takes a photo that waits for a service out of memory, as far as its source is in a file."""
        with self._lock:
            self._view = None
