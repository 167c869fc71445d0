"""Arguments and results on their way between processes: a small pickle, and what is large in files beside it."""

import os
import pickle
import weakref
from contextlib import suppress
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

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
        weakref.finalize(blob, _remove, path)
        return blob

    @classmethod
    def stored(cls, data: bytes, path: str) -> "Blob":
        """A blob whose bytes are written to ``path``; they stay in memory if the disk has no room."""
        try:
            Path(path).write_bytes(data)
        except OSError:
            _remove(path)
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


def pack(value: Any, prefix: str, *, blobs_as_bytes: bool) -> bytes:
    """``value`` for `unpack`; what is large goes into files whose paths begin with ``prefix``.

    With ``blobs_as_bytes`` the receiver gets each `Blob` as bytes and must not delete its file; otherwise it gets
    a `Blob` that owns the file. Pictures keep their mode, size and pixels, nothing else.
    """
    out = BytesIO()
    _Packer(out, prefix, blobs_as_bytes).dump(value)
    return out.getvalue()


def unpack(data: bytes) -> Any:
    """What was given to `pack`."""
    return _Unpacker(BytesIO(data)).load()


class _Packer(pickle.Pickler):
    def __init__(self, out: BytesIO, prefix: str, blobs_as_bytes: bool) -> None:
        super().__init__(out, pickle.HIGHEST_PROTOCOL)
        self._prefix = prefix
        self._blobs_as_bytes = blobs_as_bytes
        self._numbers = count()

    def persistent_id(self, value: Any) -> Any:
        """How a large value or a picture is found by the receiver; None for what is pickled as usual."""
        if isinstance(value, bytes) and len(value) > INLINE_BYTES:
            path = self._written(value)
            return path and ("bytes", path, True)
        if isinstance(value, Image.Image):
            pixels = value.tobytes()
            path = self._written(pixels) if len(pixels) > INLINE_BYTES else None
            return ("picture", value.mode, value.size, path or pixels)
        if isinstance(value, Blob):
            if self._blobs_as_bytes:
                return ("bytes", value.path, False) if value.path else ("plain", value.read())
            data = value.read()
            path = self._written(data) if len(data) > INLINE_BYTES else None
            return ("blob", path, len(data)) if path else ("blob in memory", data)
        return None

    def _written(self, data: bytes) -> str | None:
        """The file that now holds ``data``; None if the disk has no room."""
        path = f"{self._prefix}-{next(self._numbers)}"
        try:
            Path(path).write_bytes(data)
        except OSError:
            _remove(path)
            return None
        return path


class _Unpacker(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        """The value that `_Packer.persistent_id` named."""
        match pid:
            case ("bytes", path, temporary):
                data = Path(path).read_bytes()
                if temporary:
                    _remove(path)
                return data
            case ("picture", mode, size, str() as path):
                pixels = Path(path).read_bytes()
                _remove(path)
                return Image.frombytes(mode, size, pixels)
            case ("picture", mode, size, pixels):
                return Image.frombytes(mode, size, pixels)
            case ("blob", path, size):
                return Blob.in_file(path, size)
            case ("blob in memory", data):
                return Blob(data)
            case ("plain", data):
                return data
        raise pickle.UnpicklingError(f"unknown kind of value: {pid!r}")


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
