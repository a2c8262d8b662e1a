"""Decoder configurations from real encoders, and a few parameter sets that use what those encoders leave out.

The encoders' records were written by FFmpeg 8's FLV muxer (x264, x265, SVT-AV1, libvpx, libopus, FFmpeg's own aac,
flac, ac3 and eac3); the x265 records without their SEI message.  The hand-made parameter sets were read by FFmpeg's
trace_headers filter, which sees the same values.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyrtmp import codecs
from pyrtmp.codecs import AudioInfo, VideoInfo

X264_HIGH_1080P30 = "01640028ffe1001a67640028acd940780227e584000003000400000300f03c60c65801000668ebe3cb22c0fdf8f800"
X264_HIGH10 = "016e001effe1001a676e001ea6cd940a02ff961000000300100000030320f162d96001000668ebe3cb22c0fdfafa00"
X264_MAIN_NTSC = "014d401fffe10016674d401feca06c1ef370800001f480007530078c18cb01000568ebe3cb20"
X264_BASELINE = "0142c00cffe100176742c00cd90141fa10000003001000000301e0f142a48001000568cb83cb20"
X264_444_ODD = "01f4000cffe1001967f4000c919b282a10f1f1f080000003008000000f078a14cb01000668ebe3c44844fff8f800"
X264_INTERLACED = "01640020ffe1001967640020acd940500bbf2c20000003002000000c83e2c5b2c001000668fba3cb22c0fdf8f800"
X264_HRD_SAR = (
    "01640028ffe1002767640028acd940b4126ffc0040003c40000003004000000c9810003d090007a13930c01e30632c01000668ebecb3002c"
    "fdf8f800"
)
X265_MAIN = (
    "0101600000009000000000005df000fcfdf8f800000f03200001001840010c01ffff01600000030090000003000003005d95980921000100"
    "2a42010101600000030090000003000003005da00280802d165959a4932b9a020000030002000003003c1022000100074401c172b46240"
)
X265_MAIN10_HRD = (
    "0102200000009000000000007bf000fcfdfafa00000f03200001001840010c01ffff02200000030090000003000003007b95980921000100"
    "3642010102200000030090000003000003007ba003c08010e4d96566924caf026808000003000800000301e304e4c3f0007a12000f424422"
    "000100074401c172b46240"
)
X265_444_LAYERS = (
    "0104080000009e08000000003ff000fcfff8f800001303200001001b40010c02ffff0408000003009e0800000300003f00009598acc04821"
    "0001002e4201020408000003009e0800000300003f00009000a2402e39e7cb2b3159a49395cd010000030001000003001908220001000844"
    "01c172860c4624"
)
SVT_AV1 = "81050c000a0b0000002d4cffb3c02f8004"
SVT_AV1_10BIT = "81014c000a0b0000000cc5036900be1010"
LIBVPX_VP9 = "01000000001f820202020000"

# 4:2:2, interlaced, scaling lists, picture order count type 1, every optional field of the VUI before the timing
AVC_SPS_EVERYTHING = (
    "677a0029b6da492492492494221ffffffffffffffff50a66994078044fdf"
    "fe000800076a020203e000007d20001d4c1080"
)
AVC_SPS_MONOCHROME = "6764001ef2d01407bd4880"
# three sub-layers, scaling lists, PCM, predicted reference picture sets, long-term pictures, the VUI as above
HEVC_SPS_EVERYTHING = (
    "420105016000000300b00000030000030078d0000160000003000003000003000003005a5da003c0801107cb96572b95e4912dafffe4444d"
    "7fffffffffffffff2222645fffffffffffffffc8889917fffffffffffffffeef5235afe9b9b05833c07d40404078fc000003000400000300"
    "c820"
)


def avcc(sps: str) -> bytes:
    nal = bytes.fromhex(sps)
    return b"\1" + nal[1:4] + b"\xff\xe1" + len(nal).to_bytes(2, "big") + nal + b"\1\0\0"


def hvcc(sps: str) -> bytes:
    nal = bytes.fromhex(sps)
    head = bytes.fromhex("0101600000009000000000005df000fcfdf8f800000f01")
    return head + b"\x21\0\1" + len(nal).to_bytes(2, "big") + nal


VIDEO = [
    ("h264", X264_HIGH_1080P30, VideoInfo("h264", 1920, 1080, "High", "4", 30.0), "avc1.640028"),
    ("h264", X264_HIGH10, VideoInfo("h264", 640, 360, "High 10", "3", 25.0), "avc1.6e001e"),
    ("h264", X264_MAIN_NTSC, VideoInfo("h264", 854, 480, "Main", "3.1", 29.97), "avc1.4d401f"),
    ("h264", X264_BASELINE, VideoInfo("h264", 320, 240, "Constrained Baseline", "1.2", 15.0), "avc1.42c00c"),
    ("h264", X264_444_ODD, VideoInfo("h264", 322, 242, "High 4:4:4 Predictive", "1.2", 15.0), "avc1.f4000c"),
    ("h264", X264_INTERLACED, VideoInfo("h264", 1280, 720, "High", "3.2", 50.0), "avc1.640020"),
    ("h264", X264_HRD_SAR, VideoInfo("h264", 720, 576, "High", "4", 25.0), "avc1.640028"),
    ("hevc", X265_MAIN, VideoInfo("hevc", 1280, 720, "Main", "3.1", 30.0), "hvc1.1.6.L93.90"),
    ("hevc", X265_MAIN10_HRD, VideoInfo("hevc", 1920, 1080, "Main 10", "4.1", 60.0), "hvc1.2.4.L123.90"),
    (
        "hevc",
        X265_444_LAYERS,
        VideoInfo("hevc", 642, 362, "Format Range Extensions", "2.1", 25.0),
        "hvc1.4.10.L63.9E.8",
    ),
    ("av1", SVT_AV1, VideoInfo("av1", 1280, 720, "Main", "3.1"), "av01.0.05M.08"),
    ("av1", SVT_AV1_10BIT, VideoInfo("av1", 642, 362, "Main", "2.1"), "av01.0.01M.10"),
    # the AV1 video descriptor that opens a sequence in MPEG-2 TS terms
    ("av1", "800481050c00", VideoInfo("av1", 0, 0, "Main", "3.1"), "av01.0.05M.08"),
    ("vp9", LIBVPX_VP9, VideoInfo("vp9", 0, 0, "0", "3.1"), "vp09.00.31.08"),
    ("vp9", "021fa20202020000", VideoInfo("vp9", 0, 0, "2", "3.1"), "vp09.02.31.10"),
    ("vp8", "01000000001e800202020000", VideoInfo("vp8", 0, 0, "0"), "vp08.00.30.08"),
    ("vvc", "ff00", VideoInfo("vvc"), ""),
    ("", "00", VideoInfo(""), ""),
]


@pytest.mark.parametrize(("codec", "record", "info", "string"), VIDEO)
def test_video_configurations(codec: str, record: str, info: VideoInfo, string: str) -> None:
    assert codecs.video_info(codec, bytes.fromhex(record)) == info
    assert codecs.video_codec_string(codec, bytes.fromhex(record)) == string


@pytest.mark.parametrize(
    ("codec", "record", "size", "fps"),
    [
        ("h264", avcc(AVC_SPS_EVERYTHING), (1920, 1084), 29.97),
        ("h264", avcc(AVC_SPS_MONOCHROME), (639, 477), 0.0),
        ("hevc", hvcc(HEVC_SPS_EVERYTHING), (1920, 1080), 50.0),
    ],
)
def test_parameter_sets_that_use_every_field(codec: str, record: bytes, size: tuple[int, int], fps: float) -> None:
    info = codecs.video_info(codec, record)
    assert (info.width, info.height) == size
    assert info.fps == fps


@pytest.mark.parametrize(
    ("profile", "constraints", "level", "name"),
    [(66, 0xC0, 11, "1.1"), (66, 0xD0, 11, "1b"), (100, 0x10, 11, "1.1"), (100, 0, 9, "1b"), (77, 0, 52, "5.2"),
     (77, 0, 10, "1"), (77, 0, 0, "")],
)  # fmt: skip
def test_avc_levels(profile: int, constraints: int, level: int, name: str) -> None:
    assert codecs.video_info("h264", bytes((1, profile, constraints, level))).level == name


def test_profile_and_level_survive_a_broken_parameter_set() -> None:
    record = bytes.fromhex(X264_HIGH_1080P30)
    assert codecs.video_info("h264", record[:12]) == VideoInfo("h264", 0, 0, "High", "4", 0.0)
    record = bytes.fromhex(X265_MAIN)
    assert codecs.video_info("hevc", record[:60]) == VideoInfo("hevc", 0, 0, "Main", "3.1", 0.0)


def test_the_size_survives_a_broken_vui() -> None:
    record = bytes.fromhex(X264_HIGH_1080P30)
    end = 8 + int.from_bytes(record[6:8], "big")
    assert codecs.video_info("h264", record[: end - 8]) == VideoInfo("h264", 1920, 1080, "High", "4", 0.0)
    assert codecs.video_info("hevc", hvcc(HEVC_SPS_EVERYTHING)[:-8]).width == 1920


def test_hevc_string_with_profile_space_and_high_tier() -> None:
    # 14496-15 E.3 gives hev1.A12.4.L93... as the form; no constraint bytes at all when all are zero
    record = bytes((1, 0x40 | 0x20 | 12, 0x20, 0, 0, 0)) + bytes(6) + bytes((93,))
    assert codecs.video_codec_string("hevc", record) == "hvc1.A12.4.H93"


def test_av1_timing_and_decoder_model() -> None:
    # reserved bits aside: profile 0; timing 1/60 with equal intervals of 2 ticks; decoder model with 10 bit delays;
    # one operating point at level 8 (so with a tier bit), with model and delay; 12 bit sizes
    fields = [
        (3, 0), (2, 0), (1, 1), (32, 1), (32, 60), (1, 1), (3, 0b010), (1, 1), (5, 9), (32, 1), (5, 0), (5, 0),
        (1, 1), (5, 0), (12, 0), (5, 8), (1, 1), (1, 1), (10, 3), (10, 4), (1, 0), (1, 1), (4, 5),
        (4, 11), (4, 11), (12, 1919), (12, 1079), (16, 0),
    ]  # fmt: skip
    bits = "".join(f"{value:0{width}b}" for width, value in fields)
    obu = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    # a temporal delimiter with an extension header comes first
    record = b"\x81\x08\x0c\x00" + b"\x16\x00\x00" + b"\x0a" + bytes((len(obu),)) + obu
    assert codecs.video_info("av1", record) == VideoInfo("av1", 1920, 1080, "Main", "4.0", 30.0)


def bits_to_bytes(bits: str) -> bytes:
    bits = bits.replace(" ", "")
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


SYNC = f"{0x498342:024b}"
SIZE = f"{641:016b}{361:016b}"


@pytest.mark.parametrize(
    ("frame", "info"),
    [
        (bits_to_bytes(f"10 00 0 0 1 0 {SYNC} 010 0 {SIZE}"), VideoInfo("vp9", 642, 362, "0")),
        (bits_to_bytes(f"10 10 0 0 1 0 {SYNC} 010 0 110 {SIZE}"), VideoInfo("vp9", 642, 362, "1")),
        (bits_to_bytes(f"10 10 0 0 1 0 {SYNC} 111 0 {SIZE}"), VideoInfo("vp9", 642, 362, "1")),
        (bits_to_bytes(f"10 01 0 0 1 0 {SYNC} 0 010 0 {SIZE}"), VideoInfo("vp9", 642, 362, "2")),
        (bits_to_bytes(f"10 11 0 0 0 1 0 {SYNC} 0 010 0 110 {SIZE}"), VideoInfo("vp9", 642, 362, "3")),
        (bits_to_bytes(f"10 00 0 1 1 0 {SYNC} 010 0 {SIZE}"), VideoInfo("vp9")),  # not a key frame
        (bits_to_bytes(f"10 00 1 0 1 0 {SYNC} 010 0 {SIZE}"), VideoInfo("vp9")),  # shows an old frame
        (bits_to_bytes(f"10 00 0 0 1 0 {'0' * 24} 010 0 {SIZE}"), VideoInfo("vp9")),  # no sync code
    ],
)
def test_vp9_frames(frame: bytes, info: VideoInfo) -> None:
    assert codecs.video_frame_info("vp9", frame) == info


@pytest.mark.parametrize(
    ("codec", "frame", "info"),
    [
        ("av1", "12000a0b0000002d4cffb3c4af9004322c1000", VideoInfo("av1", 1280, 720, "Main")),
        ("av1", "1200322c1000", VideoInfo("av1")),
        ("vp9", "82498342004ff02cf60638241c184a18007447", VideoInfo("vp9", 1280, 720, "0")),
        ("vp8", "5018009d012a8002680147", VideoInfo("vp8", 640, 360, "0")),
        ("vp8", "5218009d012a8042684147", VideoInfo("vp8", 640, 360, "1")),  # scaled on display, version 1
        ("vp8", "5118009d012a8002680147", VideoInfo("vp8")),  # not a key frame
        ("vp8", "5018009d012a800268", VideoInfo("vp8")),
        ("h263", "00008401112620202021ffff", VideoInfo("h263", 352, 288)),
        ("h263", bits_to_bytes(f"{1:017b} 00001 00000000 000 {96:08b} {64:08b}").hex(), VideoInfo("h263", 96, 64)),
        ("h263", bits_to_bytes(f"{1:017b} 00001 {0:08b} 001 {640:016b}{360:016b}").hex(), VideoInfo("h263", 640, 360)),
        ("h263", bits_to_bytes(f"{1:017b} 00001 00000000 111").hex(), VideoInfo("h263")),
        ("h263", "00010401112620202021ffff", VideoInfo("h263")),
        ("screen", "31603120", VideoInfo("screen", 352, 288)),
        ("screen", "316031", VideoInfo("screen")),
        ("h264", "000002a90605", VideoInfo("h264")),
    ],
)
def test_video_frames(codec: str, frame: str, info: VideoInfo) -> None:
    assert codecs.video_frame_info(codec, bytes.fromhex(frame)) == info


AUDIO = [
    # FFmpeg's aac writes the SBR extension, switched off
    ("aac", "121056e500", AudioInfo("aac", 44100, 2, "LC"), "mp4a.40.2"),
    ("aac", "118856e500", AudioInfo("aac", 48000, 1, "LC"), "mp4a.40.2"),
    ("aac", "11b056e500", AudioInfo("aac", 48000, 6, "LC"), "mp4a.40.2"),
    ("aac", "1210", AudioInfo("aac", 44100, 2, "LC"), "mp4a.40.2"),
    ("aac", "11b8", AudioInfo("aac", 48000, 8, "LC"), "mp4a.40.2"),
    # SBR and PS behind an LC configuration at half the rate
    ("aac", "131056e598", AudioInfo("aac", 48000, 2, "HE"), "mp4a.40.5"),
    ("aac", "130856e59d4880", AudioInfo("aac", 48000, 2, "HEv2"), "mp4a.40.29"),
    # SBR and PS as the object type: 5, 24000 Hz, 2 channels, 48000 Hz; 29, 24000 Hz, 1 channel, 48000 Hz
    ("aac", bits_to_bytes("00101 0110 0010 0011 00010 000").hex(), AudioInfo("aac", 48000, 2, "HE"), "mp4a.40.5"),
    ("aac", bits_to_bytes("11101 0110 0001 0011 00010 000").hex(), AudioInfo("aac", 48000, 2, "HEv2"), "mp4a.40.29"),
    # an escaped object type (42, xHE), a rate of its own, channels left to a program config element
    ("aac", bits_to_bytes("11111 001010 0011 0010").hex(), AudioInfo("aac", 48000, 2, "xHE"), "mp4a.40.42"),
    ("aac", bits_to_bytes(f"00010 1111 {44056:024b} 0010 000").hex(), AudioInfo("aac", 44056, 2, "LC"), "mp4a.40.2"),
    ("aac", bits_to_bytes("00010 0011 0000 000").hex(), AudioInfo("aac", 48000, 0, "LC"), "mp4a.40.2"),
    # a core coder delay before the extension; a reserved sampling frequency
    (
        "aac",
        bits_to_bytes(f"00010 0110 0010 0 1 {0:014b} 0 {0x2B7:011b} 00101 1 0011").hex(),
        AudioInfo("aac", 48000, 2, "HE"),
        "mp4a.40.5",
    ),
    ("aac", bits_to_bytes("00010 1101 0010 000").hex(), AudioInfo("aac"), ""),
    ("aac", "", AudioInfo("aac"), ""),
    ("opus", "4f707573486561640102380180bb0000000000", AudioInfo("opus", 48000, 2), "opus"),
    ("opus", "4f70757348656164010138014056000000000000", AudioInfo("opus", 48000, 1), "opus"),
    ("opus", "", AudioInfo("opus", 48000, 0), "opus"),
    ("flac", "12001200000000004a580bb802f0" + "00" * 20, AudioInfo("flac", 48000, 2), "fLaC"),
    ("flac", "664c61438000002212001200000000004a580bb802f0" + "00" * 20, AudioInfo("flac", 48000, 2), "fLaC"),
    ("flac", "20002000000000004015177000f0" + "00" * 20, AudioInfo("flac", 96000, 1), "fLaC"),
    ("flac", "1200", AudioInfo("flac"), "fLaC"),
    ("ac3", "", AudioInfo("ac3"), "ac-3"),
    ("eac3", "", AudioInfo("eac3"), "ec-3"),
    ("mp3", "", AudioInfo("mp3"), "mp4a.40.34"),
    ("speex", "", AudioInfo("speex"), ""),
]


@pytest.mark.parametrize(("codec", "configuration", "info", "string"), AUDIO)
def test_audio_configurations(codec: str, configuration: str, info: AudioInfo, string: str) -> None:
    assert codecs.audio_info(codec, bytes.fromhex(configuration)) == info
    assert codecs.audio_codec_string(codec, bytes.fromhex(configuration)) == string


@pytest.mark.parametrize(
    ("codec", "frame", "info"),
    [
        ("ac3", "0b775052144043e106f4637080808210101041", AudioInfo("ac3", 48000, 2)),
        ("ac3", "0b770ad35e40ebf8403eff9df0821042084108", AudioInfo("ac3", 44100, 6)),
        ("ac3", "0b780ad35e40ebf8403eff9df0821042084108", AudioInfo("ac3")),
        ("ac3", "0b770ad39e40ebf8403eff9df0821042084108", AudioInfo("ac3", 32000, 6)),
        ("ac3", "0b770ad3de40ebf8403eff9df0821042084108", AudioInfo("ac3")),  # reserved rate
        ("eac3", "0b77017f3487c0002000000045008c04040401", AudioInfo("eac3", 48000, 2)),
        ("eac3", "0b77037f3f87c000200000000200000004281f", AudioInfo("eac3", 48000, 6)),
        ("eac3", "0b77017fd487c0002000000045008c04040401", AudioInfo("eac3", 22050, 2)),  # half rate
        ("eac3", "0b77017f", AudioInfo("eac3")),
        ("mp3", "fffb9064000ff00000690000", AudioInfo("mp3", 44100, 2)),
        ("mp3", "fff340c40000000348000000", AudioInfo("mp3", 22050, 1)),
        ("mp3", "ffe340c4", AudioInfo("mp3", 11025, 1)),  # MPEG-2.5
        ("mp3", "ffeb40c4", AudioInfo("mp3")),  # reserved version
        ("mp3", "fffb9c64", AudioInfo("mp3")),  # reserved rate
        ("mp3", "fffb90", AudioInfo("mp3")),
        ("opus", "fcfffe", AudioInfo("opus")),
    ],
)
def test_audio_frames(codec: str, frame: str, info: AudioInfo) -> None:
    assert codecs.audio_frame_info(codec, bytes.fromhex(frame)) == info


CODECS = ["h264", "hevc", "vvc", "av1", "vp9", "vp8", "h263", "screen", "vp6", ""]
RECORDS = [bytes.fromhex(record) for _, record, _, _ in VIDEO] + [
    avcc(AVC_SPS_EVERYTHING),
    avcc(AVC_SPS_MONOCHROME),
    hvcc(HEVC_SPS_EVERYTHING),
]


def check_video(codec: str, data: bytes) -> None:
    """Every answer is in range, whatever the bytes."""
    for info in (codecs.video_info(codec, data), codecs.video_frame_info(codec, data)):
        assert info.codec == codec
        assert 0 <= info.width <= 65536
        assert 0 <= info.height <= 65536
        assert 0.0 <= info.fps <= 1000.0
        assert info.profile.isprintable() and len(info.profile) < 40
        assert info.level.isprintable() and len(info.level) < 5
    string = codecs.video_codec_string(codec, data)
    assert string.isascii() and string.isprintable() and len(string) < 64


def check_audio(codec: str, data: bytes) -> None:
    for info in (codecs.audio_info(codec, data), codecs.audio_frame_info(codec, data)):
        assert info.codec in (codec, "ac3", "eac3")
        assert 0 <= info.sample_rate < 1 << 24
        assert 0 <= info.channels <= 255
    assert len(codecs.audio_codec_string(codec, data)) < 12


@pytest.mark.parametrize(("codec", "record", "info", "string"), VIDEO)
def test_video_configurations_cut_at_every_byte(codec: str, record: str, info: VideoInfo, string: str) -> None:
    whole = bytes.fromhex(record)
    for end in range(len(whole)):
        check_video(codec, whole[:end])
        cut = codecs.video_info(codec, whole[:end])
        # less may be known than of the whole record, but nothing else
        for name in ("width", "height", "profile", "fps"):
            assert getattr(cut, name) in (getattr(info, name), 0, "")
        assert codecs.video_codec_string(codec, whole[:end]) in (string, "")


@pytest.mark.parametrize(("codec", "configuration", "info", "string"), AUDIO)
def test_audio_configurations_cut_at_every_byte(codec: str, configuration: str, info: AudioInfo, string: str) -> None:
    whole = bytes.fromhex(configuration)
    for end in range(len(whole)):
        check_audio(codec, whole[:end])


@given(st.sampled_from(CODECS), st.sampled_from(RECORDS), st.integers(0, 200), st.binary(max_size=40))
def test_damaged_video_configurations(codec: str, record: bytes, at: int, damage: bytes) -> None:
    check_video(codec, record[:at] + damage + record[at + len(damage) :])


@given(st.sampled_from(["aac", "opus", "flac", "ac3", "eac3", "mp3", "pcm"]), st.binary(max_size=40))
def test_any_audio_bytes(codec: str, data: bytes) -> None:
    check_audio(codec, data)


def test_the_work_is_bounded() -> None:
    # a million empty NAL units, a parameter set of one Exp-Golomb code with a million leading zeros
    head = bytes.fromhex("0101600000009000000000005df000fcfdf8f800000fff")
    assert codecs.video_info("hevc", head + (b"\x20\xff\xff" + bytes(2) * 0xFFFF) * 16).width == 0
    assert codecs.video_info("h264", b"\1\x64\0\x28\xff\xe1\xff\xff\x67\x64\0\x28" + bytes(1 << 20)).width == 0
    assert codecs.video_info("av1", b"\x81\x05\x0c\x00" + b"\x12\x00" * (1 << 20)).width == 0
