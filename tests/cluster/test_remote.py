from __future__ import annotations

from typing import Any

from cluster.remote import duration, kick_path, reload_text, status_text, streams_text

SUMMARY: dict[str, Any] = {
    "server": "n1",
    "data": {
        "ready": True,
        "self": {"version": "1.2.3", "pid": 42, "uptime": 3700, "cpu_seconds": 12.3, "mem_kbyte": 20480},
        "streams": {"total": 3, "live": 2, "waiting_viewers": 1},
        "clients": {"total": 9, "publishers": 2, "viewers": {"rtmp": 4, "flv": 2, "hls": 0}},
        "kbps": {"recv_30s": 4000, "send_30s": 12000},
        "workers": [],
    },
}

WORKER: dict[str, Any] = {
    "worker": 0, "pid": 43, "cpu_seconds": 5, "cpu_share": 0.256, "mem_kbyte": 10240, "connections": 5, "publishers": 2,
    "viewers": 3, "streams_held": 2, "kbps_out": 12345, "ipc_bytes": 0, "restarts": 1,
}  # fmt: skip


def test_status_of_one_process() -> None:
    assert status_text(SUMMARY).splitlines() == [
        "node        n1, pyrtmp 1.2.3, ready",
        "up          1 h 01 min, process 42, 20 MiB, 12 s of CPU",
        "streams     2 live, 1 viewers waiting for others",
        "publishers  2, 4,000 kbit/s in",
        "viewers     4 rtmp, 2 flv, 0 hls; 12,000 kbit/s out",
    ]


def test_status_of_workers() -> None:
    workers = [WORKER, WORKER | {"worker": 1, "pid": 1234567, "kbps_out": 0}]
    lines = status_text(SUMMARY | {"data": SUMMARY["data"] | {"workers": workers}}).splitlines()
    assert lines[5:] == [
        "",
        "WORKER  PROCESS  CPU  MEMORY  STREAMS  PUBLISHERS  VIEWERS  KBIT/S OUT  RESTARTS",
        "0       43       26%  10 MiB  2        2           3        12,345      1",
        "1       1234567  26%  10 MiB  2        2           3        0           1",
    ]


def test_status_of_a_node_among_others() -> None:
    nodes = [
        {"id": "e1", "role": "edge", "group": "a", "rtmp": "10.0.0.1:1935", "http": "10.0.0.1:8080", "stress": 0.25,
         "draining": False},
        {"id": "o1", "role": "origin", "group": "", "rtmp": "10.0.0.2:1935", "http": "", "stress": 1.5,
         "draining": False},
        {"id": "o2", "role": "origin", "group": "", "rtmp": "10.0.0.3:1935", "http": "", "stress": 0, "draining": True},
    ]  # fmt: skip
    cluster = {
        "stress": 0.25, "registry": {"url": "redis://r:6379/0", "up": False}, "nodes": nodes, "pulls": 3,
        "forwards": {"waiting": 1, "live": 2}, "forward_failures": 4,
        "recordings": {"waiting": 1, "recording": 2}, "recorded_files": 5, "recording_failures": 6,
    }  # fmt: skip
    lines = status_text(SUMMARY | {"data": SUMMARY["data"] | {"cluster": cluster}}).splitlines()
    assert lines[5:] == [
        "load        25% of what it should have",
        "pulls       3 from other nodes",
        "forwards    2 live, 1 waiting; 4 failures",
        "recordings  2 recording, 1 waiting; 5 files complete, 6 failures",
        "registry    redis://r:6379/0, does not answer",
        "",
        "NODE  ROLE    GROUP  RTMP           HTTP           LOAD  STATE",
        "e1    edge    a      10.0.0.1:1935  10.0.0.1:8080  25%   ready",
        "o1    origin  -      10.0.0.2:1935  -              150%  full",
        "o2    origin  -      10.0.0.3:1935  -              0%    draining",
    ]
    none = {"forwards": {}, "forward_failures": 0, "recordings": {}, "recorded_files": 0, "recording_failures": 0}
    alone = {**cluster, "registry": None, "pulls": 0, **none}
    assert status_text(SUMMARY | {"data": SUMMARY["data"] | {"cluster": alone}}) == status_text(SUMMARY)


def test_streams() -> None:
    assert streams_text({"streams": []}) == "No streams."
    stream = {
        "id": "live/cam", "state": "live", "uptime": 61.0, "fps": 25.0, "recv_kbps": 2500.4, "gop_ms": 2000,
        "video": {"codec": "H264", "width": 1280, "height": 720}, "audio": {"codec": "AAC"},
        "publish": {"active": True}, "viewers": {"total": 3}, "waiting": 0, "health": "warning",
    }  # fmt: skip
    gone = stream | {"id": "live/gone", "state": "gone", "publish": {"active": False}, "health": "unknown"}
    titles, live, over = streams_text({"streams": [stream, gone]}).splitlines()
    assert titles.endswith("VIEWERS  HEALTH")
    assert live.split()[-4:] == ["2.0", "s", "3", "warning"] and over.split()[-1] == "-"


def test_what_a_reload_did() -> None:
    assert reload_text({"changed": [], "needs_restart": []}) == "The settings are the same as before."
    assert reload_text({"changed": ["log.level", "hls.window"], "needs_restart": []}) == (
        "Changed: log.level, hls.window."
    )
    assert reload_text({"changed": ["log.level"], "needs_restart": ["node.workers"]}) == (
        "Changed: log.level.\nNot changed until the node is stopped and started again: node.workers."
    )


def test_what_to_kick() -> None:
    assert kick_path("live/cam") == "/api/v1/streams/live/cam"
    assert kick_path("0a1b?") == "/api/v1/clients/0a1b%3F"


def test_durations() -> None:
    seconds = (7, 300, 11_100, 273_600)
    assert [duration(each) for each in seconds] == ["7 s", "5 min", "3 h 05 min", "3 d 4 h"]
