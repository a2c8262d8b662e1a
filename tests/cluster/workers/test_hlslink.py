"""``cluster.workers.hlslink``: what passes between two workers, word by word (see ``tests.hls.test_sharing`` too)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from struct import Struct
from typing import Any

import pytest

from cluster.workers.channel import attach, close_all
from cluster.workers.hlslink import HlsFeeds, HlsKind, HlsLink
from hls.live import HlsService
from hls.settings import HlsSettings
from hls.sharing import SharedSegment
from hls.window import Numbers
from pyrtmp.hub import Hub
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from tests.descriptors import descriptors

CAM = StreamKey("live", "cam")
ID = Struct("<BI")


class FakeMirror:
    """Remembers what it was told."""

    numbers = Numbers(7, 3)

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_window(self, numbers: Numbers) -> None:
        self.told.append(numbers)

    def on_segment(self, segment: SharedSegment) -> None:
        self.told.append((segment.sequence, len(segment.fds)))
        segment.close()

    def on_end(self) -> None:
        self.told.append("end")

    def on_restart(self) -> None:
        self.told.append("restart")

    def on_lost(self) -> None:
        self.told.append("lost")


class Bench:
    """One link whose other end is the test's."""

    def __init__(self) -> None:
        self.said: list[tuple[HlsKind, int, Any]] = []
        hub = Hub(StreamSettings(), lambda stream: None)
        self.executor = ThreadPoolExecutor(1)
        self.link = HlsLink(self._send, HlsService(hub, HlsSettings(), self.executor))

    def _send(self, data: bytes, fds: list[int] | None = None) -> None:
        close_all(fds or [])
        kind, sid = ID.unpack_from(data)
        self.said.append((HlsKind(kind), sid, json.loads(data[5:]) if data[5:] else None))

    def hear(self, kind: HlsKind, sid: int, values: Any = None, *fds: int) -> list[int]:
        """What the other worker says; descriptors left for the link's owner to close."""
        rest = list(fds)
        body = b"" if values is None else json.dumps(values).encode()
        self.link.handle(memoryview(ID.pack(kind, sid) + body), rest)
        return rest


@pytest.fixture
async def bench() -> Any:
    before = descriptors()
    bench = Bench()
    yield bench
    bench.link.close()
    bench.executor.shutdown()
    assert descriptors() == before


@pytest.fixture
def segment() -> Iterator[dict[str, Any]]:
    """A segment with its initialization section, as JSON."""
    yield SharedSegment(
        sequence=9, discontinuities=1, discontinuity=False, duration=2.0, time=datetime(2026, 1, 1, tzinfo=UTC),
        independent=True, target_duration=2, first=7, size=1, init=7, init_size=1,
    ).to_dict()


async def test_what_a_mirror_is_told(bench: Bench, segment: dict[str, Any]) -> None:
    mirror = FakeMirror()
    bench.link.open(CAM, mirror)
    assert bench.said == [(HlsKind.OPEN, 1, ["live", "cam", [7, 3]])]
    bench.hear(HlsKind.WINDOW, 1, [8, 3])
    assert bench.hear(HlsKind.SEGMENT, 1, segment, attach(b"x"), attach(b"y")) == []
    bench.hear(HlsKind.END, 1)
    bench.hear(HlsKind.RESTART, 1)
    bench.hear(HlsKind.LOST, 1)
    bench.hear(HlsKind.END, 1)  # of nobody
    assert mirror.told == [Numbers(8, 3), (9, 2), "end", "restart", "lost"]
    bench.link.close_mirror(mirror)
    assert len(bench.said) == 1


@pytest.mark.parametrize("left", [0, 1])
async def test_a_segment_whose_descriptors_are_lost_on_the_way(
    bench: Bench, segment: dict[str, Any], left: int
) -> None:
    """The stream is opened again some time; the link with all its streams stays."""
    mirror, other = FakeMirror(), FakeMirror()
    bench.link.open(CAM, mirror)
    bench.link.open(StreamKey("live", "other"), other)
    rest = bench.hear(HlsKind.SEGMENT, 1, segment, *(attach(b"x") for _ in range(left)))
    assert mirror.told == ["lost"] and other.told == []
    assert bench.said[2:] == [(HlsKind.CLOSE, 1, None)]
    for fd in rest:
        os.close(fd)
    bench.hear(HlsKind.END, 1)
    bench.hear(HlsKind.END, 2)
    assert mirror.told == ["lost"] and other.told == ["end"]


async def test_a_segment_that_nobody_waits_for_is_left_to_be_closed(bench: Bench, segment: dict[str, Any]) -> None:
    rest = bench.hear(HlsKind.SEGMENT, 5, segment, attach(b"x"), attach(b"y"))
    assert len(rest) == 2
    close_all(rest)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (HlsKind.OPEN, None),
        (HlsKind.OPEN, ["live", "cam"]),
        (HlsKind.OPEN, ["live", "cam", [0, 0], 1]),
        (HlsKind.OPEN, [1, "cam", [0, 0]]),
        (HlsKind.OPEN, ["..", "cam", [0, 0]]),
        (HlsKind.OPEN, ["live", "x" * 8200, [0, 0]]),
        (HlsKind.WINDOW, None),
        (HlsKind.WINDOW, [1.5, 0]),
        (HlsKind.WINDOW, [True, 0]),
        (HlsKind.SEGMENT, None),
        (HlsKind.SEGMENT, {"sequence": 1}),
        (HlsKind.SEGMENT, [1]),
    ],
)
async def test_what_is_not_understood(bench: Bench, kind: HlsKind, values: Any) -> None:
    mirror = FakeMirror()
    bench.link.open(CAM, mirror)
    fd = attach(b"x")
    with pytest.raises(ValueError):
        bench.hear(kind, 1, values, fd)
    os.close(fd)  # whoever read it closes it
    assert mirror.told == []


async def test_a_stream_that_is_not_here(bench: Bench) -> None:
    bench.hear(HlsKind.OPEN, 4, ["live", "cam", [0, 0]])
    bench.hear(HlsKind.CLOSE, 4)
    assert bench.said == [(HlsKind.LOST, 4, None)]


async def test_how_far_numbers_have_got_is_told_when_it_changes(bench: Bench) -> None:
    bench.link.tell_numbers()
    assert bench.said == []
    bench.hear(HlsKind.NUMBERS, 0, [50, 5])
    for _ in range(2):
        bench.link.tell_numbers()
    assert bench.said == [(HlsKind.NUMBERS, 0, [50, 5])]
    with pytest.raises(ValueError):
        bench.hear(HlsKind.NUMBERS, 0, [50])


async def test_a_link_that_is_gone_loses_its_mirrors_once(bench: Bench) -> None:
    mirror = FakeMirror()
    bench.link.open(CAM, mirror)
    bench.link.close()
    bench.link.close()
    assert mirror.told == ["lost"]


async def test_feeds_are_equal_while_the_holder_is_the_same(bench: Bench) -> None:
    other = Bench()
    links = {CAM: bench.link}
    feeds = HlsFeeds(links.get)
    first = feeds.find("live", "cam")
    assert first is not None and first == feeds.find("live", "cam") and hash(first) == hash(feeds.find("live", "cam"))
    assert feeds.find("live", "other") is None and first != object()
    links[CAM] = other.link
    assert first != feeds.find("live", "cam")
    mirror = FakeMirror()
    first.open(mirror)
    first.close(mirror)
    first.close(mirror)
    assert [kind for kind, _, _ in bench.said] == [HlsKind.OPEN, HlsKind.CLOSE] and other.said == []
    other.executor.shutdown()
