"""WebP files, decoded by Pillow, with checks of their blocks."""

from io import BytesIO

from PIL import Image

from bg_pipeline.imaging.colour import Colour
from bg_pipeline.imaging.source import UNREADABLE, Source, damaged, loaded
from bg_pipeline.imaging.tiff_tags import Exif, read_exif

# Bytes of padding are fewer, and so small a picture may end with bytes that no pixel needs.
_CUT, _LEAST_CHECKED = 32, 4096


def read(data: bytes) -> Source:
    """The header of a WebP and a way to its pixels; raises `ImageError` if it is damaged."""
    try:
        image = Image.open(BytesIO(data), formats=("WEBP",))
    except UNREADABLE as error:
        raise damaged(error) from None
    blocks = _blocks(data)
    block = image.info.get("exif", b"")
    exif = read_exif(block) if block else Exif()
    frames = getattr(image, "n_frames", 1)

    def decode(_: tuple[int, int]) -> Image.Image:
        _check_zeros(data, blocks, image.width * image.height)
        decoded = loaded(image)
        _check_needed(data, blocks)
        # A copy has no link to the other frames, which some encoders would write as well.
        return decoded.copy() if frames > 1 else decoded

    return Source(
        format="webp",
        size=image.size,
        mode=image.mode,
        decode=decode,
        orientation=exif.orientation,
        frames=frames,
        has_alpha=image.mode == "RGBA",
        has_exif=bool(block),
        colour=Colour(icc=image.info.get("icc_profile", b""), adobe_rgb=exif.adobe_rgb),
        dpi=exif.dpi,
        lossless=bool(blocks) and all(kind == b"VP8L" for kind, _, _ in blocks),
    )


def _blocks(data: bytes) -> list[tuple[bytes, int, int]]:
    """The coded pictures in the file: block type, start and end offset."""
    blocks, place = [], 12
    while place + 8 <= len(data):
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind in (b"VP8 ", b"VP8L"):
            blocks.append((kind, place + 8, place + 8 + size))
        # A frame of an animation starts with 16 bytes, which blocks follow.
        place += 8 + 16 if kind == b"ANMF" else 8 + size + size % 2
    return blocks


def _check_needed(data: bytes, blocks: list[tuple[bytes, int, int]]) -> None:
    """Raises `ImageError` if the first frame can be decoded without its last bytes: after damage libwebp ends early.

    It reports nothing then. An undamaged picture needs all of its bytes but a few of padding.
    """
    kind, start, end = blocks[0] if blocks else (b"", 0, 0)
    if end - start < _LEAST_CHECKED or end > len(data):
        return
    part = data[start : end - _CUT]
    file = b"WEBP" + kind + len(part).to_bytes(4, "little") + part
    try:
        Image.open(BytesIO(b"RIFF" + len(file).to_bytes(4, "little") + file), formats=("WEBP",)).load()
    except UNREADABLE:
        return
    raise damaged("data are left over behind its last pixel")


def _check_zeros(data: bytes, blocks: list[tuple[bytes, int, int]], pixels: int) -> None:
    """Raises `ImageError` for more zero bytes in a row than even a blank picture has: libwebp reports no damage.

    A blank area takes up to 4 bits a pixel if it is lossless, and a small part of a bit if it is lossy.
    """
    for kind, start, end in blocks:
        most = 256 + (pixels // 2 if kind == b"VP8L" else pixels // 4096)
        if most < end - start and data.find(bytes(most), start, end) >= 0:
            raise damaged("a part of its data is empty")
