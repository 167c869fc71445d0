"""Files as old scanners, scripts and careless programs write them, with the expected outcomes.

Their pixels are complete; what is odd is around them, or they are of kinds that are easily taken for others.
"""

import functools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from bg_pipeline_tests.corpus import Case, lying, scene
from bg_pipeline_tests.tiff_files import LONG, SHORT, Page, tiff_file


@functools.cache
def odd_writers() -> tuple[Case, ...]:
    """All cases."""
    return (*_directories(), *_channels(), *_labs())


# TIFF


def _directories() -> Iterator[Case]:
    picture = scene()
    rgb = np.asarray(picture)
    plain = tiff_file(Page(rgb, 2))

    def case(name: str, data: bytes, **more: Any) -> Case:
        fields: dict[str, Any] = {"format": "tiff", "picture": picture, "tolerance": 0.5} | more
        return Case(name, data, "opens", **fields)

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
