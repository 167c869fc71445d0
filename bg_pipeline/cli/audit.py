"""``bg-pipeline audit``: prints who did what."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import click

from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, DATE, local, today
from bg_pipeline.cli.terminal import console, counted, print_message, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import printable, spreadsheet_text
from bg_pipeline.errors import UsageError
from bg_pipeline.settings import settings
from bg_pipeline.state.audit import Act, AuditLog, AuditRecord
from bg_pipeline.storage.object_store import open_bucket

DAYS = 30
"""Days that are printed by default."""

COLUMNS = ("At", "Who", "Via", "Act", "Batch", "Request", "Outcome", "Details")


@click.command()
@click.option("--batch", type=BATCH, help="Only acts about this batch, or that made it.")
@click.option("--by", "who", default="", metavar="NAME", help="Only acts of this person: name or subject.")
@click.option(
    "--act",
    "acts",
    type=click.Choice([act.value for act in Act], case_sensitive=False),
    multiple=True,
    help="Only this act; repeat it for more.",
)
@click.option("--date", "date", type=DATE, help="One day (UTC), or 'today'.")
@click.option(
    "--from",
    "first",
    type=DATE,
    help=f"The first day; by default the batch's, or {DAYS} days ago.",
)
@click.option("--to", "last", type=DATE, help="The last day; by default today.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="Output format. json has one object per line.",
)
@local
def audit(
    batch: Batch | None,
    who: str,
    acts: tuple[str, ...],
    date: UploadDate | None,
    first: UploadDate | None,
    last: UploadDate | None,
    form: str,
) -> None:
    """Print the audit log: who submitted, approved, decided, redid, retried, published and spent, and when.

    Names via `page` and `api` are proved by sign-in, if it is on; those via `local` are what somebody called
    themselves on the command line. An outcome that is Unknown means that the program ended before it could be
    written: the act may have happened. Ends with 1 if a line cannot be read.
    """
    if date and (first or last):
        raise UsageError("use either --date, or --from and --to")
    # A batch's date may be tomorrow's where days begin earlier than in UTC, and so may a clock.
    first = date or first or (batch.date - timedelta(1) if batch else today() - timedelta(DAYS))
    last = date or last or today() + timedelta(1)
    if last < first:
        raise UsageError(f"--from {first} is later than --to {last}")
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    found = AuditLog(store).records(first, last)
    wanted = {act.casefold() for act in acts}
    records = sorted(
        (each for each in found if _is_wanted(each, batch, who, wanted)), key=lambda each: (each.at, each.key)
    )
    if form == "json":
        for record in records:
            click.echo(json.dumps(_document(record)))  # ASCII, so no character controls a terminal
    elif form == "csv":
        click.echo(_csv(records), nl=False)
    elif records:
        console().print(table(COLUMNS, [_row(record) for record in records]))
    unreadable = sum(not record.readable for record in records)
    if unreadable:
        print_message(f"{counted(unreadable, 'object')} under audit/ cannot be read as audit lines.")
    if not records:
        print_message(f"No such act from {first} to {last}.")
    click.get_current_context().exit(1 if unreadable else 0)


def _is_wanted(record: AuditRecord, batch: Batch | None, who: str, acts: set[str]) -> bool:
    """Whether a record passes the filters; what cannot be read is never left out."""
    if not record.readable:
        return True
    if batch is not None and batch.path not in record.batches:
        return False
    if who and who.casefold() not in (record.name.casefold(), record.subject.casefold()):
        return False
    return not acts or record.act.casefold() in acts


def _row(record: AuditRecord) -> list[str]:
    if not record.readable:
        return [f"{record.stored_at:%Y-%m-%dT%H:%M:%S}", "", record.via, "", "", "", "unreadable", record.key]
    who = record.name if record.subject in ("", record.name) else f"{record.name} ({record.subject})"
    end = f"{record.outcome}: {record.cause}" if record.cause else record.outcome
    details = "; ".join(_facts(record))
    return [
        record.at[:19],
        *(" ".join(text.split()) for text in (who, record.via, record.act, record.batch)),
        record.request_etag,
        end,
        details,
    ]


def _facts(record: AuditRecord) -> Iterator[str]:
    both: Mapping[str, Any] = {**record.details, **record.result}
    for name, value in both.items():
        if value in ("", None, [], False):
            continue
        if name == "Results" and isinstance(value, list):
            yield counted(len(value), "result")
        else:
            yield f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}"


def _document(record: AuditRecord) -> dict[str, Any]:
    if not record.readable:
        return {"Key": record.key, "StoredAt": record.stored_at.isoformat(), "Readable": False}
    return {
        "Key": record.key,
        "At": record.at,
        "StoredAt": record.stored_at.isoformat(),
        "Via": record.via,
        "By": {"Name": record.name, "Subject": record.subject, "Issuer": record.issuer},
        "Act": record.act,
        "Batch": record.batch,
        "RequestETag": record.request_etag,
        "Details": record.details,
        "Outcome": record.outcome,
        "Cause": record.cause,
        "Result": record.result,
    }


def _csv(records: list[AuditRecord]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(COLUMNS)
    for record in records:
        writer.writerow(spreadsheet_text(printable(cell)) for cell in _row(record))
    return file.getvalue()
