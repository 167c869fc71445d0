"""Metadata of a materialization of one date: numbers that Dagster plots, a table of failures, a few pictures."""

import re
import shlex
from typing import Any

import dagster as dg
import pybase64
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.s3_keys import REPORTS, RESULTS, date_path
from bg_pipeline.domain.stages import PICTURES, REPORT
from bg_pipeline.domain.text import printable
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.imaging.workers import run_on_file, shared_workers
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.storage.object_store import Store

PREVIEW_SIDE = 120
"""Longer side of previews in pixels. Dagster's database keeps them for ever; eight pairs take about 50 KB."""

MAX_FAILURES = 100
MAX_REPORTS = 20


def failures(day: DateResult) -> list[dg.TableRecord]:
    """The date's images that did not succeed, at most `MAX_FAILURES`."""
    return [
        dg.TableRecord(
            {
                "image": printable(row.ImageName),
                "status": row.Status.value,
                "error": row.Error,
                "cause": printable(row.Cause[:500]),
            }
        )
        for row in day.failed_rows[:MAX_FAILURES]
    ]


def day_metadata(store: Store, asset: str, day: DateResult) -> dict[str, Any]:
    """The metadata of one asset for one date."""
    metadata: dict[str, Any] = {
        "images": day.images,
        "worked_on": day.due,
        "seconds": round(day.seconds_by_stage.get(asset, 0.0), 2),
    }
    if asset not in (PICTURES, REPORT):
        waiting = {"waiting_for_window": day.waiting[asset]} if day.waiting[asset] else {}
        return {**metadata, "made": day.made[asset], "failed": day.failed[asset], **waiting}
    metadata |= {f"status_{status.value}": day.counts[status] for status in Status}
    metadata |= {f"seconds_{stage}": round(spent, 2) for stage, spent in day.seconds_by_stage.items()}
    for suffix, costs in (("", day.spent), ("_of_all_runs", day.total)):
        if costs.cost_usd is not None:
            metadata[f"cost_usd{suffix}"] = round(costs.cost_usd, 4)
        if costs.maybe_usd is not None and (costs.maybe_usd or suffix):
            metadata[f"maybe_billed_usd{suffix}"] = round(costs.maybe_usd, 4)
    metadata["refused_calls"] = day.refused
    if day.due and day.seconds:
        metadata["images_per_minute"] = round(day.due / day.seconds * 60, 1)
    if day.unfinished:
        metadata["not_complete_yet"] = ", ".join(map(printable, day.unfinished))
    if day.problems:
        metadata["problems"] = "; ".join(map(printable, day.problems))
    if day.stopped:
        metadata["stopped"] = day.stopped
    rows = failures(day)
    if rows:
        metadata["failures"] = dg.MetadataValue.table(rows, schema=_SCHEMA)
    if asset == REPORT:
        metadata["reports"] = dg.MetadataValue.path(f"s3://{store.bucket}/{REPORTS}/{date_path(day.date)}/")
        if day.reports:
            metadata["written"] = dg.MetadataValue.md(_reports_markdown(store, day))
        return metadata
    metadata["results"] = dg.MetadataValue.path(f"s3://{store.bucket}/{RESULTS}/{date_path(day.date)}/")
    previews = [
        f"| {_picture_markdown(store, before)} | {_picture_markdown(store, after)} |"
        for before, after in day.previews
    ]
    if previews:
        metadata["preview"] = dg.MetadataValue.md("\n".join(["| before | after |", "|---|---|", *previews]))
    return metadata


def _reports_markdown(store: Store, day: DateResult) -> str:
    """The keys of at most `MAX_REPORTS` reports that the run wrote, and the command that shows one.

    Links would expire.
    """
    lines = [f"- {_code(f's3://{store.bucket}/{key}')}" for key in day.reports[:MAX_REPORTS]]
    more = [f"- and {len(day.reports) - MAX_REPORTS} more"] if len(day.reports) > MAX_REPORTS else []
    command = _code(f"bg-pipeline report {shlex.quote(printable(day.batches[0]))}")
    return "\n".join([*lines, *more, "", f"{command} shows one of them."])


def _code(text: str) -> str:
    """``text`` as inline code in Markdown: one line, in a fence of more backticks than it contains in a row."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _picture_markdown(store: Store, key: str) -> str:
    """A thumbnail as Markdown, or the reason why there is none."""
    try:
        content = store.read(key)
    except (ClientError, BotoCoreError) as error:
        # A missing preview must not fail the materialization.
        return type(error).__name__
    if content is None:
        return "gone"
    try:
        small = run_on_file(shared_workers(), thumbnail, content.data, PREVIEW_SIDE)
    except ImageError as error:
        return error.code
    return f"![](data:image/jpeg;base64,{pybase64.b64encode_as_string(small)})"


_SCHEMA = dg.TableSchema([dg.TableColumn(name, "string") for name in ("image", "status", "error", "cause")])
