"""Where a stream is forwarded to."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from cluster.hostport import format_host_port
from pyrtmp.names import StreamKey

_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]+)")
_HOST: Final = re.compile(r"[0-9A-Fa-f:.]+|[A-Za-z0-9._-]+")
_PLACEHOLDER: Final = re.compile(r"\{(?:app|name)\}")

_HIDDEN: Final = "***"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one stream goes."""

    url: str = field(repr=False)
    """With keys: never to be shown."""
    label: str
    """The URL without query; a name that is written out in the target is hidden, since it is a key at many services."""
    configured: bool = True
    """See ``Target``."""

    @property
    def place(self) -> str:
        """The URL without query: at each place a stream is published once."""
        return self.url.partition("?")[0]


@dataclass(frozen=True, slots=True)
class Target:
    """One entry of ``forward.to``."""

    secure: bool
    host: str
    """A name or an IP address, without brackets."""
    port: int
    app: str
    """May hold placeholders."""
    name: str = field(repr=False)
    """May hold placeholders."""
    query: str = field(repr=False)
    """May hold placeholders; without ``?``."""
    configured: bool = True
    """An operator wrote it.  Only such a one is told what rules have allowed here: whoever it leads to could show that
    to other nodes."""

    def resolve(self, key: StreamKey) -> Destination:
        """Where the stream ``key`` goes."""
        address = format_host_port(self.host, self.port)
        base = f"{'rtmps' if self.secure else 'rtmp'}://{address}/{_fill(self.app, key)}/"
        place = base + _fill(self.name, key)
        label = place if _PLACEHOLDER.search(self.name) else base + _HIDDEN
        return Destination(f"{place}?{_fill(self.query, key)}" if self.query else place, label, self.configured)

    def __str__(self) -> str:
        return self.resolve(StreamKey("{app}", "{name}")).label


def parse_target(text: str) -> Target:
    """Read ``host:port`` (same application and name there) or ``rtmp[s]://host[:port]/app[/name][?query]``.

    In a URL ``{app}`` and ``{name}`` stand for the stream's own; without a name its own is taken.  Raises
    ``ValueError`` with the reason, which repeats nothing of what may be secret.
    """
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("holds a blank or a character other than printable ASCII")
    if "://" in text:
        return _parse_url(text)
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError("should be host:port (an IPv6 address in brackets) or rtmp[s]://host[:port]/app[/name]")
    port = int(found["port"])
    if not 1 <= port <= 65535:
        raise ValueError("the port should be 1 to 65535")
    return Target(False, found["host"].strip("[]"), port, "{app}", "{name}", "")


def _parse_url(text: str) -> Target:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("has no valid host and port (an IPv6 address stands in brackets)") from None
    if parts.scheme not in ("rtmp", "rtmps"):
        raise ValueError("should begin with rtmp:// or rtmps://")
    if "@" in parts.netloc:
        raise ValueError("user and password are not supported; keys go into the query")
    if not _HOST.fullmatch(host) or port == 0:
        raise ValueError("has no valid host and port (an IPv6 address stands in brackets)")
    if "#" in text:
        raise ValueError("holds a '#'; write it as %23")
    if re.search(r"[{}]", _PLACEHOLDER.sub("", parts.path + parts.query)):
        raise ValueError("the only placeholders are {app} and {name}")
    app, name = _split_path(parts)
    secure = parts.scheme == "rtmps"
    return Target(secure, host, port or (443 if secure else 1935), app, name, parts.query)


def _split_path(parts: SplitResult) -> tuple[str, str]:
    path = parts.path.strip("/")
    if not path:
        raise ValueError("names no application; write host:port for the stream's own, or end in /{app}")
    if "//" in path:
        raise ValueError("has an empty part in its path")
    app, _, name = path.rpartition("/")
    return (app, name) if app else (name, "{name}")


def _fill(text: str, key: StreamKey) -> str:
    return _PLACEHOLDER.sub(lambda found: key.app if found[0] == "{app}" else key.name, text)
