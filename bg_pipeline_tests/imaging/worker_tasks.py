"""Calls for worker processes that go wrong, or that look at the process they run in."""

import importlib
import os
import sys
import time

from bg_pipeline.errors import ImageError


def crash() -> None:
    os.abort()


def hang() -> None:
    time.sleep(600)


def swell() -> None:
    grown = []
    while True:
        grown.append(bytearray(50_000_000))


def hold(size: int) -> None:
    """Keeps so many bytes for the life of the process, as a loaded network does."""
    globals()["held"] = bytearray(size)


def refuse() -> None:
    raise ImageError("DamagedImage", "the image is damaged")


def fail() -> None:
    raise ZeroDivisionError("a case nobody thought of")


def end_once(marker: str, signal_number: int, data: bytes) -> int:
    """Ends its process by a signal, unless the file ``marker`` shows that it did so before; returns len(data)."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return len(data)
    os.kill(os.getpid(), signal_number)
    return -1


def imported_modules(*names: str) -> list[str]:
    """All imported modules, once these are imported as well."""
    for name in names:
        importlib.import_module(name)
    return sorted(sys.modules)


def process_id(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def tell_process(marker: str, seconds: float) -> int:
    """Writes the id of its process to the file ``marker`` when it begins."""
    with open(marker, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    return process_id(seconds)
