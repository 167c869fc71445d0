"""CPU per image, by step and in a whole run, and the peak memory of runs with few and many images.

    python -m benchmarks.cpu_and_memory [--parts steps runs memory new largest workers]

The CPU of an image in a run is the difference between a long and a short run, each in its own process, divided by the
difference of their numbers of images; this leaves out imports, clients and reports.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.makespan import PHOTO, Scaled
from benchmarks.rig import FIRST_DATE, Rig, days, finished, jpeg, rig, run, submit, table
from bg_pipeline.captioners import nova
from bg_pipeline.domain.batches import Batch
from bg_pipeline.domain.stages import CAPTIONS, LABELS, PICTURES, STAGES
from bg_pipeline.generators.titan import TitanV2
from bg_pipeline.imaging import (
    encode,
    fit,
    measure,
    open_photo,
    read_header,
    restore_subject,
    small_jpeg,
    unfit,
)
from bg_pipeline.imaging.provenance import COMPOSITE_WITH_AI, Provenance
from bg_pipeline.masks.refine import enlarge
from bg_pipeline.run.source_image import SMALL_SIDE
from bg_pipeline.settings import settings

LARGE = (4000, 3000)
FITTING = (576, 384)
"""A size that Titan accepts, so that no image is resized."""
REPEATS = 5
SMALL = (SMALL_SIDE, SMALL_SIDE)


def cpu_ms(work: Callable[[], Any]) -> float:
    """CPU milliseconds of ``work``, the median of `REPEATS`."""

    def once() -> float:
        began = time.process_time()
        work()
        return (time.process_time() - began) * 1000

    return statistics.median(once() for _ in range(REPEATS))


def steps() -> None:
    """Prints the CPU of each step of a 12-megapixel photo, and the sums for which there are targets."""
    data = jpeg(LARGE)
    photo = open_photo(data)
    small = open_photo(data, within=SMALL)
    fitted = TitanV2.sizes.canvas(photo.size)
    answer = Image.radial_gradient("L").resize(fitted.canvas).convert("RGB")
    mask = Image.radial_gradient("L").resize(small.size).point(lambda value: 255 * (value < 110))
    large_mask = enlarge(mask, photo.image)
    generated = unfit(answer, fitted, photo.size)
    result = restore_subject(photo, generated, large_mask, feather=1.5)
    made = encode(result, "jpeg", provenance=Provenance("note", COMPOSITE_WITH_AI))
    rows: list[tuple[str, Sequence[tuple[str, Callable[[], Any]]]]] = [
        (
            "prepare",
            (
                ("decode, at most 1,408 pixels", lambda: open_photo(data, within=SMALL)),
                ("fit into the model's size, JPEG", lambda: fit(small, fitted, media="jpeg")),
            ),
        ),
        (
            "look",
            (
                ("JPEG for the labels", lambda: small_jpeg(small, within=SMALL)),
                ("JPEG for the caption", lambda: small_jpeg(small, within=nova.WITHIN)),
            ),
        ),
        (
            "put back, JPEG",
            (
                ("decode", lambda: open_photo(data)),
                ("scale the model's picture up", lambda: unfit(answer, fitted, photo.size)),
                ("put the subject back", lambda: restore_subject(photo, generated, large_mask, feather=1.5)),
                ("JPEG", lambda: encode(result, "jpeg", provenance=Provenance("note", COMPOSITE_WITH_AI))),
            ),
        ),
        (
            "check",
            (
                ("refine the mask's edge", lambda: enlarge(mask, photo.image)),
                ("measure the fidelity", lambda: measure(photo, result, large_mask)),
                ("open what was stored", lambda: opened(made)),
            ),
        ),
    ]
    shown: list[Sequence[object]] = []
    for name, parts in rows:
        costs = [(part, cpu_ms(work)) for part, work in parts]
        shown += [(name, part, f"{cost:.0f}") for part, cost in costs]
        shown.append((f"**{name}**", "**together**", f"**{sum(cost for _, cost in costs):.0f}**"))
    table(("12 megapixels", "step", "CPU ms"), shown)


def opened(data: bytes) -> None:
    """Decodes a JPEG at an eighth of its size, as the pipeline does to check stored results."""
    read_header(data)
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft(None, (picture.width // 8, picture.height // 8))
        picture.load()


def cpu_per_image(
    rig: Rig, size: tuple[int, int], few: int, many: int, stages: Sequence[str], **settings: Any
) -> float:
    """CPU milliseconds per image in a run, from runs with ``few`` and ``many`` images."""
    photo = jpeg(size)
    fast = {"quota_titan_v2_rpm": 900_000, "quota_caption_rpm": 900_000, "quota_detect_labels_tps": 9_000}
    cpu = []
    for images in (few, many):
        store = rig.bucket()
        submit(store, photo, images)
        result = run(store, days(1), stages=stages, regions="us-east-1", **fast, **settings)
        assert result["processed"] == images
        cpu.append(float(result["cpu"]))
    return (cpu[1] - cpu[0]) / (many - few) * 1000


def runs(rig: Rig) -> None:
    """Prints the CPU of an image in a whole run."""
    quiet = {"mask_sources": "alpha", "max_regenerations": 0}
    table(
        ("an image in a run", "CPU ms"),
        (
            (name, f"{cpu_per_image(rig, size, few, many, stages, **quiet):.1f}")
            for name, size, few, many, stages in (
                ("576 × 384, labels", FITTING, 20, 220, (LABELS,)),
                ("576 × 384, caption", FITTING, 20, 220, (CAPTIONS,)),
                ("576 × 384, labels and caption", FITTING, 20, 220, (LABELS, CAPTIONS)),
                ("576 × 384, whole way", FITTING, 20, 120, STAGES),
                ("12 megapixels, whole way", LARGE, 4, 12, STAGES),
            )
        ),
    )


def memory(rig: Rig, done: int) -> None:
    """Prints the peak memory of a run with 100 new images, alone and beside ``done`` images finished before."""
    services = Scaled(10)
    services.configure(rig)

    chosen = {**services.settings(), "regions": "us-east-1", "max_regenerations": 0}

    def peak(size: tuple[int, int], new: int, before: int) -> tuple[float, float]:
        """Of the run's process and, in sum, of its workers."""
        store = rig.bucket()
        if before:
            finished(rig, store, settings(bucket=store.bucket, **chosen), before)
        submit(store, jpeg(size), new)
        result = run(store, [FIRST_DATE], **chosen)
        assert result["processed"] == new, result
        return float(result["peak_mb"]), float(sum(result["workers_mb"]))

    cases = ((PHOTO, 100, 0), (PHOTO, 100, done), (LARGE, 20, 0))
    # The number of pictures decoded at one moment differs between runs, by some MB. The cases take turns, so that
    # other load of the machine affects all of them.
    peaks = list(zip(*([peak(*case) for case in cases] for _ in range(REPEATS)), strict=True))
    first = statistics.median(own for own, _ in peaks[0])
    rows = []
    for (size, new, before), pairs in zip(cases, peaks, strict=True):
        values, workers = zip(*pairs, strict=True)
        middle = statistics.median(values)
        rows.append(
            (
                f"{size[0]} × {size[1]}",
                f"{before + new:,}",
                new,
                f"{middle:.0f}",
                f"{min(values):.0f}",
                f"{max(values):.0f}",
                f"{middle / first:.2f}",
                f"{statistics.median(workers):.0f}",
            )
        )
    table(
        (
            "photos",
            "images of the date",
            "of them new",
            "peak MB, median",
            "lowest",
            "highest",
            "to the first",
            "workers MB, median of the sums",
        ),
        rows,
    )


def new(rig: Rig, many: int) -> None:
    """Prints the peak memory of unthrottled runs whose images are all new: memory kept per image adds up here."""
    fast = {"quota_titan_v2_rpm": 900_000, "quota_caption_rpm": 900_000, "quota_detect_labels_tps": 9_000}
    rows = []
    for images in (100, many):
        store = rig.bucket()
        submit(store, jpeg(PHOTO), images)
        result = run(store, days(1), regions="us-east-1", max_regenerations=0, **fast)
        assert result["processed"] == images, result
        rows.append((f"{images:,}", float(result["peak_mb"])))
    first = rows[0][1]
    table(
        ("new photos, 64 at a time", "peak MB", "to the first"),
        ((name, f"{peak:.0f}", f"{peak / first:.2f}") for name, peak in rows),
    )


def largest(rig: Rig) -> None:
    """Prints the peak memory of a run with one photo of 100 megapixels, by file format, and with a small photo."""
    noise = np.random.default_rng(0).integers(0, 255, (500, 800, 3), np.uint8)
    photo = Image.fromarray(noise).resize((12_500, 8_000), Image.Resampling.BICUBIC)
    rows = []

    def row(kind: str, data: bytes, ending: str, size: tuple[int, int]) -> None:
        store = rig.bucket()
        batch = Batch(FIRST_DATE, "101530")
        store.write(batch.upload_key(f"photo.{ending}"), data, media_type="image/x")
        document = {"Id": "largest", "Prompt": "a sunny beach"}
        store.write(batch.request_key, json.dumps(document).encode(), media_type="application/json")
        result = run(store, days(1), regions="us-east-1", max_regenerations=0)
        assert result["processed"] == 1, result
        counts, peak = result["counts"], f"{result['peak_mb']:,.0f}"
        rows.append((kind, f"{size[0]} × {size[1]}", peak, f"{result['cpu']:.1f}", counts))

    def written(picture: Image.Image, format: str, **more: Any) -> bytes:
        out = io.BytesIO()
        picture.save(out, format, **more)
        return out.getvalue()

    row("JPEG", jpeg(FITTING), "jpg", FITTING)
    row("JPEG", written(photo, "JPEG", quality=90), "jpg", photo.size)
    row("JPEG, CMYK", written(photo.convert("CMYK"), "JPEG", quality=90), "jpg", photo.size)
    row("PNG", written(photo, "PNG", compress_level=1), "png", photo.size)
    see_through = photo.copy()
    see_through.putalpha(Image.radial_gradient("L").resize(photo.size).point(lambda v: 255 * (v < 110)))
    row("PNG, alpha", written(see_through, "PNG", compress_level=1), "png", photo.size)
    del see_through
    deep = Image.fromarray(np.asarray(photo.convert("L"), np.uint16) * 257)
    row("PNG, 16-bit grey", written(deep, "PNG", compress_level=1), "png", photo.size)
    row("TIFF", written(photo, "TIFF"), "tiff", photo.size)
    row("WebP", written(photo, "WEBP", quality=80, method=0), "webp", photo.size)
    table(("one photo", "pixels", "peak MB", "CPU s", "counts"), rows)


def studio_photo(size: tuple[int, int]) -> bytes:
    """A JPEG of a product on a light studio ground with a soft shade and grain."""
    random = np.random.default_rng(7)
    width, height = size
    shade = Image.linear_gradient("L").resize(size).point([222 + level // 16 for level in range(256)])
    picture = shade.convert("RGB")
    box = (width * 3 // 10, height * 2 // 10, width * 7 // 10, height * 8 // 10)
    product = Image.new("L", size)
    ImageDraw.Draw(product).rounded_rectangle(box, min(size) // 12, fill=255)
    spots = Image.fromarray(random.integers(20, 150, (48, 64, 3), np.uint8))
    picture.paste(spots.resize(size, Image.Resampling.BICUBIC), mask=product)
    grain = random.normal(0, 2, (height, width, 1)).astype(np.int16)
    pixels = np.clip(np.asarray(picture, np.int16) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def workers(rig: Rig) -> None:
    """Prints what 16 studio photos of 12 megapixels take with 1 and with 2 worker processes, without any model."""
    photo = studio_photo(LARGE)
    rows = []
    requests: dict[str, dict[str, Any]] = {
        "marketplace-white": {"Renditions": [{"Preset": "marketplace-white"}]},
        "PNG": {"Renditions": [{"Format": "png"}]},
    }
    for name, request in requests.items():
        seconds: list[float] = []
        for number in (1, 2):
            store = rig.bucket()
            submit(store, photo, 16, Task="REMOVE", Prompt=None, Subject="SALIENT", **request)
            result = run(
                store,
                days(1),
                stages=(PICTURES,),
                regions="us-east-1",
                mask_sources="studio",
                max_decoded_images=number,
            )
            assert result["processed"] == 16, result
            seconds.append(result["ended"] - result["began"])
            rows.append(
                (
                    f"16 × REMOVE to {name}",
                    number,
                    f"{seconds[-1]:.1f}",
                    f"{seconds[0] / seconds[-1]:.2f}",
                    f"{result['cpu'] / 16:.2f}",
                    f"{result['peak_mb']:.0f}",
                    " + ".join(map(str, result["workers_mb"])),
                    result["counts"],
                )
            )
    table(
        (
            "photos of 12 megapixels",
            "workers",
            "seconds",
            "times as fast",
            "CPU s a photo",
            "parent MB",
            "workers MB",
            "counts",
        ),
        rows,
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parts = ("steps", "runs", "memory", "new", "largest", "workers")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--finished", type=int, default=9_900)
    parser.add_argument("--new", type=int, default=3_000)
    options = parser.parse_args()
    if "steps" in options.parts:
        steps()
    if {"runs", "memory", "new", "largest", "workers"} & {*options.parts}:
        with rig() as services:
            if "runs" in options.parts:
                print()
                runs(services)
            if "memory" in options.parts:
                print()
                memory(services, options.finished)
            if "new" in options.parts:
                print()
                new(services, options.new)
            if "largest" in options.parts:
                print()
                largest(services)
            if "workers" in options.parts:
                print()
                workers(services)


if __name__ == "__main__":
    main()
