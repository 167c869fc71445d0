"""Thousands of damaged files: each gives a picture or a sentence, and no picture is made of damaged data."""

import random
import zlib
from contextlib import suppress

import pytest
import simplejpeg

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import open_photo, read_header
from bg_pipeline_tests.corpus import corpus
from bg_pipeline_tests.odd_writers import odd_writers
from bg_pipeline_tests.unusual import unusual

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"),
]

SEEDS = (
    "plain.jpg", "progressive.jpg", "grey.jpg", "cmyk.jpg", "restart markers.jpg", "display p3.jpg", "ycck.jpg",
    "plain.png", "palette with partial alpha.png", "16 bit rgba.png", "hidden default.png", "texts.png",
    "p3 by gamma and primaries.png", "plain.webp", "lossless.webp", "moving.webp", "plain.gif", "moving.gif",
    "plain.bmp", "plain.avif", "plain.heic", "pq.heic", "thumbnail first.tif", "tiff_lzw.tiff", "jpeg inside.tif",
    "planes of 16 bits.tif", "tiles, packed.tif", "floats.tif", "inks with alpha.tif", "fax.tif",
)  # fmt: skip
MUTATIONS = 5000


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """The file with a few bits flipped, cut short, with a part of another file, or with two parts exchanged."""
    bad = bytearray(data)
    place = chance.randrange(len(bad))
    match chance.randrange(5):
        case 0:
            for _ in range(chance.randint(1, 8)):
                bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        case 1:
            for _ in range(chance.randint(1, 4)):
                # Most of what a decoder decides by stands at the front.
                bad[chance.randrange(min(600, len(bad)))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF))
        case 2:
            del bad[place:]
        case 3:
            length = chance.randint(1, 2000)
            start = chance.randrange(len(other))
            bad[place : place + length] = other[start : start + length]
        case _:
            length = chance.randint(4, 400)
            there = chance.randrange(len(bad))
            bad[place : place + length], bad[there : there + length] = (
                bad[there : there + length],
                bad[place : place + length],
            )
    return bytes(bad)


def test_a_mutation_gives_a_picture_or_a_sentence() -> None:
    cases = {case.name: case.data for case in (*corpus(), *unusual(), *odd_writers())}
    chance = random.Random(20260101)
    opened = 0
    for _ in range(MUTATIONS):
        data = mutated(cases[chance.choice(SEEDS)], cases[chance.choice(SEEDS)], chance)
        with suppress(ImageError):
            read_header(data)
        try:
            photo = open_photo(data, max_pixels=2_000_000)
        except ImageError:
            continue
        opened += 1
        assert photo.image.mode in ("RGB", "RGBA")
        assert not warned(data), photo
    assert MUTATIONS * 0.05 < opened < MUTATIONS * 0.6


def warned(data: bytes) -> bool:
    """Whether an independent decoder, or a checksum, detects damage in the coded pixels of a JPEG or PNG."""
    if data.startswith(b"\xff\xd8"):
        space = {"Gray": "GRAY", "CMYK": "CMYK"}
        try:
            _, _, kind, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            simplejpeg.decode_jpeg(data + b"\xff\xd9", space.get(kind, "RGB"), strict=True)
        except ValueError as error:
            # What is said of versions, of bytes between segments and of zeros in front of the end is no damage.
            return "premature" in str(error) or "Huffman" in str(error) or "restart" in str(error)
    if data.startswith(b"\x89PNG"):
        return any(zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]) for chunk in pixel_chunks(data))
    return False


def pixel_chunks(data: bytes) -> list[bytes]:
    """The chunks of the pixels that are shown, with their checksums."""
    found, place, animated = [], 8, False
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4])
        name = data[place + 4 : place + 8]
        animated |= name == b"acTL"
        if name == b"IEND":
            break
        if name == b"IDAT" and not animated:
            found.append(data[place:end])
        place = end
    return found
