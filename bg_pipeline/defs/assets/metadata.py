"""Metadata of a materialization of one date: numbers that Dagster plots, a table of failures, a few pictures."""

import html
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

import dagster as dg
import pybase64
from botocore.exceptions import BotoCoreError, ClientError

from bg_pipeline.domain.rows import Status
from bg_pipeline.domain.s3_keys import REPORTS, RESULTS, date_path
from bg_pipeline.domain.stages import LABELS, PICTURES, REPORT
from bg_pipeline.domain.text import command, printable
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging.annotated import Box, with_boxes
from bg_pipeline.imaging.thumbnail import thumbnail
from bg_pipeline.imaging.workers import run_on_file, shared_workers
from bg_pipeline.run.date_result import DateResult
from bg_pipeline.storage.object_store import Store

PREVIEW_SIDE = 120
"""Longer side of previews in pixels. Dagster's database keeps them for ever; eight pairs take about 50 KB."""

LABELS_SIDE = 240
"""Longer side of previews with boxes: their names have to be read."""
MAX_ANALYSED = 4
"""Photos in the preview of labels or captions."""
MAX_BOXES = 20
LONGEST_TEXT = 500

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


class Previews:
    """Small pictures of photos and results, each read and decoded once for all assets of a run."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._small: dict[str, bytes | str] = {}

    def small(self, key: str) -> bytes | str:
        """A JPEG of at most `LABELS_SIDE` pixels, or the reason why there is none."""
        if key not in self._small:
            self._small[key] = self._read(key)
        return self._small[key]

    def _read(self, key: str) -> bytes | str:
        try:
            content = self.store.read(key)
        except (ClientError, BotoCoreError) as error:
            # A missing preview must not fail the materialization.
            return type(error).__name__
        if content is None:
            return "gone"
        try:
            return run_on_file(shared_workers(), thumbnail, content.data, LABELS_SIDE)
        except ImageError as error:
            return error.code


def day_metadata(previews: Previews, asset: str, day: DateResult) -> dict[str, Any]:
    """The metadata of one asset for one date.

    Names without ``run_`` describe the date after the run, so that their plots mean something also where a run had
    nothing to do. Those that begin with ``run_`` describe what this run did.
    """
    store = previews.store
    metadata: dict[str, Any] = {"images": day.images}
    if asset not in (PICTURES, REPORT):
        metadata |= {"done": day.good[asset], "run_made": day.made[asset], "run_failed": day.failed[asset]}
        if day.waiting[asset]:
            metadata["waiting_for_window"] = day.waiting[asset]
        metadata["run_seconds"] = round(day.seconds_by_stage.get(asset, 0.0), 2)
        preview = _labels_preview(previews, day) if asset == LABELS else _captions_preview(previews, day)
        return {**metadata, **({"preview": dg.MetadataValue.md(preview)} if preview else {})}
    metadata |= {f"status_{status.value}": day.counts[status] for status in Status}
    if day.total.cost_usd is not None:
        metadata["cost_usd"] = round(day.total.cost_usd, 4)
        if succeeded := day.counts[Status.SUCCEEDED]:
            metadata["cost_usd_per_success"] = round(day.total.cost_usd / succeeded, 4)
    if day.total.maybe_usd is not None:
        metadata["maybe_billed_usd"] = round(day.total.maybe_usd, 4)
    metadata["run_images"] = day.due
    if day.spent.cost_usd is not None:
        metadata["run_cost_usd"] = round(day.spent.cost_usd, 4)
    if day.spent.maybe_usd:
        metadata["run_maybe_billed_usd"] = round(day.spent.maybe_usd, 4)
    metadata |= {f"run_seconds_{stage}": round(spent, 2) for stage, spent in day.seconds_by_stage.items()}
    metadata["run_refused_calls"] = day.refused
    if day.due and day.seconds:
        metadata["run_images_per_minute"] = round(day.due / day.seconds * 60, 1)
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
    pairs = [
        f"| {_picture_markdown(previews, before)} | {_picture_markdown(previews, after)} |"
        for before, after in day.previews
    ]
    if pairs:
        metadata["preview"] = dg.MetadataValue.md("\n".join(["| before | after |", "|---|---|", *pairs]))
    return metadata


def failure_metadata(previews: Previews, asset: str, day: DateResult, cause: str) -> dict[str, Any]:
    """The metadata of an asset that failed for a date: the cause, and what `day_metadata` has, without pictures."""
    metadata = {
        name: value for name, value in day_metadata(previews, asset, day).items() if name != "preview"
    }
    if day.reports and asset != REPORT:
        metadata["report"] = dg.MetadataValue.md(_reports_markdown(previews.store, day))
    return {"cause": printable(cause), **metadata}


def causes_table(causes: Mapping[date, str]) -> dg.TableMetadataValue:
    """The dates that failed, with the cause of each."""
    rows = [dg.TableRecord({"date": f"{day}", "cause": printable(cause)}) for day, cause in causes.items()]
    columns = [dg.TableColumn("date", "string"), dg.TableColumn("cause", "string")]
    return dg.MetadataValue.table(rows, schema=dg.TableSchema(columns))


def _labels_preview(previews: Previews, day: DateResult) -> str:
    """Markdown with photos, the boxes of their labels drawn on them, and the labels beneath."""
    lines = []
    for photo in [each for each in day.analysed if each.labels_key][:MAX_ANALYSED]:
        found = _boxes(previews.store, photo.labels_key)
        picture = _picture_markdown(previews, photo.source_key, LABELS_SIDE, found)
        names = dict.fromkeys(name for name, _ in found)
        lines.append(f"| {picture} | {_text(', '.join(names) or photo.labels or 'no label with a box')} |")
    return "\n".join(["| photo | labels with a box |", "|---|---|", *lines]) if lines else ""


def _captions_preview(previews: Previews, day: DateResult) -> str:
    """Markdown with photos and their captions beside them."""
    lines = [
        f"| {_picture_markdown(previews, photo.source_key)} | {_text(photo.caption)} | {_text(photo.alt_text)} |"
        for photo in [each for each in day.analysed if each.caption][:MAX_ANALYSED]
    ]
    head = ["| photo | caption | alternative text |", "|---|---|---|"]
    return "\n".join([*head, *lines]) if lines else ""


def _boxes(store: Store, key: str) -> list[tuple[str, Box]]:
    """The boxes of a stored labels document by name; empty if it cannot be read."""
    try:
        document: Any = store.read_json(key)
        found = [
            (printable(str(label["Name"])), instance["BoundingBox"])
            for label in document["Labels"]
            for instance in label.get("Instances", ())
        ]
        return [
            (name, (float(box["Left"]), float(box["Top"]), float(box["Width"]), float(box["Height"])))
            for name, box in found[:MAX_BOXES]
        ]
    except (ClientError, BotoCoreError, KeyError, TypeError, ValueError, AttributeError):
        return []


def _reports_markdown(store: Store, day: DateResult) -> str:
    """The keys of at most `MAX_REPORTS` reports that the run wrote, and the command that shows one.

    Links would expire.
    """
    lines = [f"- {_code(f's3://{store.bucket}/{key}')}" for key in day.reports[:MAX_REPORTS]]
    more = [f"- and {len(day.reports) - MAX_REPORTS} more"] if len(day.reports) > MAX_REPORTS else []
    shown = _code(command("report", printable(day.batches[0])))
    return "\n".join([*lines, *more, "", f"{shown} shows one of them."])


def _code(text: str) -> str:
    """``text`` as inline code in Markdown: one line, in a fence of more backticks than it contains in a row."""
    text = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


_MARKDOWN: Final = re.compile(r"([\\`*_{}\[\]()#+.!|~>-])")


def _text(words: str) -> str:
    """``words`` as text in a Markdown table, at most `LONGEST_TEXT` characters: no markup, no link, no cell."""
    plain = html.escape(printable(words[:LONGEST_TEXT] + ("…" if len(words) > LONGEST_TEXT else "")))
    # An address would become a link even without markup.
    return _MARKDOWN.sub(r"\\\1", plain).replace("://", "&#58;//").replace("@", "&#64;")


def _picture_markdown(
    previews: Previews, key: str, side: int = PREVIEW_SIDE, boxes: Sequence[tuple[str, Box]] = ()
) -> str:
    """A thumbnail, with boxes drawn on it, as Markdown, or the reason why there is none."""
    small = previews.small(key)
    if isinstance(small, str):
        return small
    if boxes:
        small = with_boxes(small, boxes)
    elif side < LABELS_SIDE:
        small = thumbnail(small, side)
    return f"![](data:image/jpeg;base64,{pybase64.b64encode_as_string(small)})"


_SCHEMA = dg.TableSchema([dg.TableColumn(name, "string") for name in ("image", "status", "error", "cause")])
