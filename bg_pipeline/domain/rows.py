"""Rows of the report: what became of one image, and the statuses it can have."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self

from bg_pipeline.domain.s3_keys import REQUEST
from bg_pipeline.errors import RequestError


class Status(StrEnum):
    """Outcome of an image or of one of its outputs, from best to worst.

    A status that the next run tries again is worse than one that it leaves alone. So a row whose outputs have
    different statuses shows that something is left to do.
    """

    SUCCEEDED = "Succeeded"
    NEEDS_REVIEW = "NeedsReview"
    BLOCKED = "Blocked"
    SKIPPED = "Skipped"
    FAILED = "Failed"


_BADNESS: Final = {status: badness for badness, status in enumerate(Status)}

TO_DO_AGAIN: Final = frozenset({Status.FAILED, Status.SKIPPED})
"""Statuses of images that a retry asks for again, unless their ``Error`` is `WAITING_FOR_APPROVAL`."""

WAITING_FOR_APPROVAL: Final = "SampleWaits"
"""The ``Error`` of an image that is not made before a person has approved its batch's sample."""

AGAIN_LATER: Final = (Status.FAILED, Status.SKIPPED)
"""Statuses that the next run tries again, unless the failure is final."""

GOOD: Final = (Status.SUCCEEDED, Status.NEEDS_REVIEW)
"""Statuses of outputs that exist: delivered, or kept for a person to check."""


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of ``statuses``, which must not be empty."""
    return max(statuses, key=_BADNESS.__getitem__)


@dataclass(frozen=True, slots=True)
class Output:
    """One picture or file of an image.

    ``Key`` is empty if nothing was stored. ``Seed`` is None if it is not known.
    """

    Key: str
    Status: Status
    Cause: str = ""
    Model: str = ""
    Region: str = ""
    Seed: int | None = None
    CostUSD: float | None = 0.0

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """The output in a stored record with the same field names; other fields are ignored.

        Raises `KeyError` if the record has no ``Status``.
        """
        fields = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**{"Key": "", **fields, "Status": Status(record["Status"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one image: one row of the report, under the names of its JSON.

    New rows are made with `complete_row`, which derives the fields that follow from ``Outputs``. Stored reports are
    read as rows too: a new field needs a default, which rows of older reports get. The JSON, the CSV and the data
    frame take their columns from here, so a new column is a field here and a value in `bg_pipeline.run.rows`.
    """

    Id: str
    ImageName: str
    Ref: str = ""
    Status: Status
    Error: str = ""
    Cause: str = ""
    Results: tuple[str, ...] = ()
    Outputs: tuple[Output, ...] = ()
    Model: str = ""
    Region: str = ""
    Seed: int | None = None
    Labels: str = ""
    Caption: str = ""
    CostUSD: float | None = 0.0
    """Dollars that were certainly billed for the image, labels and caption included; None: not known."""
    MaybeBilledUSD: float | None = 0.0
    """Dollars that may have been billed in addition; None: not known."""
    Seconds: float = 0.0
    Reused: bool = False
    Confidence: float | None = None
    """How sure the subject's mask is, 0 to 1: the lowest of the outputs; None where nothing was measured."""

    @property
    def to_do_again(self) -> bool:
        """Whether a retry asks for the image again; images that wait for a sample's approval are not retried."""
        return self.Status in TO_DO_AGAIN and self.ImageName != REQUEST and not self.waits_for_approval

    @property
    def waits_for_approval(self) -> bool:
        return self.Error == WAITING_FOR_APPROVAL


def complete_row(row: Row) -> Row:
    """``row`` with every field that follows from its ``Outputs``, and with rounded amounts.

    ``Status`` becomes the worst of the row's own and its outputs'. An empty ``Cause`` becomes that of the first
    output with this status. ``Results`` are the outputs' keys; ``Model``, ``Region`` and ``Seed`` are those of the
    first output.
    """
    outputs = row.Outputs
    status = worst([row.Status, *(output.Status for output in outputs)])
    first = outputs[0] if outputs else Output(Key="", Status=status)
    causes = (output.Cause for output in outputs if output.Status == status and output.Cause)
    return replace(
        row,
        Status=status,
        Cause=row.Cause or next(causes, ""),
        Results=tuple(output.Key for output in outputs if output.Key),
        Model=first.Model,
        Region=first.Region,
        Seed=first.Seed,
        CostUSD=None if row.CostUSD is None else round(row.CostUSD, 6),
        MaybeBilledUSD=None if row.MaybeBilledUSD is None else round(row.MaybeBilledUSD, 6),
        Seconds=round(row.Seconds, 3),
    )


def unreadable_request_row(batch_id: str, problem: RequestError) -> Row:
    """The only row of a batch whose request cannot be read; ``batch_id`` is the batch's derived id."""
    return Row(Id=batch_id, ImageName=REQUEST, Status=Status.FAILED, Error="RequestError", Cause=str(problem))
