"""Writes the report of a batch from its stored ledger, so it does not depend on which run did the work."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from tempfile import SpooledTemporaryFile
from typing import IO, Final

from bg_pipeline.budget.remaining import cap_left
from bg_pipeline.domain import s3_keys
from bg_pipeline.domain.ledger_entries import Entry
from bg_pipeline.domain.presets import PRESET_REQUESTS
from bg_pipeline.domain.requests import retry_request, write
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.errors import RunStopped
from bg_pipeline.reports import html as report_html
from bg_pipeline.reports.manifest import mirror_stored
from bg_pipeline.reports.report import CsvWriter, JsonWriter, Report, names_in
from bg_pipeline.run.batch_completion import Reporter
from bg_pipeline.run.batch_work import BatchWork
from bg_pipeline.run.rows import row_and_entry, rows
from bg_pipeline.state import thumbnails

_CSV: Final = "text/csv; charset=utf-8"
_IN_MEMORY: Final = 2 << 20
"""Maximum size in bytes of a report in memory while it is written; a larger one is in a temporary file."""


def missing_images(work: BatchWork) -> list[str]:
    """The requested images that do not have exactly one row in the stored report."""
    place = work.locations
    names = Counter(names_in(place.data.blocks(s3_keys.report_key(place.status_prefix, place.request_id))))
    return [
        image for image in (work.images if work.problem is None else [s3_keys.REQUEST]) if names[image] != 1
    ]


def write_report(work: BatchWork, batch_rows: Iterable[Row]) -> str:
    """Stores the report as JSON, CSV and HTML and the prepared retry request; returns the key of the JSON.

    ``batch_rows`` are the batch's `rows`; they are iterated once. The HTML contains the thumbnails that this and
    earlier runs made. For a batch of more than ``BG_HTML_REPORT_IMAGES`` images it is not written; `html_report`
    makes it on demand.
    """
    place = work.locations
    key = s3_keys.report_key(place.status_prefix, place.request_id)
    csv_key = s3_keys.report_key(place.status_prefix, place.request_id, "csv")
    with SpooledTemporaryFile(_IN_MEMORY) as as_json, SpooledTemporaryFile(_IN_MEMORY) as as_csv:
        to_do_again = _write(batch_rows, as_json, as_csv)
        _store_retry(work, to_do_again)
        work.writer.write(place.data, csv_key, as_csv, media_type=_CSV)
        _store_manifest(work)
        _store_html(work)
        work.writer.write(place.data, key, as_json, media_type="application/json")
    return key


REPORTER: Final = Reporter(write_report, missing_images)
"""The functions with which a run writes and checks the reports of its batches."""


def _write(rows: Iterable[Row], as_json: IO[bytes], as_csv: IO[bytes]) -> list[str]:
    """Writes the rows one by one; returns the images that a retry asks for."""
    to_do_again = []
    writers = (JsonWriter(as_json), CsvWriter(as_csv))
    for row in rows:
        for writer in writers:
            writer.write(row)
        if row.to_do_again:
            to_do_again.append(row.ImageName)
    for writer in writers:
        writer.end()
    return to_do_again


def _store_retry(work: BatchWork, to_do_again: Sequence[str]) -> None:
    place = work.locations
    key = s3_keys.retry_key(place.status_prefix, place.request_id)
    retry = None
    if work.request is not None:
        try:
            left = cap_left(work.locations.store, place.batch, work.request)
        except RunStopped:
            left = None  # The spent amount cannot be read; preparing a retry later reports that.
        else:
            retry = retry_request(
                work.request, to_do_again, PRESET_REQUESTS, approved=work.uploaded.approved, cap_usd=left
            )
    if retry is not None:
        work.writer.write(place.data, key, write(retry), media_type="application/json")
    else:
        work.writer.delete(place.data, key)


def _store_manifest(work: BatchWork) -> None:
    place = work.locations
    if s3_keys.MANIFEST in work.uploaded.others:
        mirrored = mirror_stored(
            place.data, place.batch, work.request, lambda image: row_and_entry(work, image)[0]
        )
        if mirrored is not None:
            key = s3_keys.manifest_report_key(place.status_prefix, place.request_id)
            work.writer.write(place.data, key, mirrored, media_type=_CSV)


def _store_html(work: BatchWork) -> None:
    place = work.locations
    key = s3_keys.report_key(place.status_prefix, place.request_id, "html")
    if place.thumbnails.enabled:
        report = Report(tuple(rows(work)))
        place.thumbnails.load()
        with SpooledTemporaryFile(_IN_MEMORY) as page:
            page.writelines(_html(work, report))
            work.writer.write(place.data, key, page, media_type="text/html; charset=utf-8")
        place.thumbnails.save(_etags_of_pictures(work, report.rows))
    else:
        work.writer.delete(place.data, key)


def html_report(work: BatchWork, *, link_seconds: int = 0) -> bytes:
    """The present report of any batch as HTML, with thumbnails up to the size limit.

    Missing thumbnails are made from the stored pictures, first for images that did not succeed, and stored. With
    ``link_seconds`` the page has links to all pictures that work without AWS credentials for this time.
    """
    place = work.locations
    report = Report(tuple(rows(work)))
    place.thumbnails.load()
    failed_first = sorted(report.rows, key=lambda row: row.Status == Status.SUCCEEDED)
    etags = _etags_of_pictures(work, failed_first)

    def read(key: str, etag: str) -> bytes | None:
        data, actual_key = place.resolve(key)
        content = data.read(actual_key)
        # The ledger has a moved photo under the ETag of its upload, which its copy does not have.
        return content.data if content and (content.etag == etag or key in place.moved) else None

    place.thumbnails.complete(read, etags.items())
    place.thumbnails.save(etags)
    if not link_seconds:
        return b"".join(_html(work, report))
    end = datetime.now(UTC) + timedelta(seconds=link_seconds)

    def link(key: str) -> str:
        data, actual_key = place.resolve(key)
        return data.presign(actual_key, link_seconds)

    return b"".join(_html(work, report, link, end))


def _etags_of_pictures(work: BatchWork, rows: Sequence[Row]) -> dict[str, str]:
    """The keys of the photos and results that the page shows, with their ETags from the ledger."""
    etags = {}
    for row in rows:
        entry = work.ledger.get(row.ImageName) or Entry(row.ImageName)
        if source := _photo_key(work, row.ImageName):
            etags[source] = entry.etag
        etags |= {key: entry.files[key] for key in row.Results[: thumbnails.RESULTS] if key in entry.files}
    return etags


def _photo_key(work: BatchWork, image: str) -> str:
    return f"{work.locations.input_prefix}/{image}" if work.images.get(image) else ""


def _html(
    work: BatchWork,
    report: Report,
    link: Callable[[str], str] = lambda key: "",
    links_end: datetime | None = None,
) -> Iterator[bytes]:
    place = work.locations
    etags = _etags_of_pictures(work, report.rows)
    return report_html.render(
        report,
        title=place.batch.path,
        made_at=datetime.now(UTC),
        source=lambda image: _photo_key(work, image),
        thumbnail=lambda key: place.thumbnails.get(key, etags.get(key, "")),
        alt_texts={entry.image: entry.alt_text for entry in work.ledger.entries()},
        link=link,
        links_end=links_end,
    )
