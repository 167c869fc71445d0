"""A Custom Labels model that is not running: what a run does that needs it and does not own its window."""

import threading
import time
from collections.abc import Callable

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.errors import NotTried
from bg_pipeline.storage.object_store import Store

WAITS_FOR_WINDOW = "WaitsForWindow"
"""The ``Error`` of a photo that waits for the model."""

SECONDS = 60.0
"""For so long a model that was not running is not asked again, so that ten thousand photos do not each ask."""


class StoppedModel:
    """What one run knows of the model being off. Safe for threads."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._until = 0.0
        self._marked: set[UploadDate] = set()

    @property
    def is_stopped(self) -> bool:
        """Whether the model was seen not running a moment ago."""
        return self._clock() < self._until

    def record_stopped(self) -> None:
        """The model was asked and is not running."""
        self._until = self._clock() + SECONDS

    def skip(self, date: UploadDate) -> NotTried:
        """What becomes of a photo of ``date`` that needs the model; the date is marked for the next window."""
        with self._lock:
            if date not in self._marked:
                mark_date_waiting(self._store, date)
                self._marked.add(date)
        return NotTried(
            WAITS_FOR_WINDOW,
            "waits for the Custom Labels model, which is not running: the job custom_labels_window starts it, "
            "every hour if its schedule is on, and then does what is left of this photo",
        )


def mark_date_waiting(store: Store, date: UploadDate, run: str = "") -> str:
    """Notes that a date waits for a window, or that the window run ``run`` is bringing it up to date; its tag.

    Always a new object, so that whoever removes a mark by its tag removes no later one.
    """
    return store.write_json(s3_keys.waiting_key(date), {"Version": 1, "Run": run, "At": time.time()})
