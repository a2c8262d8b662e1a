"""OBS Studio as the publisher, on a virtual display, watched through obs-websocket.

    async with obs_streaming("rtmp://127.0.0.1:1935/live", "mystream", directory=tmp_path) as obs:
        await obs.until_streaming(timeout=20)
        ...
        await obs.stop()
    assert obs.log_says("Streaming Stop")

OBS shows a looped clip of a moving test picture with a tone, encodes it with x264 and AAC, and publishes as it does for
everybody: chunk size 4096, releaseStream, FCPublish, createStream, _checkbw.  Facts worth knowing of OBS 29: a refused
first connection is final and opens a dialog; a broken stream is retried after about 1.2 s, then at 1.5 times longer
intervals, and its counts begin anew; after a reconnect it may crash in Qt at exit, so «stopped» is judged by its own
word, never by the exit code.
"""

from __future__ import annotations

import asyncio
import base64
import configparser
import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import signal
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from clients_ffmpeg import source_arguments
from clients_process import ClientError, running, tail

from config.ports import free_ports

NAME = "e2e"
"""The name of the profile and of the scene collection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObsStatus:
    """obs-websocket's GetStreamStatus."""

    active: bool
    """Whether the output runs (also while it reconnects)."""

    reconnecting: bool

    seconds: float
    """How long the output has run."""

    bytes: int
    """Bytes sent since the output started."""

    frames: int
    """Video frames encoded."""

    skipped: int
    """Video frames left out because the encoder or the network was too slow."""

    congestion: float
    """0 to 1."""


class Obs:
    """A running OBS."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, log: Path, process: asyncio.subprocess.Process) -> None:
        self._socket = socket
        self._log = log
        self._process = process
        self._ids = itertools.count(1)

    async def request(self, kind: str, **data: Any) -> dict[str, Any]:
        """Sends one obs-websocket request and returns the data of its response."""
        number = str(next(self._ids))
        await self._socket.send_json({"op": 6, "d": {"requestType": kind, "requestId": number, "requestData": data}})
        async with asyncio.timeout(10):
            while True:
                message = await self._socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise ClientError(f"OBS hung up:\n{tail(self._log)}")
                answer = message.json()
                if answer["op"] == 7 and answer["d"]["requestId"] == number:
                    break
        if not answer["d"]["requestStatus"]["result"]:
            raise ClientError(f"{kind}: {answer['d']['requestStatus']}")
        result: dict[str, Any] = answer["d"].get("responseData", {})
        return result

    async def status(self) -> ObsStatus:
        """Returns the state of the stream output."""
        facts = await self.request("GetStreamStatus")
        return ObsStatus(
            active=facts["outputActive"],
            reconnecting=facts["outputReconnecting"],
            seconds=facts["outputDuration"] / 1000,
            bytes=facts["outputBytes"],
            frames=facts["outputTotalFrames"],
            skipped=facts["outputSkippedFrames"],
            congestion=facts["outputCongestion"],
        )

    async def until_streaming(self, *, timeout: float) -> ObsStatus:
        """Waits until the output is connected and its byte count grows."""
        deadline = time.monotonic() + timeout
        before = await self.status()
        while True:
            await asyncio.sleep(0.1)
            now = await self.status()
            if now.active and not now.reconnecting and now.bytes > before.bytes > 0:
                return now
            if time.monotonic() > deadline:
                raise ClientError(f"OBS does not stream after {timeout} s: {now}\n{tail(self._log)}")
            before = now

    async def start(self) -> None:
        """Starts streaming (again)."""
        await self.request("StartStream")

    async def stop(self, *, timeout: float = 10.0) -> ObsStatus:
        """Ends the stream as the button does, waits until it has ended, and returns the last counts before that."""
        last = await self.status()
        await self.request("StopStream")
        deadline = time.monotonic() + timeout
        while (await self.status()).active:
            if time.monotonic() > deadline:
                raise ClientError(f"OBS still streams {timeout} s after it was stopped:\n{tail(self._log)}")
            await asyncio.sleep(0.05)
        return last

    async def kill(self) -> None:
        """Ends OBS as a crash would: nothing is said to the server, the kernel closes the connection."""
        os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def log_says(self, pattern: str) -> list[str]:
        """Returns the lines of OBS's log that match a regular expression."""
        return [line for line in self._log.read_text(errors="replace").splitlines() if re.search(pattern, line)]

    @property
    def connections(self) -> int:
        """How often OBS connected to the server: once, and once for each time it lost the stream and came back."""
        return len(self.log_says(r"Connection to rtmp\S+ successful"))


async def make_clip(
    path: Path, *, size: tuple[int, int], fps: int, seconds: int = 10, extra: Sequence[str] = ()
) -> None:
    """Makes the clip that OBS shows: a moving test picture with a tone, quick to decode."""
    argv = ["ffmpeg", "-nostdin", "-y", "-v", "error", *source_arguments(size, fps, realtime=False), "-t", str(seconds)]
    argv += [
        *extra,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-tune",
        "fastdecode",
        "-pix_fmt",
        "yuv420p",
        "-c:a",
        "aac",
        "-shortest",
        str(path),
    ]
    log = path.with_suffix(".log")
    async with running(argv, log=log) as process:
        if await asyncio.wait_for(process.wait(), 60):
            raise ClientError(f"ffmpeg made no clip:\n{tail(log)}")


@contextlib.asynccontextmanager
async def virtual_display(directory: Path, *, timeout: float = 10.0) -> AsyncIterator[str]:
    """Runs Xvfb on a display number of its own choice; yields the value for DISPLAY."""
    reader, writer = os.pipe()
    log = directory / "xvfb.log"
    argv = ["Xvfb", "-displayfd", str(writer), "-screen", "0", "1280x720x24", "-nolisten", "tcp", "-noreset"]
    try:
        async with running(argv, log=log, pass_fds=[writer]) as process:
            os.close(writer)
            writer = -1
            os.set_blocking(reader, False)
            deadline, number = time.monotonic() + timeout, b""
            while not number.endswith(b"\n"):
                with contextlib.suppress(BlockingIOError):
                    number += os.read(reader, 16)
                if process.returncode is not None or time.monotonic() > deadline:
                    raise ClientError(f"Xvfb did not start:\n{tail(log)}")
                await asyncio.sleep(0.02)
            yield f":{int(number)}"
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


@contextlib.asynccontextmanager
async def obs_streaming(
    server: str,
    key: str,
    *,
    directory: Path,
    size: tuple[int, int] = (640, 360),
    fps: int = 30,
    kbps: int = 800,
    gop_seconds: int = 1,
    extra: Sequence[str] = (),
    timeout: float = 30.0,
) -> AsyncIterator[Obs]:
    """Runs OBS for the length of the block; it begins to stream to `server` (rtmp://host:port/app) and `key` at once.

    `extra` are ffmpeg options for the clip that it shows.
    The block begins when OBS answers; use `until_streaming` to wait for the stream.
    """
    directory.mkdir(parents=True, exist_ok=True)
    clip = directory / "clip.mp4"
    await make_clip(clip, size=size, fps=fps, extra=extra)
    (port,), password = free_ports(1), secrets.token_hex()
    _write_configuration(
        directory, clip, server, key, port, password, size=size, fps=fps, kbps=kbps, gop_seconds=gop_seconds
    )
    log = directory / "obs.log"
    argv = ["obs", "--multi", "--minimize-to-tray", "--disable-updater", "--disable-missing-files-check"]
    argv += ["--profile", NAME, "--collection", NAME, "--startstreaming"]
    home = {"HOME": str(directory), "XDG_CONFIG_HOME": str(directory / ".config"), "XDG_RUNTIME_DIR": str(directory)}
    offline = {"https_proxy": "http://127.0.0.1:9", "no_proxy": ""}  # no look for newer services
    async with virtual_display(directory) as display:
        env = {**home, **offline, "DISPLAY": display, "LIBGL_ALWAYS_SOFTWARE": "1", "QT_QPA_PLATFORM": "xcb"}
        async with running(argv, log=log, env=env, grace=5.0) as process, aiohttp.ClientSession() as client:
            socket = await _websocket(client, port, password, process, log, timeout)
            try:
                yield Obs(socket, log, process)
            finally:
                await socket.close()


async def _websocket(
    client: aiohttp.ClientSession,
    port: int,
    password: str,
    process: asyncio.subprocess.Process,
    log: Path,
    timeout: float,
) -> aiohttp.ClientWebSocketResponse:
    """Connects to obs-websocket as soon as it listens, and identifies.

    It listens on every interface, hence the password.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket = await client.ws_connect(f"ws://127.0.0.1:{port}")
            break
        except aiohttp.ClientError:
            if process.returncode is not None or time.monotonic() > deadline:
                raise ClientError(f"OBS did not start:\n{tail(log)}") from None
            await asyncio.sleep(0.1)
    hello = await asyncio.wait_for(socket.receive_json(), 10)
    proof = hello["d"]["authentication"]
    answer = _digest(_digest(password + proof["salt"]) + proof["challenge"])
    await socket.send_json({"op": 1, "d": {"rpcVersion": 1, "authentication": answer, "eventSubscriptions": 0}})
    identified = await asyncio.wait_for(socket.receive(), 10)
    if identified.type is not aiohttp.WSMsgType.TEXT:
        raise ClientError(f"obs-websocket refused us: {identified}")
    return socket


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write_configuration(
    directory: Path,
    clip: Path,
    server: str,
    key: str,
    port: int,
    password: str,
    *,
    size: tuple[int, int],
    fps: int,
    kbps: int,
    gop_seconds: int,
) -> None:
    base = directory / ".config" / "obs-studio"
    profile, scenes = base / "basic" / "profiles" / NAME, base / "basic" / "scenes"
    profile.mkdir(parents=True, exist_ok=True)
    scenes.mkdir(parents=True, exist_ok=True)
    width, height = (str(side) for side in size)
    _write_ini(
        base / "global.ini",
        {
            "General": {"FirstRun": "true", "LastVersion": "486539266", "EnableAutoUpdates": "false"},
            "Basic": {
                "Profile": NAME,
                "ProfileDir": NAME,
                "SceneCollection": NAME,
                "SceneCollectionFile": NAME,
                "ConfigOnNewProfile": "false",
            },
            "BasicWindow": {
                "PreviewEnabled": "false",
                "WarnBeforeStartingStream": "false",
                "WarnBeforeStoppingStream": "false",
            },
            "OBSWebSocket": {
                "FirstLoad": "false",
                "ServerEnabled": "true",
                "ServerPort": str(port),
                "AuthRequired": "true",
                "ServerPassword": password,
                "AlertsEnabled": "false",
            },
        },
    )
    _write_ini(
        profile / "basic.ini",
        {
            "General": {"Name": NAME},
            "Output": {
                "Mode": "Advanced",
                "Reconnect": "true",
                "RetryDelay": "1",
                "MaxRetries": "20",
                "DelayEnable": "false",
            },
            "AdvOut": {
                "Encoder": "obs_x264",
                "RescaleRes": f"{width}x{height}",
                "TrackIndex": "1",
                "ApplyServiceSettings": "false",
            },
            "Video": {
                "BaseCX": width,
                "BaseCY": height,
                "OutputCX": width,
                "OutputCY": height,
                "FPSType": "1",
                "FPSInt": str(fps),
                "ColorFormat": "NV12",
            },
            "Audio": {"SampleRate": "44100", "ChannelSetup": "Stereo"},
        },
    )
    encoder = {
        "rate_control": "CBR",
        "bitrate": kbps,
        "keyint_sec": gop_seconds,
        "preset": "ultrafast",
        "profile": "main",
    }
    _write_json(profile / "streamEncoder.json", encoder)
    _write_json(
        profile / "service.json", {"type": "rtmp_custom", "settings": {"server": server, "key": key, "use_auth": False}}
    )
    _write_json(scenes / f"{NAME}.json", _scene_collection(clip))


def _write_ini(path: Path, sections: dict[str, dict[str, str]]) -> None:
    config = configparser.ConfigParser(interpolation=None)
    config.optionxform = str  # type: ignore[assignment, method-assign]  # OBS's keys are case-sensitive
    config.read_dict(sections)
    with path.open("w") as file:
        config.write(file, space_around_delimiters=False)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))


def _scene_collection(clip: Path) -> dict[str, Any]:
    """One scene with one source: the clip, looped."""
    source = {
        "id": "ffmpeg_source",
        "versioned_id": "ffmpeg_source",
        "name": "Clip",
        "enabled": True,
        "mixers": 255,
        "volume": 1.0,
        "settings": {
            "local_file": str(clip),
            "is_local_file": True,
            "looping": True,
            "hw_decode": False,
            "restart_on_activate": False,
        },
    }
    item = {
        "name": "Clip",
        "id": 1,
        "visible": True,
        "pos": {"x": 0.0, "y": 0.0},
        "scale": {"x": 1.0, "y": 1.0},
        "align": 5,
    }
    scene = {"id": "scene", "versioned_id": "scene", "name": "Scene", "settings": {"id_counter": 1, "items": [item]}}
    return {
        "name": NAME,
        "current_scene": "Scene",
        "current_program_scene": "Scene",
        "scene_order": [{"name": "Scene"}],
        "sources": [source, scene],
        "transitions": [],
        "groups": [],
        "modules": {},
    }
