"""Detects the type of a file by its content: returns its decoder, or raises an error that names the type."""

import re
from collections.abc import Callable

from bg_pipeline.errors import ImageError
from bg_pipeline.imaging import bmp, gif, heif, jpeg, png, tiff, webp
from bg_pipeline.imaging.source import Source, unsupported, why
from bg_pipeline.imaging.tiff_tags import Directory, directories

_DECODERS: tuple[tuple[str, re.Pattern[bytes], Callable[[bytes], Source]], ...] = (
    ("a JPEG image", re.compile(rb"\xff\xd8\xff"), jpeg.read),
    ("a PNG image", re.compile(rb"\x89PNG\r\n\x1a\n"), png.read),
    ("a WebP image", re.compile(rb"RIFF.{4}WEBP", re.DOTALL), webp.read),
    ("a GIF image", re.compile(rb"GIF8[79]a"), gif.read),
    ("a BMP image", re.compile(rb"BM.{8}", re.DOTALL), bmp.read),
)

_PICTURES = (
    (re.compile(rb"FUJIFILMCCD-RAW"), "a camera RAW (Fujifilm RAF)"),
    (re.compile(rb"II\x1a\0\0\0HEAPCCDR"), "a camera RAW (Canon CRW)"),
    (re.compile(rb"(II|MM).{6}CR[\x01-\x03]", re.DOTALL), "a camera RAW (Canon CR2)"),
    (re.compile(rb"II(RO|RS)|MMOR"), "a camera RAW (Olympus ORF)"),
    (re.compile(rb"IIU\0"), "a camera RAW (Panasonic RW2)"),
    (re.compile(rb"\0MRM"), "a camera RAW (Minolta MRW)"),
    (re.compile(rb"FOVb"), "a camera RAW (Sigma X3F)"),
    (re.compile(rb"(II|MM).{6}IIII", re.DOTALL), "a camera RAW (Phase One IIQ)"),
    (re.compile(rb"ARRI|\0\0..RED[12]", re.DOTALL), "a camera RAW of a film camera"),
    (re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"), "a JPEG 2000 picture"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL picture"),
    (re.compile(rb"\0\0\0.ftypcrx ", re.DOTALL), "a camera RAW (Canon CR3)"),
    (re.compile(rb"II\xbc"), "a JPEG XR picture"),
    (re.compile(rb"\x76\x2f\x31\x01"), "an OpenEXR picture"),
    (re.compile(rb"#\?(RADIANCE|RGBE)"), "a Radiance HDR picture"),
    (re.compile(rb"BPG\xfb"), "a BPG picture"),
    (re.compile(rb"qoif"), "a QOI picture"),
    (re.compile(rb"FLIF"), "a FLIF picture"),
    (re.compile(rb"DDS "), "a DirectDraw surface"),
    (re.compile(rb"icns"), "an Apple icon"),
    (re.compile(rb"P[1-6]\s[\s\d#]"), "a Netpbm picture (PBM, PGM or PPM)"),
    (re.compile(rb"P7\nWIDTH"), "a Netpbm picture (PAM)"),
    (re.compile(rb"P[Ff]\s\d"), "a Netpbm picture of floats (PFM)"),
    (re.compile(rb"\x01\xda[\x00\x01][\x01\x02]"), "a Silicon Graphics picture"),
    (re.compile(rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]"), "a PCX picture"),
    (re.compile(rb"\x8aMNG\r\n\x1a\n"), "an MNG animation"),
    (re.compile(rb"\x8bJNG\r\n\x1a\n"), "a JNG picture"),
    (re.compile(rb".{128}DICM", re.DOTALL), "a DICOM picture of a medical device"),
    (re.compile(rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", re.DOTALL), "a Windows metafile"),
    (re.compile(rb"AT&TFORM"), "a DjVu document"),
    (re.compile(rb"\0\0[\x01\x02]\0[^\0]", re.DOTALL), "an icon or a cursor"),
)

_BRANDS = {
    "qt  ": "a QuickTime film",
    "M4A ": "a sound",
    "M4B ": "a sound",
    "jpeg": "a HEIF picture of JPEG",
    "j2ki": "a HEIF picture of JPEG 2000",
    "vvic": "a HEIF picture of VVC",
    "evmi": "a HEIF picture of EVC",
    "avci": "a HEIF picture of AVC",
}
_FILMS = re.compile(r"mp4|isom|iso\d|avc1|M4V|3g[p2]|dash|mmp4|f4v|MSNV|XAVC", re.IGNORECASE)
_HEIF = {
    "heic",
    "heix",
    "heim",
    "heis",
    "hevc",
    "hevx",
    "hevm",
    "hevs",
    "mif1",
    "mif2",
    "msf1",
    "avif",
    "avis",
    "miaf",
    "MiHE",
}

_OTHERS = (
    (b"<svg", "an SVG drawing"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"<head", "a web page"),
    (b"<body", "a web page"),
    (b"<error", "an error message of a server in XML"),
    (b"<?xml", "an XML file"),
    (b"%pdf-", "a PDF document"),
    (b"%!ps", "a PostScript program"),
    (b"8bps", "a Photoshop file"),
    (b"8bpb", "a Photoshop file"),
    (b"gimp xcf", "a GIMP file"),
    (b"data:image/", "a data URI and not the picture itself"),
    (b"data:", "a data URI and not the picture itself"),
    (b'{"', "a JSON text"),
    (b"version https://git-lfs", "a Git LFS pointer and not the picture itself (git lfs pull fetches it)"),
    (b"[internetshortcut]", "a shortcut to a web page"),
)

_ARCHIVES = (
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
    (b"\xfd7zXZ\0", "compressed with xz"),
)
_PACKED = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
    (b"\x00\x05\x16\x07", "the second half of a file from a Mac, without the picture (AppleDouble)"),
    (b"SIMPLE  =", "an astronomer's picture (FITS)"),
    (b"\x1a\x45\xdf\xa3", "a film"),
    (b"\0\0\1\xba", "a film"),
    (b"0&\xb2u\x8ef\xcf\x11", "a film"),
    (b"FLV\1", "a film"),
    (b"OggS", "a film or a sound"),
    (b"ID3", "a sound"),
    (b"fLaC", "a sound"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3\0", "a database"),
    (b"{\\rtf", "a text document (RTF)"),
    (b"bplist00", "a settings file from a Mac, or a picture that is still in iCloud"),
    (b"L\0\0\0\1\x14\2\0", "a Windows shortcut and not the picture itself"),
)
# The first box or block of containers that begin with its size.
_CONTAINERS = (
    (re.compile(rb".{4}(moov|mdat|wide|free|skip|pnot)", re.DOTALL), "a film"),
    (re.compile(rb"RIFF.{4}AVI ", re.DOTALL), "a film"),
    (re.compile(rb"RIFF.{4}WAVE", re.DOTALL), "a sound"),
    (re.compile(rb".{257}ustar", re.DOTALL), "a tar archive"),
)

_TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")

_READABLE = "JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC and AVIF can be"

# The beginnings of pictures in base64: JPEG, PNG, WebP and AVI, GIF, TIFF, and HEIC with AVIF.
_BASE64 = re.compile(
    rb"[\s\"']*([/_]9j[/_]|iVBORw0KGgo|UklGR|R0lGOD[dl]|SUkqA|TU0AK|AAAA[A-Za-z0-9+/_-]{3}mdHlw)"
    rb"[A-Za-z0-9+/=_\s\"'-]*$"
)
_HEX = re.compile(rb"\s*(0x|\\x)?(ffd8ff|89504e47|52494646|47494638)[0-9a-f\s]*$", re.IGNORECASE)
_LITERAL = re.compile(rb"b(['\"])(\\xff\\xd8|\\x89PNG|RIFF|GIF8)")
_ADDRESS = re.compile(rb"\s*(https?|s3|file)://\S+\s*$", re.IGNORECASE)

# What becomes of bytes that are no text when a program decodes a file as UTF-8, or changes its line ends.
_REPLACED = "\ufffd".encode()
_LINE_ENDS = re.compile(rb"\x89PNG(\n\x1a\n|\r\r\n\x1a|\r\n\x1a\r\n|\r\x1a\r)|\tPNG\r")
_STARTS = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]|\x89PNG\r\n\x1a\n|RIFF.{4}WEBP|GIF8[79]a.{4}", re.DOTALL)
_SEARCHED = 4096
_WRAPPINGS = (
    (b"Content-Disposition", "the web form around it was stored with it"),
    (b"chunk-signature", "the parts of a signed upload were stored with it"),
    (b"HTTP/", "the head of a web server's answer was stored with it"),
    (b"\xef\xbb\xbf", "a text's byte order mark was put before it"),
)


def read(data: bytes) -> Source:
    """The header of an image file, with its decoder; raises `ImageError` for everything else."""
    for name, start, decoder in _DECODERS:
        if start.match(data):
            return _read(name, decoder, data)
    for start, name in _PICTURES:
        if start.match(data):
            raise unsupported(name)
    if _TIFF.match(data):
        _refuse_raw(data)
        return _read("a TIFF image", tiff.read, data)
    if data[4:8] == b"ftyp":
        return _media(data)
    raise _no_image(data)


def _read(name: str, decoder: Callable[[bytes], Source], data: bytes) -> Source:
    try:
        return decoder(data)
    except ImageError as error:
        if _sent_as_text(data):
            raise _changed(_AS_TEXT) from None
        if error.code != "DamagedImage":
            raise
        raise ImageError(
            error.code,
            f"the file begins as {name} but is damaged or cut short ({why(error)}); upload it again",
        ) from None


def _media(data: bytes) -> Source:
    """The header of a HEIC or AVIF; raises `ImageError` for other files of the ISO media format, by their brands."""
    size = min(int.from_bytes(data[:4]), 4096)
    brands = [data[8:12].decode("latin-1")]
    brands += [data[place : place + 4].decode("latin-1") for place in range(16, size, 4)]
    if _HEIF.intersection(brands):
        return _read("an HEIC or AVIF image", heif.read, data)
    main = brands[0]
    if main in _BRANDS and "HEIF" in _BRANDS[main]:
        raise unsupported(_BRANDS[main])
    kind = _BRANDS.get(main) or ("a film" if any(_FILMS.match(brand) for brand in brands) else "")
    shown = main.strip() if main.isprintable() else repr(main)
    kind = kind or f"a media file of the kind '{shown}'"
    raise ImageError("NotAnImage", f"the file is {kind}, not a photo; {_READABLE}")


# Compressions that only cameras write: Nikon, Sony, Samsung, Kodak, Pentax, Epson.
_RAW_COMPRESSIONS = {32767, 32769, 32770, 34713, 65000, 65535}
_CFA, _LINEAR_RAW = 32803, 34892
_MAKERS = (
    ("nikon", "Nikon NEF"),
    ("sony", "Sony ARW"),
    ("pentax", "Pentax PEF"),
    ("ricoh", "Pentax PEF"),
    ("samsung", "Samsung SRW"),
    ("canon", "Canon"),
    ("hasselblad", "Hasselblad 3FR"),
    ("epson", "Epson ERF"),
    ("kodak", "Kodak DCR"),
    ("eastman", "Kodak DCR"),
    ("mamiya", "Mamiya MEF"),
    ("leaf", "Leaf MOS"),
    ("leica", "Leica RWL"),
    ("panasonic", "Panasonic RW2"),
    ("olympus", "Olympus ORF"),
    ("fujifilm", "Fujifilm RAF"),
    ("phase one", "Phase One IIQ"),
)


def _refuse_raw(data: bytes) -> None:
    """Raises `ImageError` for a TIFF with a sensor's values: its first page is only their thumbnail."""
    for number, directory in enumerate(directories(data)):
        if 50706 in directory.entries:
            raise unsupported("a camera RAW (DNG)")
        if any(map(_of_a_sensor, (directory, *directory.below(330)))):
            maker = directory.text(271).lower()
            name = next((name for part, name in _MAKERS if part in maker), "")
            raise unsupported(f"a camera RAW ({name})" if name else "a camera RAW")
        if number >= 16:
            return


def _of_a_sensor(directory: Directory) -> bool:
    """Whether the values are a sensor's: a colour filter array, or a compression that only cameras write."""
    return (
        directory.number(262, -1) in (_CFA, _LINEAR_RAW)
        or directory.number(259, 1) in _RAW_COMPRESSIONS
        or not {33421, 33422, 34310, 50752}.isdisjoint(directory.entries)
    )


_AS_TEXT = "it was sent as text (UTF-8), which no picture survives; send it as binary"


def _changed(how: str) -> ImageError:
    return ImageError("NotAnImage", f"the picture was changed on its way: {how}")


def _sent_as_text(data: bytes) -> bool:
    """Whether a program decoded the file as UTF-8: half of a picture's bytes are then replaced, by three each."""
    return 15 * data.count(_REPLACED, 0, _SEARCHED) > min(len(data), _SEARCHED)


def _changed_on_its_way(data: bytes) -> ImageError | None:
    """The error for a picture that a program changed while it was stored or sent; None for anything else."""
    if _sent_as_text(data):
        return _changed(_AS_TEXT)
    if _LINE_ENDS.match(data):
        return _changed("its line ends were replaced, as by a transfer in text mode; send it as binary")
    # Cut where no character of UTF-8 is split.
    head = data[:64].decode("utf-8", "ignore")
    for coding in ("latin-1", "cp1252"):
        if _STARTS.match(head.encode(coding, "ignore")):
            return _changed(_AS_TEXT)
    if _HEX.match(data):
        return _changed("it is in hexadecimal digits, which are text; send it as binary")
    if _LITERAL.match(data):
        return _changed("it is written as a program's text (b'…'); send it as binary")
    return None


def _no_image(data: bytes) -> ImageError:
    if changed := _changed_on_its_way(data):
        return changed
    for start, packed in _ARCHIVES:
        if data.startswith(start):
            return ImageError("NotAnImage", f"the file is {packed}; unpack it and upload the picture itself")
    others = (*((re.compile(re.escape(start)), name) for start, name in _PACKED), *_CONTAINERS)
    for pattern, name in others:
        if pattern.match(data):
            return ImageError("NotAnImage", f"the file is {name}, not a photo; {_READABLE}")
    if not data.strip(b"\0"):
        return ImageError("NotAnImage", "the file holds nothing but zero bytes; upload it again")
    text = data[:4096]
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = text.replace(b"\0", b"")[2:]
    head = text[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = next((name for sign, name in _OTHERS if sign in head), "")
    if kind:
        return ImageError("NotAnImage", f"the file is {kind}, not a photo; {_READABLE}")
    if found := _STARTS.search(data[:_SEARCHED]):
        before = data[: found.start()]
        how = next((words for sign, words in _WRAPPINGS if sign in before), "it begins behind other bytes")
        return _changed(f"{how} ({len(before)} bytes); send the file alone, as binary")
    if _BASE64.match(data):
        return ImageError(
            "NotAnImage", "the file is a picture in base64, which is text; decode it and upload the picture"
        )
    if _ADDRESS.match(data[:2048]):
        return ImageError("NotAnImage", "the file is a web address; upload the picture itself")
    words = (
        "the file is text, not a photo"
        if _is_text(data[:4096])
        else "the file is not an image of a kind that can be read"
    )
    return ImageError("NotAnImage", f"{words}; {_READABLE}")


def _is_text(data: bytes) -> bool:
    try:
        return (
            len(data) > 0
            and data.decode("utf-8").replace("\n", "").replace("\r", "").replace("\t", "").isprintable()
        )
    except UnicodeDecodeError:
        return False
