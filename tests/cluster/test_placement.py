from __future__ import annotations

from collections import Counter

import pytest

from cluster.placement import NobodyError, Placement, Recent, urls
from cluster.registry import NodeRecord
from pyrtmp.names import StreamKey

CAM = StreamKey("live", "cam")


def node(id: str, role: str = "origin", *, group: str = "", stress: float = 0.0, draining: bool = False) -> NodeRecord:
    return NodeRecord(
        id=id, role=role, group=group, rtmp=f"{id}:1935", http=f"{id}:8080", stress=stress, draining=draining,  # type: ignore[arg-type]
        boot="b",
    )


def publish(placement: Placement, nodes: list[NodeRecord], number: int, seconds: float = 0.0) -> Counter[str]:
    """Where so many streams go."""
    found = Counter[str]()
    for each in range(number):
        now = 1.0 + each * seconds
        ranked = placement.origins(StreamKey("live", f"cam{each}"), nodes, "", now)
        found[placement.choose(ranked, "publish", now).id] += 1
    return found


@pytest.mark.parametrize("seconds", [0.0, 0.1, 10.0])
def test_streams_spread_over_equal_origins(seconds: float) -> None:
    nodes = [node(f"o{number}") for number in range(4)]
    assert set(publish(Placement(""), nodes, 60, seconds).values()) == {15}


def test_a_little_to_do_says_nothing() -> None:
    nodes = [node(f"o{number}", stress=number * 0.03) for number in range(4)]
    assert set(publish(Placement(""), nodes, 60).values()) == {15}


def test_a_full_node_gets_nobody() -> None:
    nodes = [node("o0", stress=1.0), node("o1", draining=True), node("o2", stress=0.95), node("o3", stress=0.5)]
    found = publish(Placement(""), nodes, 40)
    assert found == {"o3": 40}
    with pytest.raises(NobodyError, match="draining or busy"):
        publish(Placement(""), nodes, 60)
    with pytest.raises(NobodyError, match="there is no origin"):
        publish(Placement(""), [node("e", "edge")], 1)


def test_publishers_go_to_the_owner_then_to_the_own_group() -> None:
    placement = Placement("a")
    nodes = [node("b1", group="b"), node("a1", group="a", stress=0.6), node("a2", group="a", stress=0.3)]
    assert [each.id for each in placement.origins(CAM, nodes, "", 0)] == ["a2", "a1", "b1"]
    assert [each.id for each in placement.origins(CAM, nodes, "b1", 0)] == ["b1", "a2", "a1"]


def test_players_go_to_edges_then_to_who_has_it() -> None:
    placement = Placement("a")
    nodes = [
        node("o1", group="a"), node("o2", group="a"), node("e1", "edge", group="b"), node("e2", "edge", group="a"),
        node("e3", "edge", group="a", draining=True),
    ]  # fmt: skip
    assert [each.id for each in placement.players(CAM, nodes, {"o2"}, 0)] == ["e2", "e1", "o2", "e3"]
    assert [each.id for each in placement.players(CAM, nodes[:2], {"o2"}, 0)] == ["o2"]
    with pytest.raises(NobodyError, match="no edge, and no node that has the stream"):
        placement.choose(placement.players(CAM, nodes[:2], set(), 0), "play", 0)


def test_what_was_sent_is_forgotten_when_the_node_tells_of_it_itself() -> None:
    recent = Recent()
    for now in (0.0, 1.0, 2.0):
        recent.add("o", now, 0.01)
    assert recent.of("o", 2.0) == pytest.approx(0.03)
    assert recent.of("o", 6.5) == pytest.approx(0.01)
    assert recent.of("o", 60.0) == recent.of("other", 0.0) == 0
    assert (recent.last("o"), recent.last("other")) == (2.0, 0.0)


def test_urls() -> None:
    assert urls(node("o"), CAM) == {
        "node": "o", "rtmp": "rtmp://o:1935/live/cam", "flv": "http://o:8080/live/cam.flv",
        "hls": "http://o:8080/live/cam.m3u8",
    }  # fmt: skip
    assert urls(node("o"), CAM, "/video")["hls"] == "http://o:8080/video/live/cam.m3u8"
    silent = NodeRecord(id="o", role="origin", rtmp="o:1935")
    assert urls(silent, CAM)["flv"] is None
