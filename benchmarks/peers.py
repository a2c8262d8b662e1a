"""The servers measured: each is started on free loopback ports with a configuration of its own and ended by pid."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.clip import WORK
from benchmarks.proc import tree
from benchmarks.tls import Certificate
from config.ports import free_ports

NGINX_RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
NMS_VERSION = "2.7.4"
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Loopback is never asked through the proxy that the environment may name."""


class PeerError(Exception):
    """A server that is not installed, or did not start."""


class Peer(ABC):
    """One server process (tree); a context manager that starts and stops it."""

    name: str
    has_flv = True

    def __init__(self) -> None:
        self.rtmp_port, self.http_port, self.api_port, self.rtmps_port, self.https_port = free_ports(5)
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = Path()

    @abstractmethod
    def command(self, directory: Path) -> Sequence[str]:
        """Write what the server needs into ``directory``; return how to start it in the foreground."""

    def rtmp_url(self, stream: str) -> str:
        return f"rtmp://127.0.0.1:{self.rtmp_port}/live/{stream}"

    def flv_url(self, stream: str) -> str | None:
        return f"http://127.0.0.1:{self.http_port}/live/{stream}.flv" if self.has_flv else None

    def hls_url(self, stream: str) -> str:
        """The playlist."""
        return f"http://127.0.0.1:{self.http_port}/live/{stream}.m3u8"

    def publish_url(self, stream: str) -> str:
        return self.rtmp_url(stream)

    def url(self, protocol: str, stream: str) -> str:
        """The URL for viewers: ``rtmp``, ``rtmps``, ``flv`` or ``https`` (HTTP-FLV)."""
        match protocol:
            case "rtmp":
                return self.rtmp_url(stream)
            case "rtmps":
                return f"rtmps://127.0.0.1:{self.rtmps_port}/live/{stream}"
            case "https":
                return f"https://127.0.0.1:{self.https_port}/live/{stream}.flv"
        url = self.flv_url(stream)
        if url is None:
            raise PeerError(f"{self.name} does not serve {protocol}")
        return url

    def pids(self) -> list[int]:
        return tree(self._process.pid) if self._process else []

    @property
    def address(self) -> str:
        """Where other servers reach it by RTMP."""
        return f"127.0.0.1:{self.rtmp_port}"

    def signal(self, number: signal.Signals) -> None:
        """To all its processes."""
        for pid in self.pids():
            with suppress(ProcessLookupError):  # ended meanwhile
                os.kill(pid, number)

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports that viewers connect to."""
        return (self.rtmp_port, self.http_port) if self.has_flv else (self.rtmp_port,)

    def kept_bytes(self) -> int:
        """Bytes of media the server keeps for joiners in private memory, by its own account; 0 where it has none."""
        return 0

    def is_ready(self) -> bool:
        return all(_accepts(port) for port in self.ports)

    def __enter__(self) -> Peer:
        self._directory = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        log = self._directory / "output.log"
        try:
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    self.command(self._directory), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                    cwd=self._directory)
            deadline = time.monotonic() + _START_SECONDS
            while not self.is_ready():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = log.read_text(errors="replace")[-2000:]
                    raise PeerError(f"{self.name} did not start:\n{tail}")
                time.sleep(0.02)
        except BaseException as error:
            self.__exit__()
            if isinstance(error, FileNotFoundError):
                raise PeerError(f"{self.name}: {error}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)


class PyRtmp(Peer):
    """This server, in one process."""

    name = "pyrtmp"

    def __init__(self, settings: Mapping[str, str] | None = None, executable: Path | None = None) -> None:
        super().__init__()
        self._executable = executable or Path(sys.executable).with_name("pyrtmp")
        self._settings = {
            "rtmp.listen": f"127.0.0.1:{self.rtmp_port}",
            "http.listen": f"127.0.0.1:{self.http_port}",
            "api.listen": f"127.0.0.1:{self.api_port}",
            "node.workers": "0",
            **(settings or {}),
        }

    def command(self, directory: Path) -> Sequence[str]:
        options = [word for key, value in self._settings.items() for word in ("--set", f"{key}={value}")]
        return [str(self._executable), "serve", *options]

    def kept_bytes(self) -> int:
        with _DIRECT.open(f"http://127.0.0.1:{self.api_port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("pyrtmp_gop_bytes "):
                    return int(float(line.split()[1]))
        return 0

    def is_ready(self) -> bool:
        try:
            with _DIRECT.open(f"http://127.0.0.1:{self.api_port}/readyz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class NginxRtmp(Peer):
    """Debian's libnginx-mod-rtmp with its defaults and one worker; ``hls`` has it write files, and nginx serve them.

    ``record`` has it write what is published to files, as FLV.
    """

    name = "nginx"
    has_flv = False

    def __init__(self, *, hls: bool = False, record: bool = False) -> None:
        super().__init__()
        self._hls = hls
        self._record = record

    def command(self, directory: Path) -> Sequence[str]:
        hls = http = record = ""
        # As its manual has it, with the files where a worker that root starts as nobody can write.
        directory.chmod(0o755)
        files = directory / "live"
        files.mkdir()
        files.chmod(0o777)
        if self._record:
            record = f"record all; record_path {files}; record_unique on;"
        if self._hls:
            hls = f"hls on; hls_path {files}; hls_fragment 2s; hls_playlist_length 12s;"
            http = f"""
                http {{
                    access_log off;
                    sendfile on;
                    tcp_nopush on;
                    types {{ application/vnd.apple.mpegurl m3u8; video/mp2t ts; }}
                    server {{ listen 127.0.0.1:{self.http_port}; root {directory}; }}
                }}
            """
        if not self.is_installed():
            raise PeerError("nginx-rtmp is not installed: apt-get install nginx libnginx-mod-rtmp")
        return nginx_command(directory, f"""
            load_module {NGINX_RTMP_MODULE};
            rtmp {{
                access_log off;
                server {{
                    listen 127.0.0.1:{self.rtmp_port};
                    application live {{ live on; {hls} {record} }}
                }}
            }}
            {http}
        """)

    @staticmethod
    def is_installed() -> bool:
        return bool(_nginx()) and NGINX_RTMP_MODULE.exists()


class NodeMediaServer(Peer):
    """node-media-server, the last release with RTMP and HTTP-FLV as most people run them; installed by npm."""

    name = "nms"

    def command(self, directory: Path) -> Sequence[str]:
        modules = self._install()
        config = {
            "logType": 0,
            "rtmp": {"port": self.rtmp_port, "chunk_size": 60000, "gop_cache": True, "ping": 30, "ping_timeout": 60},
            "http": {"port": self.http_port, "mediaroot": str(directory / "media"), "allow_origin": "*", "api": False},
        }
        script = directory / "server.js"
        # It listens on every interface and cannot be told otherwise; a benchmark stays on loopback.
        script.write_text(f"""
            const net = require('net');
            const listen = net.Server.prototype.listen;
            net.Server.prototype.listen = function (port, ready) {{
                return listen.call(this, port, '127.0.0.1', ready);
            }};
            const NodeMediaServer = require({json.dumps(str(modules / "node-media-server"))});
            new NodeMediaServer({json.dumps(config)}).run();
        """)
        return ["node", str(script)]

    @staticmethod
    def _install() -> Path:
        prefix = WORK / "nms"
        modules = prefix / "node_modules"
        if not (modules / "node-media-server").exists():
            prefix.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                ["npm", "install", "--no-audit", "--no-fund", f"node-media-server@{NMS_VERSION}"], cwd=prefix,
                check=True, stdout=sys.stderr)
        return modules


class Srs(Peer):
    """SRS from a binary built by whoever measures; its defaults, with HTTP-FLV switched on, and HLS if asked for.

    HLS comes without ``hls_ctx``: then SRS keeps no session per player and sends its files as they are, which is
    cheaper for it.
    """

    name = "srs"

    def __init__(
        self, executable: Path, *, hls: bool = False, forward: Sequence[str] = (), origins: Sequence[str] = (),
        certificate: Certificate | None = None, record: bool = False,
    ) -> None:
        super().__init__()
        self._executable = executable.resolve()
        self._record = record
        self._certificate = certificate
        self._hls = hls
        self._forward = " ".join(forward)
        self._origins = " ".join(origins)

    def command(self, directory: Path) -> Sequence[str]:
        config = directory / "srs.conf"
        hls = ""
        if self._hls:
            hls = f"hls {{ enabled on; hls_path {directory}; hls_fragment 2; hls_window 12; hls_ctx off; }}"
        dvr = ""
        if self._record:
            dvr = f"dvr {{ enabled on; dvr_plan session; dvr_path {directory}/[app].[stream].[timestamp].flv; }}"
        forward = f"forward {{ enabled on; destination {self._forward}; }}" if self._forward else ""
        cluster = f"cluster {{ mode remote; origin {self._origins}; }}" if self._origins else ""
        https = ""
        if (own := self._certificate) is not None:
            https = f"https {{ enabled on; listen 127.0.0.1:{self.https_port}; key {own.key}; cert {own.file}; }}"
        config.write_text(f"""
            listen              127.0.0.1:{self.rtmp_port};
            max_connections     4000;
            daemon              off;
            srs_log_tank        console;
            srs_log_level       warn;
            pid                 {directory}/srs.pid;
            http_server {{
                enabled         on;
                listen          127.0.0.1:{self.http_port};
                dir             {directory};
                {https}
            }}
            vhost __defaultVhost__ {{
                http_remux {{
                    enabled     on;
                    mount       [vhost]/[app]/[stream].flv;
                }}
                {hls}
                {dvr}
                {forward}
                {cluster}
            }}
        """)
        return [str(self._executable), "-c", str(config)]


@dataclass(frozen=True, slots=True)
class Servers:
    """Which servers to measure and how to start them, from the command line."""

    names: tuple[str, ...]
    srs: Path | None = None
    pyrtmp: Path | None = None
    settings: Mapping[str, str] | None = None

    def member(
        self, name: str, id: str, *, forward: Sequence[str] = (), origins: Sequence[str] = (),
        more: Mapping[str, str] | None = None,
    ) -> Peer:
        """A server of a cluster, not yet entered: it passes streams on to ``forward``, and fetches from ``origins``.

        Only for servers that can do both.  ``more`` are settings of this server.
        """
        if name == "srs" and self.srs is not None:
            return Srs(self.srs, forward=forward, origins=origins)
        settings = {"node.id": id, **(more or {})}
        if forward:
            settings["forward.to"] = ",".join(forward)
        if origins:
            settings |= {"node.role": "edge", "edge.origins": ",".join(origins)}
        return self.start(name, settings)

    def start(
        self, name: str, settings: Mapping[str, str] | None = None, *, hls: bool = False, record: bool = False
    ) -> Peer:
        """A server, not yet entered; ``settings`` are for this server only, those of the command line win.

        With ``hls`` it also packages HLS, which this server does by itself while somebody asks; with ``record`` it
        writes every stream to an FLV file.
        """
        match name:
            case "pyrtmp":
                files = {"record.streams": "*", "record.directory": "recordings", "record.format": "flv"}
                return PyRtmp(
                    {**(files if record else {}), **(settings or {}), **(self.settings or {})}, self.pyrtmp
                )
            case "nginx":
                return NginxRtmp(hls=hls, record=record)
            case "nms" if not (hls or record):
                return NodeMediaServer()
            case "srs" if self.srs is not None:
                return Srs(self.srs, hls=hls, record=record)
        raise PeerError(f"cannot start {name!r}: know pyrtmp, nginx, nms (no HLS), and srs with --srs /path/to/srs")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def nginx_command(directory: Path, configuration: str) -> list[str]:
    """How to start nginx in the foreground, with one worker and ``configuration``."""
    if not (program := _nginx()):
        raise PeerError("nginx is not installed: apt-get install nginx")
    file, log = directory / "nginx.conf", directory / "error.log"
    # What loads a module has to stand first.
    file.write_text(f"""
        {configuration}
        worker_processes 1;
        worker_rlimit_nofile 16384;
        daemon off;
        pid {directory}/nginx.pid;
        error_log {log} warn;
        events {{ worker_connections 8192; }}
    """)
    return [program, "-e", str(log), "-p", str(directory), "-c", str(file)]


def _nginx() -> str:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or ""
