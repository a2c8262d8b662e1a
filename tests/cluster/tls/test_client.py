"""``cluster.tls.client``: what other servers are verified with."""

from __future__ import annotations

import os
import ssl
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from cluster.tls.client import Outgoing, Trust, system_context
from cluster.tls.reading import read_identity
from cluster.tls.server import ServerContexts
from tests.cluster.tls.authority import Authority
from tests.cluster.tls.test_server import Talk, echo


async def admitted(port: int, tls: ssl.SSLContext) -> bool:
    try:
        talk = await Talk.begin(port, tls)
    except OSError:
        return False
    works = await talk.works()
    await talk.close()
    return works


async def test_authorities_and_the_own_certificate(authority: Authority) -> None:
    shown = authority.issue("node")
    identity = read_identity(replace(authority.issue().files, client_ca=str(authority.file)))
    ca, pair = str(authority.file), {"certificate": str(shown.certificate), "key": str(shown.key)}
    async with echo(ServerContexts(identity).rtmps) as port:
        assert await admitted(port, Outgoing(Trust(ca, **pair))())
        assert not await admitted(port, Outgoing(Trust(ca))())
        assert not await admitted(port, Outgoing(Trust(**pair))())


def test_without_settings_it_is_the_machines() -> None:
    assert Outgoing(Trust())() is system_context()


async def test_files_that_change(authority: Authority) -> None:
    other = Authority(authority.folder / "other")
    outgoing = Outgoing(Trust(ca=str(authority.file)))
    context = outgoing()
    assert outgoing() is context
    with capture_logs() as events:
        authority.file.write_bytes(b"half of")
        os.utime(authority.file, ns=(1, 1))
        assert outgoing() is context and outgoing() is context
        assert [each["event"] for each in events] == ["client_certificates_kept"]
    other.file.replace(authority.file)
    async with echo(ServerContexts(read_identity(other.issue().files)).rtmps) as port:
        assert not await admitted(port, context)
        assert await admitted(port, outgoing())
        outgoing.configure(Trust())
        assert not await admitted(port, outgoing())


def test_never_a_good_one(authority: Authority) -> None:
    outgoing = Outgoing(Trust(ca="/nowhere"))
    for _ in range(2):
        with pytest.raises(OSError):
            outgoing()
