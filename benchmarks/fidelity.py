"""Fidelity of results: processes photos of rendered subjects, whose mattes are known exactly, and compares.

Run `python -m benchmarks.fidelity` from the repository's root; it takes some minutes. `--each` prints a line for
each picture instead of the worst of each kind, `--sheet FILE` also writes a contact sheet, `--models a,b` limits the
models. Every picture is processed twice with the stand-in's models: with its exact mask, which measures how the
subject is put back, and with the mask that the pipeline finds, which measures the stand-in's detection too. The
demo's photos, for which no exact mask exists, are compared by the found mask.
"""

import argparse
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from benchmarks.rig import Rig, rig, table
from bg_pipeline import demo_photos
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.rows import Row, Status
from bg_pipeline.generators import generator
from bg_pipeline.imaging import open_photo, unfit
from bg_pipeline.masks.conventions import STORED
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.rendered import (
    Flags,
    Ground,
    Rendered,
    Subject,
    as_mask,
    as_png,
    inner,
    old_ground,
    psnr,
    rendered,
)

SHOTS: tuple[tuple[Subject, Ground, tuple[int, int]], ...] = (
    ("vase", "studio", (3200, 2400)),
    ("vase", "room", (600, 800)),
    ("fur", "studio", (1600, 1200)),
    ("fur", "dark", (700, 700)),
    ("glass", "cloudy", (600, 800)),
    ("chair", "leaves", (800, 600)),
    ("shoes", "studio", (1200, 450)),
    ("bust", "room", (640, 800)),
)
"""Photos larger and smaller than the models' sizes, with aspect ratios that some models need padded."""
MODELS = ("titan-v2", "titan-v1", "nova-canvas", "stability", "backdrop", "cut-out")
COLOUR = "#2f7fbf"
"""The background where no model paints one: of the backdrop, and behind a cut-out."""

PROMPT = "london city background"
CELL = 300


@dataclass(frozen=True)
class Measures:
    """Measures of one picture; None if they cannot be taken.

    ``lossless`` and ``jpeg`` are the PSNR in decibels of the subject's interior against the source, infinite if all
    bits are equal. ``halo`` is the share of the old background that is visible along the true edge (0–1), ``told``
    the pipeline's own estimate of it. ``shift`` is the largest displacement of the subject in the model's picture,
    in pixels of the source, and ``overlap`` the mask's intersection over union.
    """

    lossless: float | None = None
    jpeg: float | None = None
    halo: float | None = None
    told: float | None = None
    shift: float | None = None
    overlap: float | None = None


@dataclass(frozen=True)
class Kind:
    """One way of generating the pictures: a model, backdrop or cut-out, and its mode."""

    model: str
    mode: str

    @property
    def request(self) -> dict[str, Any]:
        if self.model == "backdrop":
            return {"Prompt": None, "Backdrop": COLOUR}
        if self.model == "cut-out":
            return {"Prompt": None, "Task": "REMOVE"}
        return {"Prompt": PROMPT, "Mode": self.mode}

    @property
    def models(self) -> str:
        """Value of `BG_IMAGE_MODELS`; Titan v1 cannot cut out, and without painting only a cut-out is needed."""
        return {"titan-v1": "titan-v1,titan-v2", "backdrop": "stability", "cut-out": "stability"}.get(
            self.model, self.model
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--sheet", type=Path)
    options = parser.parse_args()
    shots = {
        f"{subject}-{ground}.png": rendered(subject, ground, size, seed)
        for seed, (subject, ground, size) in enumerate(SHOTS)
    }
    photos = {
        path.name: path.read_bytes()
        for path in sorted(Path(demo_photos.__path__[0]).iterdir())
        if path.suffix in (".jpg", ".png")
    }
    sheet: dict[Kind, dict[str, Image.Image]] = {}
    kinds = [
        Kind(model, mode)
        for model in options.models.split(",")
        for mode in ("PRECISE", "DEFAULT")
        if mode == "PRECISE" or model not in ("backdrop", "cut-out")
    ]
    with rig() as services:
        services.control.switch(note=False)
        head = ("model", "mode", "pictures", "usable", *(field.name for field in fields(Measures)))
        table(head, _lines(services, kinds, shots, photos, each=options.each, sheet=sheet))
    if options.sheet:
        _contact_sheet(sheet).save(options.sheet, quality=88)


def _lines(
    services: Rig,
    kinds: Iterable[Kind],
    shots: dict[str, Rendered],
    photos: dict[str, bytes],
    *,
    each: bool,
    sheet: dict[Kind, dict[str, Image.Image]],
) -> Iterator[Sequence[object]]:
    files = {name: as_png(shot.photo) for name, shot in shots.items()}
    for kind in kinds:
        bench = Bench(
            services.bucket(), {"image_models": kind.models, "max_cost_usd": 0, "keep_payloads": True}
        )
        given, found = _submit(bench, kind, shots, files | photos)
        bench.run()
        sheet[kind] = {
            name: _opened(bench, row.Results[0]) for name, row in bench.rows(found).items() if row.Results
        }
        for pictures, batch, names in (
            ("mask given", given, shots.keys()),
            ("mask found", found, shots.keys()),
            ("demo photos", found, photos.keys()),
        ):
            rows = {name: bench.rows(batch)[name] for name in names}
            measured = {
                name: _measured(bench, batch, kind, row, files.get(name) or photos[name], shots.get(name))
                for name, row in rows.items()
            }
            if each:
                for name, row in rows.items():
                    yield (
                        kind.model,
                        kind.mode,
                        f"{pictures}: {name}",
                        row.Status.value,
                        *_cells([measured[name]]),
                    )
            else:
                usable = sum(row.Status == Status.SUCCEEDED for row in rows.values())
                yield kind.model, kind.mode, pictures, f"{usable} of {len(rows)}", *_cells(measured.values())


def _submit(
    bench: Bench, kind: Kind, shots: dict[str, Rendered], files: dict[str, bytes]
) -> tuple[Batch, Batch]:
    for name, shot in shots.items():
        bench.put(f"assets/masks/{name}", as_mask(shot))
    entries = [{"ImageName": name, "MaskKey": f"assets/masks/{name}"} for name in shots]
    formats = [{"Format": "png"}, {"Format": "jpeg"}]
    given = bench.submit(
        {name: files[name] for name in shots},
        batch="given",
        Images=entries,
        Renditions=formats,
        **kind.request,
    )
    return given, bench.submit(files, batch="found", **kind.request)


# Measures


def _measured(
    bench: Bench, batch: Batch, kind: Kind, row: Row, file: bytes, shot: Rendered | None
) -> Measures:
    stored = bench.store.read(batch.mask_key(row.ImageName))
    if not row.Results or stored is None:
        return Measures()
    source = open_photo(file).flattened()
    # A large mask is stored smaller than its photo.
    mask = STORED.read_png(stored.data).resize(source.size, Image.Resampling.BILINEAR)
    interior = inner(ImageChops.darker(mask, shot.matte) if shot else mask)
    results = {key: _opened(bench, key) for key in row.Results}
    recorded = (bench.store.read_json(f"{row.Results[0]}.json") or {}).get("Fidelity") or {}
    painted = _painted(bench, batch, row, kind, source.size)
    shift = _shift(source, painted, interior) if painted else None
    measures = Measures(told=recorded.get("edge_halo"), shift=shift)
    for key, result in results.items():
        measures = replace(
            measures, **{"jpeg" if key.endswith(".jpg") else "lossless": psnr(source, result, interior)}
        )
    if shot is None:
        return measures
    scene = _filled(painted or Image.new("RGB", source.size, COLOUR), shot.matte)
    halo = old_ground(shot, results[row.Results[0]], scene)
    return replace(measures, halo=halo, overlap=_overlap(mask, shot.matte))


def _filled(scene: Image.Image, matte: Image.Image) -> Image.Image:
    """The new background; where the subject covers it, filled in with the surrounding colours."""
    known = np.asarray(matte.filter(ImageFilter.MaxFilter(7))) < 128
    filled = np.asarray(scene, np.float32) * known[..., None]
    weight = known.astype(np.float32)
    result = filled.copy()
    for reach in (3, 9, 27, 81, 243, 729):
        near, colours = cv2.blur(weight, (reach, reach)), cv2.blur(filled, (reach, reach))
        missing = ~known & (near > 0.02)
        result[missing] = colours[missing] / near[missing][:, None]
        known = known | missing
    return Image.fromarray(np.clip(np.rint(result), 0, 255).astype(np.uint8))


def _shift(source: Image.Image, painted: Image.Image, interior: Flags) -> float | None:
    """Largest displacement of a corner of the subject's box in the model's picture, by the best affine fit.

    In pixels of the source; None if the subject is too small, infinite if no fit exists.
    """
    step = max(1, round(max(source.size) / 800))
    before, after = (np.asarray(image.reduce(step).convert("L"), np.float32) for image in (source, painted))
    inside: NDArray[Any] = np.asarray(
        Image.fromarray(interior).resize(before.shape[::-1], Image.Resampling.NEAREST), np.uint8
    )
    # In mode DEFAULT a model may blend pixels near the edge.
    inside = cv2.erode(inside, np.ones((31, 31), np.uint8))
    if inside.sum() < 1000:
        return None
    fit: NDArray[Any] = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)
    try:
        _, fit = cv2.findTransformECC(before, after, fit, cv2.MOTION_AFFINE, criteria, inside, 3)
    except cv2.error:  # the pictures do not match
        return math.inf
    rows, columns = np.nonzero(inside)
    corners = np.array([(x, y, 1) for x in (columns.min(), columns.max()) for y in (rows.min(), rows.max())])
    moved = corners @ fit.T - corners[:, :2]
    return float(np.linalg.norm(moved, axis=1).max()) * step


def _overlap(mask: Image.Image, matte: Image.Image) -> float:
    """Intersection over union of two soft masks."""
    both, either = ImageChops.darker(mask, matte), ImageChops.lighter(mask, matte)
    return float(np.asarray(both, np.float32).sum() / max(1.0, np.asarray(either, np.float32).sum()))


def _painted(bench: Bench, batch: Batch, row: Row, kind: Kind, size: tuple[int, int]) -> Image.Image | None:
    """The first picture painted by the model, without padding, at the photo's size; None if no model painted."""
    if kind.request["Prompt"] is None:
        return None
    painter = generator(kind.model)
    assert painter.replaces
    prefix = batch.payload_key(row.ImageName, painter.replaces.name.lower()).removesuffix(".json")
    for key in bench.keys(prefix):
        content = bench.store.read(key)
        if key.endswith("-answer.json") and content:
            with Image.open(BytesIO(pybase64.b64decode(orjson.loads(content.data)["images"][0]))) as picture:
                if picture.mode == "RGB":  # RGBA answers are cut-outs
                    return unfit(picture, painter.sizes.canvas(size), size)
    return None


# Output


def _cells(measured: Iterable[Measures]) -> Iterator[str]:
    """The worst value of each measure; for halo, told, shift and overlap the median and the worst."""
    everything = list(measured)
    for field in fields(Measures):
        values = [value for one in everything if (value := getattr(one, field.name)) is not None]
        if not values:
            yield "–"
        elif field.name in ("lossless", "jpeg"):
            yield "identical" if min(values) == math.inf else f"{min(values):.1f} dB"
        else:
            worst = min(values) if field.name == "overlap" else max(values)
            yield f"{worst:.2f}" if len(values) == 1 else f"{statistics.median(values):.2f}, {worst:.2f}"


def _opened(bench: Bench, key: str) -> Image.Image:
    content = bench.store.read(key)
    assert content is not None
    image = open_photo(content.data).image
    if image.mode != "RGBA":
        return image
    page = Image.new("RGB", image.size, COLOUR)
    page.paste(image, mask=image.getchannel("A"))
    return page


def _contact_sheet(pictures: dict[Kind, dict[str, Image.Image]]) -> Image.Image:
    """Thumbnails of all pictures: a row for each source, a column for each kind."""
    names = list(dict.fromkeys(name for column in pictures.values() for name in column))
    sheet = Image.new("RGB", (CELL * len(pictures), CELL * len(names)), "white")
    draw = ImageDraw.Draw(sheet)
    for x, (kind, column) in enumerate(pictures.items()):
        for y, name in enumerate(names):
            if name in column:
                small = column[name].copy()
                small.thumbnail((CELL - 10, CELL - 24))
                sheet.paste(small, (x * CELL, y * CELL + 16))
            draw.text((x * CELL, y * CELL + 2), f"{kind.model} {kind.mode} {name}", "black")
    return sheet


if __name__ == "__main__":
    main()
