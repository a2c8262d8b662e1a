"""A moving test picture with sound, published to the node itself by RTMP as any encoder would.

The encoder runs in a process of its own, so that the server's event loop never waits for it::

    Demo (in the node) --starts, restarts--> python -m cluster.demo rtmp://... --RTMP--> the node

The child ends when its standard input does: it does not outlive the node, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import structlog

from cluster.hostport import format_host_port

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.filter.graph import Graph

    from cluster.config import Address

APP: Final = "live"
NAME: Final = "demo"

WIDTH: Final = 640
HEIGHT: Final = 360
FRAME_RATE: Final = 25
SAMPLE_RATE: Final = 48000
GOP_SECONDS: Final = 1

_AUDIO_FRAME: Final = 1024
"""Samples in one AAC frame."""

_RESTART_SECONDS: Final = (1.0, 2.0, 5.0, 10.0)
"""Pauses before the encoder is started again, growing while it fails at once."""

_log = structlog.get_logger(__name__)


class Demo:
    """Keeps the encoder running."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    async def start(self, address: Address) -> None:
        """Publish ``live/demo`` to the RTMP server at ``address``."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(address.host, address.host)
        place = format_host_port(host, address.port)
        self._task = asyncio.get_running_loop().create_task(self._run(f"rtmp://{place}/{APP}/{NAME}"))

    async def close(self) -> None:
        """Stop publishing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    async def _run(self, url: str) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            code, complaint = await self._publish(url)
            failures = failures + 1 if time.monotonic() - started < 60 else 0
            pause = _RESTART_SECONDS[min(failures, len(_RESTART_SECONDS) - 1)]
            _log.warning("demo_ended", code=code, complaint=complaint, again_in_seconds=pause)
            await asyncio.sleep(pause)

    async def _publish(self, url: str) -> tuple[int, str]:
        """Run the encoder to its end: its exit code, and the last line it wrote."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "cluster.demo", url,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            # Ctrl+C in a terminal goes to the whole group; the node decides when the picture ends.
            start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stderr is not None
        last = b""
        try:
            async for line in process.stderr:
                last = line
            code = await process.wait()
        finally:
            process.stdin.close()
            if process.returncode is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2.0):
                        await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
        return code, last.decode("utf-8", "replace").strip()


def main(url: str) -> int:
    """Publish until standard input ends or the server does not want it any more."""
    import av

    over = threading.Event()
    threading.Thread(target=_wait_for_end, args=(over,), daemon=True).start()
    with contextlib.suppress(OSError):
        os.nice(5)  # the server goes first
    try:
        with av.open(url, "w", format="flv", options={"flvflags": "no_duration_filesize"}) as output:
            encode(output, over)
    except (av.FFmpegError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _wait_for_end(over: threading.Event) -> None:
    while os.read(0, 1024):
        pass
    over.set()


def encode(output: OutputContainer, over: threading.Event) -> None:
    """Make frames as time goes by: each picture shows its own time, and every second there is a beep."""
    from av.video.frame import PictureType

    video = output.add_stream("libx264", rate=FRAME_RATE)
    video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    video.bit_rate = 800_000
    video.codec_context.gop_size = FRAME_RATE * GOP_SECONDS
    video.codec_context.thread_count = 1
    video.options = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "sc_threshold": "0"}
    audio = output.add_stream("aac", rate=SAMPLE_RATE, layout="stereo")
    audio.bit_rate = 96_000
    pictures = _graph("testsrc2", f"size={WIDTH}x{HEIGHT}:rate={FRAME_RATE}", "format", "pix_fmts=yuv420p")
    sounds = _graph(
        "sine", f"frequency=330:beep_factor=4:sample_rate={SAMPLE_RATE}:samples_per_frame={_AUDIO_FRAME}",
        "aformat", "sample_fmts=fltp:channel_layouts=stereo",
    )  # fmt: skip
    started = time.monotonic()
    frames = samples = 0
    while not over.is_set():
        if samples * FRAME_RATE <= frames * SAMPLE_RATE:
            sound = sounds.pull()
            sound.pts, sound.time_base = samples, Fraction(1, SAMPLE_RATE)
            samples += _AUDIO_FRAME
            output.mux(audio.encode(sound))  # type: ignore[arg-type]
        else:
            if over.wait(max(0.0, started + frames / FRAME_RATE - time.monotonic())):
                break
            picture = pictures.vpull()
            picture.pts, picture.time_base = frames, Fraction(1, FRAME_RATE)
            picture.pict_type = PictureType.NONE  # the source marks each as a key frame
            frames += 1
            output.mux(video.encode(picture))


def _graph(source: str, options: str, shape: str, shape_options: str) -> Graph:
    """A filter graph without input: what ``source`` makes, in the form that the encoder wants."""
    from av.filter.graph import Graph

    graph = Graph()
    sink = graph.add("abuffersink" if source == "sine" else "buffersink")
    made = graph.add(source, options)
    shaped = graph.add(shape, shape_options)
    made.link_to(shaped)
    shaped.link_to(sink)
    graph.configure()
    return graph


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
