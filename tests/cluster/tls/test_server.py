"""``cluster.tls.server``: contexts whose certificate is replaced under their connections."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from cluster.tls.reading import read_identity
from cluster.tls.server import ServerContexts
from tests.cluster.tls.authority import Authority, serial


@asynccontextmanager
async def echo(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server that repeats what it hears; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(100):
                writer.write(data)
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Talk:
    """A client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.ssl: ssl.SSLObject = writer.get_extra_info("ssl_object")

    @classmethod
    async def begin(cls, port: int, tls: ssl.SSLContext) -> Talk:
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))

    async def works(self) -> bool:
        try:
            self.writer.write(b"x")
            return await self.reader.read(1) == b"x"
        except OSError:
            return False

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass


async def test_connections_keep_what_they_began_with(authority: Authority) -> None:
    pairs = [authority.issue("old"), authority.issue("new", kind="rsa")]  # another kind of key must not leave the old
    contexts = ServerContexts(read_identity(pairs[0].files))
    async with echo(contexts.https) as port:
        before = await Talk.begin(port, authority.client())
        contexts.use(read_identity(pairs[1].files))
        after = await Talk.begin(port, authority.client())
        assert [serial(each.ssl) for each in (before, after)] == [pair.serial for pair in pairs]
        assert await before.works() and await after.works()
        for each in (before, after):
            await each.close()


@pytest.mark.parametrize(
    ("which", "offered", "agreed"),
    [("https", ["h2", "http/1.1"], "http/1.1"), ("https", ["h2"], None), ("https", [], None), ("api", ["http/1.1"],
     "http/1.1"), ("rtmps", ["http/1.1"], None)],
)  # fmt: skip
async def test_application_protocols(authority: Authority, which: str, offered: list[str], agreed: str | None) -> None:
    contexts = ServerContexts(read_identity(authority.issue().files))
    client = authority.client()
    if offered:
        client.set_alpn_protocols(offered)
    async with echo(getattr(contexts, which)) as port:
        talk = await Talk.begin(port, client)
        assert talk.ssl.selected_alpn_protocol() == agreed and talk.ssl.version() == "TLSv1.3"
        await talk.close()


def _old(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")


def _rsa_key_exchange(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("weaken", [_old, _rsa_key_exchange])
async def test_what_is_too_weak(authority: Authority, weaken: Callable[[ssl.SSLContext], None]) -> None:
    contexts = ServerContexts(read_identity(authority.issue(kind="rsa").files))
    client = authority.client()
    weaken(client)
    async with echo(contexts.rtmps) as port:
        with pytest.raises(OSError):
            await Talk.begin(port, client)


async def test_version_1_2(authority: Authority) -> None:
    contexts = ServerContexts(read_identity(authority.issue().files))
    client = authority.client()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    async with echo(contexts.rtmps) as port:
        talk = await Talk.begin(port, client)
        cipher = talk.ssl.cipher()
        assert cipher is not None and cipher[0].startswith("ECDHE") and await talk.works()
        await talk.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_certificates_of_clients(authority: Authority, version: ssl.TLSVersion) -> None:
    stranger = Authority(authority.folder / "other")
    pair, good, bad = authority.issue(), authority.issue("node"), stranger.issue("node")
    contexts = ServerContexts(read_identity(pair.files))
    contexts.use(read_identity(replace(pair.files, client_ca=str(authority.file))))

    async def admitted(port: int, client: ssl.SSLContext) -> bool:
        client.maximum_version = version
        try:
            talk = await Talk.begin(port, client)
        except OSError:
            return False
        works = await talk.works()
        await talk.close()
        return works

    async with echo(contexts.rtmps) as port, echo(contexts.api) as api:
        assert await admitted(port, authority.client(good))
        assert not await admitted(port, authority.client(bad))
        assert not await admitted(port, authority.client())
        assert await admitted(api, authority.client())
        contexts.use(read_identity(pair.files))
        assert await admitted(port, authority.client())


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLObject:
    """A client's side of a connection in memory, over which one byte has come.  Raises ``ssl.SSLError``."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = server.wrap_bio(up, down, server_side=True)
    ours = client.wrap_bio(down, up, server_hostname="localhost", session=session)
    for each in 3 * (ours, theirs):
        with contextlib.suppress(ssl.SSLWantReadError):
            each.do_handshake()
    theirs.write(b"x")
    assert ours.read(1) == b"x"
    return ours


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_from_before_is_no_way_in(authority: Authority, version: ssl.TLSVersion) -> None:
    pair, client = authority.issue(), authority.client()
    client.maximum_version = version
    contexts = ServerContexts(read_identity(pair.files))
    session = _shake_hands(contexts.rtmps, client, None).session
    assert _shake_hands(contexts.rtmps, client, session).session_reused
    contexts.use(read_identity(replace(pair.files, client_ca=str(authority.file))))
    with pytest.raises(ssl.SSLError):
        _shake_hands(contexts.rtmps, client, session)


def test_a_broken_identity_changes_nothing(authority: Authority) -> None:
    identity = read_identity(authority.issue().files)
    contexts = ServerContexts(identity)
    with pytest.raises(ssl.SSLError):
        contexts.use(replace(identity, key=b""))
    assert contexts.identity is identity
