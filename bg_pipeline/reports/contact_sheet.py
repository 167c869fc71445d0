"""Pictures before and after on this machine: each as a file, and all of them on one contact sheet."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.file_names import local_path
from bg_pipeline.domain.rows import Row
from bg_pipeline.domain.text import printable
from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import open_photo
from bg_pipeline.imaging.workers import run_on_file, shared_workers
from bg_pipeline.storage.object_store import Store

CELL = 320
"""Side in pixels of the square into which each picture is fitted."""
PAIRS_PER_LINE = 2
GAP = 12
LINE = 22
LONGEST = 300
"""Maximum number of pairs on a sheet, which is then at most 53,000 pixels high; JPEG allows 65,535."""

_PAPER, _INK, _FAINT = (250, 250, 248), (35, 35, 35), (120, 120, 120)


@dataclass(frozen=True)
class Pair:
    """One image before and after, as encoded files; ``after`` is None without a result. ``caption`` is its status."""

    name: str
    before: bytes
    after: bytes | None
    caption: str = ""


def pairs(store: Store, input_prefix: str, rows: Iterable[Row]) -> Iterator[Pair]:
    """The images of a report with their first results; images whose photo no longer exists are left out."""
    for row in rows:
        before = store.read(f"{input_prefix}/{row.ImageName}")
        after = store.read(row.Results[0]) if row.Results else None
        if before is not None:
            caption = row.Status.value + (f": {row.Cause}" if row.Cause else "")
            yield Pair(row.ImageName, before.data, after.data if after else None, caption)


def save_pairs(folder: Path, batch: Batch, found: Iterable[Pair]) -> Iterator[Pair]:
    """Writes each pair into ``before`` and ``after`` in a folder for the batch, and yields it afterwards.

    Nothing is written outside ``folder``, for any name.
    """
    batch_folder = local_path(folder, f"{batch.date} {batch.name}")
    for pair in found:
        for kind, data in (("before", pair.before), ("after", pair.after)):
            if data is not None:
                (batch_folder / kind).mkdir(parents=True, exist_ok=True)
                local_path(batch_folder / kind, pair.name).write_bytes(data)
        yield pair


def contact_sheet(found: Iterable[Pair], title: str) -> bytes:
    """A JPEG with the first `LONGEST` pairs side by side under ``title``.

    All pairs are iterated, also those that are not shown; one pair at a time is in memory at full size.
    """
    small: list[tuple[str, Image.Image, Image.Image]] = []
    for pair in found:
        if len(small) < LONGEST:
            small.append((f"{pair.name}  {pair.caption}", _small(pair.before), _small(pair.after)))
    lines = [small[first : first + PAIRS_PER_LINE] for first in range(0, len(small), PAIRS_PER_LINE)]
    heights = [max(picture.height for _, *both in line for picture in both) for line in lines]
    column = 2 * CELL + 3 * GAP
    height = LINE + 2 * GAP + sum(heights) + len(lines) * (LINE + GAP)
    sheet = Image.new("RGB", (PAIRS_PER_LINE * column, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    draw.text((GAP, GAP), title, _INK, font)
    y = LINE + 2 * GAP
    for line, tall in zip(lines, heights, strict=True):
        for number, (caption, *both) in enumerate(line):
            x = GAP + number * column
            for place, picture in zip((x, x + CELL + GAP), both, strict=True):
                sheet.paste(picture, (place + (CELL - picture.width) // 2, y + (tall - picture.height) // 2))
            draw.text((x, y + tall + 3), _fitted(printable(caption), font, column - 2 * GAP), _FAINT, font)
        y += tall + LINE + GAP
    out = BytesIO()
    sheet.save(out, "JPEG", quality=88)
    return out.getvalue()


def _small(data: bytes | None) -> Image.Image:
    """The picture fitted into a cell; a line of background colour if there is none or it cannot be opened."""
    empty = Image.new("RGB", (CELL, 1), _PAPER)
    if data is None:
        return empty
    try:
        photo = run_on_file(shared_workers(), open_photo, data, within=(CELL, CELL))
    except ImageError:
        return empty
    return photo.flattened()


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut to ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
