"""Lines of text by name, held in a fifth of their size: what a run knows of each of 100,000 images."""

import threading
import zlib
from collections.abc import Iterator, MutableMapping
from typing import Final

LINES: Final = 64
"""Lines of a block: two neighbours in one cost one unpacking of 0.2 ms, a line found out of order costs it whole."""
UNPACKED: Final = 4
"""Blocks that are held unpacked beside it, those used last."""


class CompressedRows(MutableMapping[str, bytes]):
    """Maps names to lines, in the order in which the names came; no line has a newline in it.

    Fast where lines are asked for roughly in the order in which they were set. A line that is set anew takes room
    twice until the mapping is given up. Threads may read, and one of them set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, int] = {}
        self._packed: list[bytes] = []
        self._loose: list[bytes] = []
        self._unpacked: dict[int, list[bytes]] = {}

    def __getitem__(self, name: str) -> bytes:
        with self._lock:
            block, number = divmod(self._places[name], LINES)
            return self._block(block)[number]

    def _block(self, block: int) -> list[bytes]:
        if block == len(self._packed):
            return self._loose
        lines = self._unpacked.pop(block, None)
        if lines is None:
            lines = zlib.decompress(self._packed[block]).split(b"\n")
            if len(self._unpacked) == UNPACKED:
                del self._unpacked[next(iter(self._unpacked))]
        self._unpacked[block] = lines
        return lines

    def __setitem__(self, name: str, line: bytes) -> None:
        with self._lock:
            self._places[name] = len(self._packed) * LINES + len(self._loose)
            self._loose.append(line)
            if len(self._loose) == LINES:
                # Level 1: another would take several times as long for a tenth less.
                self._packed.append(zlib.compress(b"\n".join(self._loose), 1))
                self._loose = []

    def __delitem__(self, name: str) -> None:
        with self._lock:
            del self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
