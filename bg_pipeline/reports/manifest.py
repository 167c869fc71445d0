"""Writes a batch's manifest with the outcome of each row: the submitted table with additional columns."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Final

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.requests import BatchRequest
from bg_pipeline.domain.rows import Row
from bg_pipeline.domain.text import spreadsheet_text
from bg_pipeline.errors import RequestError
from bg_pipeline.storage.object_store import Store
from bg_pipeline.uploads.manifest import Manifest, read

ADDED: Final = ("status", "files", "cost_usd", "cause", "image")
"""The added columns; if the manifest has a column of that name, ``result_`` is put before it."""


def mirror(manifest: Manifest, images: Sequence[str], row_of: Callable[[str], Row | None]) -> bytes:
    """The manifest in its own format and order, with status, files, cost and cause of each row.

    ``images`` are the images' names, one for each row; ``row_of`` returns the report's row of an image. Several files
    are lines of one cell. No cell is a formula for a spreadsheet. The result can be submitted as a manifest again.
    """
    taken = {name.strip().lower() for name in manifest.header}
    added = [f"result_{name}" if name in taken else name for name in ADDED]
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=manifest.delimiter, lineterminator="\n")
    writer.writerow([spreadsheet_text(name) for name in (*manifest.header, *added)])
    for line, image in zip(manifest.lines, images, strict=True):
        row = row_of(image)
        outcome: list[object] = ["", "", "", "", image]
        if row is not None:
            cost = "unknown" if row.CostUSD is None else float(row.CostUSD)
            outcome = [row.Status.value, "\n".join(row.Results), cost, row.Cause, image]
        cells = [*line.cells, *outcome]
        writer.writerow([spreadsheet_text(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue().encode("utf-8-sig" if manifest.has_bom else "utf-8")


def mirror_stored(
    store: Store, batch: Batch, request: BatchRequest | None, row_of: Callable[[str], Row | None]
) -> bytes | None:
    """`mirror` for a stored batch; None if it was not submitted with a manifest or its request was changed since."""
    content = store.read(batch.manifest_key) if request is not None and request.Images else None
    if content is None or request is None:
        return None
    try:
        manifest = read(content.data)
    except RequestError:
        return None
    images = list(request.entries)
    return mirror(manifest, images, row_of) if len(images) == len(manifest.lines) else None
