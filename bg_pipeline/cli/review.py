"""``bg-pipeline review``: the queue of results that wait for a person, and what the person decides."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bg_pipeline import review as reviews
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import BATCH, by, local
from bg_pipeline.cli.run import run_dates
from bg_pipeline.cli.submit import ASK_BEYOND
from bg_pipeline.cli.terminal import confirm, console, counted, dollars, print_message, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.errors import UsageError
from bg_pipeline.review import Item, Results, State
from bg_pipeline.run.batch_work import BatchWork, open_batch
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import Store, open_bucket

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def review() -> None:
    """Look through results: approve or reject them, or ask for them again.

    What passed every check is approved by itself (BG_AUTO_APPROVE), but for a share (BG_REVIEW_SHARE). The queue
    is that share and what was flagged. `publish` delivers what is approved.
    """


def _named(command: F) -> F:
    option = click.argument("names", nargs=-1, metavar="[RESULT|IMAGE]...")
    return option(command)


def _all(command: F) -> F:
    option = click.option("--all", "everything", is_flag=True, help="All that waits for a person.")
    return option(command)


def _open(batch: Batch) -> tuple[Settings, Store, Results, list[Item]]:
    configured = settings()
    store = open_bucket(configured, make_aws(configured))
    results = Results(open_batch(store, configured, batch), configured)
    return configured, store, results, results.items()


def _meant(work: BatchWork, found: Sequence[Item], names: Sequence[str], everything: bool) -> list[Item]:
    if bool(names) == everything:
        raise UsageError("name results or images, or say --all for all that waits")
    if everything:
        return [item for item in reviews.review_queue(found) if item.key]
    return reviews.find_items(found, names, work.locations.output_prefix)


@review.command("list")
@click.argument("batch", type=BATCH)
@click.option("--all", "everything", is_flag=True, help="Every result, not only what waits.")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv"]), default="table", show_default=True, help="How."
)
@local
def list_(batch: Batch, everything: bool, form: str) -> None:
    """Print what waits for a person, and how the review stands.

    As csv it can be filled in (columns Decision and Reason) and given to `review apply`. Ends with 0 if nothing
    waits, else with 1.
    """
    _, _, results, found = _open(batch)
    shown = found if everything else reviews.review_queue(found)
    if form == "csv":
        click.echo(reviews.as_csv(shown), nl=False)
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
        _tell(results, found)
    waiting = any(item.state is State.WAITING for item in found)
    click.get_current_context().exit(1 if waiting else 0)


def _tell(results: Results, found: Sequence[Item]) -> None:
    stands = results.summary(found)
    print_message(
        f"{counted(stands.approved, 'result')} approved, {stands.rejected:,} rejected, {stands.waiting:,} waiting; "
        f"{stands.approved_images:,} of {counted(stands.images, 'image')} with an approved result, at "
        f"{dollars(stands.cost_per_image, 4)} USD each of {stands.costs.in_words()} in all."
        if stands.approved_images
        else f"No result is approved, {stands.rejected:,} rejected, {stands.waiting:,} waiting; "
        f"{stands.costs.in_words()} in all."
    )


@review.command()
@click.argument("batch", type=BATCH)
@_named
@_all
@click.option("--reason", default="", help="Why, for those who ask later.")
@by
@local
def approve(batch: Batch, names: tuple[str, ...], everything: bool, reason: str, by: str) -> None:
    """Approve results, by key, by name, or all of an image."""
    _decide(batch, names, everything, State.APPROVED, reason, by)


@review.command()
@click.argument("batch", type=BATCH)
@_named
@_all
@click.option("--reason", default="", help="What is wrong with them.")
@by
@local
def reject(batch: Batch, names: tuple[str, ...], everything: bool, reason: str, by: str) -> None:
    """Reject results, by key, by name, or all of an image."""
    _decide(batch, names, everything, State.REJECTED, reason, by)


def _decide(
    batch: Batch, names: tuple[str, ...], everything: bool, state: State, reason: str, by: str
) -> None:
    _, _, results, found = _open(batch)
    meant = _meant(results.work, found, names, everything)
    reviews.decide(results.work.locations.data, meant, state, by=by, reason=reason)
    print_message(f"{counted(len(meant), 'result')} {state.value}.")
    _tell(results, results.items())


@review.command()
@click.argument("batch", type=BATCH)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@by
@local
def apply(batch: Batch, file: Path, by: str) -> None:
    """Take in the decisions of a CSV from `review list --format csv`; if a line is wrong, none counts."""
    _, _, results, found = _open(batch)
    wanted = reviews.read_csv(file.read_bytes(), found)
    for (state, reason), meant in wanted.items():
        reviews.decide(results.work.locations.data, meant, state, by=by, reason=reason)
    print_message(f"{counted(sum(map(len, wanted.values())), 'new decision')}.")
    _tell(results, results.items())


@review.command()
@click.argument("batch", type=BATCH)
@_named
@_all
@click.option("--prompt", default="", help="Another background; else the same, from another seed.")
@click.option("--seed", type=click.IntRange(min=0), help="This seed; else one by chance.")
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
    """Ask for pictures again, as a new batch of today, and reject what there is of them.

    Labels, captions and masks are used as they are; only the pictures are paid for. Prints the new batch's prefix.
    Until that batch has its report, asking for the same again leads to it and adds nothing.
    """
    configured, store, results, found = _open(batch)
    work = results.work
    meant = (
        reviews.review_queue(found) if everything and not names else _meant(work, found, names, everything)
    )
    if not meant:
        raise UsageError(f"nothing of batch {batch.path} waits for a person")
    if len(meant) > ASK_BEYOND:
        confirm(f"{len(meant):,} paid pictures are asked for again. Go on?", yes=yes)
    again = reviews.redo(store, configured, work, meant, by=by, prompt=prompt, seed=seed)
    print_message(
        f"{counted(len(meant), 'picture')} of batch {batch.path} asked for again, as batch {again.path}."
    )
    click.echo(again.input_prefix)
    if at_once:
        click.get_current_context().exit(0 if run_dates([again.date], only=[again]) else 1)
