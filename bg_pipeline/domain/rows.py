"""A row of the report: what became of one image, and the statuses it can have."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Self

from bg_pipeline.domain.s3_keys import REQUEST
from bg_pipeline.errors import RequestError

if TYPE_CHECKING:
    pass


class Status(StrEnum):
    """How an image or one of its outputs ended, from the best to the worst.

    What the next run does again is worse than what it leaves alone, so that a row whose outputs ended
    differently says that there is something left to do.
    """

    SUCCEEDED = "Succeeded"
    NEEDS_REVIEW = "NeedsReview"
    BLOCKED = "Blocked"
    SKIPPED = "Skipped"
    FAILED = "Failed"


_BADNESS: Final = {status: badness for badness, status in enumerate(Status)}

TO_DO_AGAIN: Final = frozenset({Status.FAILED, Status.SKIPPED})
"""The statuses of the images that a retry asks for again, but for those that are `WAITING_FOR_APPROVAL`."""

WAITING_FOR_APPROVAL: Final = "SampleWaits"
"""The ``Error`` of an image that waits for a person to approve its batch's sample."""


def worst(statuses: Iterable[Status]) -> Status:
    """The worst of the statuses, of which there is at least one."""
    return max(statuses, key=_BADNESS.__getitem__)


@dataclass(frozen=True, slots=True)
class Output:
    """One picture or file of an image; ``Key`` is empty where there is none, ``Seed`` None where it is unknown."""

    Key: str
    Status: Status
    Cause: str = ""
    Model: str = ""
    Region: str = ""
    Seed: int | None = None
    CostUSD: float | None = 0.0

    @classmethod
    def read(cls, record: Mapping[str, Any]) -> Self:
        """The output in a record that bears the same names; other names in it mean nothing here.

        Raises `KeyError` if the record has no ``Status``.
        """
        said = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        return cls(**{"Key": "", **said, "Status": Status(record["Status"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one image; made with `compose`, which keeps its fields true to each other.

    Stored reports are read as rows too: a field that is added needs a default, which older reports then have.
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
    MaybeBilledUSD: float | None = 0.0
    Seconds: float = 0.0
    Reused: bool = False

    @property
    def to_do_again(self) -> bool:
        """Whether a retry asks for the image; it is no way round the approval of a sample."""
        return self.Status in TO_DO_AGAIN and self.ImageName != REQUEST and not self.waits_for_approval

    @property
    def waits_for_approval(self) -> bool:
        return self.Error == WAITING_FOR_APPROVAL


def compose(
    batch_id: str,
    image: str,
    *,
    status: Status,
    error: str = "",
    cause: str = "",
    ref: str = "",
    outputs: Sequence[Output] = (),
    labels: str = "",
    caption: str = "",
    cost_usd: float | None = 0.0,
    maybe_usd: float | None = 0.0,
    seconds: float = 0.0,
    reused: bool = False,
) -> Row:
    """The row of an image that ended as ``status``, or as the worst of its outputs where that is worse.

    Without a ``cause`` it has that of the first output which ended like the row. ``cost_usd`` is all that was
    surely billed for the image, its labels and caption included, ``maybe_usd`` what may have been billed besides.
    """
    status = worst([status, *(output.Status for output in outputs)])
    first = outputs[0] if outputs else Output(Key="", Status=status)
    causes = (output.Cause for output in outputs if output.Status == status and output.Cause)
    return Row(
        Id=batch_id,
        ImageName=image,
        Ref=ref,
        Status=status,
        Error=error,
        Cause=cause or next(causes, ""),
        Results=tuple(output.Key for output in outputs if output.Key),
        Outputs=tuple(outputs),
        Model=first.Model,
        Region=first.Region,
        Seed=first.Seed,
        Labels=labels,
        Caption=caption,
        CostUSD=None if cost_usd is None else round(cost_usd, 6),
        MaybeBilledUSD=None if maybe_usd is None else round(maybe_usd, 6),
        Seconds=round(seconds, 3),
        Reused=reused,
    )


def unreadable(batch_id: str, problem: RequestError) -> Row:
    """The one row of a batch whose request cannot be read; ``batch_id`` is the derived one."""
    return compose(batch_id, REQUEST, status=Status.FAILED, error="RequestError", cause=str(problem))


AGAIN_LATER = (Status.FAILED, Status.SKIPPED)
"""Statuses of what the next run does again, unless the failure is final."""


GOOD = (Status.SUCCEEDED, Status.NEEDS_REVIEW)
"""Statuses of what exists and is delivered, or kept for a person."""
