"""What a person at the terminal sees: results on stdout, everything else on stderr, one line for an error."""

import contextlib
import errno
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import click
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bg_pipeline.domain.text import printable
from bg_pipeline.errors import BgPipelineError, RequestError, SettingsError, UsageError

WIDTH = 200
"""Columns where nobody looks: a pipe's reader wants whole keys."""

INTERRUPTED = 130

_MISUSE = (UsageError, SettingsError, RequestError)
_EXPECTED = (BgPipelineError, BotoCoreError, ClientError, Boto3Error, OSError)


class _Misuse(click.ClickException):
    """Wrong usage, told in one line."""

    exit_code = 2


class Commands(click.Group):
    """Commands that end in one clear line, not in a traceback, for whatever a user can cause."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer needs them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except _EXPECTED as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            kind = _Misuse if isinstance(error, _MISUSE) else click.ClickException
            raise kind(printable(_sentence(error))) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted. What was done is kept.", err=True)
            ctx.exit(INTERRUPTED)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, NoCredentialsError) or isinstance(error.__cause__, NoCredentialsError):
        return (
            "there are no AWS credentials: set them up as for the AWS CLI (`aws configure`, AWS_PROFILE), "
            "or try everything without an account: bg-pipeline demo"
        )
    if isinstance(error, ClientError):
        told = error.response.get("Error", {})
        return f"AWS refused {error.operation_name}: {told.get('Message') or told.get('Code') or error}"
    return str(error) or type(error).__name__


def console(*, stderr: bool = False) -> Console:
    """For tables and progress; sentences are for `say`."""
    made = Console(stderr=stderr, highlight=False, markup=False)
    if not made.is_terminal:
        made.width = WIDTH
    return made


def print_message(sentence: str) -> None:
    """One line for the person, beside the results."""
    click.echo(printable(sentence), err=True)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A table of plain text, whatever the cells hold; the columns in ``right`` are numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


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
    """An amount for a person; None is not known."""
    return "unknown" if amount is None else f"{amount:.{places}f}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def confirm(question: str, *, yes: bool) -> None:
    """Goes on if the answer is yes; raises `UsageError` if it is no, or if nobody is there to answer."""
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        if sys.stdin is not None and sys.stdin.isatty():
            raise
        raise UsageError(f"{question} Nobody answered; say --yes to go on without being asked") from None
    if not agreed:
        raise UsageError("nothing was done")


@contextlib.contextmanager
def stopped_by_user() -> Iterator[None]:
    """While open, SIGTERM ends the block as Ctrl-C does, also where a shell started it in the background."""

    def end(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
