"""``cluster.tls.reading``: what may be wrong with the files."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from cluster.tls.identity import IdentityError
from cluster.tls.reading import MAX_FILE_BYTES, read_identity, readable_by_others
from tests.cluster.tls.authority import Authority, Pair


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_identity(authority: Authority, kind: str) -> None:
    identity = read_identity(authority.issue(kind=kind, days=2).files)
    assert identity.names == ("localhost", "127.0.0.1") and identity.client_ca == b""
    assert 1.9 * 86400 < identity.seconds_left() <= 2 * 86400 and identity.begins < time.time()
    assert b"PRIVATE KEY" in identity.key and "PRIVATE KEY" not in repr(identity)
    assert pickle.loads(pickle.dumps(identity)) == identity


def test_an_expired_one_is_read(authority: Authority) -> None:
    """Clients decide what to think of it."""
    assert read_identity(authority.issue(since=-3, days=-1).files).seconds_left() < 0


def test_a_chain_and_authorities_of_clients(authority: Authority) -> None:
    pair = authority.issue()
    with pair.certificate.open("ab") as chain:
        chain.write(authority.file.read_bytes())
    identity = read_identity(replace(pair.files, client_ca=str(authority.file)))
    assert identity.chain.count(b"BEGIN CERTIFICATE") == 2 and identity.client_ca == authority.file.read_bytes()


def _encrypt(pair: Pair) -> None:
    key = load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word")))


def _break_second(pair: Pair) -> None:
    with pair.certificate.open("ab") as chain:
        chain.write(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("damage", "setting", "reason"),
    [
        (lambda pair: pair.certificate.unlink(), "certificate", "cannot be read: No such file"),
        (lambda pair: pair.key.unlink(), "key", "cannot be read: No such file"),
        (lambda pair: pair.certificate.write_bytes(b""), "certificate", "holds no certificate in PEM"),
        (lambda pair: pair.certificate.write_bytes(b"\xff" * 99), "certificate", "holds no certificate in PEM"),
        (lambda pair: pair.certificate.write_bytes(bytes(MAX_FILE_BYTES + 1)), "certificate", "is longer than 12 KiB"),
        (_break_second, "certificate", "holds no certificate in PEM"),
        (lambda pair: pair.key.write_bytes(b"hunter2"), "key", "holds no private key in PEM"),
        (lambda pair: pair.key.write_bytes(pair.certificate.read_bytes()), "key", "holds no private key in PEM"),
        (_encrypt, "key", "is encrypted"),
    ],
)
def test_damage(authority: Authority, damage: Callable[[Pair], object], setting: str, reason: str) -> None:
    pair = authority.issue()
    damage(pair)
    with pytest.raises(IdentityError, match=reason) as caught:
        read_identity(pair.files)
    assert caught.value.setting == setting and "hunter2" not in str(caught.value)


def test_of_another_certificate(authority: Authority) -> None:
    one, other = authority.issue("one"), authority.issue("other", kind="rsa")
    with pytest.raises(IdentityError, match=r"other\.key is not the key of .*one\.pem") as caught:
        read_identity(replace(one.files, key=str(other.key)))
    assert caught.value.setting == "key"


def test_who_may_read_the_key(authority: Authority) -> None:
    key = authority.issue().key
    assert not readable_by_others(str(key)) and not readable_by_others(str(Path("/nowhere")))
    key.chmod(0o644)
    assert readable_by_others(str(key))
