"""Nodes that reach each other with TLS: edges pull and pass up by RTMPS, pull by HTTPS, and forwards go to RTMPS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from config.ports import free_ports
from tests.cluster.registry.servers import MISSING
from tests.cluster.tls.authority import Authority
from tests.cluster.topologies import Cluster, cluster
from tests.cluster.workers.real_node import RealNode, Viewer, eventually

CAM = "live/cam"


class Links:
    """Nodes whose certificates, of servers and of clients, are one authority's."""

    def __init__(self, nodes: Cluster, authority: Authority) -> None:
        self.nodes = nodes
        self.ports: dict[str, tuple[int, int]] = {}
        self._authority = authority

    async def listening(self, name: str, *settings: str) -> RealNode:
        """A node that takes only who has a certificate, by RTMPS and HTTPS."""
        rtmps, https = self.ports[name] = tuple(free_ports(2))  # type: ignore[assignment]
        return await self.nodes.start(
            name, f"rtmps.listen=127.0.0.1:{rtmps}", f"https.listen=127.0.0.1:{https}",
            f"tls.client_ca={self._authority.file}", *self._authority.issue(name).settings, *settings,
        )

    def trust(self, *, certificate: bool = True) -> list[str]:
        """Settings of a node that connects to such."""
        shown = self._authority.issue("client")
        settings = [f"tls.ca={self._authority.file}"]
        if certificate:
            settings += [f"tls.client_certificate={shown.certificate}", f"tls.client_key={shown.key}"]
        return settings


@asynccontextmanager
async def links(folder: Path, workers: int = 0) -> AsyncIterator[Links]:
    async with cluster(folder, workers=workers) as nodes:
        yield Links(nodes, Authority(folder / "pki"))


async def seen(viewer: Viewer) -> None:
    await viewer.until(lambda frames: len(frames) > 10)
    assert not viewer.faults()


@pytest.mark.parametrize("scheme", ["rtmps", "https"])
async def test_an_edge_pulls(tmp_path: Path, scheme: str) -> None:
    async with links(tmp_path) as link:
        origin = await link.listening("origin")
        port = link.ports["origin"][scheme == "https"]
        edge = await link.nodes.start(
            "edge", "node.role=edge", f"edge.origins={scheme}://127.0.0.1:{port}", *link.trust()
        )
        await origin.publish(CAM)
        await seen(await edge.play(CAM))
        (pull,) = (await edge.get("/api/v1/pulls"))["pulls"]
        assert pull["upstream"] == f"{scheme}://127.0.0.1:{port}"


async def test_an_edge_that_shows_no_certificate(tmp_path: Path) -> None:
    async with links(tmp_path) as link:
        origin = await link.listening("origin")
        port = link.ports["origin"][0]
        edge = await link.nodes.start(
            "edge", "node.role=edge", f"edge.origins=rtmps://127.0.0.1:{port}", *link.trust(certificate=False)
        )
        await origin.publish(CAM)
        await edge.play(CAM)
        await eventually(lambda: edge.events("upstream_failed"))

        async def counted() -> bool:
            return (await origin.metrics()).get('pyrtmp_refused_total{reason="tls"}', 0) > 0

        await eventually(counted)
        assert not edge.events("pulling")


async def test_what_is_published_to_an_edge_goes_up(tmp_path: Path) -> None:
    async with links(tmp_path) as link:
        origin = await link.listening("origin")
        edge = await link.nodes.start(
            "edge", "node.role=edge", f"edge.origins=rtmps://127.0.0.1:{link.ports['origin'][0]}", *link.trust()
        )
        await edge.publish(CAM)
        await seen(await origin.play(CAM))


async def test_a_forward(tmp_path: Path) -> None:
    async with links(tmp_path) as link:
        target = await link.listening("target")
        source = await link.nodes.start(
            "source", f"forward.to=rtmps://127.0.0.1:{link.ports['target'][0]}/{{app}}", *link.trust()
        )
        await source.publish(CAM)
        await seen(await target.play(CAM))


@MISSING
async def test_a_registry_says_where(tmp_path: Path) -> None:
    """With workers, who ask their supervisor."""
    async with links(tmp_path, workers=2) as link:
        link.nodes.with_registry()
        (rtmps,) = free_ports(1)
        authority = Authority(tmp_path / "other")
        origin = await link.nodes.start(
            "origin", f"node.advertise=rtmps://localhost:{rtmps}", f"rtmps.listen=127.0.0.1:{rtmps}",
            *authority.issue().settings,
        )
        edge = await link.nodes.start("edge", "node.role=edge", f"tls.ca={authority.file}")
        await origin.publish(CAM)
        await seen(await edge.play(CAM))
        (pull,) = (await edge.get("/api/v1/pulls"))["pulls"]
        assert pull["upstream"] == f"rtmps://localhost:{rtmps}"
        place = await edge.get(f"/api/v1/place?stream={CAM}&kind=publish")
        assert place["rtmp"] == f"rtmps://localhost:{rtmps}/{CAM}"
