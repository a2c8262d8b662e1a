"""What the API says of a stream, a client, a worker, another node: facts in, the fields of ``cluster.openapi.answers``
out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from cluster.doctoring import diagnose, health
from cluster.edge.pulls import PullFacts
from cluster.facts import ALONE, ClientFacts, StreamFacts
from cluster.forward.push import ForwardFacts
from cluster.openapi import answers
from cluster.recording.facts import RecordingFacts
from cluster.registry import Copy, Lease, NodeRecord
from cluster.reports import Numbers
from pyrtmp.codecs import AudioInfo, VideoInfo
from pyrtmp.refusals import Refusal

# How SRS spells them
_CODEC_NAMES: Final = {"h264": "H264", "hevc": "HEVC", "aac": "AAC", "mp3": "MP3", "opus": "Opus", "av1": "AV1"}


def stream_fields(stream: StreamFacts) -> answers.Stream:
    """One entry of the list of streams."""
    return {
        "id": str(stream.key),
        "name": stream.key.name,
        "vhost": "__defaultVhost__",
        "app": stream.key.app,
        "live_ms": int(time.time() * 1000),
        "clients": stream.total_viewers + stream.waiting + (1 if stream.publisher else 0),
        "frames": stream.video_frames,
        "send_bytes": stream.bytes_out,
        "recv_bytes": stream.bytes_in,
        "kbps": {"recv_30s": round(stream.kbps_in_30s), "send_30s": round(stream.kbps_out_30s)},
        "publish": {"active": bool(stream.publisher), "cid": stream.publisher},
        "video": _video(stream.video),
        "audio": _audio(stream.audio),
        # Not in SRS
        "state": stream.state,
        "uptime": round(stream.uptime, 1),
        "publishes": stream.publishes,
        "pulled": stream.pulled,
        "upstream": stream.upstream or None,
        "recv_kbps": stream.kbps_in,
        "fps": stream.fps,
        "gop_ms": stream.gop_ms,
        "behind_seconds": stream.behind,
        "viewers": {"total": stream.total_viewers, **stream.viewers},
        "waiting": stream.waiting,
        "health": health(stream),
        "worker": _worker(stream.worker),
    }


def stream_details(stream: StreamFacts) -> answers.StreamDetails:
    """The same with metadata and the stream doctor's findings."""
    return {**stream_fields(stream), "metadata": dict(stream.metadata), "doctor": diagnose(stream)}


def client_fields(client: ClientFacts) -> answers.Client:
    """A publisher or viewer, or another node that asks for a stream."""
    kinds = {"publish": "publish", "play": f"{client.protocol}-play"}
    return {
        "id": client.id,
        "vhost": "__defaultVhost__",
        "stream": str(client.key) if client.key is not None else "",
        "ip": client.address,
        "url": f"/{client.key}" if client.key is not None else "",
        "name": client.key.name if client.key is not None else "",
        "type": kinds.get(client.role, client.role),
        "publish": client.role == "publish",
        "alive": round(client.seconds, 1),
        "send_bytes": client.bytes_out,
        "recv_bytes": client.bytes_in,
        "kbps": {"recv_30s": round(client.kbps_in_30s), "send_30s": round(client.kbps_out_30s)},
        # Not in SRS
        "protocol": client.protocol,
        "role": client.role,
        "agent": client.agent,
        "node": client.node or None,
        "session": client.session or None,
        "worker": _worker(client.worker),
    }


def forward_fields(forward: ForwardFacts, now: float) -> answers.Forward:
    """One stream that is passed on; ``now`` is monotonic seconds."""
    return {
        "stream": forward.stream,
        "target": forward.target,
        "state": forward.state,
        "seconds": round(now - forward.since, 1),
        "delay": round(forward.delay_seconds, 3),
        "error": forward.error,
        "attempts": forward.attempts,
        "reconnects": forward.reconnects,
        "bytes": forward.bytes,
        "messages": forward.messages,
        "dropped": forward.dropped,
    }


def pull_fields(pull: PullFacts) -> answers.Pull:
    """One stream that is fetched from another node."""
    return {
        "stream": str(pull.key),
        "id": pull.id,
        "upstream": pull.upstream or None,
        "node": pull.node or None,
        "delay": None if pull.delay is None else round(pull.delay, 4),
        "error": pull.error,
        "seconds": round(pull.seconds, 1),
        "changes": pull.changes,
    }


def recording_fields(recording: RecordingFacts, now: float) -> answers.Recording:
    """One stream that is written to files; ``now`` is monotonic seconds."""
    return {
        "stream": recording.stream,
        "state": recording.state,
        "seconds": round(now - recording.since, 1),
        "file": recording.file,
        "media_seconds": round(recording.seconds, 1),
        "bytes": recording.bytes,
        "files": recording.files,
        "dropped": recording.dropped,
        "error": recording.error,
    }


def refusal_fields(refusal: Refusal, now: float) -> answers.Refused:
    """One refusal; ``now`` is Unix time."""
    return {
        "what": refusal.what,
        "address": refusal.address,
        "code": refusal.code,
        "why": refusal.why,
        "at": round(refusal.at, 3),
        "times": refusal.times,
        "seconds": round(max(0.0, now - refusal.at), 1),
    }


def worker_fields(parts: Iterable[Numbers]) -> list[answers.Worker]:
    """One entry for each worker process, by number."""
    return [
        {
            "worker": each.worker,
            "pid": each.pid,
            "cpu_seconds": round(each.cpu_seconds, 2),
            "cpu_share": each.now.cpu_share,
            "mem_kbyte": each.now.resident_bytes // 1024,
            "connections": each.connections,
            "publishers": each.publishers,
            "viewers": sum(each.viewers.values()),
            "streams_held": each.now.held,
            "kbps_out": round(each.now.kbps_out),
            "ipc_bytes": each.ipc_bytes_in + each.ipc_bytes_out,
            "restarts": each.restarts,
        }
        for each in sorted(parts, key=lambda each: each.worker)
        if each.worker != ALONE
    ]


def node_fields(node: NodeRecord) -> answers.Node:
    """A node, as the registry has it."""
    return {
        "id": node.id,
        "role": node.role,
        "group": node.group,
        "rtmp": node.rtmp,
        "http": node.http,
        "stress": node.stress,
        "draining": node.draining,
    }


def holder_fields(record: Lease | Copy) -> answers.Holder:
    """A node that has a stream, as the registry has it."""
    return {"node": record.node, "rtmp": record.rtmp, "group": record.group}


def _video(info: VideoInfo | None) -> answers.Video | None:
    if info is None:
        return None
    return {
        "codec": _codec_name(info.codec),
        "profile": info.profile,
        "level": info.level,
        "width": info.width,
        "height": info.height,
    }


def _audio(info: AudioInfo | None) -> answers.Audio | None:
    if info is None:
        return None
    return {
        "codec": _codec_name(info.codec),
        "sample_rate": info.sample_rate,
        "channel": info.channels,
        "profile": info.profile,
    }


def _codec_name(codec: str) -> str:
    return _CODEC_NAMES.get(codec, codec.upper())


def _worker(number: int) -> int | None:
    """None where there are no workers."""
    return None if number == ALONE else number
