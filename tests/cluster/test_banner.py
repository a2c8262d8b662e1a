from __future__ import annotations

import ipaddress
import socket

import pytest

from cluster.banner import banner, own_address, reachable
from cluster.config import Address


def text(rtmp: str = "192.0.2.7:1935", demo: bool = False, prefix: str = "") -> str:
    http, api = Address("192.0.2.7", 8080), Address("127.0.0.1", 1985)
    return banner(version="1.0", rtmp=Address.parse(rtmp), http=http, api=api, demo=demo, prefix=prefix)


def test_what_to_type_into_obs() -> None:
    lines = [line.strip() for line in text().splitlines()]
    assert "Server       rtmp://192.0.2.7/live" in lines  # 1935 is what everybody assumes
    assert "Stream Key   mystream" in lines
    assert "Watch          http://192.0.2.7:8080/" in lines
    assert "Console        http://127.0.0.1:1985/" in lines
    assert "API            http://127.0.0.1:1985/api/v1/streams" in lines
    assert "rtmp://192.0.2.7:1936/live" in text("192.0.2.7:1936")
    assert "demo" not in text() and "http://192.0.2.7:8080/#live/demo" in text(demo=True)
    below = text(demo=True, prefix="/video")
    assert "http://192.0.2.7:8080/video/\n" in below and "http://192.0.2.7:8080/video/#live/demo" in below


@pytest.mark.parametrize(("host", "family"), [("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)])
def test_everywhere_is_no_address_to_type(host: str, family: socket.AddressFamily) -> None:
    name, _, port = reachable(Address(host, 8080)).rpartition(":")
    address = ipaddress.ip_address(name.strip("[]"))
    assert port == "8080" and not address.is_unspecified
    assert str(address) == own_address(family)


def test_ipv6_in_brackets() -> None:
    assert reachable(Address("::1", 80)) == "[::1]:80"


def test_a_machine_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert (own_address(socket.AF_INET), own_address(socket.AF_INET6)) == ("127.0.0.1", "::1")


def test_with_tls() -> None:
    address = Address("192.0.2.7", 1936)
    lines = banner(
        version="1.0", rtmp=address, http=address, api=address, demo=False, rtmps=address, https=address, api_tls=True
    )
    assert "rtmps://192.0.2.7:1936/live" in lines and "https://192.0.2.7:1936/\n" in lines
    assert "API            https://192.0.2.7:1936/api/v1/streams" in lines
