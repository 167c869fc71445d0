"""Files that are made to harm a run, beside good photos: the good ones succeed, within the memory that is stated."""

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from bg_pipeline.domain.rows import Status
from bg_pipeline.imaging.workers import WorkerPool, substituted
from bg_pipeline.storage.object_store import Store
from bg_pipeline_tests.batches import Bench
from bg_pipeline_tests.corpus import COMPLAINTS
from bg_pipeline_tests.pictures import photo

WORKERS = 2
# README, "Limits": up to 2 GB a worker for 100 megapixels, and the process that runs the date.
MAX_WORKERS_BYTES = WORKERS * 2_000_000_000

HUGE = (12_000, 8_000)


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **options)
    return out.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(*chunks: bytes) -> bytes:
    """A good small PNG with more chunks behind its header."""
    data = photo(3, format="PNG")
    return data[:33] + b"".join(chunks) + data[33:]


def hostile() -> dict[str, bytes]:
    """30 files: bombs, loops, lies and torn ends in every format, most within the limits of bytes and pixels."""
    plain, bits = Image.new("RGB", HUGE, "grey"), Image.new("1", HUGE)
    good = photo(4)
    bomb = zlib.compress(bytes(300_000_000), 9)
    jpeg = saved(Image.new("L", (2000, 2000)), "JPEG", progressive=True)
    scan = jpeg.index(b"\xff\xda")
    empty_scans = jpeg[:scan] + b"\xff\xda\x00\x08\x01\x01\x00\x3f\x3f\x00" * 28_000 + jpeg[scan:]
    frames = [Image.new("P", (600, 400), number % 2) for number in range(400)]
    phrase = PngImagePlugin.PngInfo()
    phrase.add_text("Comment", "x" * 900_000, zip=True)
    tiff = saved(Image.new("RGB", (900, 600)), "TIFF", compression="tiff_deflate")
    return {
        "scans-1.jpg": empty_scans,
        "scans-2.jpg": empty_scans + b"\0",
        "plain.jpg": saved(plain, "JPEG", quality=10),
        "plain-progressive.jpg": saved(plain, "JPEG", quality=10, progressive=True),
        "plain.png": saved(plain, "PNG", compress_level=9),
        "bits.png": saved(bits, "PNG", compress_level=9),
        "bits.tif": saved(bits, "TIFF", compression="group4"),
        "plain.tif": saved(plain, "TIFF", compression="tiff_deflate"),
        "plain.webp": saved(plain, "WEBP", lossless=True, method=0, quality=0),
        "plain.gif": saved(plain.convert("P"), "GIF"),
        "frames.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "frames.webp": saved(
            frames[0].convert("RGB"),
            "WEBP",
            save_all=True,
            append_images=[each.convert("RGB") for each in frames[1:60]],
        ),
        "frames.png": saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "profile-bomb.png": png_with(chunk(b"iCCP", b"x\0\0" + bomb)),
        "text-bomb.png": png_with(chunk(b"zTXt", b"x\0\0" + bomb)),
        "many-chunks.png": png_with(*[chunk(b"tEXt", b"a\0b")] * 100_000),
        "long-text.png": saved(Image.new("RGB", (600, 400)), "PNG", pnginfo=phrase),
        "pixel-bomb.png": photo(5, format="PNG")[:33] + chunk(b"IDAT", bomb) + chunk(b"IEND", b""),
        "sides.png": photo(5, format="PNG")[:16] + struct.pack(">II", 2**31 - 1, 2**31 - 1) + bytes(2000),
        "narrow.png": saved(Image.new("L", (1, 60_000)), "PNG"),
        "wide.jpg": saved(Image.new("L", (65_000, 2)), "JPEG"),
        "tail.jpg": good + bytes(20_000_000),
        "twice.jpg": good + good,
        "markers.jpg": good[:2] + b"\xff\xfe\x00\x02" * 200_000 + good[2:],
        "exif-bomb.jpg": good[:2] + b"\xff\xe1\xff\xffExif\0\0" + b"\xff" * 65_525 + good[2:],
        "loop.tif": tiff[:4] + struct.pack("<I", 8) + struct.pack("<H", 0) + struct.pack("<I", 8) + tiff[8:],
        "directories.tif": tiff[:4]
        + struct.pack("<I", 8)
        + b"".join(struct.pack("<HI", 0, 8 + 6 * n) for n in range(1, 50_000)),
        "boxes.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + (b"\0\0\0\x08meta") * 100_000,
        "sizes.avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\xff" * 50_000,
        "half.bmp": saved(plain.resize((3000, 2000)), "BMP")[:2_000_000],
    }


@contextmanager
def peak_of(processes: "WorkerProcesses") -> Iterator[None]:
    """Samples the memory of the worker processes while the block lasts."""
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(0.02):
            processes.sample()

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


class WorkerProcesses:
    """The memory of this process's worker processes; ``peak`` is the largest sum so far, in bytes."""

    def __init__(self) -> None:
        self.peak = 0

    def sample(self) -> None:
        total = 0
        for process in Path(f"/proc/{os.getpid()}/task").iterdir():
            children = process / "children"
            try:
                for child in children.read_text().split():
                    command = Path("/proc", child, "cmdline").read_bytes()
                    if b"multiprocessing.spawn" in command:
                        total += _resident(child)
            except OSError:
                continue  # it ended meanwhile
        self.peak = max(self.peak, total)


def _resident(process: str) -> int:
    pages = int(Path("/proc", process, "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings(COMPLAINTS)
def test_30_hostile_files_beside_20_good_ones_cost_the_good_ones_nothing(s3, bucket, record_property) -> None:
    files = hostile()
    assert len(files) == 30
    # By name the hostile ones come first, so that the good ones would have to wait for them.
    named = {f"a-{name}": data for name, data in files.items()}
    good = {f"b-{number}.jpg": photo(number + 100) for number in range(20)}
    bench = Bench(Store(s3, bucket))
    batch = bench.submit({**named, **good}, Subject="SALIENT")
    processes = WorkerProcesses()
    pool = WorkerPool(WORKERS)
    try:
        with substituted(pool), peak_of(processes):
            bench.run(max_failed_share=1.0)
    finally:
        pool.close()
    rows = bench.rows(batch)
    assert rows.keys() == {*named, *good}
    assert {name: rows[name].Status for name in good} == dict.fromkeys(good, Status.SUCCEEDED)
    for name in named:
        row = rows[name]
        assert row.Status in (Status.FAILED, Status.NEEDS_REVIEW, Status.SUCCEEDED), (name, row)
        if row.Status != Status.SUCCEEDED:
            assert row.Cause, name
            assert "Traceback" not in row.Cause
    never = (
        "scans-1.jpg",
        "scans-2.jpg",
        "sides.png",
        "boxes.heic",
        "sizes.avif",
        "half.bmp",
    )
    assert {name: rows[f"a-{name}"].Status for name in never} == dict.fromkeys(never, Status.FAILED)
    record_property("peak_workers_mb", processes.peak // 1_000_000)
    assert 0 < processes.peak < MAX_WORKERS_BYTES
