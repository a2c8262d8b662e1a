"""``pyrtmp doctor``: what would keep a node with these settings from doing well on this machine, and what to do."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import ipaddress
import os
import resource
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from cluster.bandwidth import measure
from cluster.config import Address, Config
from cluster.hostport import format_host_port
from cluster.tls.client import Outgoing, Trust

Severity = Literal["problem", "warning"]

CONNECT_SECONDS: Final = 3.0
"""How long another machine has to answer."""

_SPARE_DESCRIPTORS: Final = 256
"""Beside those of connections: logs of streams, workers, the API."""
_LEAST_MEMORY: Final = 512 * 1024 * 1024
_LEAST_BACKLOG: Final = 1024
_LEAST_BITS: Final = 20e6
"""Per second, from another node: a few streams of 5 Mbit/s."""
_SOON: Final = 14 * 86400.0
"""Seconds before its end that a certificate should have been replaced."""
_UNSYNCHRONISED: Final = 5
"""TIME_ERROR of adjtimex(2)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    severity: Severity
    about: str
    """The setting, or what of the machine."""
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity:8} {self.about}: {self.what}\n         {self.remedy}"


def clock_state() -> int:
    """What adjtimex(2) says of the clock; 0 where it cannot be asked."""
    try:
        return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512)))
    except (OSError, AttributeError):
        return 0


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to look."""

    root: Path = Path("/")
    """Of ``proc`` and ``sys``."""
    descriptors: int = field(default_factory=lambda: resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    """The hard limit of a process."""
    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    clock: Callable[[], int] = clock_state
    now: Callable[[], float] = time.time
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    """Bytes that who is no superuser may still write there."""

    def number(self, path: str) -> int | None:
        """The only number in a file; None without one ("max", say)."""
        try:
            return int((self.root / path).read_text())
        except (OSError, ValueError):
            return None


async def examine(config: Config, machine: Machine | None = None, *, running: bool = False) -> AsyncIterator[Finding]:
    """``running``: the node runs already, so that its ports are taken by right."""
    machine = machine or Machine()
    if not running:
        for finding in _ports(config):
            yield finding
    for check in (_descriptors, _memory, _cores, _kernel, _clock, _disk, _certificate, _strangers, _kin):
        for finding in check(config, machine):
            yield finding
    tls = Outgoing(Trust(config.tls.ca, config.tls.client_certificate, config.tls.client_key))
    for found in await asyncio.gather(_registry(config), *_peers(config, tls)):
        if found is not None:
            yield found
    for setting, base, context in await _measurable(config, tls):  # one after the other: they share this machine's line
        slow = _slow(setting, base, await measure(base, context))
        if slow is not None:
            yield slow


# This machine


def _ports(config: Config) -> Iterator[Finding]:
    places: list[tuple[str, Address | None]] = [
        ("rtmp.listen", config.rtmp.listen), ("rtmps.listen", config.rtmps.listen),
        ("http.listen", config.http.listen), ("https.listen", config.https.listen),
        ("api.listen", config.api.listen),
    ]  # fmt: skip
    for setting, address in places:
        if address is None:
            continue
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((address.host, address.port))
                sock.listen(1)
            except OSError as error:
                yield _not_bound(setting, address, error)


def _not_bound(setting: str, address: Address, error: OSError) -> Finding:
    what, remedy = f"{address}: {error.strerror or error}", "Set another address."
    if error.errno == errno.EADDRINUSE:
        what = f"another program listens on {address}"
        remedy = f"Which one: ss -ltnp 'sport = :{address.port}'. End it, or set another port."
    elif error.errno == errno.EADDRNOTAVAIL:
        what = f"{address.host} is no address of this machine"
        remedy = "Which ones it has: ip address. 0.0.0.0 stands for all of them."
    elif error.errno == errno.EACCES:
        what = f"port {address.port} is for programs with a privilege"
        remedy = "Give it one (AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit), or set a port from 1024 on."
    return Finding("problem", setting, what, remedy)


def _descriptors(config: Config, machine: Machine) -> Iterator[Finding]:
    needed = config.limits.max_connections + _SPARE_DESCRIPTORS
    if machine.descriptors < needed:
        yield Finding(
            "problem", "limits.max_connections",
            f"{config.limits.max_connections} connections need {needed} file descriptors, and a process may have "
            f"{machine.descriptors}",
            f"Set LimitNOFILE={needed} or more in the systemd unit (ulimit -Hn in a shell), or fewer connections.",
        )


def _memory(config: Config, machine: Machine) -> Iterator[Finding]:
    try:
        lines = (machine.root / "proc/meminfo").read_text().splitlines()
    except OSError:
        lines = []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    allowed = machine.number("sys/fs/cgroup/memory.max")
    if allowed is not None:
        found.append(allowed - (machine.number("sys/fs/cgroup/memory.current") or 0))
    if found and min(found) < _LEAST_MEMORY:
        yield Finding(
            "problem", "memory", f"{min(found) / 2**20:.0f} MiB are free",
            "A node wants 512 MiB: 60 to 90 for each process, and per stream what stream.log_bytes says at most.",
        )


def _cores(config: Config, machine: Machine) -> Iterator[Finding]:
    if config.node.workers > machine.cores:
        yield Finding(
            "warning", "node.workers", f"{config.node.workers} worker processes share {machine.cores} cores",
            "More workers than cores cost memory and serve nobody sooner; without the setting there is one per core.",
        )


def _kernel(config: Config, machine: Machine) -> Iterator[Finding]:
    backlog = machine.number("proc/sys/net/core/somaxconn")
    if backlog is not None and backlog < _LEAST_BACKLOG:
        yield Finding(
            "warning", "net.core.somaxconn", f"{backlog} connections may wait to be accepted",
            "When many viewers come at once some are turned away by the kernel: sysctl -w net.core.somaxconn=4096.",
        )


def _clock(config: Config, machine: Machine) -> Iterator[Finding]:
    if machine.clock() == _UNSYNCHRONISED:
        yield Finding(
            "warning", "clock", "nothing keeps it right",
            "Signed URLs, tokens, certificates and numbers of HLS segments go by it: timedatectl set-ntp true.",
        )


def _disk(config: Config, machine: Machine) -> Iterator[Finding]:
    record = config.record
    if not record.streams or record.directory is None:
        return
    wanted = Path(record.directory).absolute()
    directory = next(path for path in (wanted, *wanted.parents) if os.path.exists(path))
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0")
        free = machine.free_bytes(directory)
    except OSError as error:
        what = "cannot be written" if directory == wanted else f"cannot be made, since {directory} cannot be written"
        yield Finding(
            "problem", "record.directory", f"{wanted} {what}: {error.strerror or error}",
            f"Nothing will be recorded. Make it and give it to who runs the node: install -d -o pyrtmp {wanted}; under "
            'systemd, StateDirectory=pyrtmp in the unit and record.directory = "/var/lib/pyrtmp".',
        )
        return
    if free < record.min_free_bytes:
        yield Finding(
            "problem", "record.min_free_bytes", f"the disk of {wanted} has {free / 2**30:.1f} GiB free",
            f"Nothing is recorded below {record.min_free_bytes / 2**30:.1f} GiB: make room, set record.keep_hours, or "
            "record to another disk.",
        )


def _certificate(config: Config, machine: Machine) -> Iterator[Finding]:
    tls = config.tls
    if tls.certificate is None or tls.key is None:
        return
    from cluster.tls.identity import Files, IdentityError
    from cluster.tls.reading import read_identity, readable_by_others

    try:
        identity = read_identity(Files(tls.certificate, tls.key, tls.client_ca))
    except IdentityError as error:
        yield Finding("problem", f"tls.{error.setting}", str(error), "No client will get in by TLS.")
        return
    left = identity.expires - machine.now()
    if left < _SOON:
        ended = f"ended {-left / 86400:.0f} days ago" if left < 0 else f"ends in {left / 86400:.0f} days"
        yield Finding(
            "problem" if left < 0 else "warning", "tls.certificate", f"{tls.certificate} {ended}",
            "Renew it (certbot renew); a running node takes the new file by itself.",
        )
    if readable_by_others(tls.key):
        yield Finding(
            "warning", "tls.key", f"every user of this machine can read {tls.key}", f"chmod o-r {tls.key}"
        )


def _strangers(config: Config, machine: Machine) -> Iterator[Finding]:
    access = config.access
    if config.rtmp.listen.is_loopback or access.rules or access.default != "allow" or config.callbacks.urls:
        return
    yield Finding(
        "warning", "access.rules", f"whoever reaches {config.rtmp.listen} may publish",
        'Unless a firewall keeps strangers out: access.rules = ["publish * key"], and pyrtmp secret key makes one.',
    )


def _kin(config: Config, machine: Machine) -> Iterator[Finding]:
    if config.node.secrets:
        return
    links = [("edge.origins", each) for each in config.edge.origins]
    if config.registry.url is not None and config.node.advertise is not None:
        links.append(("node.advertise", config.node.advertise))
    for setting, origin in links:
        if origin.scheme in ("rtmps", "https") or _is_public(origin.host):
            yield Finding(
                "warning", "node.secret", f"nodes that reach each other at {origin} ({setting}) believe every stranger",
                "The same node.secret for all of them (pyrtmp secret random): they know each other by it.",
            )
            return


def _is_public(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


# Other machines


async def _registry(config: Config) -> Finding | None:
    if config.registry.url is None:
        return None
    from cluster.registry import RegistryError, connect

    registry = connect(config.registry.secret, config.registry.key_prefix)
    try:
        async with asyncio.timeout(2 * CONNECT_SECONDS):
            await registry.open()
            await registry.nodes()
    except (RegistryError, TimeoutError) as error:
        return Finding(
            "problem", "registry.url", str(error) or "Redis does not answer",
            "Without it nodes do not find each other. Is Redis up, may this machine reach it, is the password right?",
        )
    finally:
        await registry.close()
    return None


def _peers(config: Config, tls: Outgoing) -> Iterator[asyncio.Future[Finding | None]]:
    from cluster.forward.target import parse_target

    seen = set()
    wanted: list[tuple[str, str, int, str]] = [
        ("edge.origins", each.host, each.port, each.scheme) for each in config.edge.origins
    ]
    forwards = {"forward.to": config.forward.to}
    forwards |= {f"forward.apps.{app}": targets for app, targets in config.forward.apps.items()}
    for setting, targets in forwards.items():
        parsed = map(parse_target, targets)
        wanted += [(setting, each.host, each.port, "rtmps" if each.secure else "rtmp") for each in parsed]
    for each in wanted:
        if each[1:] not in seen:
            seen.add(each[1:])
            yield asyncio.ensure_future(_peer(*each, tls))


async def _peer(setting: str, host: str, port: int, scheme: str, tls: Outgoing) -> Finding | None:
    from pyrtmp.aio.client import Client
    from pyrtmp.errors import RefusedError, RtmpError

    place = format_host_port(host, port)
    try:
        context = tls() if scheme in ("https", "rtmps") else None
        if scheme in ("http", "https"):
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(host, port, ssl=context)
            writer.close()
        else:
            client = await Client.connect(f"{scheme}://{place}/live/doctor", timeout=CONNECT_SECONDS, tls=context)
            await client.close()
    except RefusedError:
        return None  # it speaks RTMP, and may well refuse this application
    except TimeoutError:
        return Finding("problem", setting, f"{place} does not answer", "Is a firewall between here and there?")
    except RtmpError as error:
        return Finding("problem", setting, f"{place} does not speak RTMP: {error}", "Is that the port of RTMP there?")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        return Finding("problem", setting, f"{place}: {reason}", "Does a node run there, under that address and port?")
    return None


async def _measurable(config: Config, tls: Outgoing) -> list[tuple[str, str, ssl.SSLContext | None]]:
    """Origins of which the address for viewers is known: where, what their paths begin with, what verifies them."""
    found: dict[str, tuple[str, ssl.SSLContext | None]] = {}
    for each in config.edge.origins:
        if each.scheme in ("http", "https"):
            found[str(each)] = "edge.origins", tls() if each.scheme == "https" else None
    if config.node.role == "edge" and config.registry.url is not None:
        for http in await _origins_in_registry(config):
            found[f"http://{http}{config.http.prefix}"] = "registry.url", None
    return [(setting, base, context) for base, (setting, context) in found.items()]


async def _origins_in_registry(config: Config) -> list[str]:
    from cluster.registry import RegistryError, connect

    registry = connect(config.registry.secret, config.registry.key_prefix)
    try:
        async with asyncio.timeout(2 * CONNECT_SECONDS):
            await registry.open()
            nodes = await registry.nodes()
    except (RegistryError, TimeoutError):
        return []  # which has been told
    finally:
        await registry.close()
    return [each.http for each in nodes if each.role == "origin" and each.http and each.id != config.node.id]


def _slow(setting: str, base: str, bits: float | None) -> Finding | None:
    if bits is None or bits >= _LEAST_BITS:
        return None
    return Finding(
        "warning", setting, f"{bits / 1e6:.1f} Mbit/s come from {base}",
        "Each stream that is watched here comes over that line once: fetch from a nearer node (node.group), or have "
        "fewer or smaller streams.",
    )
