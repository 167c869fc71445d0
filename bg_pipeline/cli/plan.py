"""``bg-pipeline plan``: the calls of a run, its time at the quota and its highest cost."""

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import click
import orjson

from bg_pipeline import planning
from bg_pipeline.aws.clients import make_aws
from bg_pipeline.cli.arguments import dates_and_batches, existing_dates, local, output_format
from bg_pipeline.cli.terminal import (
    console,
    counted,
    dollars,
    print_message,
    print_records,
    table,
)
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.model_facts import as_of, facts_of
from bg_pipeline.domain.s3_keys import UploadDate
from bg_pipeline.domain.text import printable
from bg_pipeline.errors import NothingUsable
from bg_pipeline.planning import Plan
from bg_pipeline.run.context import RunContext
from bg_pipeline.run.discovery import find_work
from bg_pipeline.settings import Settings, settings
from bg_pipeline.storage.object_store import open_bucket

MOST_REASONS = 5
"""Reasons why images would be refused that are shown at most."""


@click.command()
@dates_and_batches
@output_format()
@local
def plan(dates: Sequence[UploadDate], batches: tuple[Batch, ...], form: str) -> None:
    """Show what `run` would do: its calls, its time at the quota and its highest cost. Nothing is spent.

    \b
    Examples:
      bg-pipeline plan --date today
      bg-pipeline plan --batch 2026/11/21/101530 --format json
    """
    configured = settings()
    aws = make_aws(configured)
    store = open_bucket(configured, aws)
    context = RunContext(configured, aws, store, stop=threading.Event(), note=cache(print_message))
    try:
        models, missing = planning.choose_models(context)
    finally:
        context.close()
    work = find_work(store, configured, existing_dates(store, dates), batches)
    result = planning.plan(work, configured, models)
    if form == "json":
        click.echo(orjson.dumps(_document(result, missing), option=orjson.OPT_INDENT_2).decode())
    elif form == "csv":
        print_records(form, _COLUMNS, _document(result, missing)["Calls"])
    else:
        _show(result, configured)
    for reason in missing:
        print_message(reason)
    if result.due and models.replacer is None:
        raise NothingUsable(
            "no image model can be used, so no picture would be made; `bg-pipeline doctor` shows why"
        )


_COLUMNS = (
    *("Operation", "Model", "Regions", "PerMinute", "Calls", "CallsAtWorst", "Minutes", "MinutesAtWorst"),
    "WorstUSD",
)


def _document(result: Plan, notes: Sequence[str]) -> dict[str, Any]:
    """The plan with the field names of the HTTP API."""
    return {
        "Images": result.images,
        "Due": result.due,
        "WaitForApproval": result.waiting,
        "WithoutPrompt": result.without_prompt,
        "Unreadable": result.unreadable,
        "Minutes": result.minutes,
        "MinutesAtWorst": result.minutes_at_worst,
        "WorstUSD": result.worst_usd,
        "RunsThatHelp": result.runs_that_help,
        "PricesAsOf": f"{as_of()}",
        "Calls": [
            {
                "Operation": line.operation.name,
                "Model": line.operation.invoke_id,
                "Regions": list(line.regions),
                "PerMinute": line.per_minute,
                "Calls": line.calls,
                "CallsAtWorst": line.at_worst,
                "Minutes": line.minutes,
                "MinutesAtWorst": line.minutes_at_worst,
                "WorstUSD": line.worst_usd,
            }
            for line in result.lines
        ],
        "Refused": [{"Images": images, "Cause": reason} for reason, images in result.refused.most_common()],
        "Notes": list(notes),
    }


def _show(result: Plan, configured: Settings) -> None:
    click.echo(f"{counted(result.images, 'image')} asked for, {result.due:,} with something to do.")
    for problem in result.unreadable:
        click.echo(f"A request cannot be read: {problem}")
    if result.without_prompt:
        click.echo(f"{result.without_prompt:,} of them have no prompt and would be skipped.")
    for reason, images in result.refused.most_common(MOST_REASONS):
        click.echo(f"{images:,} of them would be refused, and nothing paid: {printable(reason)}")
    if result.waiting:
        click.echo(f"{result.waiting:,} of them wait for the approval of their sample.")
    if result.runs_that_help > 1:
        click.echo(
            f"The work on the pictures takes a machine like this one about {result.cpu_minutes:,.1f} minutes: "
            f"{result.runs_that_help} runs on as many machines would help (BG_RUNS_PER_DATE)."
        )
    if not result.lines:
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
        for line in result.lines
    ]
    console().print(table(head, rows, right=head[3:]))
    cost = result.worst_usd
    click.echo(
        f"Time at the quota: {result.minutes:,.1f} minutes if every call succeeds at the first attempt, "
        f"{result.minutes_at_worst:,.1f} with all repetitions. "
        f"Cost at worst: {'an unknown price' if cost is None else f'{cost:,.2f} USD'} (prices as of {as_of()})."
    )
    if result.scene_prices:
        click.echo(result.scene_prices)
    if configured.max_cost_usd and (cost is None or cost > configured.max_cost_usd):
        click.echo(f"BG_MAX_COST_USD = {configured.max_cost_usd:,.2f} would stop the run before that.")
    for note in dict.fromkeys(_processed_in(result)):
        click.echo(note)


def _processed_in(result: Plan) -> list[str]:
    """Sentences about where in the world the models process pictures."""
    facts = (facts_of(line.operation.name, line.operation.invoke_id) for line in result.lines)
    return [each.processed_in for each in facts if each.processed_in]
