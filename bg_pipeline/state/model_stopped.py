"""What a run does with photos that need a stopped Custom Labels model, which only a window run may start."""

import threading
import time
from collections.abc import Callable

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.errors import NotTried
from bg_pipeline.storage.object_store import Store

WAITS_FOR_WINDOW = "WaitsForWindow"
"""The ``Error`` code of a photo that waits for the model."""

RETRY_SECONDS = 60.0
"""Seconds after a 'not running' answer in which the model is not called again, so that not every photo calls it."""


class StoppedModel:
    """Whether the model was recently found stopped, and which dates were marked, for one run; thread-safe."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._until = 0.0
        self._marked: set[UploadDate] = set()

    @property
    def is_stopped(self) -> bool:
        """Whether the model was found stopped in the last `RETRY_SECONDS`."""
        return self._clock() < self._until

    def record_stopped(self) -> None:
        """Records that a call failed because the model is not running."""
        self._until = self._clock() + RETRY_SECONDS

    def skip(self, date: UploadDate) -> NotTried:
        """Marks ``date`` for the next window and returns the error for its photos that need the model."""
        with self._lock:
            if date not in self._marked:
                mark_date_waiting(self._store, date)
                self._marked.add(date)
        return NotTried(
            WAITS_FOR_WINDOW,
            "waits for the Custom Labels model, which is not running: the job custom_labels_window starts it, "
            "every hour if its schedule is on, and then finishes this photo",
        )


def mark_date_waiting(store: Store, date: UploadDate, run: str = "") -> str:
    """Stores that a date waits for a window, or is being processed by the window run ``run``; returns the ETag.

    Each call writes a different document, so deleting a marker by its ETag never deletes a later one.
    """
    return store.write_json(s3_keys.waiting_key(date), {"Version": 1, "Run": run, "At": time.time()})
