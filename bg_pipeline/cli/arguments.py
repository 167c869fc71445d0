"""Options and arguments of several commands: dates, batches, --by, --format, --state-dir and --local."""

import datetime
import functools
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bg_pipeline.domain.batches import Batch, find_batch, name_problem
from bg_pipeline.domain.people import Person, local_person
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import COMMAND_OPTIONS
from bg_pipeline.errors import UsageError
from bg_pipeline.local_aws import use_local_aws
from bg_pipeline.reports.summaries import dates_with_uploads
from bg_pipeline.review import this_user
from bg_pipeline.settings import Settings
from bg_pipeline.storage.object_store import Store

F = TypeVar("F", bound=Callable[..., Any])


class _Date(click.ParamType[UploadDate]):
    name = "YYYY-MM-DD"

    def convert(self, value: Any, param: Any, ctx: Any) -> UploadDate:
        if isinstance(value, datetime.date):
            return value
        if value == "today":
            return today()
        try:
            return datetime.datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=datetime.UTC).date()
        except ValueError:
            self.fail(f"'{value}' is not a date such as 2026-11-21", param, ctx)


class _Batch(click.ParamType[Batch]):
    name = "BATCH"

    def convert(self, value: Any, param: Any, ctx: Any) -> Batch:
        if isinstance(value, Batch):
            return value
        key = value.partition("://")[2].partition("/")[2] if value.startswith("s3://") else value
        # The HTTP API's paths and the page write the date with hyphens.
        key = re.sub(r"^([0-9]{4})-([0-9]{2})-([0-9]{2})/", r"\1/\2/\3/", key)
        batch = find_batch(key.rstrip("/"))
        if batch is None:
            self.fail(f"'{value}' is not a batch; write YYYY/MM/DD/<batch>, or its prefix", param, ctx)
        return batch


class _BatchName(click.ParamType[str]):
    name = "NAME"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        name = str(value)
        if problem := name_problem(name):
            self.fail(f"'{name}' cannot be a batch's name: it {problem}", param, ctx)
        return name


DATE = _Date()
BATCH = _Batch()
BATCH_NAME = _BatchName()


def this_person(name: str = "") -> Person:
    """Who uses this command line: ``name``, by default the user of this process, with every role.

    The name is not proved: what the AWS credentials allow is what such a person may do.
    """
    return local_person(name or this_user())


def today() -> UploadDate:
    """The current upload date (UTC)."""
    return datetime.datetime.now(datetime.UTC).date()


def by(command: F) -> F:
    """The option ``--by``: the name that is stored with a decision."""
    option = click.option(
        "--by",
        default=this_user,
        show_default="your name on this machine",
        help="Who decides; stored with the decision.",
    )
    return option(command)


def dates_and_batches(command: Callable[..., None]) -> Callable[..., None]:
    """The options for upload dates and batches; the command gets them as ``dates`` and ``batches``."""

    @functools.wraps(command)
    def with_dates(
        date: UploadDate | None,
        first: UploadDate | None,
        last: UploadDate | None,
        batches: tuple[Batch, ...],
        **others: Any,
    ) -> None:
        command(dates=chosen_dates(date, first, last, batches), batches=batches, **others)

    for option in (
        click.option(
            "--batch", "batches", type=BATCH, multiple=True, help="Only this batch; repeat it for more."
        ),
        click.option("--to", "last", type=DATE, help="The last date of a range; needs --from."),
        click.option(
            "--from", "first", type=DATE, help="The first date of a range; without --to it ends today."
        ),
        click.option("--date", "date", type=DATE, help="One upload date (UTC), or 'today'."),
    ):
        with_dates = option(with_dates)
    return with_dates


def existing_dates(store: Store, dates: Sequence[UploadDate]) -> list[UploadDate]:
    """Those of several dates that have uploads or results; a single date is returned as it is."""
    if len(dates) < 2:
        return list(dates)
    return sorted(set(dates_with_uploads(store, min(dates), max(dates))) & set(dates))


def chosen_dates(
    date: UploadDate | None, first: UploadDate | None, last: UploadDate | None, batches: tuple[Batch, ...]
) -> list[UploadDate]:
    """The dates that the options name; raises `UsageError` if they name none or contradict each other."""
    if date and (first or last):
        raise UsageError("use either --date, or --from and --to")
    if last and not first:
        raise UsageError("--to needs --from")
    if first:
        last = last or today()
        if last < first:
            raise UsageError(f"--from {first} is later than --to {last}")
        dates = [first + datetime.timedelta(days) for days in range((last - first).days + 1)]
    elif date:
        dates = [date]
    else:
        dates = sorted({batch.date for batch in batches})
    if not dates:
        raise UsageError("choose a date: --date YYYY-MM-DD or 'today', --from and --to, or --batch")
    if others := [batch.path for batch in batches if batch.date not in dates]:
        raise UsageError(f"batch {others[0]} is not on the chosen dates")
    return dates


def state_dir(command: F) -> F:
    """The option ``--state-dir``: the folder of the local state."""
    return click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="BG_STATE_DIR",
        default=Path(".bg_pipeline"),
        show_default=True,
        help="Folder in which the stand-in and Dagster keep their state (BG_STATE_DIR).",
        is_eager=True,
        expose_value=True,
    )(command)


def local(command: F) -> F:
    """The option ``--local``: the command uses the stand-in for AWS instead of an account."""
    option = click.option(
        "--local",
        is_flag=True,
        expose_value=False,
        callback=_use_local_aws,
        help="Use the stand-in for AWS in BG_STATE_DIR (.bg_pipeline) instead of an AWS account.",
    )
    return option(command)


def _use_local_aws(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.with_resource(use_local_aws(Path(os.environ.get("BG_STATE_DIR") or ".bg_pipeline")))
        before = COMMAND_OPTIONS.set(("--local",))
        ctx.call_on_close(lambda: COMMAND_OPTIONS.reset(before))


def output_format(*more: str, help: str = "Output format; csv and json have all fields.") -> Callable[[F], F]:
    """The option ``--format`` with table, csv, json and ``more``; the command gets it as ``form``."""
    return click.option(
        "--format",
        "form",
        type=click.Choice(["table", "csv", "json", *more]),
        default="table",
        show_default=True,
        help=help,
    )


def when_to_run(configured: Settings, batch: Batch) -> str:
    """The condition under which a person has to start the batch's run, as the beginning of a sentence."""
    age = (today() - batch.date).days
    if configured.queue_url or age < configured.open_dates:
        return "If no sensor is on"
    if age <= configured.lookback_days:
        return f"The sensor looks at {batch.date} within the hour; if no sensor is on, or that is too late"
    return f"The sensor does not look at dates as old as {batch.date} (BG_LOOKBACK_DAYS)"
