"""``bg-pipeline plan``: what would run, how long at the quota, and what it costs at worst."""

import threading
from collections.abc import Sequence
from functools import cache

import click

from bg_pipeline import planning
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import dates_and_batches, local
from bg_pipeline.cli.terminal import console, counted, dollars, print_message, table
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.model_facts import as_of, facts_of
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.errors import NothingUsable
from bg_pipeline.planning import Plan
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.discovery import find_work
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import open_bucket


@click.command()
@dates_and_batches
@local
def plan(dates: Sequence[UploadDate], batches: tuple[Batch, ...]) -> None:
    """Show what `run` would do: calls, time at the quota, dollars at worst. Nothing is spent."""
    configured = settings()
    aws = make_aws(configured)
    store = open_bucket(configured, aws)
    context = RunContext(configured, aws, store, stop=threading.Event(), note=cache(print_message))
    try:
        models, missing = planning.models_in_use(context)
    finally:
        context.close()
    found = planning.plan(find_work(store, configured, dates, batches), configured, models)
    _show(found, configured)
    for reason in missing:
        print_message(reason)
    if found.due and models.replacer is None:
        raise NothingUsable(
            "no image model can be used, so no picture would be made; `bg-pipeline doctor` says more"
        )


def _show(found: Plan, configured: Settings) -> None:
    click.echo(f"{counted(found.images, 'image')} asked for, {found.due:,} with something to do.")
    for problem in found.unreadable:
        click.echo(f"A request that cannot be read: {problem}")
    if found.without_prompt:
        click.echo(f"{found.without_prompt:,} of them have no prompt and would be skipped.")
    if found.waiting:
        click.echo(f"{found.waiting:,} of them wait for the approval of their sample.")
    if not found.lines:
        return
    head = (
        "Operation",
        "Model",
        "Regions",
        "Quota a minute",
        "Calls",
        "At worst",
        "Minutes",
        "At worst ",
        "USD at worst",
    )
    rows = [
        (
            line.operation.name,
            line.operation.invoke_id,
            ", ".join(line.regions),
            f"{line.per_minute:,.0f}",
            f"{line.calls:,}",
            f"{line.at_worst:,}",
            f"{line.minutes:,.1f}",
            f"{line.minutes_at_worst:,.1f}",
            dollars(line.worst_usd),
        )
        for line in found.lines
    ]
    console().print(table(head, rows, right=head[3:]))
    cost = found.worst_usd
    click.echo(
        f"At the quota: {found.minutes:,.1f} minutes if every picture passes at once, {found.minutes_at_worst:,.1f} "
        f"with every repetition. At worst: {'an unknown price' if cost is None else f'{cost:,.2f} USD'} "
        f"(prices as of {as_of()})."
    )
    if configured.max_cost_usd and (cost is None or cost > configured.max_cost_usd):
        click.echo(f"BG_MAX_COST_USD = {configured.max_cost_usd:,.2f} would stop the run before that.")
    for note in dict.fromkeys(_processed_in(found)):
        click.echo(note)


def _processed_in(found: Plan) -> list[str]:
    facts = (facts_of(line.operation.name, line.operation.invoke_id) for line in found.lines)
    return [each.processed_in for each in facts if each.processed_in]
