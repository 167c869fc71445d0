"""Arguments and results on their way between processes: a small pickle, and what is large in files beside it."""

import os
import pickle
import weakref
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from bg_pipeline.imaging.photo import Photo, open_photo

INLINE_BYTES = 128 * 1024
"""Larger bytes and pixels travel in files: a pipe would copy them in pieces of 64 KB."""


class Blob:
    """Bytes in memory or, if they are many, in a file that is deleted together with this object.

    As an argument of `PictureWorkers.run` it becomes the bytes themselves. In a result it stays a `Blob`, so that
    large results take no memory before somebody reads them.
    """

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._path = ""
        self._size = len(data)

    @classmethod
    def in_file(cls, path: str, size: int) -> "Blob":
        """The content of a file, which belongs to the new object from now on."""
        blob = cls(b"")
        blob._data, blob._path, blob._size = None, path, size
        weakref.finalize(blob, remove, path)
        return blob

    @classmethod
    def stored(cls, data: bytes, path: str) -> "Blob":
        """A blob whose bytes are written to ``path``; they stay in memory if the disk has no room."""
        try:
            Path(path).write_bytes(data)
        except OSError:
            remove(path)
            return cls(data)
        return cls.in_file(path, len(data))

    @property
    def path(self) -> str:
        """The file that holds the bytes; empty if they are in memory."""
        return self._path

    def read(self) -> bytes:
        """The bytes."""
        return Path(self._path).read_bytes() if self._data is None else self._data

    def __len__(self) -> int:
        return self._size


class StoredPhoto:
    """A `Photo` whose pixels are in a file that is deleted with this object. As an argument it becomes a `Photo`."""

    def __init__(self, photo: Photo) -> None:
        image = photo.image
        self.mode = image.mode
        self.size = image.size
        self._pixels = Blob(image.tobytes())
        self._facts = photo.format, photo.notes, photo.dpi, photo.lossless

    @property
    def pixels(self) -> "StoredPixels":
        """The picture without its facts; as an argument it arrives as an `Image`."""
        return StoredPixels(self.mode, self.size, self._pixels)

    def load(self) -> Photo:
        """The photo in memory."""
        return Photo(self.pixels.load(), *self._facts)


@dataclass(frozen=True)
class StoredPixels:
    """A picture's pixels in a `Blob`."""

    mode: str
    size: tuple[int, int]
    data: Blob

    def load(self) -> Image.Image:
        """The picture in memory."""
        return Image.frombytes(self.mode, self.size, self.data.read())


def open_stored(data: bytes, *, within: tuple[int, int]) -> StoredPhoto:
    """The photo as `open_photo` returns it, for several calls."""
    return StoredPhoto(open_photo(data, within=within))


def loaded(value: Any) -> Any:
    """An argument as the called function gets it."""
    if isinstance(value, Blob):
        return value.read()
    return value.load() if isinstance(value, StoredPhoto | StoredPixels) else value


def pack(value: Any, prefix: str, *, arguments: bool) -> tuple[bytes, list[str]]:
    """``value`` for `unpack`, and the files that hold what is large of it; their paths begin with ``prefix``.

    With ``arguments`` the receiver gets each `Blob` as bytes, each `StoredPhoto` as a `Photo`, and deletes no file:
    the call may be repeated. Otherwise it gets them as they are, and owns their files. Of pictures mode, size and
    pixels cross, nothing else.
    """
    out = BytesIO()
    packer = _Packer(out, prefix, arguments)
    packer.dump(value)
    return out.getvalue(), packer.files


def unpack(data: bytes) -> Any:
    """What was given to `pack`."""
    return _Unpacker(BytesIO(data)).load()


class _Packer(pickle.Pickler):
    def __init__(self, out: BytesIO, prefix: str, arguments: bool) -> None:
        super().__init__(out, pickle.HIGHEST_PROTOCOL)
        self._prefix = prefix
        self._arguments = arguments
        self.files: list[str] = []

    def persistent_id(self, value: Any) -> Any:
        """How a large value or a picture is found by the receiver; None for what is pickled as usual."""
        if isinstance(value, bytes) and len(value) > INLINE_BYTES:
            path = self._written(value)
            return path and ("bytes", path, not self._arguments)
        if isinstance(value, Image.Image):
            pixels = value.tobytes()
            path = self._written(pixels) if len(pixels) > INLINE_BYTES else None
            return ("picture", value.mode, value.size, path or pixels, not self._arguments)
        if self._arguments and isinstance(value, StoredPhoto):
            return ("photo", value.mode, value.size, _place(value._pixels), value._facts)
        if self._arguments and isinstance(value, StoredPixels):
            return ("pixels", value.mode, value.size, _place(value.data))
        if isinstance(value, Blob):
            if self._arguments:
                return ("bytes", value.path, False) if value.path else ("plain", value.read())
            data = value.read()
            path = self._written(data) if len(data) > INLINE_BYTES else None
            return ("blob", path, len(data)) if path else ("blob in memory", data)
        return None

    def _written(self, data: bytes) -> str | None:
        """The file that now holds ``data``; None if the disk has no room."""
        path = f"{self._prefix}-{len(self.files)}"
        try:
            Path(path).write_bytes(data)
        except OSError:
            remove(path)
            return None
        self.files.append(path)
        return path


class _Unpacker(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        """The value that `_Packer.persistent_id` named."""
        match pid:
            case ("bytes", path, owned):
                return _read(path, owned)
            case ("picture", mode, size, place, owned):
                return Image.frombytes(mode, size, _read(place, owned))
            case ("photo", mode, size, place, facts):
                return Photo(Image.frombytes(mode, size, _read(place)), *facts)
            case ("pixels", mode, size, place):
                return Image.frombytes(mode, size, _read(place))
            case ("blob", path, size):
                return Blob.in_file(path, size)
            case ("blob in memory", data):
                return Blob(data)
            case ("plain", data):
                return data
        raise pickle.UnpicklingError(f"unknown kind of value: {pid!r}")


def _place(blob: Blob) -> str | bytes:
    """Where a receiver finds the bytes: a path, or the bytes themselves."""
    return blob.path or blob.read()


def _read(place: str | bytes, owned: bool = False) -> bytes:
    """The bytes, whose file is deleted if it is ``owned``."""
    if isinstance(place, bytes):
        return place
    data = Path(place).read_bytes()
    if owned:
        remove(place)
    return data


def remove(path: str) -> None:
    """Deletes a file, if it is there."""
    with suppress(OSError):
        os.unlink(path)
