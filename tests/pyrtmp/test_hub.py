"""``pyrtmp.hub``: one publisher per name, and streams that come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyrtmp.errors import RefusedError
from pyrtmp.forms import RtmpForm
from pyrtmp.hub import RELAY_LINGER_SECONDS, Hub
from pyrtmp.lane import Lane
from pyrtmp.message import VIDEO, Message
from pyrtmp.names import StreamKey
from pyrtmp.settings import StreamSettings
from pyrtmp.stream import State, Stream
from pyrtmp.timeline import MIN_GAP_MS
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


# Streams that other processes hold


class FakeRelay(FakePublisher):
    tracks = (True, True)
    told = ""

    def __init__(self, id: str = "worker-2") -> None:
        super().__init__(id)
        self.calls: list[str] = []

    def open(self, lane: Lane) -> None:
        self.calls.append("open")

    def close(self, lane: Lane) -> None:
        self.calls.append("close")

    def end(self) -> None:
        self.calls.append("end")


class FakeDirectory:
    """Another process holds some streams."""

    def __init__(self, hub: Hub, *keys: StreamKey) -> None:
        self.hub = hub
        self.keys = set(keys)
        self.relays: list[FakeRelay] = []
        hub.directory = self

    def holds(self, key: StreamKey) -> bool:
        return key in self.keys

    def attach(self, stream: Stream) -> None:
        self.relays.append(FakeRelay())
        self.hub.relay(stream, self.relays[-1], 0.0)


def test_a_stream_held_elsewhere_is_live_and_relayed_when_somebody_plays_it(subject: Subject) -> None:
    hub = subject.hub
    directory = FakeDirectory(hub, ROOM)
    assert hub.is_live(ROOM) and not hub.is_live(OTHER)
    assert not hub.live() and not directory.relays
    stream = hub.open(ROOM, 0.0)
    assert stream.live and stream.relayed and hub.open(ROOM, 1.0) is stream
    assert len(directory.relays) == 1
    assert subject.events == ["started"]
    # One that nobody holds is waited for as ever.
    other = hub.open(OTHER, 0.0)
    assert not other.live and not hub.is_live(OTHER)
    hub.publish(OTHER, FakePublisher(), 0.0)
    assert hub.is_live(OTHER)


def test_viewers_who_wait_are_shown_what_comes_to_be_held_elsewhere(subject: Subject) -> None:
    hub = subject.hub
    stream = hub.open(ROOM, 0.0)
    released: list[bool] = []
    stream.wait(lambda: released.append(stream.relayed))
    directory = FakeDirectory(hub, ROOM)
    assert hub.open(ROOM, 0.0) is stream
    assert released == [True] and len(directory.relays) == 1


def test_those_who_play_what_is_held_elsewhere_do_not_count_as_waiting(subject: Subject) -> None:
    subject = Subject(max_waiting=1)
    subject.hub.open(OTHER, 0.0)
    FakeDirectory(subject.hub, ROOM)
    assert subject.hub.open(ROOM, 0.0).live
    with pytest.raises(RefusedError):
        subject.hub.open(StreamKey("live", "third"), 0.0)


def test_a_relay_gives_way_to_a_publisher_and_to_another_relay(subject: Subject) -> None:
    hub = subject.hub
    directory = FakeDirectory(hub, ROOM)
    stream = hub.open(ROOM, 0.0)
    viewer = watch(stream)
    directory.attach(stream)
    first, second = directory.relays
    assert stream.relay is second
    assert (first.calls, second.calls) == (["open", "end"], ["open"])
    publisher = FakePublisher()
    assert hub.publish(ROOM, publisher, 1.0) is stream
    assert second.calls == ["open", "end"]
    assert (stream.publisher, stream.relayed) == (publisher, False)
    assert viewer.calls == [False, True, False, True]
    # Whatever the relays still say changes nothing.
    for relay in directory.relays:
        hub.unpublish(stream, relay, 2.0)
    assert stream.publisher is publisher
    with pytest.raises(RefusedError):
        hub.publish(ROOM, FakePublisher(), 2.0)
    viewer.go()


def test_a_relay_that_ends_leaves_its_viewers_the_grace_time(subject: Subject) -> None:
    hub = subject.hub
    directory = FakeDirectory(hub, ROOM)
    stream = hub.open(ROOM, 0.0)
    viewer = watch(stream)
    hub.unpublish(stream, directory.relays[0], 10.0)
    assert stream.state is State.GONE and not stream.relayed
    directory.keys.clear()
    hub.tick(10.0 + hub.settings.grace_seconds)
    assert viewer.calls == [False, "end"]
    viewer.go()
    hub.tick(30.0)
    assert CountedStorage.open == 0


def test_a_relay_that_nobody_watches_any_more_is_kept_for_a_moment(subject: Subject) -> None:
    hub = subject.hub
    directory = FakeDirectory(hub, ROOM)
    stream = hub.open(ROOM, 0.0)
    viewer = watch(stream)
    for second in range(100):
        hub.tick(float(second))
    assert stream.relayed
    viewer.go()
    hub.tick(100.0)
    hub.tick(100.0 + RELAY_LINGER_SECONDS - 0.1)
    assert hub.open(ROOM, 104.9) is stream
    hub.tick(105.1)  # whoever opened it is about to watch
    viewer = watch(stream)
    hub.tick(105.0 + RELAY_LINGER_SECONDS)
    viewer.go()
    hub.tick(200.0)
    hub.tick(200.0 + RELAY_LINGER_SECONDS)
    assert len(hub) == 0 and directory.relays[0].calls == ["open", "close", "open", "close", "end"]
    # The other process publishes still: the next viewer is shown it.
    assert hub.open(ROOM, 300.0).relayed


def test_a_stream_that_another_process_watches_is_not_over_without_viewers_here(subject: Subject) -> None:
    """Until its publisher goes: then its viewers elsewhere wait there."""
    hub = subject.hub
    publisher = FakePublisher()
    stream = hub.publish(ROOM, publisher, 0.0)
    outlet = _Outlet()
    stream.outlets[outlet] = None
    hub.tick(100.0)
    hub.unpublish(stream, publisher, 100.0)
    assert outlet.told == 1 and len(hub) == 0


class _Outlet:
    told = 0

    def serve(self) -> None:
        raise AssertionError("rounds serve outlets")

    def gone(self) -> None:
        self.told += 1


@pytest.mark.parametrize(
    ("seen", "start"),
    [
        pytest.param(None, 5000, id="nothing known: its own time"),
        pytest.param((90_000, 8.0), 92_000, id="later by the time that passed"),
        pytest.param((90_000, 10.0), 90_000 + MIN_GAP_MS, id="at once"),
        pytest.param((0, 9.0), 5000, id="nothing had come"),
    ],
)
def test_a_publisher_goes_on_where_another_process_had_got(
    subject: Subject, seen: tuple[int, float] | None, start: int
) -> None:
    stream = subject.hub.publish(ROOM, FakePublisher(), 10.0, seen=seen)
    stream.push(Message(VIDEO, 5000, 1, KEY))
    assert stream.time == start


@pytest.mark.parametrize("seen", [None, (1000, 10.0), (60_000, 10.0)])
def test_what_was_seen_here_counts_when_it_is_further(subject: Subject, seen: tuple[int, float] | None) -> None:
    """The other process's word may be old: time never goes back for the viewers here."""
    hub = subject.hub
    FakeDirectory(hub, ROOM)
    stream = hub.open(ROOM, 0.0)
    viewer = watch(stream)
    stream.follow(40_000, 9.0)
    assert hub.publish(ROOM, FakePublisher(), 10.0, seen=seen) is stream
    stream.push(Message(VIDEO, 0, 1, KEY))
    assert stream.time == (60_000 + MIN_GAP_MS if seen == (60_000, 10.0) else 41_000)
    viewer.go()


def test_the_track_that_is_ahead_counts_when_a_publisher_moves(subject: Subject) -> None:
    hub = subject.hub
    publisher = FakePublisher()
    stream = hub.publish(ROOM, publisher, 0.0)
    viewer = watch(stream)
    for time in (0, 900, 40):
        stream.push(Message(VIDEO, time, 1, KEY))
    hub.unpublish(stream, publisher, 0.0)
    hub.publish(ROOM, FakePublisher(), 0.0, seen=(500, 0.0))
    stream.push(Message(VIDEO, 0, 1, KEY))
    assert stream.time == 900 + MIN_GAP_MS
    viewer.go()


# Streams that come from other nodes


class FakeSource:
    def __init__(self) -> None:
        self.wanted: list[Stream] = []

    def want(self, stream: Stream, query: str = "") -> None:
        self.wanted.append(stream)


def test_what_nobody_publishes_is_wanted_from_elsewhere_while_somebody_waits(subject: Subject) -> None:
    source = subject.hub.source = FakeSource()
    stream = subject.hub.open(ROOM, 0.0)
    assert source.wanted == [stream]
    stream.wait(lambda: None)
    subject.hub.tick(1.0)
    assert source.wanted == [stream] * 2
    publisher = FakePublisher()
    subject.hub.publish(ROOM, publisher, 1.0, lineage="L", hops=("a",), pulled=True)
    assert (stream.lineage, stream.hops, stream.pulled) == ("L", ("a",), True)
    viewer = watch(stream)
    subject.hub.tick(2.0)
    subject.hub.open(ROOM, 2.0)
    assert len(source.wanted) == 2
    subject.hub.unpublish(stream, publisher, 3.0)
    subject.hub.tick(4.0)
    assert source.wanted == [stream] * 4
    viewer.go()
    subject.hub.tick(5.0)
    assert len(source.wanted) == 4 and not len(subject.hub)


def test_a_stream_that_nobody_wants_is_not_fetched(subject: Subject) -> None:
    source = subject.hub.source = FakeSource()
    publisher = FakePublisher()
    stream = subject.hub.publish(ROOM, publisher, 0.0)
    subject.hub.unpublish(stream, publisher, 1.0)
    subject.hub.tick(2.0)
    assert not source.wanted


def test_a_source_that_breaks_hurts_nobody(subject: Subject) -> None:
    class Broken:
        def want(self, stream: Stream) -> None:
            raise ZeroDivisionError

    subject.hub.source = Broken()
    stream = subject.hub.open(ROOM, 0.0)
    stream.wait(lambda: None)
    subject.hub.tick(1.0)
    assert len(subject.journal.errors) == 2
    subject.hub.publish(ROOM, FakePublisher(), 2.0)
    assert stream.live
