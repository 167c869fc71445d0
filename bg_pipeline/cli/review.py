"""``bg-pipeline review``: lists results that wait for review, and stores what a person decides about them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bg_pipeline import review as reviews
from bg_pipeline.acts import Acts
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, by, local, output_format, this_person
from bg_pipeline.cli.run import run_dates
from bg_pipeline.cli.submit import ASK_BEYOND
from bg_pipeline.cli.terminal import (
    confirm,
    console,
    counted,
    dollars,
    print_message,
    print_records,
    table,
)
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.people import Person
from bg_pipeline.errors import UsageError
from bg_pipeline.review import Item, Results, State
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, open_bucket

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def review() -> None:
    """Look through results: approve or reject them, or request other pictures.

    Results that passed every check are approved automatically (BG_AUTO_APPROVE), except a share (BG_REVIEW_SHARE).
    This share and all flagged results wait for review. `publish` delivers approved results.
    """


def _names_argument(command: F) -> F:
    option = click.argument("names", nargs=-1, metavar="[RESULT|IMAGE]...")
    return option(command)


def _all_option(command: F) -> F:
    option = click.option("--all", "everything", is_flag=True, help="All results that wait for review.")
    return option(command)


def _open(batch: Batch) -> tuple[Settings, Store, Results, list[Item]]:
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    results = Results(open_batch(store, configured, batch), configured)
    return configured, store, results, results.items()


def _selected(work: BatchWork, items: Sequence[Item], names: Sequence[str], everything: bool) -> list[Item]:
    """The items that the command line names; with ``everything`` all results that wait."""
    if bool(names) == everything:
        raise UsageError("name results or images, or use --all for all that wait for review")
    if everything:
        return [item for item in reviews.review_queue(items) if item.key]
    return reviews.find_items(items, names, work.locations.output_prefix)


@review.command("list")
@click.argument("batch", type=BATCH)
@click.option("--all", "everything", is_flag=True, help="Every result, not only those that wait for review.")
@output_format()
@local
def list_(batch: Batch, everything: bool, form: str) -> None:
    """Print the results that wait for review, and how many are approved and rejected.

    Fill in the columns Decision and Reason of the csv and pass it to `review apply`. Ends with 0 if nothing waits,
    else with 1.
    """
    _, _, results, items = _open(batch)
    shown = items if everything else reviews.review_queue(items)
    if form == "csv":
        click.echo(reviews.as_csv(shown), nl=False)
    elif form == "json":
        print_records(form, (), [reviews.record(item) for item in shown])
    else:
        if shown:
            console().print(
                table(
                    ("Result", "Image", "Status", "State", "Why"),
                    [
                        (item.key or "none", item.image, item.status.value, item.state.value, item.why)
                        for item in shown
                    ],
                )
            )
        _print_summary(results, items)
    waiting = any(item.state is State.WAITING for item in items)
    click.get_current_context().exit(1 if waiting else 0)


def _print_summary(results: Results, items: Sequence[Item]) -> None:
    summary = results.summary(items)
    print_message(
        f"{counted(summary.approved, 'result')} approved, {summary.rejected:,} rejected, "
        f"{summary.waiting:,} waiting; "
        f"{summary.approved_images:,} of {counted(summary.images, 'image')} with an approved result, at "
        f"{dollars(summary.cost_per_image, 4)} USD each of {summary.costs.in_words()} in all."
        if summary.approved_images
        else f"0 results approved, {summary.rejected:,} rejected, {summary.waiting:,} waiting; "
        f"{summary.costs.in_words()} in all."
    )


@review.command()
@click.argument("batch", type=BATCH)
@_names_argument
@_all_option
@click.option("--reason", default="", help="Why; stored with the decision.")
@by
@local
def approve(batch: Batch, names: tuple[str, ...], everything: bool, reason: str, by: str) -> None:
    """Approve results: name their keys or file names, or images for all their results."""
    _decide(batch, names, everything, State.APPROVED, reason, by)


@review.command()
@click.argument("batch", type=BATCH)
@_names_argument
@_all_option
@click.option("--reason", default="", help="What is wrong with them; stored with the decision.")
@by
@local
def reject(batch: Batch, names: tuple[str, ...], everything: bool, reason: str, by: str) -> None:
    """Reject results: name their keys or file names, or images for all their results."""
    _decide(batch, names, everything, State.REJECTED, reason, by)


def _decider(by: str) -> Person:
    if not by.strip():
        raise UsageError("name the person who decides (--by)")
    return this_person(by)


def _decide(
    batch: Batch, names: tuple[str, ...], everything: bool, state: State, reason: str, by: str
) -> None:
    configured, store, results, items = _open(batch)
    selected = _selected(results.work, items, names, everything)
    Acts(configured, store).decide(_decider(by), results.work, selected, state, reason=reason)
    print_message(f"{counted(len(selected), 'result')} {state.value}.")
    _print_summary(results, results.items())


@review.command()
@click.argument("batch", type=BATCH)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@by
@local
def apply(batch: Batch, file: Path, by: str) -> None:
    """Store the decisions of a filled-in `review list --format csv`. If a line is wrong, none is stored."""
    configured, store, results, items = _open(batch)
    acts, person = Acts(configured, store), _decider(by)
    decisions = reviews.read_csv(file.read_bytes(), items)
    for (state, reason), decided in decisions.items():
        acts.decide(person, results.work, decided, state, reason=reason)
    print_message(f"{counted(sum(map(len, decisions.values())), 'new decision')}.")
    _print_summary(results, results.items())


@review.command()
@click.argument("batch", type=BATCH)
@_names_argument
@_all_option
@click.option("--prompt", default="", help="Another background; by default the same with another seed.")
@click.option("--seed", type=click.IntRange(min=0), help="The seed; by default a random one.")
@click.option("--run", "at_once", is_flag=True, help="Also run the new batch now.")
@click.option("--yes", is_flag=True, help=f"Do not ask before more than {ASK_BEYOND} paid pictures.")
@by
@local
def redo(
    batch: Batch,
    names: tuple[str, ...],
    everything: bool,
    prompt: str,
    seed: int | None,
    at_once: bool,
    yes: bool,
    by: str,
) -> None:
    """Request other pictures, as a new batch dated today, and reject the present ones.

    Labels, captions and masks are used again; only the pictures are paid for. Prints the new batch's prefix. While
    that batch has no report, the same command names it again and adds nothing.
    """
    configured, store, results, items = _open(batch)
    work = results.work
    if everything and not names:
        selected = reviews.review_queue(items)
    else:
        selected = _selected(work, items, names, everything)
    if not selected:
        raise UsageError(f"nothing in batch {batch.path} waits for review")
    if len(selected) > ASK_BEYOND:
        confirm(f"This will need {len(selected):,} paid pictures. Continue?", yes=yes)
    new = Acts(configured, store).redo(_decider(by), work, selected, prompt=prompt, seed=seed)
    print_message(
        f"{counted(len(selected), 'picture')} of batch {batch.path} submitted again, as batch {new.path}."
    )
    click.echo(new.input_prefix)
    if at_once:
        click.get_current_context().exit(0 if run_dates([new.date], only=[new]) else 1)
