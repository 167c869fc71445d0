"""Generated image files of unusual kinds, damaged and hostile ones, with the expected outcomes."""

import base64
import functools
import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pillow_heif
import simplejpeg
from PIL import Image

from bg_pipeline_tests.corpus import DISPLAY_P3, SIZE, Case, exif, lying, png_file, saved, scene
from bg_pipeline_tests.tiff_files import BYTE, LONG, SHORT, Page, tiff_file

Floats = np.ndarray[Any, np.dtype[np.float64]]

# Conversion of linear sRGB to other primaries, from the chromaticities in the standards.
TO_P3 = np.array(
    [[0.82246197, 0.17753803, 0], [0.03319420, 0.96680580, 0], [0.01708263, 0.07239744, 0.91051993]]
)
TO_2020 = np.array(
    [
        [0.62740390, 0.32928304, 0.04331307],
        [0.06909729, 0.91954040, 0.01136232],
        [0.01639144, 0.08801331, 0.89559525],
    ]
)
TO_ADOBE = np.array([[0.71512560, 0.28487440, 0], [0, 1, 0], [0, 0.04116194, 0.95883806]])


@functools.cache
def unusual() -> tuple[Case, ...]:
    """All cases; the first call takes about two seconds."""
    return (
        *_jpegs(),
        *_damaged_jpegs(),
        *_pngs(),
        *_damaged_pngs(),
        *_colours(),
        *_tiffs(),
        *_damaged_tiffs(),
        *_raws(),
        *_webps(),
        *_gifs(),
        *_media(),
        *_bmps(),
        *_named(),
    )


# Colour conversions


def linear(picture: Image.Image) -> Floats:
    """Linear light (0–1) of an sRGB picture."""
    values = np.asarray(picture, np.float64) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_curve(light: Floats) -> Floats:
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def pq_curve(nits: Floats) -> Floats:
    raised = (np.clip(nits, 0, 10_000) / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * raised) / (1 + 18.6875 * raised)) ** 78.84375


def hlg_curve(nits: Floats) -> Floats:
    """The HLG signal (0–1) for linear BT.2020 light in nits on a display of 1,000 nits."""
    shown = np.clip(nits, 0, 1000) / 1000
    luminance = (shown @ np.array([0.2627, 0.6780, 0.0593]))[..., None]
    scene = shown * np.maximum(luminance, 1e-9) ** (-0.2 / 1.2)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * np.clip(scene, 0, None)), high)


def deep(values: Floats) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.rint(np.clip(values, 0, 1) * 65535).astype(np.uint16)


def deep_png(values: np.ndarray[Any, np.dtype[np.uint16]], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with 16 bits per channel and further chunks before its pixels."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">2L5B", width, height, 16, kind, 0, 0, 0)
    return png_file(header, *chunks, (b"IDAT", zlib.compress(rows, 1)))


def flat_png(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with 8 bits per channel and further chunks before its pixels."""
    kind = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[image.mode]
    header = struct.pack(">2L5B", *image.size, 8, kind, 0, 0, 0)
    return png_file(header, *chunks, (b"IDAT", zlib.compress(_rows(image), 1)))


def _rows(image: Image.Image) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in np.asarray(image))


def gamma_chunk(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">L", round(value * 100_000))


SRGB_CORNERS = (b"cHRM", struct.pack(">8L", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
P3_CORNERS = (b"cHRM", struct.pack(">8L", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000))
ICC_P3 = (b"iCCP", b"p\0\0" + zlib.compress(DISPLAY_P3))


def avif(image: Image.Image, primaries: int, transfer: int) -> bytes:
    """An AVIF with these CICP colour primaries and transfer characteristics."""
    data = saved(image, "AVIF", quality=100, subsampling="4:4:4", speed=10)
    place = data.index(b"colrnclx") + 8
    return data[:place] + struct.pack(">2H", primaries, transfer) + data[place + 4 :]


def heic(values: np.ndarray[Any, Any], primaries: int = 2, transfer: int = 2, **options: Any) -> bytes:
    """A HEIC with 8 bits per channel (10 for 16-bit values) and these CICP primaries and transfer characteristics."""
    mode = {3: "RGB", 4: "RGBA"}[values.shape[2]] + (";16" if values.dtype == np.uint16 else "")
    file = io.BytesIO()
    pillow_heif.from_bytes(mode, (values.shape[1], values.shape[0]), values.tobytes()).save(
        file, quality=95, chroma=444, color_primaries=primaries, transfer_characteristics=transfer, **options
    )
    return file.getvalue()


def _colours() -> Iterator[Case]:
    picture = scene()
    light = linear(picture)
    wide, rec2020 = light @ TO_P3.T, light @ TO_2020.T
    p3 = deep(srgb_curve(wide))
    pq, hlg = deep(pq_curve(203 * rec2020)), deep(hlg_curve(203 * rec2020))

    def png(name: str, data: bytes, note: str = "colours converted", tolerance: float = 1.0) -> Case:
        return Case(name, data, "opens", "png", picture, tolerance, note)

    yield png("p3 by cicp.png", deep_png(p3, (b"cICP", b"\x0c\x0d\0\1")), "Display P3")
    flat = Image.fromarray(np.rint(srgb_curve(wide) * 255).astype(np.uint8))
    yield png("p3 by cicp of 8 bits.png", flat_png(flat, (b"cICP", b"\x0c\x0d\0\1")), "Display P3")
    yield png("pq by cicp.png", deep_png(pq, (b"cICP", b"\x09\x10\0\1")), "BT.2020 PQ")
    yield png("hlg by cicp.png", deep_png(hlg, (b"cICP", b"\x09\x12\0\1")), "BT.2020 HLG")
    yield png("linear by cicp.png", deep_png(deep(light), (b"cICP", b"\x01\x08\0\1")), "linear")
    yield png("linear by gamma.png", deep_png(deep(light), gamma_chunk(1.0)), "gamma 1")
    yield png(
        "p3 by gamma and primaries.png", deep_png(deep(wide ** (1 / 2.2)), gamma_chunk(1 / 2.2), P3_CORNERS)
    )
    yield png("gamma 1.8.png", deep_png(deep(light ** (1 / 1.8)), gamma_chunk(1 / 1.8)), "gamma 1.8")
    grey = linear(picture.convert("L"))[..., None]
    yield Case(
        "grey of gamma 1.png",
        deep_png(deep(grey), gamma_chunk(1.0)),
        "opens",
        "png",
        picture.convert("L").convert("RGB"),
        1.0,
        "gamma 1",
    )
    # If a file has several colour chunks, the precedence is that of browsers: cICP, iCCP, sRGB, gAMA.
    yield png("cicp of srgb before a profile.png", flat_png(picture, (b"cICP", b"\1\x0d\0\1"), ICC_P3), "", 0)
    yield png("profile before gamma.png", flat_png(_in_p3(), ICC_P3, gamma_chunk(1.0)), "Display P3", 2.0)
    yield png(
        "srgb before gamma.png", flat_png(picture, (b"sRGB", b"\0"), gamma_chunk(1.0), P3_CORNERS), "", 0
    )
    yield png("gamma of srgb.png", flat_png(picture, gamma_chunk(1 / 2.2)), "", 0)
    yield png("primaries without gamma.png", flat_png(picture, P3_CORNERS), "", 0)
    yield png("gamma of zero.png", flat_png(picture, (b"gAMA", bytes(4))), "", 0)
    yield png(
        "broken profile and gamma.png",
        deep_png(deep(light), (b"iCCP", b"p\0\0nonsense"), gamma_chunk(1.0)),
        "profile is damaged",
    )
    yield png("cicp of video matrix.png", flat_png(picture, (b"cICP", b"\x0c\x0d\1\1")), "", 0)
    yield png("profile of 16 bits.png", deep_png(deep(wide ** (1 / 2.2)), ICC_P3), "Display P3", 1.5)

    yield Case("p3.avif", avif(flat, 12, 13), "opens", "avif", picture, 2.5, "Display P3")
    yield Case("video.avif", avif(picture, 1, 1), "opens", "avif", picture, 2.0)
    shallow = Image.fromarray((pq >> 8).astype(np.uint8))
    yield Case("pq.avif", avif(shallow, 9, 16), "opens", "avif", picture, 5.0, "BT.2020 PQ")
    yield Case("p3.heic", heic(np.asarray(flat), 12, 13), "opens", "heif", picture, 3.0, "Display P3")
    yield Case("pq.heic", heic(pq, 9, 16), "opens", "heif", picture, 4.0, "BT.2020 PQ")
    yield Case("hlg.heic", heic(hlg, 9, 18), "opens", "heif", picture, 4.0, "BT.2020 HLG")
    yield Case(
        "10 bit.heic",
        heic(np.asarray(picture, np.uint16) * 257, 1, 13),
        "opens",
        "heif",
        picture,
        3.0,
        "10-bit",
    )

    adobe = Image.fromarray(np.rint((light @ TO_ADOBE.T) ** (256 / 563) * 255).astype(np.uint8))
    for name, block in (("R03", _dcf(0xFFFF, "R03")), ("ColorSpace 2", _dcf(2, ""))):
        yield Case(
            f"adobe rgb by {name}.jpg",
            saved(adobe, "JPEG", quality=97, subsampling=0, exif=block),
            "opens",
            "jpeg",
            picture,
            3.0,
            "Adobe RGB",
        )
    for name, block in (("R98", _dcf(1, "R98")), ("uncalibrated alone", _dcf(0xFFFF, ""))):
        yield Case(
            f"srgb by {name}.jpg", saved(picture, "JPEG", quality=95, exif=block), "opens", "jpeg", picture
        )


@functools.cache
def _in_p3() -> Image.Image:
    return Image.fromarray(np.rint((linear(scene()) @ TO_P3.T) ** (1 / 2.2) * 255).astype(np.uint8))


def _dcf(space: int, index: str) -> bytes:
    block = Image.Exif()
    block[0x8769] = {0xA001: space} | ({0xA005: {1: index}} if index else {})
    return block.tobytes()


# JPEG


def _scans(data: bytes) -> list[int]:
    """The offsets of a JPEG's scans."""
    places, place = [], 0
    while (place := data.find(b"\xff\xda", place)) >= 0:
        places.append(place)
        place += 2
    return places


def _frame(data: bytes) -> int:
    return next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)


def oriented(kind: int, orientation: int) -> bytes:
    """EXIF with an orientation stored as TIFF type ``kind``."""
    value = struct.pack({1: "<B3x", 3: "<H2x", 4: "<L", 8: "<h2x", 9: "<l"}[kind], orientation)
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHL", 0x0112, kind, 1) + value + bytes(4)


def _jpegs() -> Iterator[Case]:
    picture = scene()
    plain = saved(picture, "JPEG", quality=95)

    def case(name: str, data: bytes, **more: Any) -> Case:
        fields: dict[str, Any] = {"format": "jpeg", "picture": picture} | more
        return Case(name, data, **fields)

    yield case("no end marker.jpg", plain[:-2])
    yield case("half an end marker.jpg", plain[:-1])
    yield case("zeros before the end.jpg", plain[:-2] + bytes(9) + plain[-2:])
    yield case("fill bytes between segments.jpg", plain[:2] + b"\xff" * 5 + plain[2:])
    yield case("strange bytes between segments.jpg", plain[:20] + b"\1\2\3" + plain[20:])
    yield case("jfif of the future.jpg", plain[:11] + b"\x09" + plain[12:])
    scan = _scans(plain)[0]
    yield case("spectrum not told.jpg", plain[: scan + 11] + b"\0\0\0" + plain[scan + 14 :])
    for kind, name in ((1, "byte"), (4, "long"), (8, "signed short"), (9, "signed long")):
        data = saved(lying(picture, 6), "JPEG", quality=95, exif=oriented(kind, 6))
        yield case(f"held 6 as a {name}.jpg", data)
    two = saved(lying(picture, 8), "JPEG", quality=95, exif=oriented(3, 8))
    later = two[:2] + b"\xff\xe1\0\x0ehttp://ns.a" + two[2:]
    yield case("exif behind another application.jpg", later)
    restarts = saved(picture, "JPEG", quality=95, restart_marker_rows=1)
    yield case("restart markers.jpg", restarts)
    progressive = saved(picture, "JPEG", quality=95, progressive=True)
    yield case("progressive without end.jpg", progressive[:-2])
    yield case("arithmetic.jpg", _sof(plain, 0xC9), outcome="UnsupportedImage", note="arithmetic")
    yield case("lossless.jpg", _sof(plain, 0xC3), outcome="UnsupportedImage", note="lossless")
    yield case("hierarchical.jpg", _sof(plain, 0xC5), outcome="UnsupportedImage", note="hierarchical")
    frame = _frame(plain)
    yield case(
        "12 bit.jpg",
        plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        outcome="UnsupportedImage",
        note="12 bits",
    )
    yield case("two channels.jpg", _channels(plain, 2), outcome="UnsupportedImage", note="2 channels")
    yield case(
        "height at the end.jpg", plain[: frame + 5] + b"\0\0" + plain[frame + 7 :], outcome="UnsupportedImage"
    )
    inks = np.ascontiguousarray(255 - np.asarray(picture.convert("CMYK")))
    yield case("ycck.jpg", simplejpeg.encode_jpeg(inks, 97, "CMYK", "444"), note="converted from CMYK")
    surface = Image.new("RGB", (240, 176), (128, 128, 128))
    yield case("three to one.jpg", _three_to_one(), picture=surface, tolerance=1)
    yield case("three to one, cut.jpg", _three_to_one()[:-200], outcome="DamagedImage")
    grey = picture.convert("L")
    sampled = bytearray(saved(grey, "JPEG", quality=95))
    sampled[_frame(bytes(sampled)) + 11] = 0x22
    yield case("grey with a sampling of two.jpg", bytes(sampled), picture=grey.convert("RGB"))


def _three_to_one() -> bytes:
    """A uniform grey JPEG with 3:1 horizontal chroma subsampling, which TurboJPEG does not support."""
    plain = saved(Image.new("RGB", (240, 176)), "JPEG", quality=95, subsampling=0)
    frame, scan = _frame(plain), _scans(plain)[0]
    # Every block has DC 0 and no AC coefficients, in the standard Huffman codes.
    bits = ("001010" * 3 + "0000" * 2) * (10 * 22)
    bits += "1" * (-len(bits) % 8)
    coded = int(bits, 2).to_bytes(len(bits) // 8)
    head = bytearray(plain[: scan + 14])
    head[frame + 11] = 0x31
    return bytes(head) + coded.replace(b"\xff", b"\xff\0") + b"\xff\xd9"


def _sof(data: bytes, marker: int) -> bytes:
    frame = _frame(data)
    return data[: frame + 1] + bytes([marker]) + data[frame + 2 :]


def _channels(data: bytes, count: int) -> bytes:
    frame = _frame(data)
    kept = data[frame + 10 : frame + 10 + 3 * count]
    return (
        data[:frame]
        + b"\xff\xc0"
        + struct.pack(">H", 8 + 3 * count)
        + data[frame + 4 : frame + 9]
        + bytes([count])
        + kept
        + data[frame + 19 :]
    )


def _damaged_jpegs() -> Iterator[Case]:
    noise = np.random.default_rng(12).integers(0, 255, 200, np.uint8).tobytes()
    files = {
        "baseline": saved(scene(), "JPEG", quality=95),
        "progressive": saved(scene(), "JPEG", quality=95, progressive=True),
        "grey": saved(scene().convert("L"), "JPEG", quality=95),
        "cmyk": saved(scene().convert("CMYK"), "JPEG", quality=95),
        "restarting": saved(scene(), "JPEG", quality=95, restart_marker_rows=1),
        "optimized": saved(scene(), "JPEG", quality=95, optimize=True),
    }
    for name, data in files.items():
        middle, most = len(data) // 2, len(data) * 6 // 10
        for damage, bad in (
            ("second half zero", data[:most] + bytes(len(data) - most - 2) + data[-2:]),
            ("garbage in the middle", data[:middle] + noise + data[middle + 200 :]),
            ("cut and ended", data[:most] + b"\xff\xd9"),
            ("cut", data[:most]),
            ("a piece missing", data[:middle] + data[middle + 300 :]),
            ("ones in the middle", data[:middle] + b"\xff" * 300 + data[middle + 300 :]),
        ):
            yield Case(f"{name}, {damage}.jpg", bad, "DamagedImage")
    restarting = files["restarting"]
    mark = restarting.index(b"\xff\xd3")
    yield Case("a restart marker missing.jpg", restarting[:mark] + restarting[mark + 2 :], "DamagedImage")
    other = restarting.index(b"\xff\xd4")
    swapped = bytearray(restarting)
    swapped[mark + 1], swapped[other + 1] = swapped[other + 1], swapped[mark + 1]
    yield Case("restart markers swapped.jpg", bytes(swapped), "DamagedImage")
    baseline = files["baseline"]
    table = baseline.index(b"\xff\xc4")
    yield Case(
        "bad huffman table.jpg", baseline[: table + 5] + b"\xff" * 16 + baseline[table + 21 :], "DamagedImage"
    )
    # The standard tables apply then, as in Motion JPEG.
    yield Case("no huffman tables.jpg", baseline.replace(b"\xff\xc4", b"\xff\xec"), "opens", "jpeg", scene())
    quant = baseline.index(b"\xff\xdb")
    yield Case("no quantization.jpg", baseline[:quant] + b"\xff\xec" + baseline[quant + 2 :], "DamagedImage")
    progressive = files["progressive"]
    scans = _scans(progressive)
    yield Case("progressive, cut between scans.jpg", progressive[: scans[4]], "DamagedImage")
    yield Case(
        "progressive, only its last scans.jpg",
        progressive[: scans[0]] + progressive[scans[-1] :],
        "DamagedImage",
    )
    yield Case(
        "progressive, a thousand scans.jpg",
        progressive[: scans[1]] + progressive[scans[1] : scans[1] + 10] * 1000 + b"\xff\xd9",
        "DamagedImage",
    )
    yield Case("no pixels.jpg", baseline[: _scans(baseline)[0]] + b"\xff\xd9", "DamagedImage")
    yield Case(
        "a segment longer than the file.jpg", baseline[:4] + b"\xff\xff" + baseline[6:400], "DamagedImage"
    )


# PNG


def _bad_crc(data: bytes, name: bytes) -> bytes:
    place = data.index(name)
    end = place + 4 + int.from_bytes(data[place - 4 : place])
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


def _pngs() -> Iterator[Case]:
    picture = scene()

    def case(name: str, data: bytes, **more: Any) -> Case:
        fields: dict[str, Any] = {"format": "png", "picture": picture, "tolerance": 0.0} | more
        return Case(name, data, **fields)

    noise = np.random.default_rng(1).integers(0, 256, 3_000_000, np.uint8).tobytes()
    text = b"Comment\0\0" + zlib.compress(b"all about a shoe " * 200_000)
    yield case("a long packed text.png", flat_png(picture, (b"zTXt", text)))
    yield case(
        "long xmp.png", flat_png(picture, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + b"<x/>" * 300_000))
    )
    yield case("long unknown chunk.png", flat_png(picture, (b"prVt", noise[:1_500_000])))
    bomb = zlib.compress(bytes(20_000_000), 9)
    yield case("a profile that inflates.png", flat_png(picture, (b"iCCP", b"p\0\0" + bomb)), note="profile")
    yield case("a text that inflates.png", flat_png(picture, (b"zTXt", b"Raw profile type exif\0\0" + bomb)))
    for name in (b"tEXt", b"pHYs", b"tIME", b"eXIf"):
        data = _bad_crc(flat_png(picture, (name, b"Comment\0text")), name)
        yield case(f"wrong checksum of {name.decode()}.png", data)
    yield case(
        "wrong checksum of a profile.png", _bad_crc(flat_png(picture, ICC_P3), b"iCCP"), note="colour profile"
    )
    yield case(
        "wrong checksum of gamma.png", _bad_crc(flat_png(picture, gamma_chunk(1.0)), b"gAMA"), note="gamma"
    )
    yield case(
        "text that is not text.png", flat_png(picture, (b"tEXt", b"\xff" * 80), (b"zTXt", b"x\0\0nonsense"))
    )
    yield case("no end.png", flat_png(picture)[:-12])
    yield case("junk behind the end.png", flat_png(picture) + noise[:500])
    yield case("a comment cut short.png", flat_png(picture)[:-12] + b"\0\0\1\0tEXtCom")
    yield case("many small pieces.png", _in_pieces(picture, 700))
    sideways = lying(picture, 6)
    block = oriented(4, 6)[6:]
    yield case("held 6 as a long.png", flat_png(sideways, (b"eXIf", block)))
    hexed = b"\nexif\n" + str(len(block) + 6).encode() + b"\n" + (b"Exif\0\0" + block).hex().encode()
    raw = (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexed))
    yield case("held 6 as text.png", flat_png(sideways, raw))

    grey = np.asarray(picture.convert("L"), np.uint16)[..., None] * 257
    colours = np.asarray(picture, np.uint16) * 257
    hole = np.zeros(SIZE[::-1], bool)
    hole[:60, :60] = True
    keyed_grey, keyed = grey.copy(), colours.copy()
    keyed_grey[hole], keyed[hole] = 4660, (1, 2, 3)
    holed = _holed(Image.fromarray((keyed >> 8).astype(np.uint8)), hole)
    yield case(
        "16 bit with a clear colour.png",
        deep_png(keyed, (b"tRNS", struct.pack(">3H", 1, 2, 3))),
        picture=holed,
        note="16-bit",
    )
    greyed = Image.fromarray((keyed_grey[..., 0] // 257).astype(np.uint8)).convert("RGB")
    yield case(
        "16 bit grey with a clear level.png",
        deep_png(keyed_grey, (b"tRNS", struct.pack(">H", 4660))),
        picture=_holed(greyed, hole),
        note="16-bit",
        tolerance=0.5,
    )
    alpha = np.where(hole, 0, 65535).astype(np.uint16)[..., None]
    yield case(
        "16 bit rgba.png",
        deep_png(np.concatenate([colours, alpha], 2)),
        picture=_holed(picture, hole),
        note="16-bit",
    )
    plain_grey = picture.convert("L").convert("RGB")
    yield case(
        "16 bit grey and alpha.png",
        deep_png(np.concatenate([grey, alpha], 2)),
        picture=_holed(plain_grey, hole),
        note="16-bit",
    )
    levels = (np.asarray(picture.convert("L")) >> 4).astype(np.uint8)
    levels[hole], levels[~hole & (levels == 5)] = 5, 6
    packed = (levels[:, ::2] << 4 | levels[:, 1::2]).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    four = png_file(
        struct.pack(">2L5B", *SIZE, 4, 0, 0, 0, 0), (b"tRNS", b"\0\5"), (b"IDAT", zlib.compress(rows))
    )
    yield case(
        "4 bit grey with a clear level.png",
        four,
        picture=_holed(Image.fromarray(levels * 17).convert("RGB"), hole),
    )
    indexed = picture.quantize(16)
    table = bytes(range(0, 256, 16))
    partly = saved(indexed, "PNG", transparency=table)
    expected = indexed.convert("RGB").convert("RGBA")
    expected.putalpha(Image.fromarray(np.frombuffer(table, np.uint8)[np.asarray(indexed)]))
    yield case("palette with partial alpha.png", partly, picture=expected)

    yield case("hidden default.png", _animated(picture, (0, 0)))
    part = picture.crop((40, 30, 200, 150))
    canvas = Image.new("RGBA", SIZE)
    canvas.paste(part, (40, 30))
    yield case("hidden default and a small first frame.png", _animated(part, (40, 30)), picture=canvas)


def _holed(picture: Image.Image, hole: np.ndarray[Any, np.dtype[np.bool_]]) -> Image.Image:
    holed = picture.convert("RGBA")
    holed.putalpha(Image.fromarray(np.where(hole, 0, 255).astype(np.uint8)))
    return holed


def _animated(frame: Image.Image, place: tuple[int, int]) -> bytes:
    """An APNG whose default image is plain red and not one of its frames."""
    control = struct.pack(">5L2H2B", 0, *frame.size, *place, 1, 10, 0, 0)
    header = struct.pack(">2L5B", *SIZE, 8, 2, 0, 0, 0)
    red = zlib.compress(_rows(Image.new("RGB", SIZE, (255, 0, 0))))
    coded = zlib.compress(_rows(frame))
    half = len(coded) // 2
    return png_file(
        header,
        (b"acTL", struct.pack(">2L", 1, 0)),
        (b"IDAT", red),
        (b"fcTL", control),
        (b"fdAT", struct.pack(">L", 1) + coded[:half]),
        (b"fdAT", struct.pack(">L", 2) + coded[half:]),
    )


def _in_pieces(image: Image.Image, size: int) -> bytes:
    coded = zlib.compress(_rows(image), 1)
    parts = [(b"IDAT", coded[place : place + size]) for place in range(0, len(coded), size)]
    return png_file(struct.pack(">2L5B", *image.size, 8, 2, 0, 0, 0), *parts)


def _damaged_pngs() -> Iterator[Case]:
    picture = scene()
    plain = flat_png(picture)
    header = struct.pack(">2L5B", *SIZE, 8, 2, 0, 0, 0)
    rows = zlib.compress(_rows(picture))
    alter = bytearray(plain)
    alter[len(plain) // 2] ^= 0x10
    palette = saved(picture.quantize(64), "PNG")
    deep_file = deep_png(np.asarray(picture, np.uint16) * 257)
    for name, data in (
        ("one bit flipped", bytes(alter)),
        ("wrong checksum of the header", _bad_crc(plain, b"IHDR")),
        ("wrong checksum of the pixels", _bad_crc(plain, b"IDAT")),
        ("wrong checksum of the palette", _bad_crc(palette, b"PLTE")),
        ("palette missing", png_file(struct.pack(">2L5B", *SIZE, 8, 3, 0, 0, 0), (b"IDAT", rows))),
        ("half the rows", png_file(header, (b"IDAT", zlib.compress(_rows(picture)[: 90 * 721])))),
        ("half the stream", png_file(header, (b"IDAT", rows[: len(rows) // 2]))),
        ("unknown critical chunk", flat_png(picture, (b"QQQQ", b"what"))),
        ("no such depth", png_file(struct.pack(">2L5B", *SIZE, 5, 2, 0, 0, 0), (b"IDAT", rows))),
        ("header in second place", plain[:8] + plain[33:] + plain[8:33]),
        ("16 bits cut", deep_file[: len(deep_file) // 2]),
        ("16 bits of half the rows", png_file(struct.pack(">2L5B", *SIZE, 16, 2, 0, 0, 0), (b"IDAT", rows))),
    ):
        yield Case(f"{name}.png", data, "DamagedImage")
    first = zlib.compress(bytes(721 * 180), 9)
    far = struct.pack(">5L2H2B", 0, *SIZE, 5, 5, 1, 10, 0, 0)
    yield Case(
        "frame outside.png",
        png_file(
            header,
            (b"acTL", struct.pack(">2L", 1, 0)),
            (b"IDAT", rows),
            (b"fcTL", far),
            (b"fdAT", bytes(4) + first),
        ),
        "DamagedImage",
    )
    apple = plain[:8] + struct.pack(">L", 4) + b"CgBI" + bytes(8) + plain[8:]
    yield Case("apple.png", apple, "UnsupportedImage", note="CgBI")
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    yield Case("all clear.png", saved(clear, "PNG"), "FullyTransparent", note="fully transparent")
    yield Case("all clear.webp", saved(clear, "WEBP", lossless=True, exact=True), "FullyTransparent")
    yield Case("all clear.tif", saved(clear, "TIFF"), "FullyTransparent")


# TIFF


def _tiffs() -> Iterator[Case]:
    picture = scene()
    rgb = np.asarray(picture)
    grey = np.asarray(picture.convert("L"))[..., None]
    shown = picture.convert("L").convert("RGB")
    rgb16, grey16 = rgb.astype(np.uint16) * 257, grey.astype(np.uint16) * 257
    light = (rgb / 255).astype(np.float32)
    hole = np.zeros(SIZE[::-1], bool)
    hole[:60, :60] = True
    alpha = np.where(hole, 0, 255).astype(np.uint8)[..., None]
    inks = np.asarray(picture.convert("CMYK"))
    small = rgb[::4, ::4]

    def case(name: str, data: bytes, **more: Any) -> Case:
        fields: dict[str, Any] = {"format": "tiff", "picture": picture, "tolerance": 0.5} | more
        return Case(name, data, **fields)

    reduced = [(254, LONG, [1])]
    yield case("thumbnail first.tif", tiff_file(Page(small, 2, tags=reduced), Page(rgb, 2)))
    yield case(
        "thumbnail first, by the old tag.tif",
        tiff_file(Page(small, 2, tags=[(255, SHORT, [2])]), Page(rgb, 2)),
    )
    yield case(
        "picture below its thumbnail.tif", tiff_file(Page(small, 2, tags=reduced, below=[Page(rgb, 2)]))
    )
    yield case("pyramid below.tif", tiff_file(Page(rgb, 2, below=[Page(small, 2, tags=reduced)])))
    yield case(
        "mask page first.tif", tiff_file(Page(grey[::2, ::2], 4, tags=[(254, LONG, [4])]), Page(rgb, 2))
    )
    yield case("two full pages.tif", tiff_file(Page(rgb, 2), Page(small, 2)), note="first of 2")
    yield case("planes.tif", tiff_file(Page(rgb, 2, planar=True)))
    yield case("planes of 16 bits.tif", tiff_file(Page(rgb16, 2, planar=True)), note="16-bit")
    yield case("16 bits, big-endian.tif", tiff_file(Page(rgb16, 2), order=">"), note="16-bit")
    yield case("16 bits, tiles.tif", tiff_file(Page(rgb16, 2, tile=64)), note="16-bit")
    yield case("tiles, packed.tif", tiff_file(Page(rgb, 2, tile=64, packed=True)))
    yield case(
        "planes in tiles.tif", tiff_file(Page(rgb, 2, tile=64, planar=True)), outcome="UnsupportedImage"
    )
    yield case("white is zero.tif", tiff_file(Page(255 - grey, 0)), picture=shown)
    yield case("white is zero, 16 bits.tif", tiff_file(Page(65535 - grey16, 0)), picture=shown, note="16-bit")
    yield case("white is zero, big-endian.tif", tiff_file(Page(65535 - grey16, 0), order=">"), picture=shown)
    yield case("floats.tif", tiff_file(Page(light, 2)), note="floating point")
    yield case("floats in planes.tif", tiff_file(Page(light, 2, planar=True)), note="floating point")
    yield case("half floats.tif", tiff_file(Page(light.astype(np.float16), 2)), note="floating point")
    yield case("double floats.tif", tiff_file(Page(light.astype(np.float64), 2)), outcome="UnsupportedImage")
    bright = light.copy()
    bright[:4, :4] = 7.5
    yield case("floats above one.tif", tiff_file(Page(bright, 2)), note="above 1")
    yield case(
        "white is zero, floats.tif", tiff_file(Page(1 - light[..., :1], 0)), outcome="UnsupportedImage"
    )
    yield case("32 bits a channel.tif", tiff_file(Page(rgb.astype(np.uint32) * 16843009, 2)), note="32-bit")
    yield case("inks.tif", tiff_file(Page(inks, 5)), note="CMYK")
    yield case("inks of 16 bits.tif", tiff_file(Page(inks.astype(np.uint16) * 257, 5)), note="CMYK")
    faint = _holed(picture, hole)
    yield case(
        "inks with alpha.tif", tiff_file(Page(np.concatenate([inks, alpha], 2), 5, extra=[2])), picture=faint
    )
    yield case("inks with a spot colour.tif", tiff_file(Page(np.concatenate([inks, alpha], 2), 5, extra=[0])))
    yield case(
        "alpha of 16 bits.tif",
        tiff_file(Page(np.concatenate([rgb16, alpha.astype(np.uint16) * 257], 2), 2, extra=[2])),
        picture=faint,
    )
    half = np.full((*SIZE[::-1], 1), 128, np.uint8)
    multiplied = np.rint(rgb * (128 / 255)).astype(np.uint8)
    thin = picture.convert("RGBA")
    thin.putalpha(128)
    yield case(
        "multiplied by its alpha.tif",
        tiff_file(Page(np.concatenate([multiplied, half], 2), 2, extra=[1])),
        picture=thin,
        tolerance=1.0,
    )
    yield case("a channel nobody explains.tif", tiff_file(Page(np.concatenate([rgb, alpha], 2), 2)))
    chroma = np.asarray(picture.convert("YCbCr"))
    yield case("ycbcr.tif", tiff_file(Page(chroma, 6, tags=[(530, SHORT, [1, 1])])), tolerance=1.5)
    for turned in (3, 6):
        page = Page(np.asarray(lying(picture, turned)), 2, tags=[(274, SHORT, [turned])])
        yield case(f"turned by {turned}.tif", tiff_file(page))
    yield case(
        "turned, as a long.tif", tiff_file(Page(np.asarray(lying(picture, 8)), 2, tags=[(274, LONG, [8])]))
    )
    maker = [(271, 2, list(b"NIKON CORPORATION\0"))]
    yield case("of a camera, but no raw.tif", tiff_file(Page(rgb, 2, tags=maker)))
    yield case("with a tag of its own.tif", tiff_file(Page(rgb, 2, tags=[(65001, BYTE, list(b"something"))])))


def _damaged_tiffs() -> Iterator[Case]:
    picture = scene()
    rgb = np.asarray(picture)
    packed = tiff_file(Page(rgb, 2, packed=True))
    lzw = saved(picture, "TIFF", compression="tiff_lzw")
    jpeg = saved(picture, "TIFF", compression="jpeg", quality=95)
    runs = saved(picture, "TIFF", compression="packbits")
    noise = np.random.default_rng(5).integers(0, 255, 300, np.uint8).tobytes()
    for name, data in (("deflated", packed), ("lzw", lzw), ("jpeg", jpeg)):
        middle = len(data) // 2
        for damage, filler in (("garbage", noise), ("zeros", bytes(300))):
            bad = data[:middle] + filler + data[middle + 300 :]
            yield Case(f"{name} with {damage} in the middle.tif", bad, "DamagedImage")
    yield Case("runs with garbage.tif", runs[:4000] + noise + runs[4300:], "DamagedImage")
    plain = saved(picture, "TIFF")
    yield Case("plain, cut.tif", plain[:-900], "DamagedImage")
    yield Case("no directory.tif", b"II*\0\x08\0\0\0", "DamagedImage")
    yield Case("a directory outside.tif", b"MM\0*\x7f\xff\xff\xff" + bytes(50), "DamagedImage")
    loop = bytearray(tiff_file(Page(rgb, 2)))
    loop[-4:] = loop[4:8]
    yield Case("a loop of directories.tif", bytes(loop), "opens", "tiff", picture, 0.5)
    yield Case(
        "strips behind the end.tif", tiff_file(Page(rgb, 2, tags=[(273, LONG, [10_000_000])])), "DamagedImage"
    )
    yield Case(
        "a thousand channels.tif", tiff_file(Page(rgb, 2, tags=[(277, SHORT, [1000])])), "UnsupportedImage"
    )
    yield Case(
        "giant.tif",
        tiff_file(Page(rgb, 2, tags=[(256, LONG, [60_000]), (257, LONG, [60_000])])),
        "TooManyPixels",
    )
    yield Case(
        "unknown compression.tif", tiff_file(Page(rgb, 2, tags=[(259, SHORT, [34887])])), "UnsupportedImage"
    )


def _raws() -> Iterator[Case]:
    small = np.asarray(scene())[::4, ::4]
    sensor = np.random.default_rng(2).integers(0, 4096, (90, 120, 1)).astype(np.uint16)
    cfa = Page(sensor, 32803, tags=[(33421, SHORT, [2, 2]), (33422, BYTE, [0, 1, 1, 2])])
    preview = [(254, LONG, [1])]

    def made(by: bytes) -> list[Any]:
        return [(271, 2, list(by + b"\0"))]

    for name, note, data in (
        ("dng", "DNG", tiff_file(Page(small, 2, tags=[*preview, (50706, BYTE, [1, 4, 0, 0])], below=[cfa]))),
        (
            "linear dng",
            "DNG",
            tiff_file(
                Page(
                    small,
                    2,
                    tags=[*preview, (50706, BYTE, [1, 4, 0, 0])],
                    below=[Page(small.astype(np.uint16), 34892)],
                )
            ),
        ),
        ("dng without version", "RAW", tiff_file(Page(small, 2, tags=preview, below=[cfa]))),
        (
            "nef",
            "Nikon",
            tiff_file(Page(small, 2, tags=[*preview, *made(b"NIKON CORPORATION")], below=[cfa]), order=">"),
        ),
        (
            "small nef",
            "Nikon",
            tiff_file(
                Page(
                    small,
                    2,
                    tags=[*preview, *made(b"NIKON")],
                    below=[Page(small, 2, tags=[(259, SHORT, [34713])])],
                )
            ),
        ),
        (
            "arw",
            "Sony",
            tiff_file(
                Page(
                    small,
                    2,
                    tags=[*preview, *made(b"SONY")],
                    below=[Page(sensor, 32803, tags=[(259, SHORT, [32767])])],
                )
            ),
        ),
        (
            "pef",
            "Pentax",
            tiff_file(Page(sensor, 32803, tags=[*made(b"PENTAX"), (259, SHORT, [65535])]), Page(small, 2)),
        ),
        ("second page of a sensor", "RAW", tiff_file(Page(small, 2), cfa)),
        ("cr2", "CR2", b"II*\0\x10\0\0\0CR\2\0" + tiff_file(Page(small, 2))[12:]),
        ("orf", "Olympus", b"IIRO" + tiff_file(Page(small, 2))[4:]),
        ("rw2", "Panasonic", b"IIU\0" + tiff_file(Page(small, 2))[4:]),
        ("raf", "Fujifilm", b"FUJIFILMCCD-RAW 0201FF383501" + bytes(200) + saved(scene(), "JPEG")),
        ("cr3", "CR3", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(300)),
        ("crw", "Canon", b"II\x1a\0\0\0HEAPCCDR" + bytes(100)),
        ("x3f", "Sigma", b"FOVb" + bytes(100)),
        ("mrw", "Minolta", b"\0MRM" + bytes(100)),
    ):
        yield Case(f"{name} of a camera.tif", data, "UnsupportedImage", note=note)


# The rest


def _webps() -> Iterator[Case]:
    picture = scene()
    lossy, exact = saved(picture, "WEBP", quality=95), saved(picture, "WEBP", lossless=True)
    most = len(lossy) * 6 // 10
    yield Case("second half zero.webp", lossy[:most] + bytes(len(lossy) - most), "DamagedImage")
    yield Case("one byte short.webp", lossy[:-2], "DamagedImage")
    yield Case("lossless and cut.webp", exact[: len(exact) // 2], "DamagedImage")
    yield Case("lossless with zeros.webp", exact[:4000] + bytes(400) + exact[4400:], "DamagedImage")
    yield Case(
        "held 6 as a long.webp",
        saved(lying(picture, 6), "WEBP", quality=95, exif=oriented(4, 6)),
        "opens",
        "webp",
        picture,
    )
    blank = Image.new("RGB", (900, 900), (250, 250, 250))
    yield Case("blank.webp", saved(blank, "WEBP", quality=80), "opens", "webp", blank, 1.0)
    yield Case("blank and lossless.webp", saved(blank, "WEBP", lossless=True), "opens", "webp", blank, 0)
    giant = bytearray(saved(picture, "WEBP", lossless=True))
    giant[21:25] = b"\xff\xff\xff\x0f"
    yield Case("giant.webp", bytes(giant), "TooManyPixels")


def _gifs() -> Iterator[Case]:
    picture = scene()
    part = picture.crop((30, 20, 200, 150)).quantize(64)
    file = bytearray(saved(part, "GIF"))
    file[6:10] = struct.pack("<2H", *SIZE)
    place = file.index(b"\x2c\0\0\0\0", 13 + 3 * 64)
    file[place + 1 : place + 5] = struct.pack("<2H", 30, 20)
    canvas = Image.new("RGBA", SIZE)
    canvas.paste(part.convert("RGB"), (30, 20))
    yield Case("a frame smaller than its screen.gif", bytes(file), "opens", "gif", canvas, 0.5)
    whole = saved(picture.quantize(64), "GIF")
    yield Case("no end.gif", whole[:-1], "opens", "gif", picture.quantize(64).convert("RGB"), 0.5)
    middle = len(whole) // 2
    yield Case(
        "garbage in the middle.gif", whole[:middle] + bytes(300) + whole[middle + 300 :], "DamagedImage"
    )
    yield Case("no frame.gif", whole[:13] + b"\x3b", "DamagedImage")


def _media() -> Iterator[Case]:
    picture = scene()
    plain = heic(np.asarray(picture))
    middle = len(plain) * 6 // 10
    yield Case("second half zero.heic", plain[:middle] + bytes(len(plain) - middle), "DamagedImage")
    yield Case(
        "zeros in the middle.heic", plain[:middle] + bytes(400) + plain[middle + 400 :], "DamagedImage"
    )
    yield Case("one byte short.heic", plain[:-1], "DamagedImage")
    small = saved(picture, "AVIF", quality=90, speed=10)
    half = len(small) // 2
    noise = np.random.default_rng(1).integers(0, 256, 300, np.uint8).tobytes()
    yield Case("garbage in the middle.avif", small[:half] + noise + small[half + 300 :], "DamagedImage")
    yield Case("second half zero.avif", small[:half] + bytes(len(small) - half), "DamagedImage")
    yield Case("one byte short.avif", small[:-1], "DamagedImage")
    for turned in (3, 6, 8):
        yield Case(
            f"held {turned} by its box.avif",
            saved(lying(picture, turned), "AVIF", quality=95, speed=10, exif=exif(turned)),
            "opens",
            "avif",
            picture,
        )
    for brand, outcome, note in (
        (b"isom", "NotAnImage", "film"),
        (b"qt  ", "NotAnImage", "QuickTime"),
        (b"M4A ", "NotAnImage", "sound"),
        (b"abcd", "NotAnImage", "'abcd'"),
        (b"jpeg", "UnsupportedImage", "JPEG"),
    ):
        data = struct.pack(">L4s4s4s", 16, b"ftyp", brand, bytes(4)) + bytes(100)
        yield Case(f"of brand {brand.decode().strip()}.mp4", data, outcome, note=note)


def _bmps() -> Iterator[Case]:
    picture = scene()
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    pixels = np.asarray(clear)[::-1, :, [2, 1, 0, 3]].tobytes()
    header = struct.pack("<L2l2H6L", 124, *SIZE, 1, 32, 3, len(pixels), 2835, 2835, 0, 0)
    header += struct.pack("<4L", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(124 - 60)
    file = (
        b"BM" + struct.pack("<LHHL", 14 + len(header) + len(pixels), 0, 0, 14 + len(header)) + header + pixels
    )
    yield Case("alpha of zero.bmp", file, "opens", "bmp", picture, 0)
    yield Case("second half missing.bmp", file[: len(file) // 2], "DamagedImage")
    yield Case("giant.bmp", file[:18] + struct.pack("<2l", 60_000, 60_000) + file[26:], "TooManyPixels")


def _named() -> Iterator[Case]:
    plain = saved(scene(), "JPEG", quality=80)
    for name, data, outcome, note in (
        ("photo.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(200), "UnsupportedImage", "JPEG 2000"),
        ("photo.j2k", b"\xff\x4f\xff\x51" + bytes(200), "UnsupportedImage", "JPEG 2000"),
        ("photo.jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(200), "UnsupportedImage", "JPEG XL"),
        ("bare.jxl", b"\xff\x0a" + bytes(200), "UnsupportedImage", "JPEG XL"),
        ("photo.exr", b"\x76\x2f\x31\x01" + bytes(200), "UnsupportedImage", "OpenEXR"),
        ("zipped.jpg", gzip.compress(plain), "NotAnImage", "gzip"),
        ("in base64.jpg", base64.b64encode(plain), "NotAnImage", "base64"),
        ("in base64 lines.png", base64.encodebytes(saved(scene(), "PNG")), "NotAnImage", "base64"),
        ("data url.jpg", b"data:image/jpeg;base64," + base64.b64encode(plain), "NotAnImage", "data URI"),
        ("not found.jpg", b"<html><head><title>404</title></head></html>", "NotAnImage", "web page"),
        (
            "denied.jpg",
            b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
            "NotAnImage",
            "error message",
        ),
        ("an answer.jpg", b'{"error": "no such file"}', "NotAnImage", "JSON"),
        ("office.jpg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "NotAnImage", "Office"),
        ("._cat.jpg", b"\0\5\x16\7\0\2\0\0Mac OS X" + bytes(100), "NotAnImage", "AppleDouble"),
        ("zeros.jpg", bytes(3000), "NotAnImage", "zero bytes"),
        ("words.jpg", "Schöne Grüße\n".encode(), "NotAnImage", "text"),
        ("photoshop.psd", b"8BPS\0\1" + bytes(30), "NotAnImage", "Photoshop"),
        ("archive.rar", b"Rar!\x1a\7\0" + bytes(50), "NotAnImage", "RAR"),
    ):
        yield Case(name, data, outcome, note=note)
