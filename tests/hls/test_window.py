from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hls.content import Content
from hls.window import Entry, Numbers, SegmentWindow

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


FIRST = Numbers(sequence=100, discontinuity=7)


def window(seconds: float = 12.0, max_bytes: int = 1 << 20, first: Numbers = FIRST) -> SegmentWindow:
    subject = SegmentWindow(window=seconds, max_bytes=max_bytes)
    subject.skip(first)
    return subject


def add(
    subject: SegmentWindow,
    count: int = 1,
    *,
    duration: float = 2.0,
    target: int = 3,
    size: int = 10,
    init: bytes | None = None,
    discontinuity: bool = False,
    independent: bool = True,
) -> None:
    for _ in range(count):
        subject.add(
            Content(b"x" * size),
            init,
            duration=duration,
            target_duration=target,
            discontinuity=discontinuity,
            independent=independent,
            time=NOON + timedelta(seconds=subject.numbers.sequence),
        )


def names(subject: SegmentWindow) -> list[str]:
    return [segment.uri for segment in subject.playlist(ended=False).segments]


def test_the_playlist_slides() -> None:
    subject = window()
    add(subject, 3)
    assert names(subject) == ["100.ts", "101.ts", "102.ts"]
    add(subject, 7)
    playlist = subject.playlist(ended=False)
    assert [segment.uri for segment in playlist.segments] == [f"{n}.ts" for n in range(104, 110)]
    assert (playlist.media_sequence, playlist.target_duration, subject.numbers) == (104, 3, (110, 7))
    assert playlist.segments[0].program_date_time == NOON + timedelta(seconds=104)


def test_segments_can_be_fetched_a_window_after_they_left() -> None:
    subject = window()
    for _ in range(40):
        before = names(subject) if len(subject) else []
        add(subject)
        gone = set(before) - set(names(subject))
        assert all(subject.get(name) is not None for name in gone)
    named = [int(name.removesuffix(".ts")) for name in names(subject)]
    kept = [number for number in range(100, 140) if subject.get(f"{number}.ts") is not None]
    assert kept == list(range(kept[0], 140))
    assert (named[0] - kept[0]) * 2.0 >= 12.0
    assert len(kept) <= 15


def test_three_target_durations_at_least() -> None:
    subject = window(seconds=4.0)
    add(subject, 10, duration=8.0, target=10)
    assert len(subject) * 8.0 >= 30


def test_memory_bounds_the_window() -> None:
    subject = window(max_bytes=10_000)
    for _ in range(50):
        add(subject, size=1500)
        assert subject.size <= 10_000
        assert all(subject.get(name) for name in names(subject))
    assert len(subject) == 3
    add(subject, size=9000)
    assert len(subject) == 1 and subject.size <= 10_000


def test_discontinuities_are_counted_when_they_leave() -> None:
    subject = window(seconds=4.0)
    add(subject, discontinuity=True)
    first = subject.playlist(ended=False)
    assert first.segments[0].discontinuity and first.discontinuity_sequence == 7
    for number in range(30):
        add(subject, discontinuity=number % 3 == 0)
        playlist = subject.playlist(ended=False)
        left = [n for n in range(100, playlist.media_sequence) if n == 100 or (n - 101) % 3 == 0]
        assert playlist.discontinuity_sequence == first.discontinuity_sequence + len(left)


def test_a_window_after_this_one_has_later_numbers() -> None:
    first = window()
    add(first, 10, discontinuity=True)
    assert first.numbers == (110, 17)
    second = window(first=first.numbers)
    add(second, discontinuity=True)
    before, after = first.playlist(ended=True), second.playlist(ended=False)
    assert (after.media_sequence, after.discontinuity_sequence) == (110, 17)
    # A segment's own discontinuity number counts the tags up to its own.
    assert after.discontinuity_sequence + 1 > before.discontinuity_sequence + len(before.segments)
    assert before.ended and not after.ended


def test_initialization_sections_are_shared_and_forgotten() -> None:
    subject = window()
    add(subject, 3, init=b"one")
    add(subject, 3, init=b"two")
    assert [segment.map_uri for segment in subject.playlist(ended=False).segments] == [
        "init-100.mp4"] * 3 + ["init-103.mp4"] * 3  # fmt: skip
    assert (subject.get("init-100.mp4"), subject.get("init-103.mp4")) == (b"one", b"two")
    assert names(subject)[0] == "100.m4s"
    add(subject, 30, init=b"two")
    assert subject.get("init-100.mp4") is None and subject.get("100.m4s") is None
    assert subject.get("init-103.mp4") == b"two"


def test_independent_while_all_named_segments_are() -> None:
    subject = window()
    add(subject, 6)
    assert subject.playlist(ended=False).independent_segments
    add(subject, independent=False)
    assert not subject.playlist(ended=False).independent_segments
    add(subject, 6)
    assert subject.playlist(ended=False).independent_segments


PARTS = st.tuples(st.floats(0.001, 3.4), st.integers(1, 4000), st.sampled_from([None, b"a", b"b"]))


@given(st.lists(PARTS, min_size=1))
def test_whatever_is_named_is_there(parts: list[tuple[float, int, bytes | None]]) -> None:
    subject = window(seconds=3.0, max_bytes=20_000)
    sequence = 0
    for duration, size, init in parts:
        add(subject, duration=duration, size=size, init=init)
        playlist = subject.playlist(ended=False)
        assert playlist.media_sequence >= sequence
        sequence = playlist.media_sequence
        assert subject.size <= 20_000
        for segment in playlist.segments:
            assert subject.get(segment.uri)
            assert segment.map_uri is None or subject.get(segment.map_uri)


def test_numbers_jump_where_others_have_been_seen() -> None:
    subject = window()
    add(subject, 3)
    subject.skip(Numbers(103, 7))  # no more than it had
    add(subject)
    assert names(subject) == ["100.ts", "101.ts", "102.ts", "103.ts"]
    for numbers, begin in ((Numbers(200, 3), (200, 7)), (Numbers(50, 90), (201, 90))):
        before = names(subject)
        subject.skip(numbers)
        assert names(subject) == before  # until there is something else
        add(subject)
        playlist = subject.playlist(ended=False)
        assert [segment.uri for segment in playlist.segments] == [f"{begin[0]}.ts"]
        assert (playlist.media_sequence, playlist.discontinuity_sequence) == begin
        assert playlist.segments[0].discontinuity
        assert all(subject.get(name) for name in before)


# Windows of several workers


def copy(entry: Entry) -> Entry:
    return replace(entry, content=Content(bytes(entry.content.view())))


class Reader:
    """A worker that shows another one's window, as ``hls.mirror`` does."""

    def __init__(self) -> None:
        self.shown = window()
        self.incoming = self.shown

    def open(self, holder: SegmentWindow) -> None:
        if len(self.shown):
            holder.skip(self.shown.numbers)
        self.incoming = window(first=Numbers(0, 0))
        for entry in holder.entries:
            self.hand(holder, entry)
        self.look()

    def hand(self, holder: SegmentWindow, entry: Entry) -> None:
        init = None if entry.init is None else Content(bytes(holder.init(entry.init).view()))
        first = holder.first.sequence
        self.incoming.put(copy(entry), init, target_duration=holder.target_duration, first=first)

    def look(self) -> None:
        if self.incoming is not self.shown and self.incoming.may_follow(self.shown):
            self.incoming.inherit(self.shown)
            assert len(self.shown) == self.shown.size == 0
            self.shown = self.incoming


def text(subject: SegmentWindow) -> bytes:
    return subject.playlist(ended=False).encode()


def test_a_window_is_mirrored() -> None:
    holder, reader = window(), Reader()
    add(holder, 3, init=b"one")
    reader.open(holder)
    for number in range(30):
        add(holder, init=b"two" if number > 15 else b"one", discontinuity=number % 4 == 0, independent=number % 5 > 0)
        reader.hand(holder, holder.newest)
        assert text(reader.shown) == text(holder)
        assert [entry.name for entry in reader.shown.entries] == [entry.name for entry in holder.entries]
    late = Reader()
    late.open(holder)
    assert text(late.shown) == text(holder) and late.shown.size == holder.size


def test_whoever_goes_on_keeps_the_longer_target_duration() -> None:
    holder, reader = window(), Reader()
    add(holder, 3, duration=4.0, target=4)
    reader.open(holder)
    add(reader.shown, duration=2.0, target=2)
    assert reader.shown.playlist(ended=False).target_duration == 4
    add(reader.shown, duration=6.0, target=6)
    assert reader.shown.playlist(ended=False).target_duration == 6


def test_what_does_not_fit_behind_is_refused() -> None:
    holder, subject = window(), window(first=Numbers(0, 0))
    add(holder, 3, discontinuity=True)
    first, second, third = holder.entries
    subject.put(copy(second), None, target_duration=3, first=101)
    for entry in (
        first, second, replace(third, discontinuities=8), replace(third, init=102), replace(third, init=5)
    ):  # fmt: skip
        before = text(subject), subject.size, subject.numbers
        with pytest.raises(ValueError):
            subject.put(entry, None, target_duration=3, first=101)
        assert (text(subject), subject.size, subject.numbers) == before and not entry.content.closed
    subject.put(copy(third), None, target_duration=3, first=101)
    assert names(subject) == ["101.ts", "102.ts"]


def test_contents_are_closed_when_they_are_forgotten() -> None:
    subject = window(seconds=4.0)
    seen: list[Content] = []
    for number in range(20):
        add(subject, init=b"even" if number // 4 % 2 else b"odd")
        seen += [subject.newest.content, subject.init(subject.newest.init or 0)]
        kept = {id(entry.content) for entry in subject.entries} | {
            id(subject.init(entry.init or 0)) for entry in subject.entries
        }
        assert all(content.closed == (id(content) not in kept) for content in seen)
    other = Reader()
    other.open(subject)
    mirrored = [entry.content for entry in other.shown.entries]
    next_window = window(first=Numbers(500, 90))
    add(next_window, 2, init=b"odd", discontinuity=True)
    other.open(next_window)
    assert names(other.shown) == ["500.m4s", "501.m4s"]
    assert not any(content.closed for content in mirrored[-3:])  # those named a moment ago
    other.shown.close()
    subject.close()
    assert all(content.closed for content in (*mirrored, *seen))
    assert other.shown.get("500.m4s") is None and other.shown.size == 0


ADD = st.tuples(st.just("add"), st.integers(0, 1), st.booleans(), st.sampled_from([b"a", b"b"]))
OPEN = st.tuples(st.just("open"), st.integers(0, 1), st.booleans(), st.none())
FIRST = st.tuples(st.integers(0, 40), st.integers(0, 4))


@given(FIRST, FIRST, st.booleans(), st.lists(ADD | ADD | ADD | OPEN, max_size=60))
def test_no_number_goes_back_whoever_holds_the_stream(
    first: tuple[int, int], second: tuple[int, int], fmp4: bool, steps: list[tuple[str, int, bool, bytes | None]]
) -> None:
    holders = [window(seconds=8.0, first=Numbers(*numbers)) for numbers in (first, second)]
    reader = Reader()
    now = holders[0]
    reader.open(now)
    begun, reached = Numbers(0, 0), 0
    behind = 0
    for what, which, flag, init in steps:
        holder = holders[which]
        before = names(reader.shown) if len(reader.shown) else []
        if what == "add":
            add(holder, init=init if fmp4 else None, discontinuity=flag or not len(holder))
            if holder is now:
                reader.hand(now, now.newest)
                reader.look()
                behind -= 1
        elif holder is not now:
            now = holder
            # It has been told what was seen, so its next segment is above that.  Only where two workers have given
            # the same numbers to different segments, the older of these have to leave the playlist first.
            apart = not (len(now) and len(reader.shown)) or now.first.sequence >= reader.shown.reached.sequence
            reader.open(now)
            behind = 1 if apart else 6
        if not len(reader.shown):
            continue
        if behind <= 0:
            assert text(reader.shown) == text(now)
        assert all(reader.shown.get(name) for name in before)
        assert reader.shown.first.reaches(begun) and reader.shown.reached.sequence >= reached
        begun, reached = reader.shown.first, reader.shown.reached.sequence
        for segment in reader.shown.playlist(ended=False).segments:
            assert reader.shown.get(segment.uri)
            assert segment.map_uri is None or reader.shown.get(segment.map_uri)
