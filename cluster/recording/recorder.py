"""Which streams are recorded: begins and ends the recordings of a process, and completes their files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster.access.patterns import matches
from cluster.recording.completing import Completion, finish
from cluster.recording.converting import Converter
from cluster.recording.facts import Recorded, RecordingFacts, RecordingTotals, explain
from cluster.recording.flvfile import Extent
from cluster.recording.naming import Naming
from cluster.recording.partfile import PartFile
from cluster.recording.recording import Recording
from cluster.recording.tidying import delete_old, left_behind
from pyrtmp.hooks import Request
from pyrtmp.hub import Hub
from pyrtmp.journal import Journal
from pyrtmp.names import StreamKey
from pyrtmp.stream import Stream

if TYPE_CHECKING:
    from cluster.config.settings import RecordSettings

TIDY_SECONDS: Final = 60.0
"""Between two looks at what lost nodes left, and at what is too old."""

_AT_ONCE: Final = 64
"""Files that are completed at one look; each is open until then."""

MAX_WAITING: Final = 1000
"""Files that wait to be put into MP4, each of them open; more stay FLV."""

_CLOSE_SECONDS: Final = 3.0
"""For the last files to be completed; what is not is left as it is, for the next start."""


class Recorder:
    """Records the streams that are published in this process (a ``pyrtmp.hub.HubListener``).

    ``node`` is its id, for names of files.  ``tidies``: whether it goes on looking for what lost nodes left, and for
    what is too old, as one process of a node does; every process looks once when it starts.  ``publisher`` says what
    the client asked for that publishes a stream, and ``recorded`` hears of that and of each file that is complete.
    """

    def __init__(
        self,
        hub: Hub,
        settings: RecordSettings,
        *,
        node: str,
        journal: Journal,
        tidies: bool = True,
        publisher: Callable[[StreamKey], Request | None] = lambda key: None,
        recorded: Callable[[StreamKey, Request | None, Recorded], None] = lambda key, request, file: None,
    ) -> None:
        self.settings = settings
        self.journal = journal
        self.totals = RecordingTotals()
        self.publisher = publisher
        self.disk: Executor = ThreadPoolExecutor(1, "recording")
        self._completing = ThreadPoolExecutor(1, "recorded")
        self._converter = Converter()
        self._hub = hub
        self._node = node
        self._naming = Naming(settings.path)
        self._recorded = recorded
        self._recordings: dict[Stream, Recording] = {}
        self._ordered: dict[Stream, tuple[int, bool]] = {}
        """By operators: for which publisher of a stream, and whether it is to be recorded."""
        self._unfinished: set[asyncio.Task[None]] = set()
        self._tidies = tidies
        self._tidying: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Record what is live, and what will be."""
        self._hub.listeners.append(self)
        self._begin_all()
        self._tidying = asyncio.get_running_loop().create_task(self._tidy())

    def configure(self, settings: RecordSettings) -> None:
        """Use other settings: for files that begin from now on.  What is not to be recorded any more ends."""
        if settings == self.settings:
            return
        self.settings = settings
        self._naming = Naming(settings.path)
        for stream in list(self._recordings):
            if not self._wants(stream):
                self._end(stream)
        if self in self._hub.listeners:
            self._begin_all()

    async def close(self) -> None:
        """End every recording, and complete what there is, for three seconds at most."""
        if self in self._hub.listeners:
            self._hub.listeners.remove(self)
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.wait([self._tidying])
        for stream in list(self._recordings):
            self._end(stream)
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=_CLOSE_SECONDS)
        self._converter.close()
        for executor in (self.disk, self._completing):
            executor.shutdown(wait=False, cancel_futures=True)
        for job in self._unfinished:  # of a disk that hangs, or of a conversion that was ended
            job.cancel()
        if self._unfinished:
            await asyncio.wait(self._unfinished)

    def order(self, key: StreamKey, on: bool) -> bool:
        """Record a stream, or do so no longer, whatever the settings say, until its publisher leaves; whether it has
        one here.  To record needs a directory."""
        stream = self._hub.find(*key)
        if stream is None or not stream.held or stream.pulled or (on and self.settings.directory is None):
            return False
        self._ordered[stream] = (stream.sessions, on)
        self.journal.info("recording_ordered", stream=str(key), on=on)
        if on:
            self.stream_started(stream)
        else:
            self._end(stream)
        return True

    def facts(self) -> list[RecordingFacts]:
        """Every recording."""
        return [recording.facts for recording in self._recordings.values()]

    # pyrtmp.hub.HubListener

    def stream_started(self, stream: Stream) -> None:
        """A publisher started or took over; the recording of the one before has ended with it."""
        if stream not in self._recordings and self._wants(stream):
            recording = self._recordings[stream] = Recording(stream, self, self._end)
            recording.begin()

    def stream_ended(self, stream: Stream) -> None:
        """Its publisher left before."""
        self._ordered.pop(stream, None)
        self._end(stream)

    # cluster.recording.recording.Means

    def name(self, stream: Stream, begun: datetime) -> tuple[Path, str]:
        """The directory, and the name of a file there that begins then."""
        return self._directory, self._naming.name(stream.key, self._node, begun)

    def ended(self, recording: Recording, extent: Extent, part: Callable[[], PartFile | None]) -> None:
        """All of a file was handed to the disk."""
        job = asyncio.get_running_loop().create_task(self._complete(recording, extent, part))
        self._unfinished.add(job)
        job.add_done_callback(self._unfinished.discard)

    def failed(self, key: StreamKey, file: str, error: str) -> None:
        """A file could not be begun, written or completed."""
        self.totals.failures += 1
        self.journal.error("recording_failed", stream=str(key), file=file, error=error)

    # Inside

    @property
    def _directory(self) -> Path:
        assert self.settings.directory is not None, "no stream is recorded without one"
        return Path(self.settings.directory)

    def _wants(self, stream: Stream) -> bool:
        session, on = self._ordered.get(stream, (0, False))
        if session == stream.sessions:
            return on and self.settings.directory is not None
        name = str(stream.key)
        return stream.held and not stream.pulled and any(matches(each, name) for each in self.settings.streams)

    def _begin_all(self) -> None:
        for stream in self._hub.live():
            self.stream_started(stream)

    def _end(self, stream: Stream) -> None:
        recording = self._recordings.pop(stream, None)
        if recording is not None:
            recording.finish()

    async def _complete(self, recording: Recording, extent: Extent, part: Callable[[], PartFile | None]) -> None:
        try:
            file = await asyncio.get_running_loop().run_in_executor(self.disk, part)
            if file is not None:
                done = await self._finish(recording.stream.key, file, extent, recording.request)
                recording.files += done.file is not None
                recording.error = recording.error if done.error is None else explain(done.error)
        except asyncio.CancelledError:  # the executors are shut down; the next start finds it
            return

    async def _finish(
        self, key: StreamKey, part: PartFile, extent: Extent | None, request: Request | None = None
    ) -> Completion:
        settings = self.settings
        crowded = len(self._unfinished) > MAX_WAITING
        mp4 = settings.format == "mp4" and not crowded
        done = await asyncio.get_running_loop().run_in_executor(
            self._completing if mp4 else self.disk,
            partial(
                finish, key, part, extent, mp4=mp4, min_free=settings.min_free_bytes, converter=self._converter
            ),
        )
        if crowded:
            done = replace(done, stays=f"{MAX_WAITING} files wait to be put into MP4")
        if done.error is not None:
            self.failed(key, done.path, explain(done.error))
        if (file := done.file) is not None:
            if done.stays:
                self.journal.warning("recording_stays_flv", stream=str(key), file=file.path, reason=done.stays)
            self.totals.files += 1
            self.journal.info(
                "recording_ended", stream=str(key), file=file.path, seconds=round(file.seconds, 1), bytes=file.bytes
            )
            self._recorded(key, request, file)
        return done

    async def _tidy(self) -> None:
        """Complete what lost nodes left, and delete what is too old."""
        loop = asyncio.get_running_loop()
        while True:
            settings = self.settings
            if settings.directory is not None:
                directory, naming = self._directory, self._naming
                for key, part in await loop.run_in_executor(None, _left_behind, directory, naming):
                    await self._finish(key, part, None)
                if settings.keep_hours:
                    before = time.time() - settings.keep_hours * 3600
                    for path in await loop.run_in_executor(None, delete_old, directory, naming, before):
                        self.journal.info("recording_deleted", file=str(path))
            if not self._tidies:
                break
            await asyncio.sleep(TIDY_SECONDS)


def _left_behind(directory: Path, naming: Naming) -> list[tuple[StreamKey, PartFile]]:
    return list(islice(left_behind(directory, naming, time.time()), _AT_ONCE))
