"""Where a picture comes from, as its file says it: who made the photo, whose it is, and what was generated.

Of a source's metadata only its creator, copyright, credit line, terms of use and a mark that it was generated are
read; place, time, camera and everything else private is left behind. All of it is text from strangers: it is cut,
freed of control characters, and damaged or hostile blocks count as absent.
"""

import struct
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from io import BytesIO
from typing import Final
from xml.sax.saxutils import escape, quoteattr

import pillow_heif
from PIL import Image, IptcImagePlugin

from bg_pipeline.imaging.source import UNREADABLE
from bg_pipeline.imaging.tiff_tags import Directory, directories

SOFTWARE: Final = "bg-pipeline"

SOURCE_TYPES: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""The vocabulary of IPTC's DigitalSourceType; its terms are appended."""

COMPOSITE: Final = "composite"
"""Several pictures in one, none of which is known to be generated."""

COMPOSITE_WITH_AI: Final = "compositeWithTrainedAlgorithmicMedia"
"""A photo of which a generative model painted a part, or that was put together with a generated picture."""

_GENERATED = frozenset(
    {
        "trainedAlgorithmicMedia",
        COMPOSITE_WITH_AI,
        "compositeSynthetic",
        "algorithmicMedia",
        "virtualRecording",
    }
)

CREDIT_WITH_AI: Final = "Background made with generative AI"
"""The credit line of a picture with a painted background whose photo has none."""

MAX_TEXT: Final = 1000
MAX_NAME: Final = 200
MAX_CREATORS: Final = 10
"""Limits in characters, and of creators: escaped, as UTF-8, the packet has to fit into a JPEG's segment of 64 KB."""

_MAX_XMP: Final = 4_000_000

_DC = "{http://purl.org/dc/elements/1.1/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_PHOTOSHOP = "{http://ns.adobe.com/photoshop/1.0/}"
_RIGHTS = "{http://ns.adobe.com/xap/1.0/rights/}"
_IPTC_EXT = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
_UNREADABLE = (*UNREADABLE, struct.error)


@dataclass(frozen=True)
class Rights:
    """Who made a picture and whose it is; empty where the file does not say.

    ``generated`` is the term of IPTC's DigitalSourceType if it says that the picture was generated, wholly or partly.
    """

    creators: tuple[str, ...] = ()
    copyright: str = ""
    credit: str = ""
    terms: str = ""
    web_statement: str = ""
    generated: str = ""


@dataclass(frozen=True)
class Provenance:
    """What a finished file says of its origin.

    ``note`` is a sentence on what was done, ``source_type`` a term of IPTC's DigitalSourceType or empty, ``rights``
    those of the photo.
    """

    note: str
    source_type: str = ""
    rights: Rights = Rights()

    @property
    def source_type_uri(self) -> str:
        """The term as an address; empty without one."""
        return f"{SOURCE_TYPES}{self.source_type}" if self.source_type else ""


def provenance(note: str, photo: Rights, *others: Rights, painted: bool = False) -> Provenance:
    """The provenance of a picture made from a photo and ``others`` beside it; ``painted``: a model painted a part."""
    generated = [each.generated for each in (photo, *others) if each.generated]
    if painted or (generated and others):
        source_type = COMPOSITE_WITH_AI
    elif generated:
        source_type = generated[0]
    else:
        source_type = COMPOSITE if others else ""
    rights = replace(photo, credit=photo.credit or (CREDIT_WITH_AI if painted else ""))
    return Provenance(note, source_type, rights)


def read_rights(data: bytes) -> Rights:
    """The rights in an image file, from XMP, else IPTC IIM, else EXIF, else PNG texts; never raises for bad bytes."""
    merged = Rights()
    for found in _sources(data):
        missing = [field.name for field in fields(Rights) if not getattr(merged, field.name)]
        merged = replace(merged, **{name: getattr(found, name) for name in missing})
    return merged


def xmp_packet(made: Provenance) -> bytes:
    """The XMP packet of a finished file."""
    rights = made.rights
    attributes = {
        "xmp:CreatorTool": SOFTWARE,
        "Iptc4xmpExt:DigitalSourceType": made.source_type_uri,
        "photoshop:Credit": rights.credit,
        "xmpRights:WebStatement": rights.web_statement,
        "xmpRights:Marked": "True" if rights.copyright else "",
    }
    creators = "".join(f"<rdf:li>{escape(name)}</rdf:li>" for name in rights.creators)
    elements = [
        _alternatives("dc:description", made.note),
        _alternatives("dc:rights", rights.copyright),
        _alternatives("xmpRights:UsageTerms", rights.terms),
        f"<dc:creator><rdf:Seq>{creators}</rdf:Seq></dc:creator>" if creators else "",
    ]
    return _XMP.format(
        attributes="".join(f"\n    {name}={quoteattr(value)}" for name, value in attributes.items() if value),
        elements="".join(f"\n   {element}" for element in elements if element),
    ).encode()


_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/"
    xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
    xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"{attributes}>{elements}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def _alternatives(name: str, text: str) -> str:
    if not text:
        return ""
    return f'<{name}><rdf:Alt><rdf:li xml:lang="x-default">{escape(text)}</rdf:li></rdf:Alt></{name}>'


# Reading


def _sources(data: bytes) -> Iterator[Rights]:
    """What each block of metadata in the file says, the most reliable first."""
    try:
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            first = next(directories(data), Directory(b"", "<"))
            yield _of_xmp(first.content(700))
            yield _of_directory(first)
            return
        if data[4:8] == b"ftyp":
            info = pillow_heif.open_heif(data, convert_hdr_to_8bit=False).info
            iptc = None
        else:
            image = Image.open(BytesIO(data))
            info, iptc = image.info, IptcImagePlugin.getiptcinfo(image)
    except _UNREADABLE:
        return
    packet = info.get("xmp") or b""
    yield _of_xmp(packet.encode() if isinstance(packet, str) else packet)
    if iptc:
        yield _of_iptc(iptc)
    exif = info.get("exif") or b""
    block = exif.removeprefix(b"Exif").lstrip(b"\0") if exif.startswith(b"Exif") else exif
    main = next(directories(block), None) if block else None
    if main is not None:
        yield _of_directory(main)
    yield Rights(
        creators=_names([str(info.get("Author") or "")]), copyright=_text(str(info.get("Copyright") or ""))
    )


def _of_directory(main: Directory) -> Rights:
    # EXIF 2.3: the photographer's copyright, a zero, the editor's.
    return Rights(
        creators=_names(_decoded(main.content(0x013B)).split(";")),
        copyright=_text(
            " ".join(part for part in _decoded(main.content(0x8298)).split("\0") if part.strip())
        ),
    )


def _of_iptc(iptc: dict[tuple[int, int], bytes | list[bytes]]) -> Rights:
    def texts(number: int) -> list[str]:
        value = iptc.get((2, number)) or []
        return [_decoded(each) for each in (value if isinstance(value, list) else [value])]

    return Rights(
        creators=_names(texts(80)),
        copyright=_text(" ".join(texts(116))),
        credit=_text(" ".join(texts(110))),
    )


def _of_xmp(packet: bytes) -> Rights:
    # Entities are the only way in which a small packet becomes large; XMP has none.
    packet = packet.strip(b"\0 \t\r\n")
    if not packet or len(packet) > _MAX_XMP or b"\0" in packet or b"<!" in packet.replace(b"<!--", b""):
        return Rights()
    try:
        root = ET.fromstring(packet)  # noqa: S314 (no document type, see above)
    except (ET.ParseError, ValueError, LookupError):
        return Rights()
    return Rights(
        creators=_names(_values(root, f"{_DC}creator")),
        copyright=_text(next(iter(_values(root, f"{_DC}rights")), "")),
        credit=_text(next(iter(_values(root, f"{_PHOTOSHOP}Credit")), "")),
        terms=_text(next(iter(_values(root, f"{_RIGHTS}UsageTerms")), "")),
        web_statement=_text(next(iter(_values(root, f"{_RIGHTS}WebStatement")), "")),
        generated=_generated(_values(root, f"{_IPTC_EXT}DigitalSourceType")),
    )


def _values(root: ET.Element, name: str) -> list[str]:
    """The values of a property, written as an attribute, as an element, or as a list in one."""
    found = []
    for description in root.iter(f"{_RDF}Description"):
        if name in description.attrib:
            found.append(description.attrib[name])
        for element in description.findall(name):
            members = list(element.iter(f"{_RDF}li"))
            resource = element.attrib.get(f"{_RDF}resource", "")
            found += [member.text or "" for member in members] if members else [element.text or resource]
    return [value for value in found if value.strip()]


def _generated(values: Sequence[str]) -> str:
    terms = (value.strip().rstrip("/").rpartition("/")[2] for value in values)
    return next((term for term in terms if term in _GENERATED), "")


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _names(values: Sequence[str]) -> tuple[str, ...]:
    names = (_text(value)[:MAX_NAME].strip() for value in values)
    return tuple(dict.fromkeys(filter(None, names)))[:MAX_CREATORS]


def _text(value: str) -> str:
    """One line without characters that XML or a terminal could not hold, cut after `MAX_TEXT`."""
    line = "".join(
        " " if char.isspace() else char
        for char in value[: 4 * MAX_TEXT]
        if char.isspace() or (unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Cn", "Co"))
    )
    return " ".join(line.split())[:MAX_TEXT]
