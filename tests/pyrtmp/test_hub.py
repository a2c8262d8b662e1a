"""``pyrtmp.hub``: one publisher per name, and streams that come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyrtmp.errors import RefusedError
from pyrtmp.forms import RtmpForm
from pyrtmp.hub import Hub
from pyrtmp.lane import Lane
from pyrtmp.message import VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import State, Stream
from pyrtmp.wirelog import PlainStorage

ROOM = StreamKey("live", "room.1")
OTHER = StreamKey("live", "room.2")
KEY = b"\x17\x01\x00\x00\x00key"


class FakeJournal:
    def __init__(self) -> None:
        self.errors: list[str] = []

    def debug(self, event: str, **facts: Any) -> None:
        raise AssertionError(event)

    info = warning = debug

    def error(self, event: str, **facts: Any) -> None:
        self.errors.append(facts["callback"])


class FakePublisher:
    def __init__(self, id: str = "a") -> None:
        self.id = id
        self.displacements: list[str] = []

    def displaced(self, stream: Stream, code: str, description: str) -> None:
        self.displacements.append(code)


class FakeViewer:
    fd = -1
    segment = None
    offset = 0
    ready = False

    def __init__(self, lane: Lane) -> None:
        self.calls: list[object] = []
        self.lane = lane
        lane.viewers[self] = None

    def serve(self, now: float) -> bool:
        return False

    def fell_short(self, limit: int, now: float) -> None:
        raise AssertionError("nobody sends")

    def failed(self, error: OSError) -> None:
        raise AssertionError("nobody sends")

    def end(self) -> None:
        self.calls.append("end")

    def signal(self, live: bool) -> None:
        self.calls.append(live)

    def go(self) -> None:
        del self.lane.viewers[self]


class FakeListener:
    def __init__(self) -> None:
        self.events: list[tuple[str, StreamKey, State]] = []

    def stream_started(self, stream: Stream) -> None:
        self.events.append(("started", stream.key, stream.state))

    def stream_ended(self, stream: Stream) -> None:
        self.events.append(("ended", stream.key, stream.state))


class CountedStorage(PlainStorage):
    """Knows how many are open."""

    open = 0

    def __init__(self) -> None:
        super().__init__()
        CountedStorage.open += 1

    def close(self) -> None:
        super().close()
        CountedStorage.open -= 1


class Subject:
    def __init__(self, **settings: Any) -> None:
        CountedStorage.open = 0
        self.journal = FakeJournal()
        self.listener = FakeListener()
        self.hub = Hub(
            StreamSettings(**settings), lambda stream: setattr(stream, "queued", True), CountedStorage, self.journal
        )
        self.hub.listeners.append(self.listener)

    @property
    def events(self) -> list[str]:
        return [event for event, _, _ in self.listener.events]


def watch(stream: Stream) -> FakeViewer:
    return FakeViewer(stream.lane(RtmpForm()))


@pytest.fixture
def subject() -> Subject:
    return Subject()


def test_names_are_streams_of_their_own(subject: Subject) -> None:
    hub = subject.hub
    one, two = hub.publish(ROOM, FakePublisher(), 0.0), hub.publish(OTHER, FakePublisher(), 0.0)
    assert one is not two
    assert hub.find("live", "room.1") is one
    assert hub.find("live/room", "1") is None
    assert (list(hub), hub.live(), len(hub)) == ([one, two], [one, two], 2)
    assert subject.listener.events == [("started", ROOM, State.LIVE), ("started", OTHER, State.LIVE)]


def test_a_second_publisher_is_refused(subject: Subject) -> None:
    first = FakePublisher()
    stream = subject.hub.publish(ROOM, first, 0.0)
    with pytest.raises(RefusedError) as refusal:
        subject.hub.publish(ROOM, FakePublisher("b"), 1.0)
    assert refusal.value.code == "NetStream.Publish.BadName"
    assert stream.publisher is first
    assert subject.events == ["started"]


def test_a_displaced_publisher_makes_room_and_its_goodbye_changes_nothing(subject: Subject) -> None:
    hub, first, second = subject.hub, FakePublisher("a"), FakePublisher("b")
    stream = hub.publish(ROOM, first, 0.0)
    viewer = watch(stream)
    hub.displace(stream, 5.0, "NetStream.Publish.BadName", "silent")
    hub.displace(stream, 5.0, "NetStream.Publish.BadName", "silent")
    assert first.displacements == ["NetStream.Publish.BadName"]
    assert hub.publish(ROOM, second, 5.0) is stream
    hub.unpublish(stream, first, 6.0)
    assert (stream.state, stream.publisher) == (State.LIVE, second)
    assert viewer.calls == [False, True]
    assert subject.events == ["started", "started"]


def test_a_stream_nobody_watches_ends_with_its_publisher(subject: Subject) -> None:
    publisher = FakePublisher()
    stream = subject.hub.publish(ROOM, publisher, 0.0)
    subject.hub.unpublish(stream, publisher, 1.0)
    assert stream.state is State.ENDED
    assert subject.hub.find(*ROOM) is None
    assert subject.listener.events[1:] == [("ended", ROOM, State.ENDED)]
    assert subject.hub.publish(ROOM, publisher, 2.0) is not stream


def test_viewers_keep_a_stream_for_the_grace_time() -> None:
    subject = Subject(grace_seconds=15)
    hub, publisher = subject.hub, FakePublisher()
    stream = hub.publish(ROOM, publisher, 0.0)
    viewer = watch(stream)
    hub.unpublish(stream, publisher, 10.0)
    hub.tick(24.9)
    assert (stream.state, viewer.calls, hub.live()) == (State.GONE, [False], [])
    assert hub.find(*ROOM) is stream
    hub.tick(25.0)
    assert (stream.state, viewer.calls) == (State.ENDED, [False, "end"])
    assert subject.events == ["started", "ended"]


def test_a_stream_in_its_grace_time_ends_when_the_last_viewer_goes(subject: Subject) -> None:
    hub, publisher = subject.hub, FakePublisher()
    stream = hub.publish(ROOM, publisher, 0.0)
    viewer = watch(stream)
    hub.unpublish(stream, publisher, 10.0)
    viewer.go()
    hub.tick(11.0)
    assert stream.state is State.ENDED
    assert CountedStorage.open == 0


def test_viewers_may_come_before_the_publisher(subject: Subject) -> None:
    hub = subject.hub
    stream = hub.open(ROOM, 0.0)
    called: list[bool] = []
    stream.wait(lambda: called.append(stream.live))
    hub.tick(1.0)
    assert hub.find(*ROOM) is hub.open(ROOM, 1.0) is stream
    assert stream.state is State.AWAITED
    assert hub.publish(ROOM, FakePublisher(), 2.0) is stream
    assert called == [True]


def test_a_stream_nobody_waits_for_any_more_is_forgotten_without_a_word(subject: Subject) -> None:
    hub = subject.hub
    stream = hub.open(ROOM, 0.0)
    waiter = lambda: None  # noqa: E731
    stream.wait(waiter)
    hub.tick(1.0)
    assert len(hub) == 1
    stream.stop_waiting(waiter)
    hub.tick(2.0)
    assert len(hub) == 0
    assert subject.events == []


def _waiter() -> Callable[[], None]:
    return lambda: None


@pytest.mark.parametrize("names", [1, 3])
def test_those_who_wait_are_bounded_on_one_name_and_on_many(names: int) -> None:
    subject = Subject(max_waiting=6)
    hub = subject.hub
    for n in range(6):
        hub.open(StreamKey("live", f"cam{n % names}"), 0.0).wait(_waiter())
    for key in (StreamKey("live", "cam0"), StreamKey("live", "new")):
        with pytest.raises(RefusedError) as refusal:
            hub.open(key, 0.0)
        assert refusal.value.code == "NetStream.Play.StreamNotFound"
    live = hub.publish(ROOM, FakePublisher(), 0.0)
    assert hub.open(ROOM, 0.0) is live, "nobody has to wait for a live one"


def test_those_who_wait_for_a_publisher_to_return_are_bounded() -> None:
    subject = Subject(max_waiting=2)
    hub, publisher = subject.hub, FakePublisher()
    stream = hub.publish(ROOM, publisher, 0.0)
    watch(stream)
    hub.unpublish(stream, publisher, 1.0)
    for _ in range(2):
        hub.open(ROOM, 1.0).wait(_waiter())
    with pytest.raises(RefusedError):
        hub.open(ROOM, 1.0)


def test_opening_without_waiting_is_bounded_and_forgotten() -> None:
    subject = Subject(max_waiting=3)
    for n in range(3):
        subject.hub.open(StreamKey("live", f"cam{n}"), 0.0)
    with pytest.raises(RefusedError):
        subject.hub.open(ROOM, 0.0)
    subject.hub.tick(1.0)
    assert subject.hub.open(ROOM, 1.0).state is State.AWAITED


def test_a_name_is_free_while_viewers_of_the_ended_stream_still_read(subject: Subject) -> None:
    hub, publisher = subject.hub, FakePublisher()
    old = hub.publish(ROOM, publisher, 0.0)
    viewer = watch(old)
    old.push(Message(VIDEO, 0, 1, KEY))
    hub.end(old, 1.0)
    assert publisher.displacements == ["NetStream.Unpublish.Success"]
    assert hub.find(*ROOM) is None
    new = hub.publish(ROOM, FakePublisher("b"), 2.0)
    watch(new)
    assert new is not old
    hub.tick(3.0)
    assert CountedStorage.open == 2, "the old log is still read"
    assert old.lanes["rtmp"].log.bytes
    viewer.go()
    hub.tick(4.0)
    assert CountedStorage.open == 1
    hub.end(old, 5.0)
    assert (new.state, hub.find(*ROOM)) == (State.LIVE, new), "ending what is over does not end its successor"
    assert subject.events == ["started", "ended", "started"]


def test_end_without_a_publisher(subject: Subject) -> None:
    hub = subject.hub
    stream = hub.open(ROOM, 0.0)
    called: list[State] = []
    stream.wait(lambda: called.append(stream.state))
    hub.end(stream, 1.0)
    assert called == [State.ENDED]
    assert len(hub) == 0
    assert subject.events == [], "it had not started"


def test_close_ends_everything_and_tick_gives_back_what_was_still_read(subject: Subject) -> None:
    hub, publisher = subject.hub, FakePublisher()
    live, other = hub.publish(ROOM, publisher, 0.0), hub.publish(OTHER, FakePublisher(), 0.0)
    hub.open(StreamKey("live", "never"), 0.0)
    viewer = watch(live)
    other.lane(RtmpForm())
    hub.close(1.0)
    assert len(hub) == 0
    assert viewer.calls[-1] == "end"
    assert publisher.displacements
    assert CountedStorage.open == 1
    viewer.go()
    hub.tick(2.0)
    assert CountedStorage.open == 0


def test_idle_lanes_of_live_streams_are_given_back(subject: Subject) -> None:
    stream = subject.hub.publish(ROOM, FakePublisher(), 0.0)
    viewer = watch(stream)
    subject.hub.tick(1.0)
    assert stream.lanes
    viewer.go()
    subject.hub.tick(2.0)
    assert not stream.lanes
    assert CountedStorage.open == 0


def test_broken_listeners_and_publishers_hurt_nobody(subject: Subject) -> None:
    class Broken:
        id = "broken"

        def stream_started(self, stream: Stream) -> None:
            raise ZeroDivisionError

        def stream_ended(self, stream: Stream) -> None:
            raise ZeroDivisionError

        def displaced(self, stream: Stream, code: str, description: str) -> None:
            raise ZeroDivisionError

    subject.hub.listeners.insert(0, Broken())
    stream = subject.hub.publish(ROOM, Broken(), 0.0)
    subject.hub.end(stream, 1.0)
    assert stream.state is State.ENDED
    assert subject.events == ["started", "ended"]
    names = [name.rpartition(".")[2] for name in subject.journal.errors]
    assert names == ["stream_started", "displaced", "stream_ended"]


def test_a_publisher_that_ends_its_stream_when_displaced_ends_it_once(subject: Subject) -> None:
    hub = subject.hub

    class Eager(FakePublisher):
        def displaced(self, stream: Stream, code: str, description: str) -> None:
            super().displaced(stream, code, description)
            hub.unpublish(stream, self, 1.0)
            hub.end(stream, 1.0)

    stream = hub.publish(ROOM, publisher := Eager(), 0.0)
    hub.end(stream, 1.0)
    assert len(publisher.displacements) == 1
    assert subject.events == ["started", "ended"]
    assert not subject.journal.errors
