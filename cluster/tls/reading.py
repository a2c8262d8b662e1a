"""Reading an identity from PEM files, with everything that may be wrong with them."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from cluster.tls.identity import Files, Identity, IdentityError
from cluster.tls.server import new_context

MAX_FILE_BYTES: Final = 12 * 1024
"""Longest file; all three go to a worker in one message, with the settings.  A chain takes 2 to 6 KiB."""


def read_identity(files: Files) -> Identity:
    """Raises ``IdentityError``."""
    chain, key = _read("certificate", files.certificate), _read("key", files.key)
    certificate = _certificate("certificate", files.certificate, chain)
    try:
        private = load_pem_private_key(key, None)
    except TypeError:
        raise IdentityError("key", f"{files.key} is encrypted, and nobody is here to type its password") from None
    except Exception:  # what cryptography raises depends on what is wrong; its text may quote the file
        raise IdentityError("key", f"{files.key} holds no private key in PEM") from None
    if _spki(private.public_key()) != _spki(certificate.public_key()):
        raise IdentityError("key", f"{files.key} is not the key of {files.certificate}")
    authorities = b""
    if files.client_ca is not None:
        authorities = _read("client_ca", files.client_ca)
        _certificate("client_ca", files.client_ca, authorities)
    identity = Identity(
        chain, key, authorities, _names(certificate), certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )
    try:
        new_context(identity)  # what OpenSSL has against it: a key too short, an authority that is none
    except (ssl.SSLError, ValueError) as error:
        raise IdentityError("certificate", f"{files.certificate} cannot be used: {error}") from None
    return identity


def readable_by_others(key: str) -> bool:
    """Whether every user of the machine can read the file."""
    try:
        return bool(Path(key).stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _read(setting: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise IdentityError(setting, f"{path} cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise IdentityError(setting, f"{path} is longer than {MAX_FILE_BYTES // 1024} KiB")
    return data


def _certificate(setting: str, path: str, data: bytes) -> x509.Certificate:
    """The first one; all have to be readable."""
    try:
        return x509.load_pem_x509_certificates(data)[0]
    except Exception:
        raise IdentityError(setting, f"{path} holds no certificate in PEM") from None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    hosts = found.get_values_for_type(x509.DNSName)
    return (*hosts, *map(str, found.get_values_for_type(x509.IPAddress)))


def _spki(key: object) -> bytes:
    # Private and public keys of every kind have it; their common base class does not say so.
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded
