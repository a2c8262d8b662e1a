"""Certificates of a real authority, made on the spot."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cluster.tls.identity import Files


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path
    serial: int

    @property
    def files(self) -> Files:
        return Files(str(self.certificate), str(self.key))

    @property
    def settings(self) -> list[str]:
        """For ``--set``."""
        return [f"tls.certificate={self.certificate}", f"tls.key={self.key}"]

    def replace(self, other: Pair) -> None:
        """As an ACME client does: this one's files are the other's from now on."""
        for own, new in ((self.certificate, other.certificate), (self.key, other.key)):
            new.replace(own)


class Authority:
    """Signs certificates for ``localhost`` and ``127.0.0.1``; its own is in ``file``."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.file = folder / f"{name}.pem"
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(self._name, self._key.public_key(), -1, 30, x509.BasicConstraints(True, None))
        self.file.write_bytes(certificate.public_bytes(Encoding.PEM))

    def issue(self, name: str = "server", *, days: float = 30, since: float = -1, kind: str = "ec") -> Pair:
        """A new pair of files."""
        key: Any = (
            ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048)
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        certificate = self._sign(subject, key.public_key(), since, days, names)
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key", certificate.serial_number)
        pair.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        pair.key.touch(0o600)
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair

    def client(self, shows: Pair | None = None) -> ssl.SSLContext:
        """What trusts this authority, and nobody else."""
        context = ssl.create_default_context(cafile=str(self.file))
        if shows is not None:
            context.load_cert_chain(shows.certificate, shows.key)
        return context

    def _sign(self, subject: x509.Name, key: Any, since: float, days: float, extension: Any) -> x509.Certificate:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=since))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


def serial(connection: ssl.SSLObject | ssl.SSLSocket) -> int:
    """Of the certificate that the other side showed."""
    shown = connection.getpeercert(True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
