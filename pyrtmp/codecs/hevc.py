"""HEVC: ISO/IEC 14496-15 8.3.3.1 and annex E.3 (hvcC, codec string), ITU-T H.265 7.3 and E.2.1 (parameter set)."""

from __future__ import annotations

from typing import Final

from pyrtmp.codecs.bits import CHROMA_SUBSAMPLING, BitReader, rbsp, skip_vui_to_timing
from pyrtmp.codecs.info import VideoInfo, frame_rate, level_name, picture_size

_PROFILES: Final = {
    1: "Main", 2: "Main 10", 3: "Main Still Picture", 4: "Format Range Extensions", 9: "Screen-Extended Main",
}  # fmt: skip
_SPS_NAL: Final = 33


def describe(record: bytes) -> VideoInfo:
    """HEVCDecoderConfigurationRecord (14496-15 8.3.3.1): UI8 version, UB[2] profile space, UB[1] tier, UB[5]
    profile, UI32 compatibility flags, 6 bytes of constraint flags, UI8 level, 9 more bytes, UI8 arrays; then of each
    array UI8 NAL unit type, UI16 count, and UI16 length and NAL unit."""
    profile = _PROFILES.get(record[1] & 0x1F, "")
    level = level_name(record[12], 30)
    width = height = 0
    fps = 0.0
    try:
        width, height, fps = read_sps(_find_sps(record))
    except (ValueError, IndexError):
        pass
    return VideoInfo("hevc", width, height, profile, level, fps)


def _find_sps(record: bytes) -> bytes:
    position = 23
    for _ in range(record[22]):
        nal_type = record[position] & 0x3F
        count = record[position + 1] << 8 | record[position + 2]
        position += 3
        for _ in range(count):
            length = record[position] << 8 | record[position + 1]
            position += 2
            if nal_type == _SPS_NAL:
                return record[position : position + length]
            position += length
    raise ValueError("no sequence parameter set")


def read_sps(nal: bytes) -> tuple[int, int, float]:
    """Width, height and frame rate from seq_parameter_set_rbsp (H.265 7.3.2.2.1)."""
    bits = BitReader(rbsp(nal))
    bits.skip(16)  # NAL unit header
    bits.skip(4)  # sps_video_parameter_set_id
    max_sub_layers_minus1 = bits.u(3)
    bits.skip(1)  # sps_temporal_id_nesting_flag
    _skip_profile_tier_level(bits, max_sub_layers_minus1)
    bits.ue()  # sps_seq_parameter_set_id
    chroma_format_idc = bits.ue()
    if chroma_format_idc > 3:
        raise ValueError("chroma_format_idc")
    if chroma_format_idc == 3:
        bits.skip(1)  # separate_colour_plane_flag
    width = bits.ue()
    height = bits.ue()
    if bits.flag():  # conformance_window_flag
        crop_x, crop_y = CHROMA_SUBSAMPLING[chroma_format_idc]
        width -= (bits.ue() + bits.ue()) * crop_x
        height -= (bits.ue() + bits.ue()) * crop_y
    width, height = picture_size(width, height)
    try:
        fps = _fps(bits, max_sub_layers_minus1)
    except ValueError:
        fps = 0.0
    return width, height, fps


def _skip_profile_tier_level(bits: BitReader, max_sub_layers_minus1: int) -> None:
    # H.265 7.3.3
    bits.skip(96)  # general profile, tier, flags and level
    if max_sub_layers_minus1 == 0:
        return
    present = [(bits.flag(), bits.flag()) for _ in range(max_sub_layers_minus1)]
    bits.skip(2 * (8 - max_sub_layers_minus1))
    for profile, level in present:
        bits.skip((88 if profile else 0) + (8 if level else 0))


def _fps(bits: BitReader, max_sub_layers_minus1: int) -> float:
    """Read on from bit_depth_luma_minus8 to the timing in the VUI."""
    bits.ue()  # bit_depth_luma_minus8
    bits.ue()  # bit_depth_chroma_minus8
    poc_bits = bits.ue() + 4  # log2_max_pic_order_cnt_lsb_minus4
    if poc_bits > 16:
        raise ValueError("log2_max_pic_order_cnt_lsb_minus4")
    layers = max_sub_layers_minus1 + 1 if bits.flag() else 1  # sps_sub_layer_ordering_info_present_flag
    for _ in range(3 * layers):
        bits.ue()
    for _ in range(6):  # coding and transform block sizes and depths
        bits.ue()
    if bits.flag() and bits.flag():  # scaling_list_enabled_flag, sps_scaling_list_data_present_flag
        _skip_scaling_list_data(bits)
    bits.skip(2)  # amp_enabled_flag, sample_adaptive_offset_enabled_flag
    if bits.flag():  # pcm_enabled_flag
        bits.skip(8)
        bits.ue()
        bits.ue()
        bits.skip(1)
    _skip_short_term_ref_pic_sets(bits)
    if bits.flag():  # long_term_ref_pics_present_flag
        count = bits.ue()
        if count > 32:
            raise ValueError("num_long_term_ref_pics_sps")
        bits.skip(count * (poc_bits + 1))
    bits.skip(2)  # sps_temporal_mvp_enabled_flag, strong_intra_smoothing_enabled_flag
    if not bits.flag():  # vui_parameters_present_flag
        return 0.0
    skip_vui_to_timing(bits)
    bits.skip(3)  # neutral_chroma_indication_flag, field_seq_flag, frame_field_info_present_flag
    if bits.flag():  # default_display_window_flag
        for _ in range(4):
            bits.ue()
    if not bits.flag():  # vui_timing_info_present_flag
        return 0.0
    num_units_in_tick = bits.u(32)
    time_scale = bits.u(32)
    return frame_rate(time_scale, num_units_in_tick)


def _skip_scaling_list_data(bits: BitReader) -> None:
    # H.265 7.3.4
    for size_id in range(4):
        for _ in range(2 if size_id == 3 else 6):
            if not bits.flag():  # scaling_list_pred_mode_flag
                bits.ue()
                continue
            if size_id > 1:
                bits.se()  # scaling_list_dc_coef_minus8
            for _ in range(min(64, 1 << (4 + (size_id << 1)))):
                bits.se()


def _skip_short_term_ref_pic_sets(bits: BitReader) -> None:
    # H.265 7.3.7; a set may be coded as the difference to the one before it, so the sizes are kept
    count = bits.ue()
    if count > 64:
        raise ValueError("num_short_term_ref_pic_sets")
    size = 0
    for index in range(count):
        if index and bits.flag():  # inter_ref_pic_set_prediction_flag
            bits.skip(1)  # delta_rps_sign
            bits.ue()  # abs_delta_rps_minus1
            used = 0
            for _ in range(size + 1):
                if bits.flag() or bits.flag():  # used_by_curr_pic_flag, use_delta_flag
                    used += 1
            size = used
        else:
            size = bits.ue() + bits.ue()  # num_negative_pics, num_positive_pics
            if size > 32:
                raise ValueError("num_negative_pics + num_positive_pics")
            for _ in range(size):
                bits.ue()
                bits.skip(1)


def codec_string(record: bytes) -> str:
    # 14496-15 E.3: profile space and number, compatibility flags in reverse bit order, tier and level, then the
    # constraint bytes without those zero bytes that end them
    if len(record) < 13:
        return ""
    space = ("", "A", "B", "C")[record[1] >> 6]
    flags = int(f"{int.from_bytes(record[2:6], 'big'):032b}"[::-1], 2)
    tier = "H" if record[1] & 0x20 else "L"
    constraints = "".join(f".{byte:X}" for byte in record[6:12].rstrip(b"\0"))
    return f"hvc1.{space}{record[1] & 0x1F}.{flags:X}.{tier}{record[12]}{constraints}"
