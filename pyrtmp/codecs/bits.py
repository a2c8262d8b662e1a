"""Bit fields by the names the standards use, and what H.264 and H.265 parameter sets share."""

from __future__ import annotations

from typing import Final, cast

from bitstring import Bits, Reader

MAX_SPS: Final = 512
"""Bytes of a parameter set looked at.  Real ones have 20 to 100; with every scaling list about 400."""
# H.264 and H.265 table 6-1: SubWidthC and SubHeightC by chroma_format_idc; 0 is monochrome, cropped in single samples.
CHROMA_SUBSAMPLING: Final = ((1, 1), (2, 2), (2, 1), (1, 1))


class BitReader:
    """Reads bit fields.  Running out of bits is a ValueError."""

    def __init__(self, data: bytes) -> None:
        self._reader = Reader(Bits.from_bytes(data))

    def u(self, bits: int) -> int:
        """u(n), f(n): an unsigned integer, most significant bit first."""
        return cast(int, self._reader.read_value(f"u{bits}"))

    def flag(self) -> bool:
        return cast(bool, self._reader.read_value("bool"))

    def ue(self) -> int:
        """ue(v): an unsigned Exp-Golomb code.  The standards use none longer than 32 bits."""
        value = cast(int, self._reader.read_value("ue"))
        if value >= 1 << 32:
            raise ValueError("Exp-Golomb code longer than 32 bits")
        return value

    def se(self) -> int:
        """se(v): a signed Exp-Golomb code."""
        return cast(int, self._reader.read_value("se"))

    def skip(self, bits: int) -> None:
        self._reader.pos += bits

    @property
    def remaining(self) -> int:
        return self._reader.remaining


def rbsp(nal: bytes) -> bytes:
    """The raw bytes of a NAL unit: without the emulation prevention bytes (H.264 7.4.1.1, H.265 7.4.2.1)."""
    return nal[:MAX_SPS].replace(b"\0\0\3", b"\0\0")


def skip_vui_to_timing(bits: BitReader) -> None:
    """Aspect ratio, overscan, video signal type and chroma location: the same in H.264 E.1.1 and H.265 E.2.1."""
    if bits.flag() and bits.u(8) == 255:  # aspect_ratio_idc Extended_SAR
        bits.skip(32)
    if bits.flag():  # overscan_info_present_flag
        bits.skip(1)
    if bits.flag():  # video_signal_type_present_flag
        bits.skip(4)
        if bits.flag():  # colour_description_present_flag
            bits.skip(24)
    if bits.flag():  # chroma_loc_info_present_flag
        bits.ue()
        bits.ue()
