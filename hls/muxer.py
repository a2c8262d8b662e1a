"""Drafts in, segments out: MPEG-TS or fragmented MP4, written by libavformat through PyAV.

A decoder configuration reaches libavformat the way it would from a file: a short FLV head (``tracks.flv_head``) is
opened once as input, and its streams are the templates of the outputs'.  (An encoder's stream would replace the
configuration with its own.)

Every segment is an output container of its own.  libavformat interleaves with a look-ahead and lets go of the last
packets only when it is closed, so this is what puts exactly a draft's frames into its segment.  What has to go on
from one segment to the next is carried here:

* MPEG-TS: the continuity counters.  The timestamps go on by themselves: they are the stream's own, modulo 2^33.
* fMP4: the fragments' sequence number.  Decode times go on by themselves, 64 bits wide.

A draft with a place in the grid (``Draft.slot``) depends on nothing before it: whoever has it makes the same bytes.
Its continuity counters begin with 0 and end with 15, those of the tables and the fragment's number follow from the
slot.
All of it blocks and belongs in a thread; a muxer is used by one thread at a time.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import av
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream

from hls.counts import whole_counts
from hls.segmenter import Draft
from hls.settings import Container
from hls.tracks import CLOCK, CODECS, Frame, Track, flv_head, read_draft
from pyrtmp.message import AUDIO, VIDEO

__all__ = ["Muxed", "Muxer", "UnsupportedError"]

_TICK: Final = Fraction(1, CLOCK)
_MIN_AUDIO_STEP: Final = CLOCK // 1000
"""Audio frames that claim one time are set a millisecond apart: MP4 counts them in samples, coarser than ticks."""

_TS_OPTIONS: Final = {
    # Decoding is 0.35 s behind the PCR, so that audio that comes a little late is still ahead of the players' clock.
    # Timestamps are twice that above the stream's own.
    "max_delay": "350000",
    # One PES packet per audio frame, so that each keeps its timestamp.
    "pes_payload_size": "0",
    # PAT, PMT and SDT at the beginning and with key frames, which is enough.
    "pat_period": "86400",
    "sdt_period": "86400",
    # PIDs that differ in their low byte, see _Continuity.
    "mpegts_pmt_start_pid": str(0x1001),
    "mpegts_start_pid": str(0x0120),
    "avoid_negative_ts": "disabled",
}
_FMP4_OPTIONS: Final = {
    # frag_discont: do not begin at 0, baseMediaDecodeTime is the time given.  delay_moov: the sample entries of AC-3
    # are made from its first packet.
    "movflags": "empty_moov+delay_moov+default_base_moof+frag_discont+skip_trailer",
    "use_editlist": "0",
    "avoid_negative_ts": "disabled",
    "video_track_timescale": str(CLOCK),
}


class UnsupportedError(Exception):
    """Nothing of a draft can be put into a segment."""


@dataclass(frozen=True, slots=True)
class Muxed:
    """One complete segment."""

    data: bytes

    init: bytes | None
    """The initialization section of an fMP4 segment, the same until ``discontinuity``; None for MPEG-TS."""

    discontinuity: bool
    """Whether it does not follow from the segment before: its draft said so, or its tracks are others."""

    lost: int
    """Frames of the draft that are not in it."""


class Muxer:
    """Muxes one stream's drafts, in order.  Has to be closed: libavformat's memory is not collected."""

    def __init__(self, container: Container = "auto") -> None:
        self._container = container
        # Never back to MPEG-TS: a playlist cannot take an EXT-X-MAP back.
        self._fmp4 = container == "fmp4"
        self._templates: _Templates | None = None
        self._continuity = _Continuity()
        self._fragments = 1
        self._shift = 0
        self._last: dict[int, int] = {}

    def mux(self, draft: Draft) -> Muxed:
        """Make a segment of ``draft``, which is only read.

        Raises ``UnsupportedError`` if there is nothing in it to package, ``av.FFmpegError`` if libavformat refuses
        its tracks; the next draft may go better.
        """
        tracks, frames = read_draft(draft)
        if not tracks:
            raise UnsupportedError("no track that HLS has a place for")
        discontinuity = draft.discontinuity
        templates = self._templates
        if templates is None or not _fits(templates.identities, tracks, draft):
            discontinuity = discontinuity or templates is not None or draft.slot is None
            self.close()
            templates = self._templates = _Templates(tracks)
            self._fmp4 = self._fmp4 or not _goes_into_ts(tracks, self._container)
        if discontinuity or draft.slot is not None:
            self._last.clear()
            # libavformat wants PTS >= DTS: where composition times are negative, decode that much earlier.
            self._shift = min(0, *(frame.offset for frame in frames)) if frames else 0
        end = (draft.start + draft.duration - draft.shift) * CLOCK // 1000
        packets = self._packets(frames, end)
        if self._fmp4:
            number = self._fragments if draft.slot is None else _fragment(draft.slot)
            options = {**_FMP4_OPTIONS, "fragment_index": str(number)}
            file, muxed = _write(templates, packets, "mp4", options)
        else:
            file, muxed = _write(templates, packets, "mpegts", _TS_OPTIONS)
        if not muxed:
            raise UnsupportedError("libavformat refused every frame")
        if self._fmp4:
            init, data = self._split(file.getvalue())
        elif draft.slot is None:
            init, data = None, self._continuity.carry_on(file)
        else:
            init, data = None, whole_counts(file.getvalue(), draft.slot)
        return Muxed(data, init, discontinuity, len(draft.messages) - muxed)

    def close(self) -> None:
        """Free what libavformat holds.  The muxer may be used again after that."""
        if self._templates is not None:
            self._templates.close()
            self._templates = None

    def _packets(self, frames: list[Frame], end: int) -> Iterator[tuple[int, Packet[Stream]]]:
        """``frames`` as packets, each with its kind: DTS rising within a track, PTS never before DTS.

        ``end`` is where the draft ends, in ticks.
        """
        for frame, duration in zip(frames, _durations(frames, end), strict=True):
            pts = frame.dts + frame.offset
            dts = min(frame.dts + self._shift, pts)
            last = self._last.get(frame.kind)
            if last is not None:
                dts = max(dts, last + (1 if frame.kind == VIDEO else _MIN_AUDIO_STEP))
            self._last[frame.kind] = dts
            packet: Packet[Stream] = Packet(frame.data)
            packet.time_base = _TICK
            packet.dts = dts
            packet.pts = max(pts, dts)
            packet.duration = duration
            packet.is_keyframe = frame.key
            yield frame.kind, packet

    def _split(self, data: bytes) -> tuple[bytes | None, bytes]:
        """Initialization section and fragments of an fMP4 file."""
        fragments = [position for position, name in _boxes(data) if name == b"moof"]
        self._fragments += len(fragments)
        start = fragments[0] if fragments else len(data)
        return data[:start], data[start:]


def _write(
    templates: _Templates, packets: Iterable[tuple[int, Packet[Stream]]], format: str, options: dict[str, str]
) -> tuple[io.BytesIO, int]:
    """One output file of ``packets``, and how many of them are in it."""
    file = io.BytesIO()
    muxed = 0
    with av.open(file, "w", format=format, options=options) as output:
        streams = templates.add_to(output)
        for kind, packet in packets:
            packet.stream = streams[kind]
            try:
                output.mux_one(packet)
            except av.FFmpegError:
                continue  # such as NAL units whose lengths do not add up: this frame is lost, not the segment
            muxed += 1
    return file, muxed


def _fragment(slot: int) -> int:
    return (slot & 0x3FFFFFFF) + 1


def _goes_into_ts(tracks: Mapping[int, Track], container: Container) -> bool:
    codecs = [CODECS[track.codec] for track in tracks.values()]
    return all(codec.in_ts if container == "ts" else codec.prefers_ts for codec in codecs)


def _fits(identities: Mapping[int, tuple[str, bytes]], tracks: Mapping[int, Track], draft: Draft) -> bool:
    """Whether a draft can be muxed with the streams made for ``identities``.

    A track that pauses is kept while its sequence header stands: players take a track that comes and goes badly.
    """
    for kind, identity in identities.items():
        if kind in tracks:
            if tracks[kind].identity != identity:
                return False
        elif draft.discontinuity:
            header = draft.video_header if kind == VIDEO else draft.audio_header
            if header is None or (header.codec, header.data) != identity:
                return False
    return tracks.keys() <= identities.keys()


def _durations(frames: list[Frame], end: int) -> list[int]:
    """How long each frame lasts, in ticks; 0 where there is nothing to tell it from."""
    durations = [0] * len(frames)
    last: dict[int, int] = {}
    step = {VIDEO: 0, AUDIO: 0}
    for index, frame in enumerate(frames):
        if frame.kind in last:
            before = last[frame.kind]
            durations[before] = step[frame.kind] = max(frame.dts - frames[before].dts, 0)
        last[frame.kind] = index
    for kind, index in last.items():
        # The next segment's video begins at the end; audio frames reach across it.
        durations[index] = max(end - frames[index].dts, 0) if kind == VIDEO else step[kind]
    return durations


class _Templates:
    """An opened FLV head, whose streams outputs are made from."""

    def __init__(self, tracks: Mapping[int, Track]) -> None:
        self.identities = {kind: track.identity for kind, track in tracks.items()}
        self._input = av.open(io.BytesIO(flv_head(tracks)), "r", format="flv")
        types = {stream.type: stream for stream in self._input.streams}
        self._streams: dict[int, Stream] = {}
        # Video first: the first stream carries the PCR.
        for kind, type in ((VIDEO, "video"), (AUDIO, "audio")):
            if kind not in tracks:
                continue
            if type not in types:
                self.close()
                raise UnsupportedError(f"libavformat finds no {type} in the sequence headers")
            self._streams[kind] = types[type]

    def add_to(self, output: OutputContainer) -> dict[int, Stream]:
        """Give ``output`` its streams; by kind."""
        streams: dict[int, Stream] = {}
        for kind, template in self._streams.items():
            stream = streams[kind] = output.add_stream_from_template(template, opaque=True)
            if self.identities[kind][0] == "hevc" and output.format.name == "mp4":
                # libavformat's own choice is hev1, which Safari does not play.
                stream.codec_context.codec_tag = "hvc1"
        return streams

    def close(self) -> None:
        self._input.close()


class _Continuity:
    """Continuity counters (ISO 13818-1 2.4.3.3) that go on from segment to segment; VLC reports those that do not.

    A fresh muxer counts from 0 on every PID, so each PID's counters are moved by where the last segment left off.
    A PID is known by its low byte here.
    """

    _SIZE: Final = 188
    _MOVED: Final = [bytes(byte & 0xF0 | (byte + by) & 0x0F for byte in range(256)) for by in range(16)]

    def __init__(self) -> None:
        self._next: dict[int, int] = {}

    def carry_on(self, file: io.BytesIO) -> bytes:
        """What was written to ``file``, with the counters rewritten in place."""
        # 2.4.3.2: sync byte; 3 flags, 13 bits PID; 4 flags, 4 bits continuity_counter
        segment = file.getvalue()
        pids = segment[2 :: self._SIZE]
        counters = segment[3 :: self._SIZE]
        del segment  # or writing to the file would copy it
        # Nearly all packets are of one PID: they are moved in one go, the others one by one.
        most = max(set(pids), key=pids.count)
        moved = bytearray(counters.translate(self._table(most)))
        for pid in set(pids) - {most}:
            table = self._table(pid)
            index = pids.find(pid)
            while index >= 0:
                moved[index] = table[counters[index]]
                index = pids.find(pid, index + 1)
        with file.getbuffer() as view:
            view[3 :: self._SIZE] = moved
        for pid in set(pids):
            self._next[pid] = (moved[pids.rindex(pid)] + 1) & 0x0F
        return file.getvalue()

    def _table(self, pid: int) -> bytes:
        return self._MOVED[self._next.get(pid, 0)]


def _boxes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Position and type of every top-level box of an MP4 file (ISO 14496-12 4.2)."""
    position = 0
    while position + 8 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if size == 1:
            size = int.from_bytes(data[position + 8 : position + 16], "big")
        yield position, data[position + 4 : position + 8]
        position += max(size, 8)
