"""The report rows of a batch, made from its ledger."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.payments import Bill, sum_payments, total
from bg_pipeline.domain.rows import (
    GOOD,
    Output,
    Row,
    Status,
    complete_row,
    unreadable_request_row,
    worst,
)
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.domain.text import amount
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.fingerprints import request_fingerprint

MOST_NAMED = 5
"""Names of images that a row's note has at most."""


def rows(work: BatchWork) -> Iterator[Row]:
    """One row for each requested image, in the order of the request; one row if the request cannot be read."""
    return (row for row, _ in rows_and_entries(work))


def rows_and_entries(work: BatchWork) -> Iterator[tuple[Row, Entry]]:
    """The rows of `rows`, each with the ledger entry from which it was made."""
    beside = paid_beside(work)
    if work.problem is not None:
        row = unreadable_request_row(work.locations.request_id, work.problem)
        yield beside.added_to(row) if beside else row, Entry(s3_keys.REQUEST)
        return
    for image in work.images:
        row, entry = row_and_entry(work, image)
        if beside is not None:
            row, beside = beside.added_to(row), None
        yield row, entry


@dataclass(frozen=True, slots=True)
class PaidBeside:
    """What was billed for a batch and belongs to none of its images; ``notes`` are the sentences that say so."""

    bill: Bill
    notes: Sequence[str]

    def added_to(self, row: Row) -> Row:
        """The row with these amounts, all as what may have been billed: they are not the image's own price."""
        maybe = total([row.MaybeBilledUSD, self.bill.cost_usd, self.bill.maybe_usd], 6)
        return replace(row, MaybeBilledUSD=maybe, Cause="; ".join(filter(None, [row.Cause, *self.notes])))


def paid_beside(work: BatchWork) -> PaidBeside | None:
    """What was billed for images that are no longer requested, or for nobody knows which; None if nothing was.

    The first row of the batch tells it, so that the rows' sums contain the whole bill.
    """
    bill, notes = Bill(), []
    for image, payments in work.ledger.dropped.items():
        paid = sum_payments(payments.values())
        bill += paid
        notes.append(f"{image}: {amount(paid.cost_usd, paid.maybe_usd, 4)}")
    if notes:
        more = f" and {len(notes) - MOST_NAMED} more" if len(notes) > MOST_NAMED else ""
        notes = [
            "also billed for images that the request no longer has, USD: "
            + ", ".join(notes[:MOST_NAMED])
            + more
        ]
    unattributed = work.ledger.header.get("Untold") or 0.0
    if unattributed:
        bill += Bill(0.0, unattributed)
        notes.append(
            f"{unattributed:.4f} USD more may have been billed for this batch by a run that ended before recording "
            "for which image"
        )
    return PaidBeside(bill, notes) if notes else None


def current_rows_and_entries(work: BatchWork) -> Iterator[tuple[Row, Entry]]:
    """As `rows_and_entries`, where a good picture of an earlier request or photo is not Succeeded but not tried.

    For the reports of runs that did not come to all pictures.
    """
    for row, entry in rows_and_entries(work):
        yield _outdated(row) if _is_of_earlier_request(work, entry) else row, entry


def _is_of_earlier_request(work: BatchWork, entry: Entry) -> bool:
    pictures, source = entry.stages.get(PICTURES), work.images.get(entry.image)
    if pictures is None or pictures.status not in GOOD or not pictures.wish or source is None:
        return False
    return pictures.wish != request_fingerprint(work.settings_of(entry.image), source.etag)


def _outdated(row: Row) -> Row:
    cause = (
        "the photo or the request has changed since the picture was made; a run of all stages makes it anew"
    )
    status = worst([row.Status, Status.SKIPPED])
    return replace(row, Status=status, Error="NotTried", Cause="; ".join(filter(None, [cause, row.Cause])))


def row_and_entry(work: BatchWork, image: str) -> tuple[Row, Entry]:
    """The row of one image and its ledger entry, which is empty if the ledger has none."""
    entry = work.ledger.get(image) or Entry(image)
    return row_of_entry(work, image, entry), entry


def row_of_entry(work: BatchWork, image: str, entry: Entry) -> Row:
    """The row of one image, made from a ledger entry."""
    pictures = entry.stages.get(PICTURES)
    status = Status(pictures.status) if pictures else Status.SKIPPED
    error = pictures.error if pictures else "NotTried"
    cause = pictures.cause if pictures else "no run has made a picture of it yet"
    if status == Status.SUCCEEDED:
        cause = "; ".join(
            f"{name} failed and was not needed: {record.cause}"
            for name, stage in (("labels", LABELS), ("the caption", CAPTIONS))
            if (record := entry.stages.get(stage)) and record.status in (Status.FAILED, Status.BLOCKED)
        )
    if pictures and pictures.note:
        cause = "; ".join(filter(None, [cause, pictures.note]))
    records = entry.stages.values()
    paid = sum_payments(entry.payments.values())
    outputs = tuple(Output.read(output) for output in entry.outputs)
    sure = (value for output in entry.outputs if (value := output.get("Confidence")) is not None)
    return complete_row(
        Row(
            Id=work.locations.request_id,
            ImageName=image,
            Status=status,
            Error=error,
            Cause=cause,
            Ref=work.ref(image),
            Outputs=outputs,
            Labels=entry.labels,
            Caption=entry.caption,
            CostUSD=paid.cost_usd,
            MaybeBilledUSD=paid.maybe_usd,
            Confidence=min(sure, default=None),
            Seconds=sum(record.seconds for record in records),
            Reused=bool(pictures and pictures.reused),
        )
    )
