from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.metrics import Metrics
from cluster.paths import ROUND_TRIP_SECONDS
from cluster.reports import MAX_REASONS, Gauges, Numbers
from pyrtmp.counters import Counters
from pyrtmp.histogram import Histogram


def page(*parts: Numbers, ready: bool = True) -> str:
    return Metrics(version="1.2.3", node="n1").page(parts, ready=ready).decode()


def values(*parts: Numbers, ready: bool = True) -> dict[str, float]:
    return {
        each.name + "".join(f" {name}={value}" for name, value in sorted(each.labels.items())): each.value
        for family in text_string_to_metric_families(page(*parts, ready=ready))
        for each in family.samples
    }


def test_every_metric_is_described_and_well_named() -> None:
    numbers = Numbers(counters=Counters(refused=Counter(handshake=1)))
    families = list(text_string_to_metric_families(page(numbers)))
    assert len({family.name for family in families}) == len(families) > 30
    for family in families:
        assert family.name.startswith(("pyrtmp_", "process_")), family.name
        assert len(family.documentation) > 10 and family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram") and family.samples, family.name
        assert re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", family.name)
        # Prometheus' base units
        assert not re.search(r"_(ms|milliseconds|kb|kbytes|kbit|bits|minutes|percent)(_|$)", family.name), family.name
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name


def test_recordings() -> None:
    found = values(
        Numbers(
            recorded_files=2, recorded_bytes=3, recording_dropped=4, recording_failures=5,
            now=Gauges(recordings={"recording": 6}),
        )
    )  # fmt: skip
    states = [found[f"pyrtmp_recordings state={each}"] for each in ("starting", "recording", "waiting")]
    assert states == [0, 6, 0]
    assert (found["pyrtmp_recorded_files_total"], found["pyrtmp_recorded_bytes_total"]) == (2, 3)
    assert found["pyrtmp_recording_dropped_messages_total"] == 4
    assert found["pyrtmp_recording_failures_total"] == 5


def test_clients_streams_and_viewers() -> None:
    now = Gauges(
        clients={"rtmp": {"publish": 1, "play": 2}, "flv": {"play": 2}}, viewers={"rtmp": 2, "flv": 2}, held=1,
        awaited=frozenset({1, 2}), gone=frozenset({2}), watchers=frozenset({7, 8, 9}), waiting=4, gop_bytes=5,
        log_bytes=6, hls_streams=3, hls_bytes=4096, round_delay=0.02,
    )  # fmt: skip
    found = values(Numbers(now=now))
    assert found["pyrtmp_clients protocol=rtmp role=publish"] == 1
    assert found["pyrtmp_clients protocol=rtmp role=idle"] == 0
    assert found["pyrtmp_clients protocol=flv role=play"] == 2
    assert found["pyrtmp_streams state=awaited"] == 1 and found["pyrtmp_streams state=gone"] == 1
    assert found["pyrtmp_streams state=live"] == 1
    assert [found[f"pyrtmp_viewers protocol={each}"] for each in ("rtmp", "flv", "hls")] == [2, 2, 3]
    assert found["pyrtmp_waiting_viewers"] == 4
    assert (found["pyrtmp_gop_bytes"], found["pyrtmp_wire_log_bytes"]) == (5, 6)
    assert (found["pyrtmp_hls_streams"], found["pyrtmp_hls_memory_bytes"]) == (3, 4096)
    assert found["pyrtmp_round_delay_seconds"] == 0.02


def test_zeros_are_there_from_the_start() -> None:
    found = values(Numbers())
    for name in (
        "pyrtmp_sent_bytes_total protocol=flv", "pyrtmp_plays_total protocol=hls", "pyrtmp_viewers protocol=rtmp",
        "pyrtmp_clients protocol=flv role=play", "pyrtmp_streams state=gone", "pyrtmp_workers",
        "pyrtmp_viewer_failures_total cause=busy", "pyrtmp_first_frame_seconds_count protocol=hls",
        "pyrtmp_resent_ratio_bucket client=flv le=0.0", "pyrtmp_pull_failures_total",
    ):  # fmt: skip
        assert found[name] == 0
    assert values().keys() == found.keys()  # also before any worker has told anything


@pytest.mark.parametrize("ready", [True, False])
def test_readiness(ready: bool) -> None:
    assert values(Numbers(), ready=ready)["pyrtmp_ready"] == ready


def test_every_counter_is_on_the_page() -> None:
    counters = Counters()
    names = {
        "connections": "connections", "publishes": "publishes", "takeovers": "takeovers", "skips": "skips",
        "skipped_viewers": "skipped_viewers",
        "stalls": "stalls", "dropped_messages": "dropped_messages", "log_failures": "log_failures",
        "rounds": "rounds", "round_seconds": "round_seconds", "bytes_in": "received_bytes",
    }  # fmt: skip
    for number, name in enumerate(names, 1):
        setattr(counters, name, number)
    counters.refused["chunk"], counters.plays["flv"], counters.bytes_out["hls"] = 20, 21, 22
    counters.viewers_failed["stall"] = 23
    counters.first_frame("flv", 0.2)
    others = {"refused", "plays", "bytes_out", "viewers_failed", "first_frames"}
    assert {*names, *others} == set(Counters.__dataclass_fields__)
    found = values(Numbers(counters=counters))
    for number, name in enumerate(names.values(), 1):
        assert found[f"pyrtmp_{name}_total"] == number
    assert found["pyrtmp_refused_total reason=chunk"] == 20
    assert found["pyrtmp_plays_total protocol=flv"] == 21
    assert found["pyrtmp_sent_bytes_total protocol=hls"] == 22
    assert found["pyrtmp_viewer_failures_total cause=stall"] == 23
    assert found["pyrtmp_first_frame_seconds_count protocol=flv"] == 1


def test_histograms() -> None:
    times = Histogram(ROUND_TRIP_SECONDS)
    for seconds in (0.001, 0.03, 0.03, 7.0):
        times.observe(seconds)
    one = Numbers(round_trips={"rtmp": times}, now=Gauges(ingest_behind=0.5, ingest_late=1))
    found = values(one, Numbers.from_json(one.to_json()), Numbers(now=Gauges(ingest_behind=0.2)))
    name = "pyrtmp_round_trip_seconds_bucket client=rtmp le="
    assert [found[name + each] for each in ("0.001", "0.02", "0.05", "1.6", "+Inf")] == [2, 2, 6, 6, 8]
    assert found["pyrtmp_round_trip_seconds_count client=rtmp"] == 8
    assert found["pyrtmp_round_trip_seconds_sum client=rtmp"] == pytest.approx(14.122)
    assert found["pyrtmp_round_trip_seconds_count client=publish"] == 0
    assert (found["pyrtmp_ingest_behind_seconds"], found["pyrtmp_ingest_late_streams"]) == (0.5, 2)


def test_processes_add_up() -> None:
    counters = Counters(connections=5, plays=Counter(rtmp=2))
    parts = [
        Numbers(worker=0, restarts=1, counters=counters, ipc_bytes_in=3, ipc_bytes_out=4, now=Gauges(cpu_share=0.2)),
        Numbers(worker=1, restarts=2, counters=counters, now=Gauges(cpu_share=0.7, round_delay=0.1)),
        Numbers(counters=counters, ipc_bytes_out=10),
    ]
    found = values(*parts)
    assert found["pyrtmp_connections_total"] == 15 and found["pyrtmp_plays_total protocol=rtmp"] == 6
    assert found["pyrtmp_workers"] == 2 and found["pyrtmp_worker_restarts_total"] == 3
    assert found["pyrtmp_worker_busiest_share"] == 0.7 and found["pyrtmp_round_delay_seconds"] == 0.1
    assert found["pyrtmp_ipc_bytes_total"] == 17
    assert "worker=" not in page(*parts)


def test_restarts_while_one_worker_replaces_another() -> None:
    parts = [Numbers(worker=0, restarts=2), Numbers(worker=0, restarts=1), Numbers(worker=1, restarts=1), Numbers()]
    found = values(*parts)
    assert (found["pyrtmp_workers"], found["pyrtmp_worker_restarts_total"]) == (3, 3)


@pytest.fixture
def child() -> Iterator[int]:
    """The id of another process."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process.pid
    process.communicate()


def test_a_process_metric_is_about_the_node(child: int) -> None:
    own = values(Numbers(pid=os.getpid(), cpu_seconds=1e6))
    assert own["process_cpu_seconds_total"] < 1e6  # this process is not counted again
    both = values(
        Numbers(worker=0, pid=child, cpu_seconds=1000), Numbers(worker=1, pid=2**22 + 1), Numbers(cpu_seconds=500)
    )
    assert both["process_cpu_seconds_total"] == pytest.approx(own["process_cpu_seconds_total"] + 1500, abs=1)
    assert both["process_resident_memory_bytes"] > own["process_resident_memory_bytes"] + 2_000_000
    assert both["process_virtual_memory_bytes"] > own["process_virtual_memory_bytes"]
    assert both["process_start_time_seconds"] == own["process_start_time_seconds"]
    assert both["process_max_fds"] == own["process_max_fds"]
    assert both["process_open_fds"] == own["process_open_fds"] > 3  # the child has fewer
    assert {name for name in both if name.startswith("process_")} == {
        "process_cpu_seconds_total", "process_resident_memory_bytes", "process_virtual_memory_bytes",
        "process_start_time_seconds", "process_max_fds", "process_open_fds",
    }  # fmt: skip


def test_reasons_are_bounded_and_escaped() -> None:
    counters = Counters()
    counters.refused['say "no"\n\\'] = 5
    for number in range(1000):
        counters.refused[f"made up {number}"] += 1
    reasons = {
        name: value for name, value in values(Numbers(counters=counters)).items() if name.startswith("pyrtmp_refused")
    }
    assert len(reasons) == MAX_REASONS + 1
    assert sum(reasons.values()) == 1005
    assert reasons['pyrtmp_refused_total reason=say "no"\n\\'] == 5


def test_build() -> None:
    [info] = [name for name in values() if name.startswith("pyrtmp_build_info")]
    assert "version=1.2.3" in info and "node=n1" in info
