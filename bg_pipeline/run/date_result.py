"""The result of a run for one upload date, and the progress of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.payments import Bill
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.imaging.fidelity import MAX_SUBJECT_CHANGED
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.state.model_stopped import WAITS_FOR_WINDOW

MAX_NAMED = 200
"""The most keys or images that each list of `ResultChecks` holds."""


@dataclass
class ResultChecks:
    """What the data quality checks need to know of a date's batches.

    ``results`` counts the results in the ledgers, ``measured`` those whose subject was compared with the photo's.
    ``most_changed`` is the largest share of a subject's pixels that changed, ``least_sure`` the lowest confidence of
    a mask, None where none was measured; ``changed_subjects`` are pairs of
    (image, share) above `MAX_SUBJECT_CHANGED`. ``lost`` are results that are missing in S3 or were changed since the
    run stored them; ``unreported`` are requested images that do not have exactly one row in the stored report.
    ``errors`` counts the rows by their ``Error``.
    """

    results: int = 0
    measured: int = 0
    most_changed: float = 0.0
    least_sure: float | None = None
    changed_subjects: list[tuple[str, float]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, row: Row, entry: Entry) -> None:
        """Adds one image."""
        if row.Error:
            self.errors[row.Error] += 1
        self.results += len(entry.files)
        if row.Confidence is not None:
            self.least_sure = min(row.Confidence, 1.0 if self.least_sure is None else self.least_sure)
        for output in entry.outputs:
            changed = output.get("SubjectChanged")
            if changed is None:
                continue
            self.measured += 1
            self.most_changed = max(self.most_changed, changed)
            if changed > MAX_SUBJECT_CHANGED and len(self.changed_subjects) < MAX_NAMED:
                self.changed_subjects.append((row.ImageName, changed))

    def compare_with_stored(
        self, work: BatchWork, results: Mapping[str, str], unreported: Sequence[str]
    ) -> None:
        """Adds what is lost and unreported of a batch that was just finished.

        ``results`` are the ETags of the stored results by key, ``unreported`` the images that are not in the report.
        """
        for _, files in work.ledger.field_of_each("files"):
            lost = [key for key, etag in files.items() if results.get(key) != etag]
            self.lost += lost[: MAX_NAMED - len(self.lost)]
        self.unreported += unreported[: MAX_NAMED - len(self.unreported)]


MAX_FAILED_ROWS = 200
"""The most rows that `DateResult.failed_rows` holds; the report has all of them."""

MAX_PREVIEWS = 8
"""The most pairs that `DateResult.previews` holds."""


@dataclass(frozen=True, slots=True)
class AnalysedPhoto:
    """A photo that has labels or a caption: its keys, and its texts. ``labels_key`` is empty without labels."""

    image: str
    source_key: str
    labels_key: str
    labels: str
    caption: str
    alt_text: str


@dataclass
class DateResult:
    """What a run did for one date, and the state of the date after it.

    About this run: ``due`` counts the images with due stages; ``made``, ``waiting`` (for a Custom Labels window) and
    ``failed`` count outcomes by stage; ``seconds_by_stage`` sums the time of each stage over all images. ``spent`` is
    what this run paid. ``seconds`` is the time from the opening of the date's first batch to the end of its last one;
    ``refused`` counts the throttled calls in that time, those for other dates included. ``stopped`` is why the run
    ended early, or empty. ``reports`` are the keys of the reports that were written.

    About the date: ``images`` counts all images, ``counts`` them by ``Status``, ``total`` is all that was ever paid
    for the date's batches, ``batches`` are the paths of the counted batches. ``failed_rows`` are the first rows that
    are not ``Succeeded``; ``previews`` are pairs of (source key, result key), ``analysed`` the first photos with
    labels or a caption; ``good`` counts the images with a good outcome by stage; ``unfinished`` are the batches that
    are not completely uploaded, or not finished by this run; ``problems`` are errors of whole batches, which stay as
    they are.
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
    analysed: list[AnalysedPhoto] = field(default_factory=list)
    good: Counter[str] = field(default_factory=Counter)
    unfinished: list[str] = field(default_factory=list)
    stopped: str = ""
    problems: list[str] = field(default_factory=list)
    checks: ResultChecks = field(default_factory=ResultChecks)

    @property
    def nothing_worked(self) -> bool:
        """Whether there are images and none of them has a usable result."""
        usable = self.counts[Status.SUCCEEDED] + self.counts[Status.NEEDS_REVIEW]
        return self.images > 0 and usable == 0

    @property
    def waits_for_window(self) -> bool:
        """Whether `nothing_worked`, but some images wait for a Custom Labels window that will process them."""
        return self.nothing_worked and self.checks.errors[WAITS_FOR_WINDOW] > 0


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    ``found`` counts the due images found so far, ``done`` those with an outcome. Of those ``failed`` failed,
    ``waiting`` wait for a sample's approval or a Custom Labels window, ``skipped`` were not tried for another reason,
    and ``blocked`` were refused by a model's content policy. ``refused`` counts throttled calls.
    """

    done: int
    found: int
    failed: int
    seconds: float
    cost_usd: float
    refused: int
    waiting: int = 0
    skipped: int = 0
    blocked: int = 0

    @property
    def made(self) -> int:
        """The images that were made, or flagged for a person to look at."""
        return self.done - self.failed - self.waiting - self.skipped - self.blocked

    def line(self) -> str:
        """The progress as one line for a log."""
        per_minute = (self.done - self.waiting - self.skipped) / self.seconds * 60 if self.seconds else 0.0
        parts = [
            f"{self.made} of {self.found} images made",
            f"{self.failed} failed",
            *([f"{self.blocked} blocked"] if self.blocked else []),
            *([f"{self.waiting} waiting"] if self.waiting else []),
            *([f"{self.skipped} skipped"] if self.skipped else []),
            f"{per_minute:.1f} a minute",
        ]
        if (left := self.found - self.done) and per_minute:
            parts.append(f"about {left / per_minute:.0f} min left")
        return (
            f"{', '.join(parts)}; {self.cost_usd:.2f} USD so far, {self.refused} calls refused for their rate"
        )
