"""AV1: "AV1 Codec ISO Media File Format Binding" 2.3 and 5 (av1C, codec string), "AV1 Bitstream" 5.5 (OBUs)."""

from __future__ import annotations

from typing import Final

from pyrtmp.codecs.bits import MAX_SPS, BitReader
from pyrtmp.codecs.info import VideoInfo, frame_rate, picture_size

_PROFILES: Final = {0: "Main", 1: "High", 2: "Professional"}
_OBU_SEQUENCE_HEADER: Final = 1


def _configuration(record: bytes) -> bytes:
    """The AV1CodecConfigurationRecord: itself, or inside the AV1 video descriptor of an MPEG-2 TS sequence start
    (UI8 tag 0x80, UI8 length)."""
    if record[0] == 0x80:
        record = record[2:]
    if len(record) < 4:
        raise ValueError("av1C cut short")
    return record


def describe(record: bytes) -> VideoInfo:
    """av1C: UB[1] marker, UB[7] version, UB[3] profile, UB[5] level, UB[1] tier, UB[1] high bit depth, UB[1] twelve
    bits, 5 bits of chroma, UI8 delay, then OBUs."""
    record = _configuration(record)
    width, height, fps = 0, 0, 0.0
    try:
        width, height, fps = _sequence_header(_find_sequence_header(record[4:]))
    except (ValueError, IndexError):
        pass
    return VideoInfo("av1", width, height, _PROFILES.get(record[1] >> 5, ""), _level_of_index(record[1] & 0x1F), fps)


def describe_frame(frame: bytes) -> VideoInfo:
    """A temporal unit that starts a coded sequence has the sequence header inside."""
    obu = _find_sequence_header(frame)
    width, height, fps = _sequence_header(obu)
    return VideoInfo("av1", width, height, _PROFILES.get(obu[0] >> 5, ""), "", fps)


def _level_of_index(index: int) -> str:
    # AV1 A.3: four minor levels for each major one from 2.0 on; 31 is "maximum parameters"
    return f"{2 + (index >> 2)}.{index & 3}" if index < 24 else ""


def _find_sequence_header(data: bytes) -> bytes:
    """The payload of the first sequence header OBU (AV1 5.3)."""
    position = 0
    while position < len(data):
        header = data[position]
        position += 2 if header & 0x04 else 1  # obu_extension_flag
        size = len(data) - position
        if header & 0x02:  # obu_has_size_field: leb128
            size = 0
            for index in range(8):
                byte = data[position]
                position += 1
                size |= (byte & 0x7F) << (index * 7)
                if byte < 0x80:
                    break
        if header >> 3 & 0x0F == _OBU_SEQUENCE_HEADER:
            return data[position : position + min(size, MAX_SPS)]
        position += size
    raise ValueError("no sequence header")


def _sequence_header(obu: bytes) -> tuple[int, int, float]:
    """Width, height and frame rate from sequence_header_obu (AV1 5.5.1)."""
    bits = BitReader(obu)
    bits.skip(4)  # seq_profile, still_picture
    fps = 0.0
    if bits.flag():  # reduced_still_picture_header
        bits.skip(5)
    else:
        delay_bits = 0
        if bits.flag():  # timing_info_present_flag
            num_units_in_display_tick = bits.u(32)
            time_scale = bits.u(32)
            if bits.flag():  # equal_picture_interval
                # uvlc is Exp-Golomb by another name (4.10.3): num_ticks_per_picture_minus_1
                fps = frame_rate(time_scale, num_units_in_display_tick * (bits.ue() + 1))
            if bits.flag():  # decoder_model_info_present_flag
                delay_bits = bits.u(5) + 1  # buffer_delay_length_minus_1
                bits.skip(42)
        initial_display_delay_present = bits.flag()
        for _ in range(bits.u(5) + 1):  # operating_points_cnt_minus_1
            bits.skip(12)  # operating_point_idc
            if bits.u(5) > 7:  # seq_level_idx
                bits.skip(1)  # seq_tier
            if delay_bits and bits.flag():  # decoder_model_present_for_this_op
                bits.skip(2 * delay_bits + 1)
            if initial_display_delay_present and bits.flag():
                bits.skip(4)
    width_bits = bits.u(4) + 1
    height_bits = bits.u(4) + 1
    width, height = picture_size(bits.u(width_bits) + 1, bits.u(height_bits) + 1)
    return width, height, fps


def codec_string(record: bytes) -> str:
    # AV1 ISOBMFF binding, section 5: profile, level and tier, bit depth
    record = _configuration(record)
    tier = "H" if record[2] & 0x80 else "M"
    depth = 8 if not record[2] & 0x40 else 12 if record[2] & 0x20 else 10
    return f"av01.{record[1] >> 5}.{record[1] & 0x1F:02}{tier}.{depth:02}"
