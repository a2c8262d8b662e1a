from __future__ import annotations

from datetime import UTC, datetime, timedelta

import m3u8
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hls.playlist import MediaPlaylist, Segment

NOON = datetime(2026, 1, 2, 12, 0, 0, 123456, tzinfo=UTC)

TS = MediaPlaylist(
    target_duration=3,
    media_sequence=1_700_000_000,
    discontinuity_sequence=7,
    independent_segments=True,
    segments=(
        Segment(uri="10.ts", duration=2.0, program_date_time=NOON),
        Segment(uri="11.ts", duration=1.9996, discontinuity=True),
    ),
)

FMP4 = MediaPlaylist(
    target_duration=4,
    media_sequence=10,
    discontinuity_sequence=0,
    ended=True,
    segments=(
        Segment(uri="10.m4s", duration=2.0, map_uri="init-10.mp4"),
        Segment(uri="11.m4s", duration=2.0, map_uri="init-10.mp4"),
        Segment(uri="12.m4s", duration=0.04, map_uri="init-12.mp4", discontinuity=True),
    ),
)


def test_transport_stream_playlist_to_the_letter() -> None:
    assert TS.encode().decode() == (
        "#EXTM3U\n"
        "#EXT-X-VERSION:3\n"
        "#EXT-X-TARGETDURATION:3\n"
        "#EXT-X-MEDIA-SEQUENCE:1700000000\n"
        "#EXT-X-DISCONTINUITY-SEQUENCE:7\n"
        "#EXT-X-INDEPENDENT-SEGMENTS\n"
        "#EXT-X-PROGRAM-DATE-TIME:2026-01-02T12:00:00.123+00:00\n"
        "#EXTINF:2.000,\n"
        "10.ts\n"
        "#EXT-X-DISCONTINUITY\n"
        "#EXTINF:2.000,\n"
        "11.ts\n"
    )


def test_fragmented_mp4_playlist_to_the_letter() -> None:
    assert FMP4.encode(prefix="cam/", query="token=a%2Bb").decode() == (
        "#EXTM3U\n"
        "#EXT-X-VERSION:6\n"
        "#EXT-X-TARGETDURATION:4\n"
        "#EXT-X-MEDIA-SEQUENCE:10\n"
        "#EXT-X-DISCONTINUITY-SEQUENCE:0\n"
        '#EXT-X-MAP:URI="cam/init-10.mp4?token=a%2Bb"\n'
        "#EXTINF:2.000,\n"
        "cam/10.m4s?token=a%2Bb\n"
        "#EXTINF:2.000,\n"
        "cam/11.m4s?token=a%2Bb\n"
        "#EXT-X-DISCONTINUITY\n"
        '#EXT-X-MAP:URI="cam/init-12.mp4?token=a%2Bb"\n'
        "#EXTINF:0.040,\n"
        "cam/12.m4s?token=a%2Bb\n"
        "#EXT-X-ENDLIST\n"
    )


def test_a_parser_of_somebody_else_reads_the_same() -> None:
    parsed = m3u8.loads(FMP4.encode(query="token=1").decode())
    assert (parsed.version, parsed.target_duration, parsed.media_sequence) == (6, 4, 10)
    assert parsed.is_endlist and not parsed.is_independent_segments
    assert [segment.uri for segment in parsed.segments] == ["10.m4s?token=1", "11.m4s?token=1", "12.m4s?token=1"]
    assert [segment.discontinuity for segment in parsed.segments] == [False, False, True]
    assert [segment.init_section.uri for segment in parsed.segments] == [
        "init-10.mp4?token=1", "init-10.mp4?token=1", "init-12.mp4?token=1"]  # fmt: skip

    parsed = m3u8.loads(TS.encode().decode())
    assert parsed.is_independent_segments and not parsed.is_endlist
    assert parsed.discontinuity_sequence == 7
    assert abs(parsed.segments[0].program_date_time - NOON) < timedelta(milliseconds=1)
    assert [segment.duration for segment in parsed.segments] == [2.0, 2.0]


@pytest.mark.parametrize("query", ['a"b', "a\r\n#EXT-X-ENDLIST", "a b", "ключ=1", "<script>", "\x1b[0m", "a\\b"])
def test_a_query_cannot_leave_its_line_or_its_quotes(query: str) -> None:
    text = FMP4.encode(query=query).decode("ascii")
    assert text.count("\n") == FMP4.encode().count(b"\n")
    assert "\r" not in text and text.count('"') == 4 and "<" not in text and "\x1b" not in text


@given(st.text(max_size=40))
def test_any_query_gives_printable_lines(query: str) -> None:
    lines = TS.encode(query=query).decode("ascii").splitlines()
    assert len(lines) == len(TS.encode().splitlines())
    assert all(line.isprintable() and " " not in line for line in lines)


def test_a_query_keeps_its_escapes_and_separators() -> None:
    query = "token=ab%2Fc+d&e=f,g:h@i/j?k;l='m'(n)*!~$[0]"
    assert f"10.ts?{query}\n" in TS.encode(query=query).decode()
