"""``cluster.edge.upstreams``: who is asked first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from cluster.edge import upstreams
from cluster.edge.upstreams import FAILED_SECONDS, Upstream, Upstreams
from pyrtmp.names import StreamKey

ORIGINS = [Upstream(f"10.0.0.{number}", 1935) for number in range(4)]
CAM = StreamKey("live", "cam")


@pytest.mark.parametrize(
    "upstream, url",
    [
        (Upstream("a.example", 1935), "rtmp://a.example:1935/live/cam"),
        (Upstream("::1", 5), "rtmp://[::1]:5/live/cam"),
        (Upstream("a.example", 80, scheme="http"), "http://a.example:80/live/cam.flv"),
        (Upstream("::1", 5, scheme="https", prefix="/a/b"), "https://[::1]:5/a/b/live/cam.flv"),
    ],
)
def test_where_a_stream_is_played(upstream: Upstream, url: str) -> None:
    assert upstream.url(CAM) == url
    assert str(upstream) in url
    assert upstream.url(CAM, "token=a%2Fb#?&c=d") == f"{url}?token=a%2Fb%23?&c=d"


async def test_origins_share_the_streams_evenly_and_every_edge_asks_in_the_same_order() -> None:
    one, other = Upstreams(ORIGINS), Upstreams(ORIGINS[::-1])
    first: Counter[Upstream] = Counter()
    for number in range(400):
        key = StreamKey("live", f"cam{number}")
        found = await one.find(key)
        assert found == await other.find(key) and sorted(map(str, found)) == sorted(map(str, ORIGINS))
        first[found[0]] += 1
        # Without one of them the others stay where they are.
        fewer = await Upstreams([each for each in ORIGINS if each is not found[0]]).find(key)
        assert fewer == found[1:]
    assert min(first.values()) > 70


async def test_those_known_to_have_it_come_first_and_nobody_twice() -> None:
    known = [Upstream("10.0.0.9", 1935, "nine"), Upstream(ORIGINS[2].host, 1935, "two")]

    async def resolve(key: StreamKey) -> Sequence[Upstream]:
        return known

    found = await Upstreams(ORIGINS, resolve).find(CAM)
    assert found[:2] == known
    assert len(found) == 5 and len({(each.host, each.port) for each in found}) == 5


async def test_one_machine_may_be_asked_in_several_ways() -> None:
    ways = [Upstream("a", 80), Upstream("a", 80, scheme="http"), Upstream("a", 80, scheme="http", prefix="/x")]
    assert set(await Upstreams([*ways, *ways]).find(CAM)) == set(ways)


async def test_who_failed_is_asked_last_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(upstreams, "monotonic", lambda: now)
    subject = Upstreams(ORIGINS)
    order = await subject.find(CAM)
    subject.failed(order[0])
    assert await subject.find(CAM) == [*order[1:], order[0]]
    subject.failed(order[1])
    assert await subject.find(CAM) == [*order[2:], *order[:2]]
    subject.worked(order[0])
    assert await subject.find(CAM) == [order[0], *order[2:], order[1]]
    now += FAILED_SECONDS
    assert await subject.find(CAM) == order
