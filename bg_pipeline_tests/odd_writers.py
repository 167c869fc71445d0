"""Files as old scanners, scripts and careless programs write them, with the expected outcomes.

Their pixels are complete; what is odd is around them, or they are of kinds that are easily taken for others.
"""

import functools
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from bg_pipeline_tests.corpus import DISPLAY_P3, Case, lying, png_file, saved, scene
from bg_pipeline_tests.tiff_files import LONG, SHORT, Page, tiff_file
from bg_pipeline_tests.unusual import TO_P3, gamma_chunk, linear, oriented


@functools.cache
def odd_writers() -> tuple[Case, ...]:
    """All cases."""
    return (
        *_directories(),
        *_channels(),
        *_labs(),
        *_pngs(),
        *_bmps(),
        *_jpegs(),
        *_changed(),
        *_others(),
        *_damaged_webps(),
    )


# TIFF


def _directories() -> Iterator[Case]:
    picture = scene()
    rgb = np.asarray(picture)
    plain = tiff_file(Page(rgb, 2))

    case = functools.partial(Case, format="tiff", picture=picture, tolerance=0.5)
    text = [(305, 2, list(b"A Scanner 2.1"))]
    yield case("text without its zero.tif", tiff_file(Page(rgb, 2, tags=text)))
    yield case("text without its zero, big-endian.tif", tiff_file(Page(rgb, 2, tags=text), order=">"))
    yield case(
        "text without its zero, packed tiles.tif", tiff_file(Page(rgb, 2, tags=text, tile=64, packed=True))
    )
    floats = (rgb / 255).astype(np.float32)
    yield case("text without its zero, floats.tif", tiff_file(Page(floats, 2, tags=text, packed=True)))
    yield case("a number for a name.tif", tiff_file(Page(rgb, 2, tags=[(305, SHORT, [1, 2, 3])])))
    yield case("a tag twice.tif", _with_entry(plain, struct.pack("<HHL4s", 270, 2, 4, b"abc\0"), 2))
    yield case("tags out of order.tif", _reversed(plain))
    yield case("a chain that ends outside.tif", plain[:-4] + struct.pack("<L", 0x7FFFFFF0))
    yield case("a chain that ends in itself.tif", plain[:-4] + plain[4:8])
    yield case("a chain that ends in the pixels.tif", plain[:-4] + struct.pack("<L", 5000))
    strips = [
        (273, LONG, [8 + row * rgb[0].size for row in range(0, rgb.shape[0], 30)]),
        (278, LONG, [30]),
    ]
    yield case("strips of unknown length.tif", _without(tiff_file(Page(rgb, 2, tags=strips)), 279))
    zeros = [*strips, (279, LONG, [0] * 6)]
    yield case("strips of length zero.tif", tiff_file(Page(rgb, 2, tags=zeros)))
    one = tiff_file(Page(rgb, 2, packed=True))
    yield case("a packed strip of unknown length.tif", _without(one, 279))
    yield case("a strip that claims too much.tif", tiff_file(Page(rgb, 2, tags=[(279, LONG, [900_000])])))
    yield Case("half a strip of unknown length.tif", _without(_moved(rgb), 279), "DamagedImage")


def _entries(data: bytes) -> tuple[int, list[bytes]]:
    """The offset of the directory of a little-endian TIFF that ends with it, and its entries."""
    (place,) = struct.unpack_from("<L", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    return place, [data[at : at + 12] for at in range(place + 2, place + 2 + 12 * count, 12)]


def _directory(data: bytes, place: int, entries: list[bytes]) -> bytes:
    return data[:place] + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def _with_entry(data: bytes, entry: bytes, times: int) -> bytes:
    place, entries = _entries(data)
    return _directory(data, place, sorted([*entries, *[entry] * times], key=lambda each: each[:2][::-1]))


def _without(data: bytes, tag: int) -> bytes:
    place, entries = _entries(data)
    return _directory(data, place, [each for each in entries if each[:2] != struct.pack("<H", tag)])


def _reversed(data: bytes) -> bytes:
    place, entries = _entries(data)
    return _directory(data, place, entries[::-1])


def _moved(rgb: np.ndarray[Any, Any]) -> bytes:
    """A TIFF whose only strip begins so late that the file ends before its last row."""
    plain = tiff_file(Page(rgb, 2))
    return tiff_file(Page(rgb, 2, tags=[(273, LONG, [8 + len(plain) // 2])]))


def _channels() -> Iterator[Case]:
    picture = scene()
    rgb, grey = np.asarray(picture), np.asarray(picture.convert("L"))[..., None]
    shown = picture.convert("L").convert("RGB")
    height, width = grey.shape[:2]
    hole = np.zeros((height, width, 1), np.uint8)
    hole[30:90, 40:140] = 255
    holed = picture.convert("RGBA")
    holed.putalpha(Image.fromarray(hole[..., 0]))
    spots = np.concatenate([rgb, 255 - grey, hole], 2)
    yield Case(
        "a spot colour before the alpha.tif",
        tiff_file(Page(spots, 2, extra=[0, 2])),
        "opens",
        "tiff",
        holed,
        0.5,
    )
    signed = (grey.astype(np.int16) * 128).astype(np.int16)
    yield Case("signed, 16 bits.tif", tiff_file(Page(signed, 1)), "opens", "tiff", shown, 1.5, "to 8 bits")
    yield Case(
        "signed, below zero.tif", tiff_file(Page(signed - 20_000, 1)), "UnsupportedImage", note="below zero"
    )
    inks = 255 - rgb
    three = tiff_file(Page(inks, 5, tags=[(_INK_SET, SHORT, [2])]))
    yield Case("three inks.tif", three, "UnsupportedImage", note="inks")
    yield Case("three inks of no set.tif", tiff_file(Page(inks, 5)), "UnsupportedImage", note="inks")
    four = np.concatenate([inks, 255 - grey], 2)
    orange = tiff_file(Page(four, 5, tags=[(_INK_SET, SHORT, [2])]))
    yield Case("four inks that are no CMYK.tif", orange, "UnsupportedImage", note="inks")
    for bits in (10, 12, 14):
        values = np.rint(grey[..., 0] / 255 * ((1 << bits) - 1)).astype(np.uint16)
        page = Page(_packed(values, bits), 1, tags=[(256, LONG, [width]), (258, SHORT, [bits])])
        yield Case(f"{bits} bits a channel.tif", tiff_file(page), "UnsupportedImage", note=f"{bits} bits")
    for kind, note in ((4, "mask"), (10, "LAB"), (32844, "LogL"), (32845, "LogLuv"), (999, "channels mean")):
        page = Page(rgb if kind != 4 else grey, kind)
        yield Case(f"of photometric {kind}.tif", tiff_file(page), "UnsupportedImage", note=note)


_INK_SET = 332


def _packed(values: np.ndarray[Any, Any], bits: int) -> np.ndarray[Any, Any]:
    """Rows of values of ``bits`` bits, one behind the other, as bytes."""
    wide = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(*values.shape, 2), axis=2)
    return np.packbits(wide[..., 16 - bits :].reshape(len(values), -1), axis=1)[..., None]


def _labs() -> Iterator[Case]:
    picture = scene()
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    values = np.asarray(lab)  # as in a TIFF: a and b are signed bytes
    signed = values.view(np.int8).astype(np.int16)
    by_icc = np.concatenate([values[..., :1], (signed[..., 1:] + 128).astype(np.uint8)], 2)
    deep = np.concatenate(
        [values[..., :1].astype(np.uint16) * 257, (signed[..., 1:] * 256).view(np.uint16)], 2
    )
    deep_by_icc = np.concatenate(
        [
            values[..., :1].astype(np.uint16) * 256,
            (signed[..., 1:].astype(np.int32) * 256 + 32768).astype(np.uint16),
        ],
        2,
    )

    def case(name: str, page: Page, **more: Any) -> Case:
        fields: dict[str, Any] = {"picture": picture, "order": "<"} | more
        data = tiff_file(page, order=fields["order"])
        return Case(name, data, "opens", "tiff", fields["picture"], 4.0, "converted from LAB")

    yield case("lab in planes.tif", Page(values, 8, planar=True))
    yield case("lab in packed tiles.tif", Page(values, 8, tile=64, packed=True))
    yield case("lab by the icc.tif", Page(by_icc, 9))
    yield case("lab of 16 bits.tif", Page(deep, 8))
    yield case("lab of 16 bits, big-endian, in planes.tif", Page(deep, 8, planar=True), order=">")
    yield case("lab of 16 bits by the icc.tif", Page(deep_by_icc, 9))
    for turned in (3, 5, 6):
        stored = np.asarray(lying(Image.fromarray(values), turned))
        yield case(f"lab, turned by {turned}.tif", Page(stored, 8, tags=[(274, SHORT, [turned])]))
    half = np.full((*values.shape[:2], 1), 128, np.uint8)
    thin = picture.convert("RGBA")
    thin.putalpha(128)
    yield case("lab with alpha.tif", Page(np.concatenate([values, half], 2), 8, extra=[2]), picture=thin)
    yield Case("lab, cut.tif", tiff_file(Page(values, 8, packed=True))[:-4000], "DamagedImage")
    floats = Page(signed.astype(np.float32), 8)
    yield Case("lab in floats.tif", tiff_file(floats), "UnsupportedImage", note="LAB")
    light = Page(values[..., :1].copy(), 8)
    yield Case("lab of one channel.tif", tiff_file(light), "UnsupportedImage", note="LAB")
    noise = np.random.default_rng(3).integers(0, 256, 200, np.uint8).tobytes()
    packed = tiff_file(Page(values, 8, packed=True))
    middle = len(packed) // 2
    damaged = packed[:middle] + noise + packed[middle + 200 :]
    yield Case("lab with garbage in the middle.tif", damaged, "DamagedImage")


# PNG


def _pngs() -> Iterator[Case]:
    picture = scene()
    shades = picture.quantize(16)
    colours = bytes(shades.getpalette() or [])[:48]
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(picture))
    coded = zlib.compress(rows)
    header = struct.pack(">2L5B", *picture.size, 8, 2, 0, 0, 0)

    case = functools.partial(Case, format="png", picture=picture, tolerance=0.0)

    def of(stream: bytes) -> bytes:
        return png_file(header, (b"IDAT", stream))

    yield case("a wrong sum of all pixels.png", of(coded[:-4] + b"abcd"))
    yield case("no sum of all pixels.png", of(coded[:-4]))
    yield case("a window that is too small.png", of(b"\x08\x1d" + coded[2:]))
    deep = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(picture, ">u2") * 257))
    deep_header = struct.pack(">2L5B", *picture.size, 16, 2, 0, 0, 0)
    yield case(
        "a wrong sum of 16 bits.png", png_file(deep_header, (b"IDAT", deep[:-4] + b"abcd")), tolerance=0.5
    )
    short = zlib.compress(rows[: -20 * len(rows) // 180])
    yield case("rows missing, and a wrong sum.png", of(short[:-4] + b"abcd"), outcome="DamagedImage")
    bomb = zlib.compress(bytes(60_000_000), 9)
    yield case(
        "pixels that never end, and a wrong sum.png",
        of(bomb[:-4] + b"abcd"),
        picture=Image.new("RGB", picture.size),
    )
    # Chromium ignores what stands behind the pixels, and a transparency before its palette.
    corner = struct.pack(">3H", *np.asarray(picture)[0, 0])
    late = ((b"tRNS", corner), gamma_chunk(1.0), (b"cICP", b"\x0c\x0d\0\1"))
    for name, content in (*late, (b"iCCP", b"p\0\0" + zlib.compress(DISPLAY_P3))):
        yield case(
            f"{name.decode()} behind the pixels.png", png_file(header, (b"IDAT", coded), (name, content))
        )
    numbers = np.asarray(shades)
    indexed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in numbers))
    palette = struct.pack(">2L5B", *picture.size, 8, 3, 0, 0, 0)
    clear = bytes([0, 128]) + b"\xff" * 14
    seen = shades.convert("RGBA")
    seen.putalpha(Image.fromarray(np.frombuffer(clear, np.uint8)[numbers]))
    longer = ((b"PLTE", colours), (b"tRNS", clear + b"\xff" * 40), (b"IDAT", indexed))
    yield case("more transparencies than colours.png", png_file(palette, *longer), picture=seen)
    before = ((b"tRNS", clear), (b"PLTE", colours), (b"IDAT", indexed))
    yield case(
        "transparency before its palette.png", png_file(palette, *before), picture=shades.convert("RGB")
    )


# BMP


def _bmp(header: bytes, pixels: bytes, behind: bytes = b"") -> bytes:
    place = 14 + len(header)
    return b"BM" + struct.pack("<LHHL", place + len(pixels), 0, 0, place) + header + pixels + behind


def _info(bits: int, compression: int, *, size: int = 40, down: bool = False, height: int = 180) -> bytes:
    shape = (240, -height if down else height)
    return struct.pack("<L2l2H2L2l2L", size, *shape, 1, bits, compression, 0, 2835, 2835, 0, 0)


def _bmps() -> Iterator[Case]:
    picture = scene()
    rgb = np.asarray(picture).astype(np.uint32)
    alpha = np.tile(np.linspace(0, 255, 240).astype(np.uint32), (180, 1))
    faint = picture.convert("RGBA")
    faint.putalpha(Image.fromarray(alpha.astype(np.uint8)))

    case = functools.partial(Case, format="bmp", picture=picture, tolerance=0.5)

    def masked(
        bits: int, masks: tuple[int, ...], values: Any, *, compression: int = 3, **shape: Any
    ) -> bytes:
        four = struct.pack("<4L", *masks, *(0,) * (4 - len(masks)))
        size = 108 if len(masks) == 4 and compression == 3 else 40
        header = _info(bits, compression, size=size, **shape) + (
            four + b"BGRs" + bytes(48) if size == 108 else four[: 16 if compression == 6 else 12]
        )
        stored = values if shape.get("down") else values[::-1]
        return _bmp(header, stored.astype(f"<u{bits // 8}").tobytes())

    ten = rgb * 1023 // 255
    tens = ten[..., 0] << 20 | ten[..., 1] << 10 | ten[..., 2]
    yield case("ten bits a colour.bmp", masked(32, (1023 << 20, 1023 << 10, 1023), tens))
    opaque = (1023 << 20, 1023 << 10, 1023, 3 << 30)
    yield case("ten bits a colour and two of alpha.bmp", masked(32, opaque, tens | 3 << 30))
    parts = rgb >> 4
    fours = (alpha >> 4) << 12 | parts[..., 0] << 8 | parts[..., 1] << 4 | parts[..., 2]
    thin = Image.fromarray((np.dstack([parts, alpha >> 4]) * 17).astype(np.uint8))
    yield case("four bits each.bmp", masked(16, (0xF00, 0xF0, 0xF, 0xF000), fours), picture=thin)
    fives = rgb >> 3
    ones = (alpha >> 7) << 15 | fives[..., 0] << 10 | fives[..., 1] << 5 | fives[..., 2]
    either = np.dstack([np.rint(fives / 31 * 255), (alpha >> 7) * 255]).astype(np.uint8)
    shown = Image.fromarray(either)
    yield case("one bit of alpha.bmp", masked(16, (0x7C00, 0x3E0, 0x1F, 0x8000), ones), picture=shown)
    eights = alpha << 24 | rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
    bytewise = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield case("alpha by its own compression.bmp", masked(32, bytewise, eights, compression=6), picture=faint)
    yield case("masks, from the top down.bmp", masked(32, (1023 << 20, 1023 << 10, 1023), tens, down=True))
    yield case("masks over each other.bmp", masked(32, (0xFFFF, 0xFF00, 0xFF), tens), outcome="DamagedImage")
    cut = masked(32, (1023 << 20, 1023 << 10, 1023), tens)[:-9000]
    yield case("masks, cut.bmp", cut, outcome="DamagedImage")
    wide = np.rint((linear(picture) @ TO_P3.T) ** (1 / 2.2) * 255).astype(np.uint8)
    pixels = wide[::-1, :, ::-1].tobytes()
    fifth = _info(24, 0, size=124) + bytes(16) + b"DEBM" + bytes(48)
    place = struct.pack("<4L", 4, 124 + len(pixels), len(DISPLAY_P3), 0)
    managed = _bmp(fifth + place, pixels, DISPLAY_P3)
    yield case("a profile inside.bmp", managed, note="Display P3", tolerance=2.0)
    lost = _bmp(fifth + place, np.asarray(picture)[::-1, :, ::-1].tobytes())
    yield case("a profile that is missing.bmp", lost, note="profile is damaged")
    for name, bits, compression, note in (
        ("a png inside", 0, 5, "PNG inside"),
        ("a jpeg inside", 0, 4, "JPEG inside"),
        ("64 bits a pixel", 64, 0, "64 bits"),
        ("two bits a pixel", 2, 0, "2 bits"),
    ):
        data = _bmp(_info(bits, compression), bytes(9000))
        yield case(f"{name}.bmp", data, outcome="UnsupportedImage", note=note)
    yield case("half a header.bmp", b"BM" + bytes(20), outcome="DamagedImage")


# JPEG


def _jpegs() -> Iterator[Case]:
    picture = scene()
    turned = saved(lying(picture, 6), "JPEG", quality=95, exif=oriented(3, 6))
    place = turned.index(b"Exif\0\0")
    other = turned[: place + 5] + b"\xff" + turned[place + 6 :]
    yield Case("exif with a byte that should be zero.jpg", other, "opens", "jpeg", picture)


# Pictures that a program changed while it sent or stored them


def _changed() -> Iterator[Case]:
    picture = scene()
    jpeg, png, webp = (saved(picture, kind, quality=80) for kind in ("JPEG", "PNG", "WEBP"))
    boundary = b"------WebKitFormBoundaryAbc"
    form = boundary + b'\r\nContent-Disposition: form-data; name="photo"\r\n\r\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n"
    for name, data, note in (
        ("replaced.jpg", jpeg.decode("utf-8", "replace").encode(), "sent as text"),
        ("replaced.png", png.decode("utf-8", "replace").encode(), "sent as text"),
        ("replaced.webp", webp.decode("utf-8", "replace").encode(), "sent as text"),
        ("of latin-1.jpg", jpeg.decode("latin-1").encode(), "sent as text"),
        ("of latin-1.png", png.decode("latin-1").encode(), "sent as text"),
        ("line ends of unix.png", png.replace(b"\r\n", b"\n"), "line ends"),
        ("line ends of windows.png", png.replace(b"\n", b"\r\n"), "line ends"),
        ("behind a mark.jpg", b"\xef\xbb\xbf" + jpeg, "byte order mark"),
        ("behind an empty line.png", b"\r\n" + png, "behind other bytes (2 bytes)"),
        ("in its form.jpg", form + jpeg + b"\r\n" + boundary + b"--\r\n", "web form"),
        ("with a server's head.jpg", head + jpeg, "web server"),
        ("in signed parts.jpg", b"3a2f;chunk-signature=0f0f\r\n" + jpeg, "signed upload"),
        ("in hexadecimal.jpg", jpeg.hex().encode(), "hexadecimal"),
        ("as a program prints it.jpg", repr(jpeg).encode(), "program's text"),
        ("a pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        ("an address.jpg", b"https://shop.example/a.jpg?size=1\n", "web address"),
    ):
        yield Case(f"changed, {name}", data, "NotAnImage", note=note)


def _others() -> Iterator[Case]:
    for name, data, outcome, note in (
        ("quicktime of old", b"\0\0\0\x08wide\0\0\x10\0mdat" + bytes(99), "NotAnImage", "film"),
        ("avi", b"RIFF\0\1\0\0AVI LIST" + bytes(50), "NotAnImage", "film"),
        ("wave", b"RIFF\0\1\0\0WAVEfmt " + bytes(50), "NotAnImage", "sound"),
        ("mpeg sound", b"ID3\3" + bytes(99), "NotAnImage", "sound"),
        ("program", b"MZ\x90\0" + bytes(99), "NotAnImage", "Windows program"),
        ("shortcut", b"L\0\0\0\1\x14\2\0" + bytes(99), "NotAnImage", "shortcut"),
        ("tar", b"a.jpg" + bytes(252) + b"ustar" + bytes(99), "NotAnImage", "tar"),
        ("apple icon", b"icns" + bytes(99), "UnsupportedImage", "icon"),
        ("qoi", b"qoif" + bytes(99), "UnsupportedImage", "QOI"),
        ("dicom", bytes(128) + b"DICM" + bytes(99), "UnsupportedImage", "DICOM"),
        ("metafile", b"\xd7\xcd\xc6\x9a" + bytes(99), "UnsupportedImage", "metafile"),
        ("portable pixels", b"P6 2 2 255\n" + bytes(12), "UnsupportedImage", "Netpbm"),
        ("surface", b"DDS " + bytes(99), "UnsupportedImage", "DirectDraw"),
        ("pdf with a photo", b"%PDF-1.7\n" + saved(scene(), "JPEG"), "NotAnImage", "PDF"),
    ):
        yield Case(f"{name}, called a photo.jpg", data, outcome, note=note)


# Damage that libwebp does not report


def _damaged_webps() -> Iterator[Case]:
    rng = np.random.default_rng(4)
    large = scene().resize((720, 540), Image.Resampling.BICUBIC)
    grain = np.asarray(large, np.int16) + rng.integers(-12, 12, (540, 720, 3))
    picture = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    noise = rng.integers(0, 256, 1024, np.uint8).tobytes()
    lossy, exact = saved(picture, "WEBP", quality=85), saved(picture, "WEBP", lossless=True)
    for name, data in (("lossy", lossy), ("lossless", exact)):
        middle, most = len(data) // 2, len(data) * 6 // 10
        for damage, bad in (
            ("zeros at the end", data[:most] + bytes(len(data) - most)),
            ("spaces at the end", data[:most] + b" " * (len(data) - most)),
            ("garbage in the middle", data[:middle] + noise + data[middle + 1024 :]),
            ("a part twice", data[:middle] + data[middle - 4096 : middle] + data[middle:]),
        ):
            yield Case(f"{name} with {damage}.webp", bad, "DamagedImage")
    # Lossless pixels may meet their end again after such damage, and nothing tells.
    swapped = _swapped(lossy, len(lossy) // 2)
    yield Case("lossy with two parts swapped.webp", swapped, "DamagedImage")
    # The data of a plain half need few bytes, but all of them.
    half = Image.new("RGB", picture.size, "white")
    half.paste(picture.crop((0, 0, 360, 540)))
    for options in ({"quality": 70}, {"lossless": True}):
        name = "half a white page, lossless" if "lossless" in options else "half a white page"
        tolerance = 0.0 if "lossless" in options else 8.0
        yield Case(f"{name}.webp", saved(half, "WEBP", **options), "opens", "webp", half, tolerance)


def _swapped(data: bytes, middle: int) -> bytes:
    first, second = data[middle : middle + 4096], data[middle + 4096 : middle + 8192]
    return data[:middle] + second + first + data[middle + 8192 :]
