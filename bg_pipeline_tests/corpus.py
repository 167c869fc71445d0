"""Generated image files of all kinds that people upload, and files that are not images, with the expected outcomes.

No file is larger than a few hundred kilobytes, even if its header claims more pixels.
"""

import functools
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from bg_pipeline_tests.pictures import photo_and_mask

SIZE = (240, 180)

COMPLAINTS = "ignore:(Corrupt|Possibly corrupt) EXIF data:UserWarning"
"""A warning filter for tests that open the corpus: Pillow's warnings about damaged EXIF, which it skips."""


@dataclass(frozen=True, eq=False)
class Case:
    """A file with its upload name and the expected outcome of opening it.

    ``outcome`` is "opens" or the code of the `ImageError`. For a file that opens, ``format`` is its real format,
    ``picture`` the expected upright sRGB picture (RGBA if translucent) within a mean difference of ``tolerance``
    levels, and ``note`` a part of a note about opening it. For a refused file ``note`` is a part of the error.
    """

    name: str
    data: bytes
    outcome: str = "opens"
    format: str = ""
    picture: Image.Image | None = None
    tolerance: float = 3.0
    note: str = ""


@functools.cache
def corpus() -> tuple[Case, ...]:
    """All cases; the first call takes about a second."""
    return (*_jpegs(), *_pngs(), *_tiffs(), *_others(), *_strange_shapes(), *_damaged(), *_no_images())


@functools.cache
def scene() -> Image.Image:
    """The picture in most of the files."""
    return photo_and_mask(2, size=SIZE)[0]


@functools.cache
def translucent_scene() -> Image.Image:
    picture, mask = photo_and_mask(2, size=SIZE)
    # Transparent pixels are black, so that formats that drop their colour compare equal.
    clear = Image.new("RGB", SIZE)
    clear.paste(picture, mask=mask.point(lambda level: 255 if level else 0))
    clear.putalpha(mask)
    return clear


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    """The encoded image."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def exif(orientation: int, *, gps: bool = False) -> bytes:
    """An EXIF block with an orientation, a camera and optionally GPS coordinates."""
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "A Camera"
    if gps:
        block[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0), 3: "W", 4: (0.0, 7.0, 0.0)}
    return block.tobytes()


def lying(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a camera stores it for this EXIF orientation; applying the orientation gives the image."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    return image.transpose(turn[orientation]) if orientation in turn else image


# Minimal colour profiles (ICC.1:2001-04)


def _tag(kind: bytes, *parts: bytes) -> bytes:
    body = kind + bytes(4) + b"".join(parts)
    return body + bytes(-len(body) % 4)


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _profile(space: bytes, kind: bytes, connection: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode()
    description = struct.pack(">L", len(text) + 1) + text + bytes(1 + 8 + 3 + 67)
    tags = {
        b"desc": _tag(b"desc", description),
        b"cprt": _tag(b"text", b"none\0"),
        b"wtpt": _tag(b"XYZ ", _fixed(0.9642, 1.0, 0.8249)),
        **tags,
    }
    table, data, offset = struct.pack(">L", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for signature, content in tags.items():
        table += signature + struct.pack(">LL", offset + len(data), len(content))
        data += content
    head = struct.pack(
        ">L4sL4s4s4s", 128 + len(table) + len(data), b"none", 0x02400000, kind, space, connection
    )
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(0.9642, 1.0, 0.8249)
    return head + bytes(128 - len(head)) + table + data


def _gamma(value: float) -> bytes:
    return _tag(b"curv", struct.pack(">LH", 1, round(value * 256)))


def rgb_profile(name: str, primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """A display profile with these primaries (D50 XYZ) and this gamma."""
    tags = {
        signature: _tag(b"XYZ ", _fixed(*xyz))
        for signature, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    return _profile(
        b"RGB ", b"mntr", b"XYZ ", name, tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma))
    )


def grey_profile(gamma: float) -> bytes:
    """A grey profile with this gamma."""
    return _profile(b"GRAY", b"mntr", b"XYZ ", f"Grey gamma {gamma}", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
    """A CMYK profile with colours slightly duller than those of the naive conversion."""
    corners = []
    for place in range(16):
        inks = [place >> shift & 1 for shift in (3, 2, 1, 0)]
        level = [(1 - 0.9 * ink) * (1 - 0.9 * inks[3]) for ink in inks[:3]]
        light = 100 * (0.2 * level[0] + 0.7 * level[1] + 0.1 * level[2]) ** (1 / 2.2)
        a, b = 80 * (level[0] - level[1]), 60 * (level[1] - level[2])
        corners.append(
            struct.pack(">3H", round(light * 652.8), round((a + 128) * 256), round((b + 128) * 256))
        )
    line = struct.pack(">2H", 0, 65535)
    lookup = struct.pack(">4B", 4, 3, 2, 0) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">2H", 2, 2)
    table = _tag(b"mft2", lookup, line * 4, b"".join(corners), line * 3)
    return _profile(b"CMYK", b"prtr", b"Lab ", "Dull inks", {b"A2B0": table})


DISPLAY_P3 = rgb_profile(
    "Display P3", ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)), 2.2
)
ADOBE_LIKE = rgb_profile(
    "Wide RGB", ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)), 2.2
)
SRGB_LIKE = rgb_profile(
    "c2", ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)), 2.2
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _in(profile: bytes, image: Image.Image, mode: str = "RGB") -> Image.Image:
    """The sRGB picture converted to another profile."""
    source, target = ImageCms.createProfile("sRGB"), ImageCms.getOpenProfile(io.BytesIO(profile))
    turned = ImageCms.profileToProfile(
        image, source, target, ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode=mode
    )
    assert turned is not None
    return turned


# PNG and TIFF files that Pillow cannot write


def png_file(header: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file with IHDR content ``header`` and these chunks (name, content)."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, content in ((b"IHDR", header), *chunks, (b"IEND", b"")):
        parts.append(
            struct.pack(">L", len(content)) + name + content + struct.pack(">L", zlib.crc32(name + content))
        )
    return b"".join(parts)


def _deep_png(image: Image.Image) -> bytes:
    """The image with 16 bits per channel, the lower 8 bits noise."""
    values = np.asarray(image, np.uint16) * 256 + np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png_file(struct.pack(">2L5B", *SIZE, 16, 2, 0, 0, 0), (b"IDAT", zlib.compress(rows)))


def _deep_tiff(image: Image.Image) -> bytes:
    pixels = (np.asarray(image, np.uint16) * 257).astype("<u2").tobytes()
    depths = struct.pack("<3H", 16, 16, 16)
    entries = (
        (256, 4, 1, SIZE[0]), (257, 4, 1, SIZE[1]), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, 14), (277, 3, 1, 3), (278, 4, 1, SIZE[1]), (279, 4, 1, len(pixels)),
    )  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return struct.pack("<2sHL", b"II", 42, 14 + len(pixels)) + depths + pixels + directory + bytes(4)


# The cases, by format


def _jpegs() -> Iterator[Case]:
    picture = scene()
    plain = saved(picture, "JPEG", quality=95)

    def case(name: str, data: bytes, **more: Any) -> Case:
        fields: dict[str, Any] = {"format": "jpeg", "picture": picture} | more
        return Case(name, data, **fields)

    yield case("plain.jpg", plain)
    for orientation in range(1, 9):
        data = saved(lying(picture, orientation), "JPEG", quality=95, exif=exif(orientation))
        yield case(f"held {orientation}.jpg", data)
    yield case("phone with place.JPG", saved(lying(picture, 6), "JPEG", quality=95, exif=exif(6, gps=True)))
    yield case("orientation 9.jpg", saved(picture, "JPEG", quality=95, exif=exif(9)))
    yield case("progressive.jpg", saved(picture, "JPEG", quality=95, progressive=True))
    yield case("coarse colour.jpg", saved(picture, "JPEG", quality=95, subsampling=2))
    yield case(
        "grey.jpg",
        saved(picture.convert("L"), "JPEG", quality=95),
        picture=picture.convert("L").convert("RGB"),
    )
    preview = picture.resize((80, 60))
    yield case(
        "two in one (MPO).jpg", saved(picture, "MPO", save_all=True, append_images=[preview], quality=95)
    )
    comment = saved(picture, "JPEG", quality=95, comment=b"\xff\xfe not text")
    yield case("comment.jpg", comment)
    yield case("junk behind.jpg", plain + b"\0\0 and a trailer of a camera \xff\xd8\xff" * 20)
    yield case("named as a png.png", plain)
    for name, profile, tolerance in (("display p3", DISPLAY_P3, 3.0), ("adobe rgb", ADOBE_LIKE, 3.0)):
        data = saved(_in(profile, picture), "JPEG", quality=97, subsampling=0, icc_profile=profile)
        yield case(f"{name}.jpg", data, tolerance=tolerance, note="colours converted from")
    yield case("srgb profile.jpg", saved(picture, "JPEG", quality=95, icc_profile=SRGB))
    yield case(
        "srgb by another name.jpg", saved(picture, "JPEG", quality=95, icc_profile=SRGB_LIKE), tolerance=8
    )
    grey = picture.convert("L")
    dark = grey.point([round(255 * (level / 255) ** 2) for level in range(256)])
    light = saved(dark, "JPEG", quality=97, icc_profile=grey_profile(1.1))
    yield case(
        "grey profile.jpg", light, picture=grey.convert("RGB"), tolerance=8, note="colours converted from"
    )
    broken = "colour profile is damaged"
    yield case(
        "broken profile.jpg", saved(picture, "JPEG", quality=95, icc_profile=b"no profile" * 30), note=broken
    )
    yield case(
        "cut profile.jpg", saved(picture, "JPEG", quality=95, icc_profile=DISPLAY_P3[:200]), note=broken
    )
    yield case(
        "profile of ink.jpg", saved(picture, "JPEG", quality=95, icc_profile=cmyk_profile()), note=broken
    )
    inks = picture.convert("CMYK")
    yield case("cmyk.jpg", saved(inks, "JPEG", quality=97), note="converted from CMYK")
    through = ImageCms.profileToProfile(
        inks, ImageCms.getOpenProfile(io.BytesIO(cmyk_profile())), ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB", flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    printed = saved(inks, "JPEG", quality=97, subsampling=0, icc_profile=cmyk_profile())
    yield case("cmyk profile.jpg", printed, picture=through, tolerance=4, note="Dull inks")
    for name, block in (
        ("no exif", b"Exif\0\0MM but nothing follows"),
        ("exif that points outside", b"Exif\0\0II*\0\xff\xff\xff\x7f"),
        ("exif of many tags", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12"),
    ):
        yield case(f"{name}.jpg", saved(picture, "JPEG", quality=95, exif=block))


def _pngs() -> Iterator[Case]:
    picture, translucent = scene(), translucent_scene()

    def case(name: str, data: bytes, **more: Any) -> Case:
        fields: dict[str, Any] = {"format": "png", "picture": picture, "tolerance": 0.5} | more
        return Case(name, data, **fields)

    yield case("plain.png", saved(picture, "PNG"))
    yield case("named as a jpg.jpg", saved(picture, "PNG", compress_level=1))
    grey = picture.convert("L")
    yield case("grey.png", saved(grey, "PNG"), picture=grey.convert("RGB"))
    ink = grey.convert("1")
    yield case("one bit.png", saved(ink, "PNG"), picture=ink.convert("RGB"))
    yield case("16 bit.png", _deep_png(picture), tolerance=1.0)
    deep_grey = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    yield case("16 bit grey.png", saved(deep_grey, "PNG"), picture=grey.convert("RGB"), note="16-bit")
    palette = picture.quantize(64)
    yield case("palette.png", saved(palette, "PNG"), picture=palette.convert("RGB"))
    yield case("translucent.png", saved(translucent, "PNG"), picture=translucent)
    yield case("opaque alpha.png", saved(picture.convert("RGBA"), "PNG"))
    clear = translucent.quantize(64)
    yield case("translucent palette.png", saved(clear, "PNG"), picture=clear.convert("RGBA"))
    faint = translucent.convert("LA")
    yield case("translucent grey.png", saved(faint, "PNG"), picture=faint.convert("RGBA"))
    keyed = Image.new("RGB", SIZE, (1, 2, 3))
    keyed.paste(picture.crop((60, 40, 180, 160)), (60, 40))
    holed = keyed.convert("RGBA")
    holed.putalpha(Image.fromarray(np.uint8(255) * (np.asarray(keyed) != (1, 2, 3)).any(axis=2)))
    yield case("one clear colour.png", saved(keyed, "PNG", transparency=(1, 2, 3)), picture=holed)
    yield case("display p3.png", saved(_in(DISPLAY_P3, picture), "PNG", icc_profile=DISPLAY_P3), tolerance=2.0,
               note="Display P3")  # fmt: skip
    wide = _in(DISPLAY_P3, translucent.convert("RGB"))
    wide.putalpha(translucent.getchannel("A"))
    yield case(
        "translucent p3.png", saved(wide, "PNG", icc_profile=DISPLAY_P3), picture=translucent, tolerance=2.0
    )
    yield case("held 6.png", saved(lying(picture, 6), "PNG", exif=exif(6)))
    sideways = lying(picture, 8)
    rows = b"".join(b"\0" + row.tobytes() for row in np.asarray(sideways))
    header = struct.pack(">2L5B", *sideways.size, 8, 2, 0, 0, 0)
    block = exif(8).removeprefix(b"Exif\0\0")
    yield case(
        "held 8, said at the end.png", png_file(header, (b"IDAT", zlib.compress(rows)), (b"eXIf", block))
    )
    frames = [picture.rotate(angle) for angle in (0, 10, 20)]
    yield case(
        "moving.png",
        saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        note="first of 3 frames",
    )
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "taken at home", zip=True)
    yield case("texts.png", saved(picture, "PNG", pnginfo=text))


def _tiffs() -> Iterator[Case]:
    picture, translucent = scene(), translucent_scene()
    grey = picture.convert("L")

    def case(name: str, data: bytes, **more: Any) -> Case:
        fields: dict[str, Any] = {"format": "tiff", "picture": picture, "tolerance": 0.5} | more
        return Case(name, data, **fields)

    yield case("plain.tif", saved(picture, "TIFF"))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield case(f"{compression}.tiff", saved(picture, "TIFF", compression=compression))
    yield case("jpeg inside.tif", saved(picture, "TIFF", compression="jpeg", quality=95), tolerance=3.0)
    yield case(
        "fax.tif",
        saved(grey.convert("1"), "TIFF", compression="group4"),
        picture=grey.convert("1").convert("RGB"),
    )
    yield case("16 bit.tif", _deep_tiff(picture), tolerance=1.0)
    yield case("16 bit grey.tif", saved(Image.fromarray(np.asarray(grey, np.uint16) * 257), "TIFF"),
               picture=grey.convert("RGB"), note="16-bit")  # fmt: skip
    floats = np.asarray(grey, np.float32) / 255
    yield case(
        "float.tif",
        saved(Image.fromarray(floats), "TIFF"),
        picture=grey.convert("RGB"),
        note="floating point",
    )
    floats = np.asarray(grey, np.float32)
    yield case("float to 255.tif", saved(Image.fromarray(floats), "TIFF"), picture=grey.convert("RGB"))
    holes = np.where(np.arange(SIZE[0]) < 5, np.nan, np.asarray(grey, np.float32) / 255).astype(np.float32)
    yield case(
        "float with nan.tif", saved(Image.fromarray(holes), "TIFF"), picture=grey.convert("RGB"), tolerance=8
    )
    yield case(
        "32 bit.tif", saved(Image.fromarray(np.asarray(grey, np.int32)), "TIFF"), picture=grey.convert("RGB")
    )
    yield case("cmyk.tif", saved(picture.convert("CMYK"), "TIFF"), note="CMYK")
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    yield case("lab.tif", saved(lab, "TIFF"), tolerance=4.0, note="converted from LAB")
    yield case("translucent.tif", saved(translucent, "TIFF"), picture=translucent)
    palette = picture.quantize(64)
    yield case("palette.tif", saved(palette, "TIFF"), picture=palette.convert("RGB"))
    pages = [picture.rotate(180), picture]
    yield case("pages.tif", saved(picture, "TIFF", save_all=True, append_images=pages), note="first of 3")
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    yield case("held 6.tif", saved(lying(picture, 6), "TIFF", tiffinfo=tags))


def _others() -> Iterator[Case]:
    picture, translucent = scene(), translucent_scene()
    frames = [picture.rotate(angle) for angle in (0, 15, 30, 45)]
    shades = picture.quantize(128)
    yield Case("plain.webp", saved(picture, "WEBP", quality=95), "opens", "webp", picture)
    yield Case("lossless.webp", saved(picture, "WEBP", lossless=True), "opens", "webp", picture, 0.5)
    yield Case(
        "translucent.webp",
        saved(translucent, "WEBP", lossless=True, exact=True),
        "opens",
        "webp",
        translucent,
        0.5,
    )
    yield Case(
        "translucent lossy.webp", saved(translucent, "WEBP", quality=95), "opens", "webp", translucent, 4
    )
    moving = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield Case("moving.webp", moving, "opens", "webp", picture, 0.5, "first of 4 frames")
    yield Case(
        "held 6.webp", saved(lying(picture, 6), "WEBP", quality=95, exif=exif(6)), "opens", "webp", picture
    )
    yield Case("plain.gif", saved(shades, "GIF"), "opens", "gif", shades.convert("RGB"), 1)
    gifs = [frame.quantize(64) for frame in frames]
    yield Case("moving.gif", saved(gifs[0], "GIF", save_all=True, append_images=gifs[1:]), "opens", "gif",
               gifs[0].convert("RGB"), 2, "first of 4 frames")  # fmt: skip
    yield Case("clear.gif", saved(shades, "GIF", transparency=shades.getpixel((0, 0))), "opens", "gif")
    yield Case("plain.bmp", saved(picture, "BMP"), "opens", "bmp", picture, 0)
    yield Case("palette.bmp", saved(shades, "BMP"), "opens", "bmp", shades.convert("RGB"), 0)
    yield Case("alpha.bmp", saved(translucent, "BMP"), "opens", "bmp")
    yield Case("plain.avif", saved(picture, "AVIF", quality=95, speed=10), "opens", "avif", picture)
    yield Case(
        "translucent.avif", saved(translucent, "AVIF", quality=95, speed=10), "opens", "avif", translucent, 6
    )
    turned = saved(lying(picture, 6), "AVIF", quality=95, speed=10, exif=exif(6))
    yield Case("held 6.avif", turned, "opens", "avif", picture)
    yield Case("plain.heic", _heic(picture), "opens", "heif", picture)
    yield Case("translucent.heic", _heic(translucent), "opens", "heif", translucent, 6)
    yield Case("held 6.heic", _heic(lying(picture, 6), exif=exif(6)), "opens", "heif", picture)
    wide = _heic(_in(DISPLAY_P3, picture), icc_profile=DISPLAY_P3)
    yield Case("display p3.heic", wide, "opens", "heif", picture, 3, "Display P3")


def _heic(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=95, **options)
    return file.getvalue()


def _strange_shapes() -> Iterator[Case]:
    for width, height in ((1, 1), (1, 300), (2000, 3), (79, 81), (4001, 40)):
        picture = scene().resize((width, height))
        yield Case(f"{width} by {height}.png", saved(picture, "PNG"), "opens", "png", picture, 0)


def _damaged() -> Iterator[Case]:
    picture = scene()
    jpeg, png = saved(picture, "JPEG", quality=95), saved(picture, "PNG")
    for name, data in (
        ("only a start.jpg", b"\xff\xd8\xff\xe0"),
        ("only a start.png", b"\x89PNG\r\n\x1a\n"),
        ("only a start.webp", b"RIFF\x10\0\0\0WEBPVP8 "),
        ("only a start.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("cut.jpg", jpeg[: len(jpeg) // 2]),
        ("cut early.jpg", jpeg[:700]),
        ("cut.png", png[: len(png) // 2]),
        ("cut.webp", saved(picture, "WEBP", quality=95)[:2000]),
        ("cut.heic", _heic(picture)[:3000]),
        ("cut.avif", saved(picture, "AVIF", quality=95, speed=10)[:3000]),
        ("cut.bmp", saved(picture, "BMP")[:5000]),
        ("cut.tif", saved(picture, "TIFF", compression="tiff_lzw")[:5000]),
        ("cut.gif", saved(picture.quantize(64), "GIF")[:3000]),
    ):
        yield Case(name, data, "DamagedImage")
    middle = len(png) // 2
    yield Case("overwritten.png", png[:middle] + bytes(200) + png[middle + 200 :], "DamagedImage")
    header = struct.pack(">2L5B", *SIZE, 8, 2, 0, 0, 0)
    yield Case("nonsense inside.png", png_file(header, (b"IDAT", b"not deflated")), "DamagedImage")
    many = struct.pack(">2L5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    yield Case("bomb.png", png_file(many, (b"IDAT", zlib.compress(bytes(100_000)))), "TooManyPixels")
    large = struct.pack(">2L5B", 12_000, 9_000, 1, 0, 0, 0, 0)
    yield Case(
        "108 megapixels.png", png_file(large, (b"IDAT", zlib.compress(bytes(1501 * 9000)))), "TooManyPixels"
    )
    frame = jpeg.index(b"\xff\xc0")
    yield Case(
        "giant header.jpg", jpeg[: frame + 5] + b"\xff\xdc\xff\xdc" + jpeg[frame + 9 :], "TooManyPixels"
    )
    gif = saved(picture.quantize(64), "GIF")
    yield Case("giant header.gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:], "TooManyPixels")
    yield Case("no pixels.png", png_file(struct.pack(">2L5B", 0, 10, 8, 2, 0, 0, 0)), "DamagedImage")


def _no_images() -> Iterator[Case]:
    yield Case("empty.jpg", b"", "EmptyFile")
    for name, data in (
        ("a sentence.jpg", b"This is not a photo.\n"),
        ("a web page.jpg", b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
        (
            "a drawing.svg",
            b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        ),
        ("a document.pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj"),
        ("an archive.jpg", b"PK\x03\x04" + bytes(200)),
        ("a data uri.png", b"data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="),
        ("a program.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
        ("a layered file.psd", b"8BPS\0\1" + bytes(30)),
        ("zeroes.jpg", bytes(5000)),
        ("a film.mp4", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500)),
        ("nonsense.jpg", bytes(np.random.default_rng(7).integers(0, 256, 4000, np.uint8))),
    ):
        yield Case(name, data, "NotAnImage")
