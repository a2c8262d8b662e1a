"""The files that settings name by themselves, those of ``[tls]``: whether they can be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

FILES: Final = (
    "tls.certificate", "tls.key", "tls.client_ca", "tls.ca", "tls.client_certificate", "tls.client_key",
)  # fmt: skip
"""In a configuration file they are relative to it."""


def unusable(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings whose files cannot be used, and why.  Of a pair of which one is missing nothing is read."""
    certificate, key, client_ca, ca, client_certificate, client_key = (values[name] for name in FILES)
    if certificate is not None and key is not None:
        from cluster.tls.identity import Files, IdentityError
        from cluster.tls.reading import read_identity  # slow to import, and few use it

        try:
            read_identity(Files(certificate, key, client_ca))
        except IdentityError as error:
            yield f"tls.{error.setting}", str(error)
    if ca is not None:
        yield from _refused_by_openssl("tls.ca", ca, None, None)
    if client_certificate is not None and client_key is not None:
        yield from _refused_by_openssl("tls.client_certificate", None, client_certificate, client_key)


def _refused_by_openssl(
    name: str, ca: str | None, certificate: str | None, key: str | None
) -> Iterator[tuple[str, str]]:
    from cluster.tls.client import Trust, client_context

    try:
        client_context(Trust(ca, certificate, key))
    except OSError as error:  # ssl.SSLError is one
        files = " with ".join(each for each in (ca, certificate, key) if each is not None)
        yield name, f"{files} cannot be used: {error.strerror or error}"
