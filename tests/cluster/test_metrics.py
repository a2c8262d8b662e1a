from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import MAX_REASONS, Metrics
from pyrtmp.counters import Counters
from pyrtmp.hub import Hub
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings


@dataclass
class FakeServer:
    counters: Counters = field(default_factory=Counters)
    rounds: Any = field(default_factory=lambda: SimpleNamespace(delay=0.02))
    hub: Hub = field(default_factory=lambda: Hub(StreamSettings(), lambda stream: None))
    clients: dict[str, Any] = field(default_factory=dict)


class FakeHls:
    def __len__(self) -> int:
        return 3

    def memory(self) -> int:
        return 4096


class FakeAudience:
    def __init__(self) -> None:
        self.bytes_out: Counter[StreamKey] = Counter()

    def viewers(self) -> Counter[StreamKey]:
        return Counter({StreamKey("live", "a"): 2, StreamKey("live", "b"): 1})


def values(server: FakeServer, ready: bool = True) -> dict[str, float]:
    page = metrics(server, ready).page().decode()
    return {
        each.name + "".join(f" {name}={value}" for name, value in sorted(each.labels.items())): each.value
        for family in text_string_to_metric_families(page)
        for each in family.samples
    }


def metrics(server: FakeServer, ready: bool = True) -> Metrics:
    return Metrics(server, FakeHls(), FakeAudience(), version="1.2.3", node="n1", ready=lambda: ready)


def client(protocol: str, role: str, bytes_in: int = 0, bytes_out: int = 0) -> Any:
    return SimpleNamespace(protocol=protocol, role=role, bytes_in=bytes_in, bytes_out=bytes_out)


def test_every_metric_is_described_and_well_named() -> None:
    server = FakeServer()
    server.counters.refused["handshake"] = 1
    families = list(text_string_to_metric_families(metrics(server).page().decode()))
    assert len({family.name for family in families}) == len(families) > 25
    for family in families:
        assert family.name.startswith(("pyrtmp_", "process_")), family.name
        assert len(family.documentation) > 10 and family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge") and family.samples, family.name
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", family.name)
        # Prometheus' base units
        assert not re.search(r"_(ms|milliseconds|kb|kbytes|kbit|bits|minutes|percent)(_|$)", family.name), family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name


def test_bytes_go_on_when_a_connection_ends() -> None:
    server = FakeServer()
    server.clients = {"a": client("rtmp", "publish", 1000), "b": client("rtmp", "play", 10, 500)}
    before = values(server)
    assert before["pyrtmp_received_bytes_total"] == 1010
    assert before["pyrtmp_sent_bytes_total protocol=rtmp"] == 500
    server.clients = {}
    server.counters.bytes_in = 1010
    server.counters.bytes_out["rtmp"] = 500
    after = values(server)
    assert after["pyrtmp_received_bytes_total"] == 1010
    assert after["pyrtmp_sent_bytes_total protocol=rtmp"] == 500
    assert after["pyrtmp_sent_bytes_total protocol=flv"] == 0


def test_clients_streams_and_viewers() -> None:
    server = FakeServer()
    server.clients = {"a": client("rtmp", "publish"), "b": client("flv", "play"), "c": client("flv", "play")}
    server.hub.open(StreamKey("live", "x"), 0.0).wait(lambda: None)
    found = values(server)
    assert found["pyrtmp_clients protocol=rtmp role=publish"] == 1
    assert found["pyrtmp_clients protocol=rtmp role=idle"] == 0
    assert found["pyrtmp_clients protocol=flv role=play"] == 2
    assert found["pyrtmp_streams state=awaited"] == 1 and found["pyrtmp_streams state=live"] == 0
    assert found["pyrtmp_waiting_viewers"] == 1
    assert found["pyrtmp_viewers protocol=hls"] == 3
    assert (found["pyrtmp_hls_streams"], found["pyrtmp_hls_memory_bytes"]) == (3, 4096)
    assert found["pyrtmp_round_delay_seconds"] == 0.02


@pytest.mark.parametrize("ready", [True, False])
def test_readiness(ready: bool) -> None:
    assert values(FakeServer(), ready)["pyrtmp_ready"] == ready


def test_every_counter_is_on_the_page() -> None:
    server = FakeServer()
    counters = server.counters
    names = {
        "connections": "connections", "publishes": "publishes", "takeovers": "takeovers", "skips": "skips",
        "stalls": "stalls", "dropped_messages": "dropped_messages", "log_failures": "log_failures",
        "rounds": "rounds", "round_seconds": "round_seconds", "bytes_in": "received_bytes",
    }  # fmt: skip
    for number, name in enumerate(names, 1):
        setattr(counters, name, number)
    counters.refused["chunk"], counters.plays["flv"], counters.bytes_out["hls"] = 20, 21, 22
    assert {*names, "refused", "plays", "bytes_out"} == set(Counters.__dataclass_fields__)
    found = values(server)
    for number, name in enumerate(names.values(), 1):
        assert found[f"pyrtmp_{name}_total"] == number
    assert found["pyrtmp_refused_total reason=chunk"] == 20
    assert found["pyrtmp_plays_total protocol=flv"] == 21
    assert found["pyrtmp_sent_bytes_total protocol=hls"] == 22


def test_reasons_are_bounded_and_escaped() -> None:
    server = FakeServer()
    server.counters.refused['say "no"\n\\'] = 5
    for number in range(1000):
        server.counters.refused[f"made up {number}"] += 1
    reasons = {name: value for name, value in values(server).items() if name.startswith("pyrtmp_refused")}
    assert len(reasons) == MAX_REASONS + 1
    assert sum(reasons.values()) == 1005
    assert reasons['pyrtmp_refused_total reason=say "no"\n\\'] == 5


def test_no_name_of_a_stream_or_address_is_a_label() -> None:
    server = FakeServer()
    server.hub.open(StreamKey("private-app", "private-name"), 0.0)
    assert b"private" not in metrics(server).page()


def test_build() -> None:
    [info] = [name for name in values(FakeServer()) if name.startswith("pyrtmp_build_info")]
    assert "version=1.2.3" in info and "node=n1" in info
