"""The benchmarks run: every part once, small, against the real server (and nginx-rtmp where it is installed)."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.clip import FRAME_RATE, GOP_SECONDS, LOOP_SECONDS, load_clip
from benchmarks.probe import percentile, read_stamp, stamp
from benchmarks.report import Bar, Report, find, medians
from benchmarks.smoke import MBPS, default_peers
from benchmarks.soak import slopes
from benchmarks.wire import VIDEO, Tag, media

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_smoke_measures_every_server_and_keeps_the_results(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "smoke", "--strict", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    (path,) = tmp_path.glob("*-smoke.json")
    result = json.loads(path.read_text())
    protocols = {"pyrtmp": ["rtmp", "flv"], "nginx": ["rtmp"]}
    expected = [(peer, protocol) for peer in default_peers().split(",") for protocol in protocols[peer]]
    assert [(row["server"], row["protocol"]) for row in result["rows"]] == expected
    for row in result["rows"]:
        assert row["error"] is None
        assert row["frames"] > 0
        assert row["p99 ms"] > 0
        assert row["key frame ms"] > 0
    assert [bar["verdict"] for bar in result["bars"]] == ["pass", "pass"]

    table = path.with_suffix(".md").read_text()
    assert table in done.stdout
    assert "| pyrtmp rtmp " in table
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_server_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "latency", "--peers", "nobody"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "nobody" in done.stderr


def test_the_clip_loops_without_a_seam() -> None:
    clip = load_clip(MBPS)
    tags = clip.loop()
    heads = [next(tags) for _ in clip.heads]
    assert all(tag.is_head for tag in heads)
    twice = [next(tags) for _ in range(2 * len(clip.body))]
    frames = [tag for tag in twice if tag.is_frame]
    steps = [later.timestamp - earlier.timestamp for earlier, later in pairwise(frames)]
    assert len(frames) == 2 * LOOP_SECONDS * FRAME_RATE
    assert set(steps) <= {33, 34}
    assert [index for index, tag in enumerate(frames) if tag.is_key_frame] == list(
        range(0, len(frames), GOP_SECONDS * FRAME_RATE))
    bits = sum(len(tag.payload) for tag in clip.body) * 8 / LOOP_SECONDS
    assert bits == pytest.approx(MBPS * 1e6, rel=0.1)


def test_a_stamp_is_read_back_and_leaves_the_picture_as_it_was() -> None:
    frame = Tag(VIDEO, 40, b"\x17\x01\x00\x00\x00" + b"\x00\x00\x00\x02\x65\x88")
    stamped = stamp(frame, 7, 123_456_789)
    assert read_stamp(frame) is None
    assert read_stamp(stamped) == (123_456_789, 7)
    assert stamped.payload[:5] == frame.payload[:5]
    # AVCC: each NAL unit behind its length; the stamp is one SEI unit in front of the slice.
    size = int.from_bytes(stamped.payload[5:9], "big")
    assert stamped.payload[9] & 0x1F == 6
    assert stamped.payload[9 + size :] == frame.payload[5:]
    assert b"\x00\x00" not in stamped.payload[9 : 9 + size]


def test_a_message_is_chunked_with_its_extended_timestamp_repeated() -> None:
    wire = media(Tag(VIDEO, 0x01000000, bytes(5000)), 1)
    head = bytes.fromhex("06 ffffff 001388 09 01000000 01000000")
    assert wire == head + bytes(4096) + bytes.fromhex("c6 01000000") + bytes(5000 - 4096)


def test_medians_bars_and_slopes() -> None:
    rows = medians([{"case": "a", "x": value, "y": None} for value in (5, 1, 3)] + [{"case": "b", "x": 2.0, "y": "t"}])
    assert rows == [{"case": "a", "x": 3, "y": None}, {"case": "b", "x": 2.0, "y": "t"}]
    assert find(rows, case="b") is rows[1]
    assert find(rows, case="c") is None
    assert [Bar("", value, 2).verdict for value in (None, 2, 2.1)] == ["not measured", "pass", "FAIL"]
    assert Report("x", {}, rows, [Bar("", 3, 2)]).has_failed
    assert not Report("x", {}, rows, [Bar("", None, 2)]).has_failed
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([], 50) is None
    leak = [{"seconds": at, "resting": True, "rss": 1000 + 2 * at, "fds": 9} for at in range(0, 90, 10)]
    leak.append({"seconds": 90, "resting": False, "rss": 99999, "fds": 999})
    assert slopes(leak)["RSS rise KiB"] == pytest.approx(2 * (80 - 30))
    assert slopes(leak)["fd rise"] == 0
