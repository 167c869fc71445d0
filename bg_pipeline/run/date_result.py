"""What a run did for each upload date, and what is true of the date afterwards."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.payments import Bill
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.imaging.fidelity import MOST_SUBJECT_CHANGED
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.state.model_stopped import WAITS_FOR_WINDOW

MAX_NAMED = 200
"""Keys or images of each kind that are remembered."""


@dataclass
class ResultChecks:
    """What was found in a date's batches.

    ``results`` counts the results that the ledgers know, ``measured`` those whose subject was compared with the
    photo's; ``altered`` are pairs of (image, share of its subject's pixels that changed) over the limit. ``lost`` are
    results that are not stored as they were when they were opened; ``unreported`` images asked for that have not
    exactly one row in the stored report. ``errors`` counts the rows' errors.
    """

    results: int = 0
    measured: int = 0
    most_changed: float = 0.0
    changed_subjects: list[tuple[str, float]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row, entry: Entry) -> None:
        """Counts one image."""
        if row.Error:
            self.errors[row.Error] += 1
        self.results += len(entry.files)
        for output in entry.outputs:
            changed = output.get("SubjectChanged")
            if changed is None:
                continue
            self.measured += 1
            self.most_changed = max(self.most_changed, changed)
            if changed > MOST_SUBJECT_CHANGED and len(self.changed_subjects) < MAX_NAMED:
                self.changed_subjects.append((row.ImageName, changed))

    def compare_with_stored(
        self, work: BatchWork, results: Mapping[str, str], unreported: Sequence[str]
    ) -> None:
        """Compares a batch that was just finished with what is stored.

        ``results`` are the tags of the stored results by key, ``unreported`` the images that are not in the report.
        """
        for _, files in work.ledger.field_of_each("files"):
            lost = [key for key, etag in files.items() if results.get(key) != etag]
            self.lost += lost[: MAX_NAMED - len(self.lost)]
        self.unreported += unreported[: MAX_NAMED - len(self.unreported)]


MAX_FAILED_ROWS = 200
"""Rows of failed images that a `DateResult` holds; the report has all."""

MAX_PREVIEWS = 8


@dataclass
class DateResult:
    """What a run did for one date, and what is true of the date after it.

    ``made``, ``waiting`` (for a Custom Labels window) and ``failed`` count by stage what this run did; ``troubled``
    are the first rows that are not ``Succeeded``; ``previews`` pairs of (source key, result key); ``unfinished``
    the folders that are not yet complete; ``stopped`` why the run ended early, if it did; ``problems`` what went
    wrong with whole batches, which were left as they are. ``spent`` is what this run paid, ``total`` what was ever
    paid for the date's batches. ``seconds`` went by from the first image handed out to the last batch finished, and
    so long ``refused`` calls were refused for their rate, those for other dates included.
    """

    date: UploadDate
    images: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    due: int = 0
    spent: Bill = field(default_factory=Bill)
    total: Bill = field(default_factory=Bill)
    seconds: float = 0.0
    refused: int = 0
    seconds_by_stage: dict[str, float] = field(default_factory=dict)
    made: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    batches: list[str] = field(default_factory=list)
    reports: list[str] = field(default_factory=list)
    failed_rows: list[Row] = field(default_factory=list)
    previews: list[tuple[str, str]] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    stopped: str = ""
    problems: list[str] = field(default_factory=list)
    checks: ResultChecks = field(default_factory=ResultChecks)

    @property
    def nothing_worked(self) -> bool:
        """Images were asked for and none has a usable result."""
        usable = self.counts[Status.SUCCEEDED] + self.counts[Status.NEEDS_REVIEW]
        return self.images > 0 and usable == 0

    @property
    def waits_for_window(self) -> bool:
        """Nothing worked yet, and some of it waits for a Custom Labels window that will do it."""
        return self.nothing_worked and self.checks.errors[WAITS_FOR_WINDOW] > 0


@dataclass(frozen=True)
class Progress:
    """Where a run is: images done of those found so far, their rate, what was spent."""

    done: int
    found: int
    failed: int
    seconds: float
    cost_usd: float
    refused: int

    def line(self) -> str:
        """One line for a log."""
        a_minute = self.done / self.seconds * 60 if self.seconds else 0.0
        left = f", about {(self.found - self.done) / a_minute:.0f} min left" if a_minute else ""
        return (
            f"{self.done} of {self.found} images done, {a_minute:.1f} a minute{left}; {self.failed} failed, "
            f"{self.cost_usd:.2f} USD so far, {self.refused} calls refused for their rate"
        )
