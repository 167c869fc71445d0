"""C2PA: results signed with the user's certificate, read back with the library, and refused before they cost."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bg_pipeline.domain.requests import BatchRequest, ImageSettings, Rendition, image_settings
from bg_pipeline.errors import ImageError, RunStopped, SettingsError
from bg_pipeline.imaging import open_photo
from bg_pipeline.imaging.provenance import COMPOSITE_WITH_AI, Provenance
from bg_pipeline.imaging.signing import (
    SIGNABLE,
    Original,
    Signing,
    SigningFailed,
    check,
    manifest_of,
    sign,
)
from bg_pipeline.masks import Mask
from bg_pipeline.run.finishing import finish_cut_out
from bg_pipeline_tests.certificates import KEYS, certificate
from bg_pipeline_tests.pictures import photo, photo_and_mask

MADE = Provenance("Background replaced.", COMPOSITE_WITH_AI)


def picture(format: str = "JPEG") -> bytes:
    out = io.BytesIO()
    photo_and_mask(2)[0].save(out, format)
    return out.getvalue()


def active(data: bytes, format: str) -> dict[str, Any]:
    """The manifest that a file's signature belongs to; it has to be intact."""
    store = manifest_of(data, format)
    assert store["validation_state"] == "Valid"
    # An authority of a test is on nobody's list; everything else has to hold.
    assert [each["code"] for each in store.get("validation_status", ())] == ["signingCredential.untrusted"]
    found: dict[str, Any] = store["manifests"][store["active_manifest"]]
    return found


def actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    (assertion,) = (each for each in manifest["assertions"] if each["label"].startswith("c2pa.actions"))
    found: list[dict[str, Any]] = assertion["data"]["actions"]
    return found


@pytest.fixture
def signing(tmp_path: Path) -> Signing:
    return certificate(tmp_path)


@pytest.mark.parametrize("format", sorted(SIGNABLE))
def test_a_signed_file_says_what_was_done_and_keeps_its_pixels(signing: Signing, format: str) -> None:
    plain = picture(format.upper())
    signed = sign(signing, plain, format, Original(picture(), "jpeg"), MADE)
    manifest = active(signed, format)
    opened, edited = actions(manifest)
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"].endswith(f"/{COMPOSITE_WITH_AI}")
    (ingredient,) = manifest["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert open_photo(signed).image.tobytes() == open_photo(plain).image.tobytes()


def test_a_changed_pixel_breaks_the_signature(signing: Signing) -> None:
    signed = bytearray(sign(signing, picture("TIFF"), "tiff", Original(picture(), "jpeg"), MADE))
    signed[len(signed) // 3] ^= 1
    assert manifest_of(bytes(signed), "tiff").get("validation_state") != "Valid"


def test_the_photos_own_manifest_stays_as_that_of_its_ingredient(signing: Signing, tmp_path: Path) -> None:
    camera = certificate(tmp_path / "camera", kind="P-384")
    original = sign(camera, picture(), "jpeg", Original(b"", "bmp"), Provenance("Taken."))
    signed = sign(signing, picture("PNG"), "png", Original(original, "jpeg"), MADE)
    store = manifest_of(signed, "png")
    (ingredient,) = active(signed, "png")["ingredients"]
    assert ingredient["active_manifest"] == manifest_of(original, "jpeg")["active_manifest"]
    assert ingredient["active_manifest"] in store["manifests"]
    assert len(store["manifests"]) == 2


def test_neither_old_background_nor_file_name_comes_along(signing: Signing) -> None:
    before = picture()
    signed = sign(signing, picture("PNG"), "png", Original(before, "jpeg"), MADE)
    manifest = active(signed, "png")
    assert "thumbnail" not in manifest
    assert "thumbnail" not in manifest["ingredients"][0]
    assert len(signed) - len(picture("PNG")) < 6000


@pytest.mark.parametrize(
    "original",
    [Original(picture("BMP"), "bmp"), Original(b"\xff\xd8\xff", "jpeg"), Original(b"", "png")],
    ids=["BMP", "damaged", "empty"],
)
def test_a_photo_that_cannot_be_an_ingredient_does_not_keep_the_result_from_being_signed(
    signing: Signing, original: Original
) -> None:
    manifest = active(sign(signing, picture(), "jpeg", original, Provenance("Cut out.")), "jpeg")
    first = actions(manifest)[0]
    assert first["action"] in ("c2pa.created", "c2pa.opened")


def test_no_address_in_a_photo_is_fetched(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as server:
        asked: list[object] = []
        server.settimeout(0.5)

        def listen() -> None:
            try:
                asked.append(server.accept())
            except TimeoutError:
                return

        listener = threading.Thread(target=listen)
        listener.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest"
        xmp = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{address}"/>'
            "</rdf:RDF></x:xmpmeta>"
        )
        out = io.BytesIO()
        photo_and_mask(2)[0].save(out, "JPEG", xmp=xmp.encode())
        sign(signing, picture(), "jpeg", Original(out.getvalue(), "jpeg"), MADE)
        listener.join()
        assert asked == []


# The certificate


@pytest.mark.parametrize("kind", sorted(KEYS))
def test_every_kind_of_key_that_c2pa_knows_signs(tmp_path: Path, kind: str) -> None:
    assert "CN=signer" in check(certificate(tmp_path, kind=kind))


def test_what_is_wrong_with_the_certificate_is_said(tmp_path: Path) -> None:
    good, other = certificate(tmp_path / "good"), certificate(tmp_path / "other")
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"SECRET-KEY-BYTES")
    wrong = {
        "expired on": certificate(tmp_path / "old", days=-1),
        "is valid from": certificate(tmp_path / "early", starts_in=2),
        "is not the key of": Signing(good.certificate, other.key),
        "extended key usage": certificate(tmp_path / "no mail", for_mail=False),
        "pass phrase": certificate(tmp_path / "locked", pass_phrase=b"hush"),
        "holds no private key": Signing(good.certificate, garbage),
        "holds no certificate": Signing(garbage, good.key),
        "cannot be read": Signing(tmp_path / "none.pem", good.key),
        "BG_C2PA_KEY: .*cannot be read": Signing(good.certificate, tmp_path),
    }
    for words, signing in wrong.items():
        with pytest.raises(SettingsError, match=words) as caught:
            check(signing)
        assert "SECRET" not in str(caught.value)


def test_without_the_extra_its_name_is_said(monkeypatch: pytest.MonkeyPatch, signing: Signing) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"bg-pipeline\[c2pa\]"):
        check(signing)


def test_a_key_that_is_gone_when_a_picture_is_finished_stops_the_run(signing: Signing) -> None:
    signing.key.unlink()
    with pytest.raises(SigningFailed, match="is not paid for again") as caught:
        sign(signing, picture(), "jpeg", Original(picture(), "jpeg"), MADE)
    assert isinstance(caught.value, RunStopped)


# Files


def files(signing: Signing, *renditions: Rendition, format: str = "JPEG") -> list[Any]:
    mask = Mask(photo_and_mask(2, size=(240, 180))[1], "studio")
    settings: ImageSettings = image_settings(
        BatchRequest(Id="x", Task="REMOVE", Renditions=renditions or None), "a.jpg"
    )
    found = finish_cut_out(photo(2, format=format), mask, None, settings, feather=1.5, signing=signing)
    return list(found.files)


def test_every_file_of_a_result_is_signed_but_a_bmp(signing: Signing) -> None:
    for file in files(signing, *(Rendition(Format=name) for name in ("jpeg", "png", "webp", "tiff", "avif"))):
        active(file.data.read(), file.format)
    (bmp,) = files(signing, Rendition(Format="bmp"))
    with Image.open(io.BytesIO(bmp.data.read())) as opened:
        opened.load()


def test_the_manifest_counts_among_the_bytes_that_are_allowed(signing: Signing) -> None:
    (free,) = files(signing, Rendition(Format="webp"))
    most = len(free.data) - 200
    (held,) = files(signing, Rendition(Format="webp", MaxBytes=most))
    assert len(held.data) <= most
    active(held.data.read(), "webp")
    with pytest.raises(ImageError, match="bytes"):
        files(signing, Rendition(Format="webp", MaxBytes=2000))


def test_a_signed_preset_keeps_its_rules(signing: Signing) -> None:
    (file,) = files(signing, Rendition(Preset="marketplace-white", Width=1000, Height=1000))
    assert not [complaint for complaint in file.complaints if "bytes" in complaint or "EXIF" in complaint]
    active(file.data.read(), file.format)
