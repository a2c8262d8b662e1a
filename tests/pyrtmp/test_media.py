"""Tag headers, legacy and Enhanced RTMP.

The payloads named after an encoder are the first bytes of messages that FFmpeg 8's FLV muxer wrote.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp.errors import PeerError
from pyrtmp.media import (
    FRAME,
    KEY,
    METADATA,
    OTHER,
    SEQUENCE_HEADER,
    AudioInfo,
    AudioTag,
    MediaError,
    VideoInfo,
    VideoTag,
    classify_audio,
    classify_video,
    codec_string_audio,
    codec_string_video,
    describe_audio,
    describe_video,
    parse_audio,
    parse_video,
)

AVCC = "01640028ffe1001a67640028acd940780227e584000003000400000300f03c60c65801000668ebe3cb22c0fdf8f800"


def video(codec: str, kind: int, cts: int, data: str, track: int = 0, ns: int = 0) -> VideoTag:
    return VideoTag(codec, kind, kind == KEY, cts, bytes.fromhex(data), track, ns)


def audio(
    codec: str, kind: int, data: str, track: int = 0, ns: int = 0, legacy: tuple[int, int, int] = (0, 0, 0)
) -> AudioTag:
    """``legacy`` is sample rate, channels and bits."""
    return AudioTag(codec, kind, bytes.fromhex(data), track, ns, *legacy)


def fourcc(name: str) -> str:
    return name.encode().hex()


VIDEO: list[tuple[str, list[VideoTag]]] = [
    # E.4.3 legacy AVC: sequence header, key frame, inter frame, end of sequence (all x264)
    ("1700000000" + AVCC, [video("h264", SEQUENCE_HEADER, 0, AVCC)]),
    ("1701000043000002a90605", [video("h264", KEY, 67, "000002a90605")]),
    ("27010000640000012c419a", [video("h264", FRAME, 100, "0000012c419a")]),
    ("1702000000", [video("h264", OTHER, 0, "")]),
    # a negative composition time, as encoders with a shifted timeline send it
    ("2701ffffd80000012c419a", [video("h264", FRAME, -40, "0000012c419a")]),
    ("2701800000", [video("h264", FRAME, -(1 << 23), "")]),
    # a sequence header that is not marked as a key frame; an unknown packet type; the end of a sequence
    ("270000000001", [video("h264", SEQUENCE_HEADER, 0, "01")]),
    ("270300000001", [video("h264", OTHER, 0, "01")]),
    ("2702000000", [video("h264", OTHER, 0, "")]),
    # disposable inter frame, "generated key frame" (server use), and a seek command, which has no AVC header
    ("3701000000aa", [video("h264", FRAME, 0, "aa")]),
    ("4701000000aa", [video("h264", FRAME, 0, "aa")]),
    ("5700", [video("h264", OTHER, 0, "00")]),
    # HEVC under codec id 12
    ("1c0000000001", [video("hevc", SEQUENCE_HEADER, 0, "01")]),
    ("1c0100002101", [video("hevc", KEY, 33, "01")]),
    ("2c0100000001", [video("hevc", FRAME, 0, "01")]),
    # codecs without a packet type
    ("1200008401112620", [video("h263", KEY, 0, "00008401112620")]),
    ("2200008401112620", [video("h263", FRAME, 0, "00008401112620")]),
    ("3200008401112620", [video("h263", FRAME, 0, "00008401112620")]),
    ("133160312000", [video("screen", KEY, 0, "3160312000")]),
    ("1401", [video("vp6", KEY, 0, "01")]),
    ("2501", [video("vp6a", FRAME, 0, "01")]),
    ("1601", [video("screen", KEY, 0, "01")]),
    ("1f01", [video("", KEY, 0, "01")]),
    # Enhanced RTMP: SequenceStart, CodedFrames (with and without composition time), CodedFramesX, SequenceEnd, Metadata
    ("90" + fourcc("hvc1") + "0101", [video("hevc", SEQUENCE_HEADER, 0, "0101")]),
    ("91687663310000430000011628", [video("hevc", KEY, 67, "0000011628")]),
    ("a1687663310000420000011a02", [video("hevc", FRAME, 66, "0000011a02")]),
    ("a3687663310000011a02", [video("hevc", FRAME, 0, "0000011a02")]),
    ("9368766331ff", [video("hevc", KEY, 0, "ff")]),
    ("9261766331", [video("h264", OTHER, 0, "")]),
    ("d468766331020009636f6c6f72496e666f03", [video("hevc", METADATA, 0, "020009636f6c6f72496e666f03")]),
    ("91" + fourcc("avc1") + "ffffff01", [video("h264", KEY, -1, "01")]),
    ("91" + fourcc("vvc1") + "00000201", [video("vvc", KEY, 2, "01")]),
    ("906176303181050c000a0b", [video("av1", SEQUENCE_HEADER, 0, "81050c000a0b")]),
    ("95" + fourcc("av01") + "800481050c00", [video("av1", SEQUENCE_HEADER, 0, "800481050c00")]),
    ("916176303112000a0b", [video("av1", KEY, 0, "12000a0b")]),
    ("a161763031120032a6", [video("av1", FRAME, 0, "120032a6")]),
    ("917670303982498342", [video("vp9", KEY, 0, "82498342")]),
    ("a1" + fourcc("vp08") + "51", [video("vp8", FRAME, 0, "51")]),
    ("9178787878aa", [video("", KEY, 0, "aa")]),
    ("98687663310a", [video("hevc", OTHER, 0, "0a")]),
    # a command: one UI8, no FourCC, except with a metadata packet
    ("d001", [video("", OTHER, 0, "01")]),
    ("d4" + fourcc("hvc1") + "02", [video("hevc", METADATA, 0, "02")]),
    # Multitrack: one track; many with one codec; many with many codecs
    ("960168766331" + "03" + "00002aff", [video("hevc", KEY, 42, "ff", track=3)]),
    (
        "a61361766331" + "00000002aabb" + "01000000" + "05000001cc",
        [
            video("h264", FRAME, 0, "aabb", track=0),
            video("h264", FRAME, 0, "", track=1),
            video("h264", FRAME, 0, "cc", track=5),
        ],
    ),
    (
        "9620" + fourcc("avc1") + "0000000201ff" + fourcc("hvc1") + "0100000102",
        [
            video("h264", SEQUENCE_HEADER, 0, "01ff", track=0),
            video("hevc", SEQUENCE_HEADER, 0, "02", track=1),
        ],
    ),
    # ModEx: 3 bytes of nanoseconds, then CodedFramesX; one of an unknown type before it; the 16 bit size form
    ("a702" + "0f423f" + "03" + fourcc("hvc1") + "ff", [video("hevc", FRAME, 0, "ff", ns=999_999)]),
    ("9700" + "aa" + "17" + "02000001" + "03" + fourcc("hvc1") + "ff", [video("hevc", KEY, 0, "ff", ns=1)]),
    ("97ff0100" + "00" * 257 + "10" + fourcc("av01") + "81", [video("av1", SEQUENCE_HEADER, 0, "81")]),
    # ModEx around a multitrack message, and around a command
    ("9702000007" + "06" + "01" + fourcc("av01") + "0412", [video("av1", KEY, 0, "12", track=4, ns=7)]),
    ("d702000007" + "01" + "00", [video("", OTHER, 0, "00", ns=7)]),
]

AUDIO: list[tuple[str, list[AudioTag]]] = [
    ("af00121056e500", [audio("aac", SEQUENCE_HEADER, "121056e500", legacy=(44100, 2, 16))]),
    ("af01de02004c", [audio("aac", FRAME, "de02004c", legacy=(44100, 2, 16))]),
    ("af02de", [audio("aac", OTHER, "de", legacy=(44100, 2, 16))]),
    ("2ffffb9064", [audio("mp3", FRAME, "fffb9064", legacy=(44100, 2, 16))]),
    ("2afff340c4", [audio("mp3", FRAME, "fff340c4", legacy=(22050, 1, 16))]),
    ("e2ff", [audio("mp3", FRAME, "ff", legacy=(8000, 1, 16))]),
    ("3f0000", [audio("pcm", FRAME, "0000", legacy=(44100, 2, 16))]),
    ("0400", [audio("pcm", FRAME, "00", legacy=(11025, 1, 8))]),
    ("1a8000", [audio("adpcm", FRAME, "8000", legacy=(22050, 1, 16))]),
    ("4200", [audio("nellymoser", FRAME, "00", legacy=(16000, 1, 16))]),
    ("5200", [audio("nellymoser", FRAME, "00", legacy=(8000, 1, 16))]),
    ("6a408a", [audio("nellymoser", FRAME, "408a", legacy=(22050, 1, 16))]),
    ("7200", [audio("g711a", FRAME, "00", legacy=(8000, 1, 16))]),
    ("8300", [audio("g711u", FRAME, "00", legacy=(8000, 2, 16))]),
    ("b600", [audio("speex", FRAME, "00", legacy=(16000, 1, 16))]),
    ("f000", [audio("", FRAME, "00", legacy=(5512, 1, 8))]),
    ("2f", [audio("mp3", FRAME, "", legacy=(44100, 2, 16))]),
    ("904f7075734f70757348656164", [audio("opus", SEQUENCE_HEADER, "4f70757348656164")]),
    ("914f707573fcfffe", [audio("opus", FRAME, "fcfffe")]),
    ("944f707573010200000003", [audio("opus", METADATA, "010200000003")]),
    ("924f707573", [audio("opus", OTHER, "")]),
    ("90664c61431200", [audio("flac", SEQUENCE_HEADER, "1200")]),
    ("9061632d33", [audio("ac3", SEQUENCE_HEADER, "")]),
    ("9161632d330b77", [audio("ac3", FRAME, "0b77")]),
    ("9165632d330b77", [audio("eac3", FRAME, "0b77")]),
    ("91" + fourcc(".mp3") + "fffb", [audio("mp3", FRAME, "fffb")]),
    ("90" + fourcc("mp4a") + "1210", [audio("aac", SEQUENCE_HEADER, "1210")]),
    ("9178787878", [audio("", FRAME, "")]),
    ("9501" + fourcc("mp4a") + "02aa", [audio("aac", FRAME, "aa", track=2)]),
    (
        "9511" + fourcc("Opus") + "00000001aa" + "01000002bbcc",
        [audio("opus", FRAME, "aa"), audio("opus", FRAME, "bbcc", track=1)],
    ),
    (
        "9520" + fourcc("mp4a") + "000000021210" + fourcc("Opus") + "01000000",
        [audio("aac", SEQUENCE_HEADER, "1210"), audio("opus", SEQUENCE_HEADER, "", track=1)],
    ),
    ("9702" + "000009" + "01" + fourcc("Opus") + "aa", [audio("opus", FRAME, "aa", ns=9)]),
    ("9702" + "000009" + "05" + "00" + fourcc("Opus") + "01aa", [audio("opus", SEQUENCE_HEADER, "aa", 1, ns=9)]),
]


@pytest.mark.parametrize(("payload", "tags"), VIDEO)
def test_video_tags(payload: str, tags: list[VideoTag]) -> None:
    data = bytes.fromhex(payload)
    assert parse_video(data) == tags
    assert classify_video(data) == tags[0].kind


@pytest.mark.parametrize(("payload", "tags"), AUDIO)
def test_audio_tags(payload: str, tags: list[AudioTag]) -> None:
    data = bytes.fromhex(payload)
    assert parse_audio(data) == tags
    assert classify_audio(data) == tags[0].kind


def test_empty_messages_are_neither_frame_nor_head() -> None:
    assert classify_video(b"") == classify_audio(b"") == OTHER
    assert parse_video(b"") == []
    assert parse_audio(b"") == []
    # cut before the packet type
    assert classify_video(b"\x17") == classify_video(b"\x27") == classify_audio(b"\xaf") == OTHER
    assert classify_video(b"\x97\x02\0\0") == classify_audio(b"\x95") == OTHER


TRUNCATED_VIDEO = [
    "17", "1701", "17010000", "1c0000", "270100",  # legacy packet type and composition time
    "90", "90687663", "d0",  # FourCC, command
    "9168766331", "91687663310000", "9161766331ff",  # composition time
    "97", "9702", "97020000", "9702000000", "970200000003", "97ff", "97ff01", "97ffffff00",  # ModEx
    "960068766331", "96", "9600", "960068", "961068766331", "96106876633100000005aa", "961068766331000000",  # tracks
    "9620", "962068766331", "962068766331000000", "96206876633100000000aa",
]  # fmt: skip
BROKEN_VIDEO = [
    "9606687663310001",  # multitrack inside multitrack
    "9630687663310001",  # reserved multitrack type
    "9701000003" + "68766331",  # nanoseconds in 16 bits
    "97" + "000017" * 16 + "03" + "68766331",  # more ModEx than are read
]


@pytest.mark.parametrize("payload", TRUNCATED_VIDEO + BROKEN_VIDEO)
def test_broken_video_tags(payload: str) -> None:
    data = bytes.fromhex(payload)
    with pytest.raises(MediaError):
        parse_video(data)
    assert classify_video(data) in (FRAME, KEY, SEQUENCE_HEADER, METADATA, OTHER)
    assert describe_video(data) == VideoInfo("")
    assert codec_string_video(data) == ""


BROKEN_AUDIO = [
    "af", "9f", "91", "914f70", "97", "970200", "9702000000", "95", "9500", "95004f707573", "95104f70757300000002aa",
    "95054f7075730001", "95304f7075730001", "970100000001" + "4f707573", "97" + "000017" * 16 + "01" + "4f707573",
]  # fmt: skip


@pytest.mark.parametrize("payload", BROKEN_AUDIO)
def test_broken_audio_tags(payload: str) -> None:
    data = bytes.fromhex(payload)
    with pytest.raises(MediaError):
        parse_audio(data)
    assert classify_audio(data) in (FRAME, SEQUENCE_HEADER, METADATA, OTHER)
    assert describe_audio(data) == AudioInfo("")
    assert codec_string_audio(data) == ""


def test_the_error_is_the_peers_fault() -> None:
    with pytest.raises(PeerError) as caught:
        parse_video(b"\x17")
    assert caught.value.reason == "media"


def test_as_many_tracks_as_there_are_track_ids() -> None:
    tracks = b"".join(bytes((track, 0, 0, 1, track)) for track in range(256))
    tags = parse_video(b"\x96\x13avc1" + tracks)
    assert [tag.track for tag in tags] == list(range(256))
    with pytest.raises(MediaError, match="256 tracks"):
        parse_video(b"\x96\x13avc1" + tracks + b"\0\0\0\0")


def test_a_long_chain_of_mod_ex_is_not_followed() -> None:
    payload = b"\x97" + b"\0\0\x17" * 5_000_000
    assert classify_video(payload) == OTHER
    assert classify_audio(payload) == OTHER


@pytest.mark.parametrize(("payload", "tags"), VIDEO)
def test_video_tags_cut_at_every_byte(payload: str, tags: list[VideoTag]) -> None:
    data = bytes.fromhex(payload)
    for end in range(1, len(data)):
        try:
            cut = parse_video(data[:end])
        except MediaError:
            continue
        # only the last track's elementary bytes can be missing, or whole tracks
        for whole, part in zip(tags, cut, strict=False):
            assert (part.codec, part.kind, part.composition_time, part.track) == (
                whole.codec, whole.kind, whole.composition_time, whole.track)  # fmt: skip
            assert whole.data.startswith(part.data)


@pytest.mark.parametrize(("payload", "tags"), AUDIO)
def test_audio_tags_cut_at_every_byte(payload: str, tags: list[AudioTag]) -> None:
    data = bytes.fromhex(payload)
    for end in range(1, len(data)):
        try:
            cut = parse_audio(data[:end])
        except MediaError:
            continue
        for whole, part in zip(tags, cut, strict=False):
            assert (part.codec, part.track, part.sample_rate) == (whole.codec, whole.track, whole.sample_rate)
            assert whole.data.startswith(part.data)


enhanced_first_bytes = st.sampled_from([*range(0x80, 0x100)]).map(lambda first: bytes((first,)))
tail = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda head, name, rest: head + name + rest,
        st.binary(max_size=6),
        st.sampled_from([b"avc1", b"hvc1", b"av01", b"vp09", b"Opus", b"mp4a", b"fLaC"]),
        st.binary(max_size=40),
    ),
)
payloads = st.one_of(st.binary(max_size=60), st.builds(lambda first, rest: first + rest, enhanced_first_bytes, tail))


@given(payloads)
def test_any_bytes_as_video(payload: bytes) -> None:
    kind = classify_video(payload)
    assert kind in (FRAME, KEY, SEQUENCE_HEADER, METADATA, OTHER)
    describe_video(payload)
    codec_string_video(payload)
    try:
        tags = parse_video(payload)
    except MediaError:
        return
    assert bool(tags) == bool(payload)
    for tag in tags:
        assert (tag.kind, tag.key) == (kind, kind == KEY)
        assert -(1 << 23) <= tag.composition_time < 1 << 23
    assert sum(len(tag.data) for tag in tags) < max(1, len(payload))


@given(payloads)
def test_any_bytes_as_audio(payload: bytes) -> None:
    kind = classify_audio(payload)
    assert kind in (FRAME, SEQUENCE_HEADER, METADATA, OTHER)
    describe_audio(payload)
    codec_string_audio(payload)
    try:
        tags = parse_audio(payload)
    except MediaError:
        return
    assert bool(tags) == bool(payload)
    assert all(tag.kind == kind for tag in tags)
    assert sum(len(tag.data) for tag in tags) < max(1, len(payload))


FOURCCS = {"h264": b"avc1", "hevc": b"hvc1", "vvc": b"vvc1", "av1": b"av01", "vp9": b"vp09", "vp8": b"vp08"}
KINDS = {(1, 1): KEY, (2, 1): FRAME, (1, 3): KEY, (3, 3): FRAME, (1, 0): SEQUENCE_HEADER, (1, 2): OTHER,
         (1, 4): METADATA}


def mod_ex_entry(data: bytes, mod_ex_type: int, packet_type: int) -> bytes:
    size = bytes((len(data) - 1,)) if len(data) < 256 else b"\xff" + (len(data) - 1).to_bytes(2, "big")
    return size + data + bytes((mod_ex_type << 4 | packet_type,))


@given(
    head=st.sampled_from(sorted(KINDS)),
    unknown_mod_ex=st.lists(st.binary(min_size=1, max_size=300), max_size=3),
    nanoseconds=st.integers(0, 999_999),
    multitrack_type=st.integers(0, 2),
    tracks=st.lists(
        st.tuples(
            st.sampled_from(sorted(FOURCCS)), st.integers(0, 255), st.integers(-1000, 1000), st.binary(max_size=9)
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_multitrack_inside_mod_ex_comes_back(
    head: tuple[int, int],
    unknown_mod_ex: list[bytes],
    nanoseconds: int,
    multitrack_type: int,
    tracks: list[tuple[str, int, int, bytes]],
) -> None:
    frame_type, packet_type = head
    if multitrack_type == 0:
        tracks = tracks[:1]
    if multitrack_type != 2:
        tracks = [(tracks[0][0], *track[1:]) for track in tracks]
    payload = bytes((0x80 | frame_type << 4 | 7,))
    for entry in unknown_mod_ex:
        payload += mod_ex_entry(entry, 1, 7)
    payload += mod_ex_entry(nanoseconds.to_bytes(3, "big"), 0, 6)
    payload += bytes((multitrack_type << 4 | packet_type,))
    if multitrack_type != 2:
        payload += FOURCCS[tracks[0][0]]
    expected = []
    for codec, track, cts, data in tracks:
        has_cts = packet_type == 1 and codec in ("h264", "hevc", "vvc")
        body = cts.to_bytes(3, "big", signed=True) + data if has_cts else data
        if multitrack_type == 2:
            payload += FOURCCS[codec]
        payload += bytes((track,))
        if multitrack_type != 0:
            payload += len(body).to_bytes(3, "big")
        payload += body
        kind = KINDS[head]
        expected.append(VideoTag(codec, kind, kind == KEY, cts if has_cts else 0, data, track, nanoseconds))
    assert parse_video(payload) == expected
    assert classify_video(payload) == KINDS[head]


@pytest.mark.parametrize(
    ("payload", "info", "string"),
    [
        ("1700000000" + AVCC, VideoInfo("h264", 1920, 1080, "High", "4", 30.0), "avc1.640028"),
        ("90" + fourcc("avc1") + AVCC, VideoInfo("h264", 1920, 1080, "High", "4", 30.0), "avc1.640028"),
        ("9600" + fourcc("avc1") + "00" + AVCC, VideoInfo("h264", 1920, 1080, "High", "4", 30.0), "avc1.640028"),
        ("1701000043000002a90605", VideoInfo("h264"), ""),
        ("907670303901000000001f820202020000", VideoInfo("vp9", 0, 0, "0", "3.1"), "vp09.00.31.08"),
        ("917670303982498342004ff02cf60638241c184a18007447", VideoInfo("vp9", 1280, 720, "0"), ""),
        ("1200008401112620202021ffff", VideoInfo("h263", 352, 288), ""),
        ("2200008401112620202021ffff", VideoInfo("h263"), ""),
        ("d468766331020009", VideoInfo("hevc"), ""),
        ("14", VideoInfo("vp6"), ""),
        ("", VideoInfo(""), ""),
    ],
)
def test_describe_video(payload: str, info: VideoInfo, string: str) -> None:
    assert describe_video(bytes.fromhex(payload)) == info
    assert codec_string_video(bytes.fromhex(payload)) == string


@pytest.mark.parametrize(
    ("payload", "info", "string"),
    [
        ("af00118856e500", AudioInfo("aac", 48000, 1, "LC"), "mp4a.40.2"),
        ("90" + fourcc("mp4a") + "118856e500", AudioInfo("aac", 48000, 1, "LC"), "mp4a.40.2"),
        # the first byte of an AAC tag says 44,100 Hz and stereo whatever the stream is
        ("af01de02004c", AudioInfo("aac"), ""),
        ("2afff340c40000000348", AudioInfo("mp3", 22050, 1), "mp4a.40.34"),
        ("2a0000", AudioInfo("mp3", 22050, 1), "mp4a.40.34"),
        ("3f0000", AudioInfo("pcm", 44100, 2), ""),
        ("b600", AudioInfo("speex", 16000, 1), ""),
        ("904f7075734f707573486561640102380180bb0000000000", AudioInfo("opus", 48000, 2), "opus"),
        ("9061632d33", AudioInfo("ac3"), "ac-3"),
        ("9161632d330b775052144043e106f463", AudioInfo("ac3", 48000, 2), "ac-3"),
        ("944f707573010200000003", AudioInfo("opus"), "opus"),
        ("", AudioInfo(""), ""),
    ],
)
def test_describe_audio(payload: str, info: AudioInfo, string: str) -> None:
    assert describe_audio(bytes.fromhex(payload)) == info
    assert codec_string_audio(bytes.fromhex(payload)) == string
