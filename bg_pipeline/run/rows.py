"""The report rows of a batch, made from its ledger."""

from collections.abc import Iterator
from dataclasses import replace

from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.payments import Bill, sum_payments
from bg_pipeline.domain.rows import Output, Row, Status, complete_row, unreadable_request_row
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.run.batch_work import BatchWork


def rows(work: BatchWork) -> Iterator[Row]:
    """One row for each requested image, in the order of the request; one row if the request cannot be read."""
    return (row for row, _ in rows_and_entries(work))


def rows_and_entries(work: BatchWork) -> Iterator[tuple[Row, Entry]]:
    """The rows of `rows`, each with the ledger entry from which it was made."""
    if work.problem is not None:
        yield unreadable_request_row(work.locations.request_id, work.problem), Entry(s3_keys.REQUEST)
        return
    unattributed = work.ledger.header.get("Untold") or 0.0
    for image in work.images:
        row, entry = row_and_entry(work, image)
        if unattributed:
            row, unattributed = _with_unattributed_spend(row, unattributed), 0.0
        yield row, entry


def paid_without_row(work: BatchWork) -> Bill:
    """What was paid for images that are no longer requested, and what no row can tell because there is none."""
    bill = Bill()
    for payments in work.ledger.dropped.values():
        bill += sum_payments(payments.values())
    unattributed = work.ledger.header.get("Untold") or 0.0
    if unattributed and not work.images:
        bill += Bill(0.0, unattributed)
    return bill


def _with_unattributed_spend(row: Row, usd: float) -> Row:
    """The first row of a batch, plus what may have been billed for the batch without being known for which image."""
    note = (
        f"{usd:.4f} USD more may have been billed for this batch by a run that ended before recording "
        "for which image"
    )
    maybe = None if row.MaybeBilledUSD is None else round(row.MaybeBilledUSD + usd, 6)
    return replace(row, MaybeBilledUSD=maybe, Cause="; ".join(filter(None, [row.Cause, note])))


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
