from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from hls.window import Numbers, SegmentWindow

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


FIRST = Numbers(sequence=100, discontinuity=7)


def window(seconds: float = 12.0, max_bytes: int = 1 << 20, first: Numbers = FIRST) -> SegmentWindow:
    return SegmentWindow(window=seconds, max_bytes=max_bytes, first=first)


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
            b"x" * size,
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
