"""C2PA manifests in finished files, signed with the user's own certificate (extra ``c2pa``).

A manifest says which photo was opened and what was done to it. A manifest that the photo has itself stays in it, as
the manifest of its ingredient. Pictures are signed in the worker processes, where the parser of C2PA meets strangers'
files; it neither fetches addresses that these name nor adds thumbnails, which would show the old background.
"""

import importlib.util
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from bg_pipeline.errors import RunStopped, SettingsError
from bg_pipeline.imaging.provenance import SOFTWARE, Provenance

if TYPE_CHECKING:
    import c2pa

SIGNABLE: Final = frozenset({"jpeg", "png", "webp", "tiff", "avif"})
"""Formats of results that can hold a manifest; BMP cannot."""

_OPENABLE: Final = SIGNABLE | {"gif", "heif"}

_UNKNOWN_SOURCE_TYPE: Final = "http://c2pa.org/digitalsourcetype/empty"
"""C2PA's term for an origin of which nothing is said; a created picture has to have one."""

_PROFILE: Final = (
    "C2PA wants a certificate for digitalSignature with an extended key usage such as emailProtection or "
    "documentSigning, issued by an authority and not by itself"
)

_LIBRARY_SETTINGS: Final[dict[str, Any]] = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


class SigningFailed(RunStopped):
    """A finished picture could not be signed; nothing is stored unsigned, and what was paid for is kept."""

    code = "NotSigned"


@dataclass(frozen=True)
class Signing:
    """The files of the user's certificate chain (leaf first) and of its private key, both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Original:
    """The photo that a result is made from, as its ingredient."""

    data: bytes
    format: str


def sign(signing: Signing, data: bytes, format: str, original: Original, made: Provenance) -> bytes:
    """The file with a signed manifest in it; its pixels and XMP are unchanged.

    A photo that the library cannot read as an ingredient is left out, and the picture counts as created. Raises
    `SigningFailed`.
    """
    import c2pa

    try:
        signer = _signer(signing)
        builder = _builder(original, made)
        out = BytesIO()
        builder.sign(signer, f"image/{format}", BytesIO(data), out)
    except (c2pa.C2paError, SettingsError) as error:
        raise SigningFailed(
            f"a finished picture could not be signed ({_words(error)}): correct BG_C2PA_CERTIFICATE and BG_C2PA_KEY, "
            "see `bg-pipeline doctor`, then run again; what was paid for is stored and is not paid for again"
        ) from error
    return out.getvalue()


def check(signing: Signing) -> str:
    """A phrase about the certificate, whose key has signed a small picture.

    Raises `SettingsError` with what is wrong.
    """
    if importlib.util.find_spec("c2pa") is None:
        raise SettingsError(
            "BG_C2PA_CERTIFICATE is set, and results are signed with the extra c2pa, which is not installed: "
            "pip install 'bg-pipeline[c2pa]'"
        )
    subject, until = _examined(signing)
    picture = BytesIO()
    Image.new("RGB", (32, 32), "gray").save(picture, "JPEG")
    data = picture.getvalue()
    try:
        signed = sign(signing, data, "jpeg", Original(data, "jpeg"), Provenance("A trial."))
        state = manifest_of(signed, "jpeg").get("validation_state")
    except SigningFailed as error:
        raise SettingsError(
            f"BG_C2PA_CERTIFICATE, BG_C2PA_KEY: a trial picture could not be signed ({_words(error.__cause__)}); "
            f"{_PROFILE}"
        ) from None
    if state not in ("Valid", "Trusted"):
        raise SettingsError(
            f"BG_C2PA_CERTIFICATE: the signature of a trial picture is {state or 'not readable'}; {_PROFILE}"
        )
    return f"{subject}, valid until {until:%Y-%m-%d}"


def manifest_of(data: bytes, format: str) -> dict[str, Any]:
    """The manifest store in a file, as the library reports it; empty if there is none."""
    import c2pa

    try:
        with c2pa.Reader(f"image/{format}", BytesIO(data), context=_context()) as reader:
            document: dict[str, Any] = json.loads(reader.json())
    except c2pa.C2paError:
        return {}
    return document


def _builder(original: Original, made: Provenance) -> "c2pa.Builder":
    import c2pa

    changed: dict[str, Any] = {"action": "c2pa.edited", "description": made.note}
    if made.source_type:
        changed["digitalSourceType"] = made.source_type_uri
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["photo"]}}
    ingredient = {"title": "photo", "relationship": "parentOf", "label": "photo"}
    if original.format in _OPENABLE:
        builder = c2pa.Builder(_manifest([opened, changed]), context=_context())
        try:
            builder.add_ingredient(ingredient, _media_type(original), BytesIO(original.data))
        except c2pa.C2paError:
            builder.close()
        else:
            return builder
    created = {
        **changed,
        "action": "c2pa.created",
        "digitalSourceType": made.source_type_uri or _UNKNOWN_SOURCE_TYPE,
    }
    return c2pa.Builder(_manifest([created]), context=_context())


def _manifest(actions: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "claim_generator_info": [{"name": SOFTWARE}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _media_type(original: Original) -> str:
    return "image/heic" if original.format == "heif" else f"image/{original.format}"


@cache
def _context() -> "c2pa.Context":
    import c2pa

    return c2pa.Context(c2pa.Settings.from_dict(_LIBRARY_SETTINGS))


def _signer(signing: Signing) -> "c2pa.Signer":
    import c2pa

    chain, key = _read(signing.certificate, "CERTIFICATE"), _read(signing.key, "KEY")
    algorithm = _algorithm(_private_key(key, signing.key))
    return c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm.encode(), chain, key, None))


def _examined(signing: Signing) -> tuple[str, datetime]:
    """The subject of the certificate and its last day. Raises `SettingsError` if it and its key cannot be used."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    data = _read(signing.certificate, "CERTIFICATE")
    try:
        leaf = x509.load_pem_x509_certificates(data)[0]
    except ValueError:
        raise SettingsError(
            f"BG_C2PA_CERTIFICATE: {signing.certificate} holds no certificate in PEM; it is the chain that the "
            "certification authority sent, your own certificate first"
        ) from None
    key = _private_key(_read(signing.key, "KEY"), signing.key)
    _algorithm(key)
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise SettingsError(
            f"BG_C2PA_KEY: {signing.key} is not the key of the first certificate in {signing.certificate}"
        )
    now = datetime.now(UTC)
    if now < leaf.not_valid_before_utc:
        raise SettingsError(
            f"BG_C2PA_CERTIFICATE: {signing.certificate} is valid from {leaf.not_valid_before_utc:%Y-%m-%d} only"
        )
    if now > leaf.not_valid_after_utc:
        raise SettingsError(
            f"BG_C2PA_CERTIFICATE: {signing.certificate} expired on {leaf.not_valid_after_utc:%Y-%m-%d}; renew it"
        )
    return leaf.subject.rfc4514_string(), leaf.not_valid_after_utc


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"BG_C2PA_{setting}: {path} cannot be read: {error.strerror or error}") from None


def _private_key(data: bytes, path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        raise SettingsError(
            f"BG_C2PA_KEY: {path} is protected by a pass phrase; store the key without one, readable by the pipeline "
            "only (openssl pkcs8 -topk8 -nocrypt)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        # Without the library's words: they may quote the file.
        raise SettingsError(f"BG_C2PA_KEY: {path} holds no private key in PEM (PKCS #8)") from None


def _algorithm(key: Any) -> str:
    """C2PA's name of the signature algorithm of a private key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match key:
        case ec.EllipticCurvePrivateKey() if key.curve.name in _CURVES:
            return _CURVES[key.curve.name]
        case ed25519.Ed25519PrivateKey():
            return "ed25519"
        case rsa.RSAPrivateKey() if key.key_size >= 2048:
            return "ps256"
    raise SettingsError(
        "BG_C2PA_KEY: C2PA signs with EC keys (P-256, P-384, P-521), Ed25519 and RSA of 2,048 bits or more; this key "
        "is none of them"
    )


_CURVES: Final = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


def _words(error: BaseException | None) -> str:
    return " ".join(str(error).split())
