"""``pyrtmp explain``: the sentences, as whoever is called at night reads them."""

from __future__ import annotations

from typing import Any

from cluster.explained import explain_text

NOBODY: dict[str, Any] = {
    "stream": "live/cam", "facts": None, "publisher": None, "nodes": [], "pulls": [], "forwards": [],
    "recordings": [], "refusals": [],
    "registry": None,
}  # fmt: skip
LIVE: dict[str, Any] = {
    "state": "live", "uptime": 3700.0, "recv_kbps": 2500.4, "kbps": {"send_30s": 12000}, "waiting": 0,
    "video": {"codec": "H264", "width": 1280, "height": 720}, "audio": {"codec": "AAC"},
    "viewers": {"total": 5, "rtmp": 3, "flv": 0, "hls": 2}, "health": "good", "doctor": [],
}  # fmt: skip
CLIENT: dict[str, Any] = {
    "id": "0a1b", "ip": "10.0.0.7", "agent": "OBS/30", "alive": 65, "role": "publish", "node": None, "session": None,
}  # fmt: skip
PULL: dict[str, Any] = {
    "id": "pull-77", "upstream": "10.0.0.1:1935", "node": "o1", "delay": 0.0123, "error": "", "seconds": 65.0,
    "changes": 0,
}  # fmt: skip
REGISTRY: dict[str, Any] = {"url": "redis://r:6379/0", "up": True, "owner": None, "copies": []}


def lines(server: str = "n1", **told: Any) -> list[str]:
    return explain_text({"server": server, "explain": NOBODY | told}).splitlines()


def test_nobody_has_heard_of_it() -> None:
    assert lines() == [
        "stream      live/cam, asked at n1",
        "state       nobody publishes it here, and nobody waits for it",
        "refused     nobody that is remembered",
    ]
    assert lines(registry=REGISTRY)[2] == "registry    knows no node that has it"
    away = lines(registry=REGISTRY | {"up": False})
    assert away[2] == "registry    knows no node that has it; it does not answer, so this is the last that is known"


def test_viewers_wait_for_it() -> None:
    awaited = LIVE | {"state": "awaited", "waiting": 1, "viewers": {"total": 0}, "health": "unknown"}
    looking = PULL | {"upstream": None, "node": None, "delay": None, "error": "10.0.0.1:1935: connection refused"}
    assert lines(facts=awaited, pulls=[looking])[1:6] == [
        "state       nobody publishes it here by now; 1 viewer is waiting",
        "from        looked for at other nodes, for 1 min; none has it",
        "            last trouble: 10.0.0.1:1935: connection refused",
        "            id pull-77",
        "viewers     none; 12,000 kbit/s out",
    ]
    gone = LIVE | {"state": "gone", "health": "unknown"}
    assert lines(facts=gone)[1] == "state       its publisher left; 5 viewers are waiting for it to come back"


def test_at_the_origin() -> None:
    node = CLIENT | {"id": "9f", "ip": "10.0.1.1", "role": "play", "node": "e1", "session": "pull-77"}
    forward = {"target": "10.0.0.2:1935", "state": "waiting", "seconds": 4.0, "error": "connection refused"}
    owner = {"node": "n1", "rtmp": "10.0.0.1:1935", "group": "east", "epoch": 12}
    copy = {"node": "s1", "rtmp": "10.0.0.2:1935", "group": ""}
    finding = {"severity": "warning", "finding": "there is no sound", "effect": "The stream is silent.", "remedy": ""}
    refusal = {
        "what": "publish", "address": "10.9.9.9", "code": "NetStream.Publish.BadName", "why": "live/cam is taken.",
        "seconds": 90.0, "times": 3,
    }  # fmt: skip
    assert lines(
        facts=LIVE | {"health": "warning", "doctor": [finding], "audio": None}, publisher=CLIENT, nodes=[node, node],
        forwards=[forward], registry=REGISTRY | {"owner": owner, "copies": [copy]}, refusals=[refusal],
    ) == [
        "stream      live/cam, asked at n1",
        "state       live for 1 h 01 min: H264 1280x720, no sound, 2,500 kbit/s",
        "from        published from 10.0.0.7 with OBS/30, for 1 min",
        "            id 0a1b",
        "viewers     3 rtmp, 2 hls; 12,000 kbit/s out",
        "nodes       e1 fetches it from here, at 10.0.1.1, for 1 min; id 9f (pull-77 there)",
        "            e1 fetches it from here, at 10.0.1.1, for 1 min; id 9f (pull-77 there)",
        "forwards    to 10.0.0.2:1935: waiting for 4 s, since: connection refused",
        "health      warning",
        "            warning: there is no sound. The stream is silent.",
        "registry    published to node n1 (10.0.0.1:1935, group east), epoch 12",
        "            a copy at node s1 (10.0.0.2:1935)",
        "refused     1 min ago, to publish, 10.9.9.9, 3 times so far: NetStream.Publish.BadName: live/cam is taken.",
    ]  # fmt: skip


def test_what_is_recorded() -> None:
    recording = {
        "state": "recording", "seconds": 125.0, "file": "/r/live/cam/x.flv.part", "media_seconds": 65.0,
        "bytes": 5_500_000, "files": 2, "dropped": 1200, "error": "",
    }  # fmt: skip
    [said] = [line for line in lines(recordings=[recording]) if line.startswith("recording")]
    assert said == (
        "recording   recording for 2 min: /r/live/cam/x.flv.part has 1 min, 5 MiB; 2 files are complete; "
        "1,200 messages left out"
    )
    waiting = recording | {"state": "waiting", "file": "", "files": 1, "dropped": 0, "error": "No space left on device"}
    said = lines(recordings=[waiting])
    assert said[2:4] == [
        "recording   waiting for 2 min; 1 file is complete", "            last trouble: No space left on device",
    ]  # fmt: skip


def test_at_an_edge() -> None:
    assert lines(facts=LIVE, pulls=[PULL | {"changes": 2}])[2:6] == [
        "from        fetched from node o1 at 10.0.0.1:1935, for 1 min, from the third upstream",
        "delay       12 ms later than where it is published",
        "            id pull-77",
        "viewers     3 rtmp, 2 hls; 12,000 kbit/s out",
    ]


def test_what_strangers_said_does_nothing_to_the_terminal() -> None:
    hostile = "\x1b[2J\r\n\u202e"
    refusal = {
        "what": "play", "address": hostile, "code": hostile, "why": hostile, "seconds": 1.0, "times": 1,
    }  # fmt: skip
    text = "\n".join(lines(
        server=hostile, facts=LIVE, publisher=CLIENT | {"agent": hostile, "ip": hostile}, refusals=[refusal],
        pulls=[PULL | {"upstream": hostile, "error": hostile}],
        forwards=[{"target": hostile, "state": "live", "seconds": 1.0, "error": hostile}],
        recordings=[{"state": "waiting", "seconds": 1.0, "file": hostile, "media_seconds": 1.0, "bytes": 1,
                     "files": 0, "dropped": 0, "error": hostile}],
    ))  # fmt: skip
    assert all(line.isprintable() for line in text.splitlines()) and "\\x1b[2J" in text
