"""Output of the commands: results on stdout, everything else on stderr, an error as one line."""

import contextlib
import csv
import errno
import io
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import click
import orjson
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from bg_pipeline.aws.clients import explain_set_up
from bg_pipeline.domain.text import printable, spreadsheet_text
from bg_pipeline.errors import BgPipelineError, RequestError, SettingsError, UsageError

WIDTH = 200
"""Columns if the output is not a terminal: programs that read it need unbroken keys."""

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

_USAGE_ERRORS = (UsageError, SettingsError, RequestError)
_EXPECTED_ERRORS = (BgPipelineError, BotoCoreError, ClientError, Boto3Error, OSError)


class _WrongUsage(click.ClickException):
    """Wrong usage: one line and exit code 2."""

    exit_code = 2


class Commands(click.Group):
    """Commands that end with one line instead of a traceback on every error that a user can cause."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which a new user needs them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _EXPECTED_ERRORS as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            is_usage = isinstance(error, _USAGE_ERRORS) or bool(explain_set_up(error))
            kind = _WrongUsage if is_usage else click.ClickException
            raise kind(printable(_sentence(error))) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted. Finished work is kept.", err=True)
            ctx.exit(INTERRUPTED)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, NoCredentialsError) or isinstance(error.__cause__, NoCredentialsError):
        return (
            "there are no AWS credentials: set them up as for the AWS CLI (`aws configure`, AWS_PROFILE), "
            "or try the pipeline without an account: bg-pipeline demo"
        )
    if isinstance(error, ClientError):
        details = error.response.get("Error", {})
        return f"AWS refused {error.operation_name}: {details.get('Message') or details.get('Code') or error}"
    return explain_set_up(error) or str(error) or type(error).__name__


def console(*, stderr: bool = False) -> Console:
    """A console for tables and progress bars; sentences are printed with `print_message`."""
    result = Console(stderr=stderr, highlight=False, markup=False)
    if not result.is_terminal:
        result.width = WIDTH
    return result


def print_message(sentence: str) -> None:
    """Prints one line to stderr, with control characters escaped."""
    click.echo(printable(sentence), err=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A table of plain text: control characters and markup in cells are shown, not interpreted.

    Columns whose names are in ``right`` are aligned to the right.
    """
    result = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        result.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        result.add_row(*(_cell(value) for value in row))
    return result


def print_records(form: str, columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Prints records as ``json`` (a list, as they are) or ``csv`` (``columns``, safe for spreadsheets) to stdout.

    A column ``A.b`` is the field ``b`` of the record's ``A``. None is ``null`` in JSON and ``unknown`` in CSV.
    """
    if form == "json":
        option = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        click.echo(orjson.dumps(list(records), option=option).decode())
        return
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(columns)
    for record in records:
        writer.writerow([_csv_cell(record, column) for column in columns])
    click.echo(out.getvalue(), nl=False)


def _csv_cell(record: Mapping[str, Any], column: str) -> object:
    value: Any = record
    for name in column.split("."):
        value = value.get(name, 0) if isinstance(value, Mapping) else value
    if value is None:
        return "unknown"
    if isinstance(value, (bool, int, float)):
        return value
    return spreadsheet_text("\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))


_COLOURS = {
    "Succeeded": "green",
    "NeedsReview": "yellow",
    "Skipped": "yellow",
    "Blocked": "red",
    "Failed": "red",
    "OK": "green",
    "attention": "yellow",
    "failed": "red",
}


def _cell(value: object) -> Text:
    lines = "\n".join(printable(line) for line in str(value).split("\n"))
    return Text(lines, style=_COLOURS.get(lines, ""))


def dollars(amount: float | None, places: int = 2) -> str:
    """A dollar amount as text; ``unknown`` for None."""
    return "unknown" if amount is None else f"{amount:.{places}f}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def confirm(question: str, *, yes: bool) -> None:
    """Asks the question, unless ``yes``; raises `UsageError` if the answer is no, or if nobody can answer."""
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise
        raise UsageError(f"{question} Nobody answered; use --yes to continue without this question") from None
    if not agreed:
        raise UsageError("nothing was done")


@contextlib.contextmanager
def upload_progress(files: int) -> Iterator[Callable[[str], None]]:
    """While the block runs on a terminal, a bar of uploaded files; yields the function to call after each one."""
    columns = (TextColumn("uploading"), BarColumn(), MofNCompleteColumn())
    screen = console(stderr=True)
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as progress:
        bar = progress.add_task("", total=files)
        yield lambda name: progress.advance(bar)


@contextlib.contextmanager
def stopped_by_user() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT raise `KeyboardInterrupt`.

    Also in a process that a shell started in the background, with SIGINT ignored.
    """

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
