"""What the parts of one run share: each date's result, the open batches, the running images, and why it stops."""

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.run.image_run import ImageRun
from bg_pipeline.run.outcomes import RowOutcome


class ImageTask(NamedTuple):
    """One image that has due stages, and its batch."""

    work: BatchWork
    image: str


@dataclass
class RunState:
    """The state of one run. Only the thread that calls `Engine.run` reads and changes it.

    ``open_batches`` are the batches whose lease is held and whose report is not written yet. ``running`` maps the
    future of each image that was given to the thread pool to its task. ``stopped`` is the reason why no further
    image is started; ``no_model`` is the reason why no image is started that needs an image model. ``found``,
    ``done``, ``failed``, ``waiting``, ``skipped`` and ``blocked`` count the due images of all dates as in `Progress`.
    ``started_at`` holds, for each date, the `time.monotonic` and the number of throttled calls when its first batch
    was opened.
    """

    results: dict[UploadDate, DateResult] = field(default_factory=dict)
    open_batches: list[BatchWork] = field(default_factory=list)
    running: dict[Future[ImageRun], ImageTask] = field(default_factory=dict)
    stopped: RowOutcome | None = None
    no_model: RowOutcome | None = None
    found: int = 0
    done: int = 0
    failed: int = 0
    waiting: int = 0
    skipped: int = 0
    blocked: int = 0
    started_at: dict[UploadDate, tuple[float, int]] = field(default_factory=dict)

    def result_of(self, work: BatchWork) -> DateResult:
        """The result of the batch's date."""
        return self.results[work.uploaded.batch.date]

    def add_problem(self, batch: Batch, problem: str) -> None:
        """Adds a problem that concerns a whole batch to the result of its date."""
        self.results[batch.date].problems.append(f"batch {batch.path} {problem}; the next run tries again")
