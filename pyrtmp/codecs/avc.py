"""H.264: ISO/IEC 14496-15 5.3.3.1 (avcC), ITU-T H.264 7.3.2.1.1 and E.1.1 (sequence parameter set), RFC 6381 3.3."""

from __future__ import annotations

from typing import Final

from pyrtmp.codecs.bits import CHROMA_SUBSAMPLING, BitReader, rbsp, skip_vui_to_timing
from pyrtmp.codecs.info import VideoInfo, frame_rate, level_name, picture_size

_PROFILES: Final = {
    44: "CAVLC 4:4:4 Intra", 66: "Baseline", 77: "Main", 88: "Extended", 100: "High", 110: "High 10",
    122: "High 4:2:2", 244: "High 4:4:4 Predictive",
}  # fmt: skip
# H.264 7.3.2.1.1: the profile_idc values whose parameter set goes on with chroma_format_idc
_HIGH_PROFILES: Final = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})


def describe(record: bytes) -> VideoInfo:
    """AVCDecoderConfigurationRecord (14496-15 5.3.3.1): UI8 version, profile, compatibility, level, length size,
    UB[3] reserved, UB[5] parameter sets, then UI16 length and the NAL unit of each."""
    profile_idc, constraints, level_idc = record[1], record[2], record[3]
    profile = _PROFILES.get(profile_idc, "")
    if profile_idc == 66 and constraints & 0x40:
        profile = "Constrained Baseline"
    # A.3.1: level 1b is level_idc 11 with constraint_set3_flag in the three old profiles, 9 in the others
    if level_idc == 9 or (level_idc == 11 and constraints & 0x10 and profile_idc in (66, 77, 88)):
        level = "1b"
    else:
        level = level_name(level_idc, 10)
    width = height = 0
    fps = 0.0
    if len(record) > 8 and record[5] & 0x1F:
        length = int.from_bytes(record[6:8], "big")
        try:
            width, height, fps = read_sps(record[8 : 8 + length])
        except ValueError:
            pass
    return VideoInfo("h264", width, height, profile, level, fps)


def read_sps(nal: bytes) -> tuple[int, int, float]:
    """Width, height and frame rate from seq_parameter_set_data (H.264 7.3.2.1.1)."""
    bits = BitReader(rbsp(nal))
    bits.skip(8)  # NAL unit header
    profile_idc = bits.u(8)
    bits.skip(16)
    bits.ue()  # seq_parameter_set_id
    chroma_format_idc = 1
    separate_colour_planes = False
    if profile_idc in _HIGH_PROFILES:
        chroma_format_idc = bits.ue()
        if chroma_format_idc > 3:
            raise ValueError("chroma_format_idc")
        if chroma_format_idc == 3:
            separate_colour_planes = bits.flag()
        bits.ue()  # bit_depth_luma_minus8
        bits.ue()  # bit_depth_chroma_minus8
        bits.skip(1)  # qpprime_y_zero_transform_bypass_flag
        if bits.flag():  # seq_scaling_matrix_present_flag
            for index in range(8 if chroma_format_idc != 3 else 12):
                if bits.flag():
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    bits.ue()  # log2_max_frame_num_minus4
    pic_order_cnt_type = bits.ue()
    if pic_order_cnt_type == 0:
        bits.ue()
    elif pic_order_cnt_type == 1:
        bits.skip(1)
        bits.se()
        bits.se()
        cycle = bits.ue()
        if cycle > 255:
            raise ValueError("num_ref_frames_in_pic_order_cnt_cycle")
        for _ in range(cycle):
            bits.se()
    bits.ue()  # max_num_ref_frames
    bits.skip(1)  # gaps_in_frame_num_value_allowed_flag
    width = (bits.ue() + 1) * 16
    map_units = bits.ue() + 1
    fields = 1 if bits.flag() else 2  # 2 - frame_mbs_only_flag
    height = map_units * 16 * fields
    if fields == 2:
        bits.skip(1)  # mb_adaptive_frame_field_flag
    bits.skip(1)  # direct_8x8_inference_flag
    if bits.flag():  # frame_cropping_flag
        crop_x, crop_y = CHROMA_SUBSAMPLING[0 if separate_colour_planes else chroma_format_idc]
        width -= (bits.ue() + bits.ue()) * crop_x
        height -= (bits.ue() + bits.ue()) * crop_y * fields
    width, height = picture_size(width, height)
    try:
        fps = _vui_fps(bits) if bits.flag() else 0.0
    except ValueError:
        fps = 0.0
    return width, height, fps


def _skip_scaling_list(bits: BitReader, size: int) -> None:
    # H.264 7.3.2.1.1.1: the list ends early when a scale becomes 0
    last = 8
    for _ in range(size):
        last = (last + bits.se()) % 256
        if last == 0:
            return


def _vui_fps(bits: BitReader) -> float:
    skip_vui_to_timing(bits)
    if not bits.flag():  # timing_info_present_flag
        return 0.0
    num_units_in_tick = bits.u(32)
    time_scale = bits.u(32)
    # A tick is a field's time, even in progressive streams (E.2.1)
    return frame_rate(time_scale, 2 * num_units_in_tick)


def codec_string(record: bytes) -> str:
    # RFC 6381 3.3: profile_idc, constraint flags and level_idc in hexadecimal
    if len(record) < 4:
        return ""
    return f"avc1.{record[1:4].hex()}"
