"""From a batch's ledger to its report: built from what is stored, never from one run's memory."""

from collections.abc import Iterator

from bg_pipeline import layout
from bg_pipeline.batch import retry_request, write
from bg_pipeline.ledger import Entry
from bg_pipeline.renditions import WISHES
from bg_pipeline.report import Output, Report, Row, Status, compose, unreadable
from bg_pipeline.stages import CAPTIONS, LABELS, PICTURES
from bg_pipeline.work import Work


def rows(work: Work) -> Iterator[Row]:
    """A row for each image asked for, in the order asked."""
    if work.problem is not None:
        yield unreadable(work.place.request_id, work.problem)
        return
    for image in work.images:
        yield row(work, image, work.ledger.get(image) or Entry(image))


def row(work: Work, image: str, entry: Entry) -> Row:
    """What became of one image, as its ledger entry has it."""
    pictures = entry.stages.get(PICTURES)
    status = Status(pictures.status) if pictures else Status.SKIPPED
    error = pictures.error if pictures else "NotTried"
    cause = pictures.cause if pictures else "no picture was asked of any run yet"
    if status == Status.SUCCEEDED:
        cause = "; ".join(
            f"{name} failed and was not needed: {record.cause}"
            for name, stage in (("labels", LABELS), ("the caption", CAPTIONS))
            if (record := entry.stages.get(stage)) and record.status in (Status.FAILED, Status.BLOCKED)
        )
    records = entry.stages.values()
    outputs = [
        Output(
            output["Key"],
            Status(output["Status"]),
            output["Cause"],
            output["Model"],
            output["Region"],
            output["Seed"],
            output["CostUSD"],
        )
        for output in entry.outputs
    ]
    return compose(
        work.place.request_id,
        image,
        status=status,
        error=error,
        cause=cause,
        ref=work.asked(image).ref,
        outputs=outputs,
        labels=entry.labels,
        caption=entry.caption,
        cost_usd=None
        if any(record.unpriced for record in records)
        else sum(record.cost_usd for record in records),
        seconds=sum(record.seconds for record in records),
        reused=bool(pictures and pictures.reused),
    )


def report_batch(work: Work) -> str:
    """Stores the report as JSON and CSV, with the request that asks again for what failed; returns its key."""
    place = work.place
    report = Report(tuple(rows(work)))
    key = layout.report_key(place.status_prefix, place.request_id)
    csv_key = layout.report_key(place.status_prefix, place.request_id, "csv")
    retry_key = layout.retry_key(place.status_prefix, place.request_id)
    retry = retry_request(work.request, report.to_do_again, WISHES) if work.request else None
    if retry is not None:
        place.data.write(retry_key, write(retry), media_type="application/json")
    else:
        place.data.delete(retry_key)
    place.data.write(csv_key, report.csv(), media_type="text/csv; charset=utf-8")
    place.data.write(key, report.json(), media_type="application/json")
    return key
