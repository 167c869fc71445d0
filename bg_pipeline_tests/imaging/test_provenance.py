"""What a finished file says of its origin, and what is read of the photo's own words about it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pillow_heif
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from bg_pipeline.domain.requests import BatchRequest, ImageSettings, image_settings
from bg_pipeline.imaging import Fitted, encode
from bg_pipeline.imaging.provenance import (
    COMPOSITE,
    COMPOSITE_WITH_AI,
    CREDIT_WITH_AI,
    Provenance,
    Rights,
    provenance,
    read_rights,
)
from bg_pipeline.masks import Mask
from bg_pipeline.run.finishing import Finished, finish_cut_out, finish_on_backdrop, finish_painted
from bg_pipeline_tests.pictures import photo_and_mask

SIZE = (240, 180)
MINE = Rights(
    ("Ann <Smith>", "Bo & Co"), '© 2026 "Ann"', "Ann/Agency", "No resale", "https://example.com/r?a=1&b=2"
)
AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def picture() -> Image.Image:
    return photo_and_mask(1, size=SIZE)[0]


def saved(format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture().save(out, format, **options)
    return out.getvalue()


def packet(text: str) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f"{text}</rdf:RDF></x:xmpmeta>"
    ).encode()


def exif(**more: str) -> bytes:
    block = Image.Exif()
    block[0x013B] = "Ann; Bo"
    block[0x8298] = "(c) Ann"
    block[0x010F] = "Secret Camera"
    block[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0)}
    for tag, value in more.items():
        block[int(tag[1:], 16)] = value
    return block.tobytes()


def said(data: bytes) -> dict[str, Any]:
    """The properties in a file's XMP."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        description: dict[str, Any] = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    return description


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff", "avif"])
def test_what_is_written_is_read_again_from_every_format(format: str) -> None:
    made = provenance("A note.", MINE, painted=True)
    found = read_rights(encode(picture(), format, provenance=made))
    assert found == replace(MINE, generated=COMPOSITE_WITH_AI)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_creator_and_copyright_are_read_from_exif(format: str) -> None:
    found = read_rights(saved(format, exif=exif()))
    assert (found.creators, found.copyright) == (("Ann", "Bo"), "(c) Ann")


def test_creator_and_copyright_are_read_from_a_tiffs_tags() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[315], tags[33432] = "Ann", "(c) Ann"
    found = read_rights(saved("TIFF", tiffinfo=tags))
    assert (found.creators, found.copyright) == (("Ann",), "(c) Ann")


def test_creator_and_copyright_are_read_from_a_heic() -> None:
    out = io.BytesIO()
    pillow_heif.from_pillow(picture()).save(out, exif=exif())
    assert read_rights(out.getvalue()).creators == ("Ann", "Bo")


def test_creator_credit_and_copyright_are_read_from_iptc_iim() -> None:
    records = b"".join(
        b"\x1c\x02" + bytes([number]) + len(text).to_bytes(2) + text
        for number, text in (
            (80, b"Ann"),
            (80, "Bö".encode()),
            (110, b"Agency"),
            (116, b"(c) Ann"),
            (92, b"Secret place"),
        )
    )
    block = b"8BIM\x04\x04\0\0" + len(records).to_bytes(4) + records + b"\0" * (len(records) % 2)
    segment = b"Photoshop 3.0\0" + block
    data = saved("JPEG")
    data = data[:2] + b"\xff\xed" + (len(segment) + 2).to_bytes(2) + segment + data[2:]
    assert read_rights(data) == Rights(("Ann", "Bö"), "(c) Ann", "Agency")


def test_the_texts_of_a_png_are_the_last_resort() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Author", "Ann")
    texts.add_text("Copyright", "(c) Ann")
    assert read_rights(saved("PNG", pnginfo=texts)) == Rights(("Ann",), "(c) Ann")


def test_xmp_may_use_attributes_elements_and_lists_and_wins_over_exif() -> None:
    text = packet(
        '<rdf:Description xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:Credit="Agency"/>'
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<dc:rights>(c) Else</dc:rights><dc:creator><rdf:Seq><rdf:li>Cy</rdf:li></rdf:Seq></dc:creator>"
        "</rdf:Description>"
    )
    found = read_rights(saved("JPEG", xmp=text, exif=exif()))
    assert found == Rights(("Cy",), "(c) Else", "Agency")


@pytest.mark.parametrize(
    "bad",
    [
        b"<not xml",
        packet("").replace(b"<x:", b"<!DOCTYPE a [<!ENTITY b 'cc'><!ENTITY d '&b;&b;'>]><x:", 1),
        packet("<rdf:Description/>").decode().encode("utf-16"),
        b"\xff\xfe\0\0",
        packet(
            f'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:rights="{"x" * 5_000_000}"/>'
        )[:60_000],
    ],
    ids=["no xml", "entities", "utf-16", "noise", "cut off"],
)
def test_damaged_or_hostile_xmp_is_no_xmp(bad: bytes) -> None:
    assert read_rights(saved("JPEG", xmp=bad, exif=exif())).creators == ("Ann", "Bo")


def test_hostile_text_is_cut_and_cannot_break_out() -> None:
    evil = 'x"/><evil a="\x1b[2J\u202eelse\ud800' + "y" * 5000
    made = provenance(
        "note", read_rights(saved("JPEG", exif=exif(x8298=evil.encode("utf-8", "replace").decode())))
    )
    assert len(made.rights.copyright) <= 1000
    assert not {"\x1b", "\u202e", "\ud800"} & set(made.rights.copyright)
    properties = said(encode(picture(), "jpeg", provenance=made))
    assert "evil" not in properties
    assert properties["rights"]["Alt"]["li"]["text"] == made.rights.copyright


@pytest.mark.parametrize("character", ["&", '"', "\U0001f600", "x"])
def test_the_longest_texts_of_all_fields_fit_into_a_jpeg(character: str) -> None:
    words = escape(character, {'"': "&quot;"}) * 3000
    text = packet(
        '<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:r="http://ns.adobe.com/xap/1.0/rights/" '
        f'photoshop:Credit="{words}" r:WebStatement="{words}" r:UsageTerms="{words}"><dc:rights>{words}</dc:rights>'
        "<dc:creator><rdf:Seq>"
        + "".join(f"<rdf:li>{number} {words}</rdf:li>" for number in range(20))
        + "</rdf:Seq></dc:creator></rdf:Description>"
    )
    chunks = PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", text.decode())
    rights = read_rights(saved("PNG", pnginfo=chunks))
    assert len(rights.creators) == 10
    assert len(rights.terms) == len(rights.copyright) == 1000
    made = provenance("note", rights, painted=True)
    assert read_rights(encode(picture(), "jpeg", provenance=made)).creators == rights.creators


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"II*\0\xff\xff\xff\xff", b"\0\0\0\x18ftypheic", b"GIF89a"]
)
def test_a_file_that_cannot_be_read_has_no_rights(data: bytes) -> None:
    assert read_rights(data) == Rights()


def test_nothing_private_comes_along() -> None:
    rights = read_rights(saved("JPEG", exif=exif()))
    data = encode(picture(), "jpeg", provenance=provenance("note", rights))
    assert b"Secret" not in data
    assert b"(c) Ann" in data
    with Image.open(io.BytesIO(data)) as image:
        assert not image.getexif()


# What a result is marked as


def mark(found: Finished) -> str:
    """The term of the first file's DigitalSourceType; empty if it has none."""
    properties = said(found.files[0].data.read())
    assert properties["CreatorTool"] == "bg-pipeline"
    return str(properties.get("DigitalSourceType", "")).rpartition("/")[2]


def source(generated: bool = False, **options: Any) -> bytes:
    if generated:
        options["xmp"] = packet(
            '<rdf:Description xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
            f'e:DigitalSourceType="{AI}"/>'
        )
    return saved("JPEG", quality=95, **options)


def subject() -> Mask:
    return Mask(photo_and_mask(1, size=SIZE)[1], "studio")


def settings(**fields: Any) -> ImageSettings:
    return image_settings(BatchRequest(Id="x", Prompt="a wall", **fields), "a.jpg")


def painted(data: bytes) -> Finished:
    scene = io.BytesIO()
    Image.linear_gradient("L").resize(SIZE).convert("RGB").save(scene, "PNG")
    fitted = Fitted(SIZE, SIZE, (0, 0))
    return finish_painted(
        data, scene.getvalue(), fitted, subject(), None, settings(), prompt="a wall", feather=1.5
    )


def test_only_a_painted_background_is_marked_as_generated() -> None:
    assert mark(painted(source())) == COMPOSITE_WITH_AI
    assert mark(finish_cut_out(source(), subject(), None, settings(Task="REMOVE"), feather=1.5)) == ""
    assert mark(finish_on_backdrop(source(), subject(), None, "#ffffff", settings(), feather=1.5)) == ""
    assert (
        mark(finish_on_backdrop(source(), subject(), None, saved("PNG"), settings(), feather=1.5))
        == COMPOSITE
    )


def test_a_generated_photo_or_backdrop_stays_marked() -> None:
    generated = source(generated=True)
    cut = finish_cut_out(generated, subject(), None, settings(Task="REMOVE"), feather=1.5)
    assert mark(cut) == "trainedAlgorithmicMedia"
    for photo, ground in ((generated, source()), (source(), generated)):
        assert (
            mark(finish_on_backdrop(photo, subject(), None, ground, settings(), feather=1.5))
            == COMPOSITE_WITH_AI
        )
    assert mark(painted(generated)) == COMPOSITE_WITH_AI


def test_the_photos_credit_stays_and_only_a_painted_picture_without_one_gets_ours() -> None:
    assert said(painted(source()).files[0].data.read())["Credit"] == CREDIT_WITH_AI
    own = packet(
        '<rdf:Description xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" photoshop:Credit="Agency"/>'
    )
    assert said(painted(source(xmp=own)).files[0].data.read())["Credit"] == "Agency"
    cut = finish_cut_out(source(), subject(), None, settings(Task="REMOVE"), feather=1.5)
    assert "Credit" not in said(cut.files[0].data.read())


def test_a_provenance_without_anything_is_still_valid_xmp(tmp_path: Path) -> None:
    assert said(encode(picture(), "png", provenance=Provenance("")))["CreatorTool"] == "bg-pipeline"
