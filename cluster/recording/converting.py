"""Recordings as MP4, by a process of its own: what is read and written for minutes should not make live streams wait.

``python -m cluster.recording.converting IN.flv OUT.mp4`` is that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import Final

_NICE: Final = 10
_SECONDS: Final = 3600
_MAX_ERROR: Final = 300
_OPTIONS: Final = {
    "movflags": "+faststart",
    # Where a track begins is given in it; milliseconds would move sound by one.
    "movie_timescale": "90000",
}


class ConvertError(Exception):
    """It could not be done; the text says why."""


class Converter:
    """Starts the processes, one at a time.  ``convert`` blocks; ``close`` may be called from another thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.running: subprocess.Popen[str] | None = None
        self.closed = False

    def convert(self, source: Path, target: Path, lock: int) -> None:
        """Write ``source`` to ``target`` as MP4.  Raises ``ConvertError``; ``target`` is not there then.

        ``lock`` is the descriptor that holds the lock of ``source``: a process that outlives this one keeps it, so that
        nobody else writes to ``target`` meanwhile.
        """
        with self._lock:
            if self.closed:
                raise ConvertError("the node ends")
            child = self.running = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(source), str(target)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                errors="replace", start_new_session=True, pass_fds=(lock,),
            )  # fmt: skip
        try:
            _, said = child.communicate(timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            said = f"it took more than {_SECONDS} s"
        if child.returncode:
            target.unlink(missing_ok=True)
            lines = said.strip().splitlines() or [f"it ended with {child.returncode}"]
            raise ConvertError(lines[-1][:_MAX_ERROR])

    def close(self) -> None:
        """End the one that runs, and begin no other."""
        with self._lock:
            self.closed = True
            if self.running is not None and self.running.poll() is None:
                self.running.kill()


def remux(source: str, target: str) -> None:
    """Put every track of an FLV file into an MP4 file that players can begin before they have all of it.

    Raises ``av.FFmpegError`` and ``ValueError`` where there is a track that MP4 has no place for.
    """
    import av  # not in the processes that only start this one

    with av.open(source, format="flv") as given, av.open(target, "w", "mp4", _OPTIONS) as made:
        tracks = [each for each in given.streams if each.type in ("audio", "video")]
        places = {each.index: made.add_stream_from_template(each) for each in tracks}
        last: dict[int, int] = {}
        for packet in given.demux(tracks):
            if packet.dts is None or packet.pts is None:
                continue  # the one that says that a track is over
            index = packet.stream.index
            # Audio that comes in bursts has several frames of one time.
            if packet.dts <= last.get(index, packet.dts - 1):
                late = last[index] + 1 - packet.dts
                packet.dts += late
                packet.pts = max(packet.pts, packet.dts)
            last[index] = packet.dts
            packet.stream = places[index]
            made.mux(packet)


def main(arguments: list[str]) -> int:
    """0, or 1 and the reason on standard error."""
    source, target = arguments
    os.nice(_NICE)
    try:
        remux(source, target)
    except (OSError, ValueError) as error:  # av.FFmpegError is one of either
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
