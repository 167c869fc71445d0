"""Certificates for C2PA, made for one test: an authority of its own and a leaf that keeps C2PA's profile."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bg_pipeline.imaging.signing import Signing

KEYS: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}


def _name(common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A shop"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def certificate(
    folder: Path,
    *,
    kind: str = "P-256",
    days: int = 30,
    starts_in: int = -35,
    for_mail: bool = True,
    pass_phrase: bytes = b"",
) -> Signing:
    """A certificate chain and a key in ``folder``; valid for ``days`` from today."""
    now = datetime.now(UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), KEYS[kind]()
    authority = (
        x509.CertificateBuilder(_name("authority"), _name("authority"), authority_key.public_key(), 1000)
        .not_valid_before(now - timedelta(days=100))
        .not_valid_after(now + timedelta(days=400))
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(_usage(signs_certificates=True), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), False)
        .sign(authority_key, hashes.SHA256())
    )
    leaf = (
        x509.CertificateBuilder(_name("authority"), _name("signer"), key.public_key(), 1001)
        .not_valid_before(now + timedelta(days=starts_in))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(_usage(signs_certificates=False), True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False)
    )
    if for_mail:
        leaf = leaf.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), True)
    chain = [leaf.sign(authority_key, hashes.SHA256()), authority]
    folder.mkdir(exist_ok=True)
    signing = Signing(folder / "chain.pem", folder / "key.pem")
    signing.certificate.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
    encryption = BestAvailableEncryption(pass_phrase) if pass_phrase else NoEncryption()
    signing.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return signing
