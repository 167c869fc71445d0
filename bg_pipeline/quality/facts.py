"""What is true of a date's batches after a run, looked up in what is stored: the grounds of the checks."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from bg_pipeline.reports.batch_report import not_reported
from bg_pipeline.reports.report import Row
from bg_pipeline.run.batch_work import Work
from bg_pipeline.run.results import MOST_SUBJECT_CHANGED
from bg_pipeline.state.ledger import Entry

NAMED = 200
"""Keys or images of each kind that are remembered."""


@dataclass
class Inspection:
    """What was found in a date's batches.

    ``results`` counts the results that the ledgers know, ``measured`` those whose subject was compared with the
    photo's; ``altered`` are pairs of (image, share of its subject's pixels that changed) over the limit. ``lost`` are
    results that are not stored as they were when they were opened; ``unreported`` images asked for that have not
    exactly one row in the stored report. ``errors`` counts the rows' errors.
    """

    results: int = 0
    measured: int = 0
    most_changed: float = 0.0
    altered: list[tuple[str, float]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def take(self, row: Row, entry: Entry) -> None:
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
            if changed > MOST_SUBJECT_CHANGED and len(self.altered) < NAMED:
                self.altered.append((row.ImageName, changed))

    def look_again(self, work: Work, results: Mapping[str, str], *, reported: bool) -> None:
        """Compares a batch that was just finished with what is stored: ``results`` are tags by key, as listed now."""
        for _, files in work.ledger.each("files"):
            lost = [key for key, etag in files.items() if results.get(key) != etag]
            self.lost += lost[: NAMED - len(self.lost)]
        if reported:
            self.unreported += not_reported(work)[: NAMED - len(self.unreported)]
