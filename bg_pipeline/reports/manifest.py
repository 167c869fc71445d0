"""A batch's manifest with what became of each of its rows: the table that was sent, with columns of its own added."""

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
"""The columns that are added; one that the manifest has itself is added with ``result_`` before its name."""


def mirror(manifest: Manifest, images: Sequence[str], row_of: Callable[[str], Row | None]) -> bytes:
    """The manifest's rows in their order, with status, files, cost and cause, in the form that it was written in.

    ``images`` are the images' names, one for each row; ``row_of`` gives the report's row of an image. Several files
    stand on lines of one cell. No spreadsheet takes a cell for a formula. It may be submitted as a manifest again.
    """
    taken = {name.strip().lower() for name in manifest.header}
    added = [f"result_{name}" if name in taken else name for name in ADDED]
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=manifest.delimiter, lineterminator="\n")
    writer.writerow([spreadsheet_text(name) for name in (*manifest.header, *added)])
    for line, image in zip(manifest.lines, images, strict=True):
        row = row_of(image)
        told: list[object] = ["", "", "", "", image]
        if row is not None:
            cost = "unknown" if row.CostUSD is None else float(row.CostUSD)
            told = [row.Status.value, "\n".join(row.Results), cost, row.Cause, image]
        cells = [*line.cells, *told]
        writer.writerow([spreadsheet_text(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue().encode("utf-8-sig" if manifest.has_bom else "utf-8")


def mirror_stored(
    store: Store, batch: Batch, request: BatchRequest | None, row_of: Callable[[str], Row | None]
) -> bytes | None:
    """The same for a batch as it is stored; None if it was not asked for with a manifest, or is asked for anew."""
    content = store.read(batch.manifest_key) if request is not None and request.Images else None
    if content is None or request is None:
        return None
    try:
        manifest = read(content.data)
    except RequestError:
        return None
    images = list(request.entries)
    return mirror(manifest, images, row_of) if len(images) == len(manifest.lines) else None
