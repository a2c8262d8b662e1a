"""TLS in a running node, in one process and with workers: who comes in, who is turned away, certificates replaced under
live clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from config.ports import free_ports
from pyrtmp import Client
from tests.cluster.tls.authority import Authority, Pair, serial
from tests.cluster.workers.real_node import (
    COMMAND,
    Publisher,
    RealNode,
    Viewer,
    _closing,
    _read_flv,
    end_tree,
    eventually,
    real_node,
)

WORKERS = pytest.mark.parametrize("workers", [0, 2])
CAMERAS = tuple(f"live/camera{number}" for number in range(5))


class TlsNode:
    """A real node with RTMPS and HTTPS, and clients that trust its authority."""

    def __init__(self, node: RealNode, authority: Authority, pair: Pair, rtmps: int, https: int) -> None:
        self.node, self.authority, self.pair = node, authority, pair
        self.rtmps, self.https = rtmps, https
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        self.clients: list[Publisher | Viewer] = []

    async def connect(self, key: str) -> Client:
        return await Client.connect(f"rtmps://127.0.0.1:{self.rtmps}/{key}", tls=self.authority.client())

    async def publish(self, key: str) -> Publisher:
        client = await self.connect(key)
        await client.publish()
        self.clients.append(Publisher(client, key, f"publisher of {key}", 0, 2000))
        return self.clients[-1]  # type: ignore[return-value]

    async def play(self, key: str) -> Viewer:
        client = await self.connect(key)
        self.clients.append(Viewer(client.play(), client.close, key, "rtmps"))
        return self.clients[-1]  # type: ignore[return-value]

    async def play_flv(self, key: str) -> Viewer:
        response = await self.get(f"/{key}.flv")
        self.clients.append(Viewer(_read_flv(response), _closing(response), key, "https"))
        return self.clients[-1]  # type: ignore[return-value]

    async def get(self, path: str) -> aiohttp.ClientResponse:
        return await self.http.get(f"https://127.0.0.1:{self.https}{path}", ssl=self.authority.client())

    async def shown(self, port: int) -> int:
        """Serial number of the certificate that a newcomer sees."""
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=self.authority.client())
        number = serial(writer.get_extra_info("ssl_object"))
        writer.close()
        return number

    async def refused(self) -> float:
        """TLS handshakes that failed."""
        return (await self.node.metrics()).get('pyrtmp_refused_total{reason="tls"}', 0.0)

    async def close(self) -> None:
        for client in self.clients:
            await client.stop()
        await self.http.close()


@asynccontextmanager
async def tls_node(folder: Path, *settings: str, workers: int) -> AsyncIterator[TlsNode]:
    authority = Authority(folder)
    pair = authority.issue()
    rtmps, https = free_ports(2)
    listen = (f"rtmps.listen=127.0.0.1:{rtmps}", f"https.listen=127.0.0.1:{https}")
    async with real_node(folder / "node", *listen, *pair.settings, *settings, workers=workers) as node:
        tls = TlsNode(node, authority, pair, rtmps, https)
        try:
            yield tls
        finally:
            await tls.close()


@WORKERS
async def test_a_certificate_is_replaced_under_live_clients(tmp_path: Path, workers: int) -> None:
    """By SIGHUP in one process, by itself with workers."""
    async with tls_node(tmp_path, workers=workers) as tls:
        publishers = [await tls.publish(key) for key in CAMERAS]
        viewers = []
        for key in CAMERAS:
            for _ in range(10):
                viewers += [await tls.play(key), await tls.play_flv(key)]
        for viewer in viewers:
            await viewer.until(lambda frames: len(frames) > 5)
        assert {await tls.shown(tls.rtmps), await tls.shown(tls.https)} == {tls.pair.serial}

        new = tls.authority.issue("next", days=90)
        replaced = time.time()
        tls.pair.replace(new)
        if not workers:
            os.kill(tls.node.pid, signal.SIGHUP)
        await tls.node.event("certificate_in_use", replaced, days_left=89)
        # Each worker is told; a newcomer goes to any.
        for _ in range(4):
            assert {await tls.shown(tls.rtmps), await tls.shown(tls.https)} == {new.serial}
        expires = (await tls.node.metrics())["pyrtmp_tls_certificate_expiry_timestamp_seconds"]
        assert abs(expires - time.time() - 90 * 86400) < 100

        newcomers = [await tls.play(CAMERAS[0]), await tls.play_flv(CAMERAS[1])]
        numbers = [publisher.sent for publisher in publishers]
        for viewer in (*viewers, *newcomers):
            sent = numbers[CAMERAS.index(viewer.key)]
            await viewer.until(lambda frames, sent=sent: frames and frames[-1].number > sent)
        assert all(publisher.alive for publisher in publishers)
        assert not [fault for viewer in (*viewers, *newcomers) for fault in viewer.faults()]


async def test_a_worker_that_begins_while_the_files_are_broken(tmp_path: Path) -> None:
    async with tls_node(tmp_path, workers=2) as tls:
        tls.pair.certificate.write_bytes(b"half of")
        since = time.time()
        await tls.node.event("certificate_kept", 0.0, 15.0)
        os.kill((await tls.node.pids())[0], signal.SIGKILL)
        await tls.node.event("worker_ready", since, worker=0)
        for _ in range(6):
            assert {await tls.shown(tls.rtmps), await tls.shown(tls.https)} == {tls.pair.serial}
        status, answer = await tls.node.order("POST", "/api/v1/reload")
        assert status == 409 and "tls.certificate" in "".join(answer["problems"])
        assert len(tls.node.events("certificate_kept")) == 1


@WORKERS
async def test_who_is_no_client(tmp_path: Path, workers: int) -> None:
    """Plain RTMP and HTTP, silence, half a hello: each costs a connection for a while, and is counted."""
    async with tls_node(tmp_path, "timeouts.handshake=0.5", workers=workers) as tls:
        publisher = await tls.publish(CAMERAS[0])
        wrong = (b"\3" + bytes(1536), b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        unfinished = (b"", b"\x16\x03\x01\x40\x00" + bytes(9000))
        # By HTTPS a handshake may last as long as a request head, 10 s.
        for port, words in ((tls.rtmps, (*wrong, *unfinished)), (tls.https, wrong)):
            for each in words:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(each)
                answer = b""
                async with asyncio.timeout(5):
                    with contextlib.suppress(ConnectionError):
                        answer = await reader.read()
                assert len(answer) < 16  # an alert at most
                writer.close()

        async def counted() -> bool:
            return await tls.refused() == 6

        await eventually(counted)
        assert publisher.alive and not tls.node.events("internal_error")


@WORKERS
async def test_an_address_has_its_limit_before_the_handshake(tmp_path: Path, workers: int) -> None:
    async with tls_node(tmp_path, "limits.max_connections_per_address=3", workers=workers) as tls:
        silent = [socket.create_connection(("127.0.0.1", port)) for port in (tls.rtmps, tls.https, tls.https)]

        async def full() -> bool:
            try:
                await tls.connect(CAMERAS[0])
            except OSError:
                return True
            return False

        await eventually(full)
        with pytest.raises(aiohttp.ClientError):
            await tls.get("/")
        for sock in silent:
            sock.close()

        async def free() -> bool:
            try:
                return (await tls.get("/")).status == 200
            except aiohttp.ClientError:
                return False

        await eventually(free)


@WORKERS
async def test_plain_viewers_are_sent_to_https(tmp_path: Path, workers: int) -> None:
    async with tls_node(tmp_path, "http.redirect_to_https=true", workers=workers) as tls:
        publisher = await tls.publish(CAMERAS[0])
        plain = f"http://127.0.0.1:{tls.node.ports['http']}"
        async with tls.http.get(f"{plain}/live/camera0.flv?token=a%25b", allow_redirects=False) as answer:
            assert answer.status == 308
            assert answer.headers["Location"] == f"https://127.0.0.1:{tls.https}/live/camera0.flv?token=a%25b"
        async with tls.http.get(f"{plain}/live/camera0.flv", ssl=tls.authority.client()) as answer:
            assert answer.status == 200 and answer.url.scheme == "https"
            assert (await answer.content.readexactly(3)) == b"FLV"
        assert publisher.alive


async def test_the_api_and_the_command_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue()
    (port,) = free_ports(1)
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nid = "secure"\nworkers = 0\n[rtmp]\nlisten = "127.0.0.1:0"\n[http]\nlisten = "127.0.0.1:0"\n'
        f'[api]\nlisten = "127.0.0.1:{port}"\ntls = true\n[tls]\ncertificate = "{pair.certificate.name}"\n'
        f'key = "{pair.key.name}"\nclient_ca = "{authority.file.name}"\n'
    )
    async def run(*arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            str(COMMAND), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    node = await asyncio.create_subprocess_exec(
        str(COMMAND), "serve", "--config", str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert node.stdout is not None
        async with asyncio.timeout(20):
            while not (line := await node.stdout.readline()).strip().startswith(b"API"):
                assert line
        assert f"https://127.0.0.1:{port}/api/v1/streams".encode() in line
        code, text = await run("status", "--config", str(file))
        assert code == 0 and "secure" in text
        code, text = await run("status", "--config", str(file), "--api", f"https://127.0.0.1:{port}")
        assert code == 1 and "certificate" in text.lower()  # nobody said whom to trust
        # Another certificate than the one in the file is somebody else's.
        pair.replace(authority.issue("next"))
        code, _ = await run("status", "--config", str(file))
        assert code == 1
        tls = authority.client()
        async with aiohttp.ClientSession() as http, http.get(f"https://127.0.0.1:{port}/healthz", ssl=tls) as answer:
            assert answer.status == 200
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert b"HTTP" not in await reader.read()
        writer.close()
    finally:
        end_tree(node.pid)
        await node.wait()


