"""Where the registry is, as one URL.

    memory://
    redis://[user:password@]host[:6379][/database]
    redis+sentinel://[user:password@]host[:26379],host.../service[/database]
    redis+cluster://[user:password@]host[:6379],host...

``rediss``, ``rediss+sentinel`` and ``rediss+cluster`` speak TLS; what they trust and show goes behind a ``?``:
``ca=FILE``, ``cert=FILE``, ``key=FILE``, ``verify=full|ca|none``.  Sentinels that want a password of their own get
``sentinel_user=`` and ``sentinel_password=``.  Characters that have a meaning in URLs are written ``%XX``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, cast
from urllib.parse import unquote_to_bytes

from cluster.hostport import format_host_port, parse_host_port
from cluster.registry.memory import MemoryRegistry

if TYPE_CHECKING:
    from cluster.registry.base import Registry

Kind = Literal["memory", "redis", "sentinel", "cluster"]
Verify = Literal["full", "ca", "none"]

_SCHEMES: Final[dict[str, tuple[Kind, bool]]] = {
    "memory": ("memory", False),
    "redis": ("redis", False),
    "rediss": ("redis", True),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_TLS_OPTIONS: Final = ("ca", "cert", "key", "verify")
_SENTINEL_OPTIONS: Final = ("sentinel_user", "sentinel_password")
_MAX_PREFIX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL taken apart.  Its ``repr`` and ``str`` show no passwords."""

    kind: Kind
    hosts: tuple[tuple[str, int], ...] = ()
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    service: str = ""
    """What the sentinels call the master."""
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: Verify = "full"
    """``ca``: the certificate must be signed by one that is trusted, whatever host it names."""
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The URL for people: no user, no password, no options."""
        scheme = next(name for name, each in _SCHEMES.items() if each == (self.kind, self.tls))
        hosts = ",".join(format_host_port(*each) for each in self.hosts)
        path = f"/{self.service}" if self.service else ""
        return f"{scheme}://{hosts}{path}" + (f"/{self.database}" if self.database else "")


def parse(url: str) -> Target:
    """Read a URL.  Raises ``ValueError`` with the reason, which does not quote what may hold a password."""
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError("should be printable ASCII characters without spaces; write others as %XX")
    scheme, mark, rest = url.partition("://")
    if not mark or scheme.lower() not in _SCHEMES:
        raise ValueError(f"should begin with one of {', '.join(f'{each}://' for each in _SCHEMES)}")
    kind, tls = _SCHEMES[scheme.lower()]
    if "#" in rest:
        raise ValueError("has a #, which ends nothing here; in a password, write it %23")
    rest, _, query = rest.partition("?")
    netloc, slash, path = rest.partition("/")
    if kind == "memory":
        if rest or query:
            raise ValueError("memory:// has nothing behind it")
        return Target(kind="memory")
    userinfo, _, hosts = netloc.rpartition("@")
    if "@" in userinfo:
        raise ValueError("has more than one @; in a password, write it %40")
    user, _, password = userinfo.partition(":")
    if ":" in password:
        raise ValueError("has more than one : before the @; in a password, write it %3A")
    service, database = _path(kind, path, bool(slash))
    options = _options(kind, tls, query)
    return Target(
        kind=kind,
        hosts=_hosts(kind, hosts),
        user=_decode("the user", user),
        password=_decode("the password", password),
        database=database,
        service=service,
        tls=tls,
        ca=options.get("ca"),
        cert=options.get("cert"),
        key=options.get("key"),
        verify=cast(Verify, options.get("verify", "full")),
        sentinel_user=options.get("sentinel_user"),
        sentinel_password=options.get("sentinel_password"),
    )


def check_prefix(prefix: str) -> str:
    """Raises ``ValueError`` for one that no key may begin with."""
    if not re.fullmatch(rf"[A-Za-z0-9._:/~-]{{0,{_MAX_PREFIX}}}", prefix):
        raise ValueError(f"should be at most {_MAX_PREFIX} letters, digits and any of . _ : / ~ -")
    return prefix


def connect(url: str, prefix: str = "pyrtmp:") -> Registry:
    """The registry that ``url`` names, not opened yet.  Raises ``ValueError``."""
    target = parse(url)
    check_prefix(prefix)
    if target.kind == "memory":
        return MemoryRegistry()
    from cluster.registry.redis import RedisRegistry  # slow to import; a node alone does not need it

    return RedisRegistry(target, prefix)


def _decode(what: str, text: str) -> str | None:
    if not text:
        return None
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(f"{what} has a % that is not followed by two hexadecimal digits; write it %25")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise ValueError(f"{what} is not UTF-8") from None
    if "\0" in decoded:
        raise ValueError(f"{what} has a NUL")
    return decoded


def _hosts(kind: Kind, text: str) -> tuple[tuple[str, int], ...]:
    hosts = tuple(_host(each, 26379 if kind == "sentinel" else 6379) for each in text.split(","))
    if kind == "redis" and len(hosts) > 1:
        raise ValueError("redis:// takes one host; redis+sentinel:// and redis+cluster:// take several")
    if len(set(hosts)) < len(hosts):
        raise ValueError("names a host twice")
    return hosts


def _host(text: str, default_port: int) -> tuple[str, int]:
    if not text:
        raise ValueError("a host is missing")
    host, port = parse_host_port(text, form="host or host:port", default_port=default_port)
    if not 0 < port < 65536:
        raise ValueError(f"the port should be 1 to 65535, not {port}")
    return host, port


def _path(kind: Kind, path: str, slash: bool) -> tuple[str, int]:
    """Service and database."""
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", service):
            raise ValueError("should name the service behind the hosts: redis+sentinel://host:26379/mymaster")
    if kind == "cluster":
        if path not in ("", "0"):
            raise ValueError("a Redis Cluster has only database 0")
        return "", 0
    if path and not re.fullmatch(r"[0-9]{1,5}", path):
        raise ValueError("the database, behind the last /, should be a number")
    return service, int(path or 0)


def _options(kind: Kind, tls: bool, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for each in query.split("&") if query else ():
        name, _, text = each.partition("=")
        if name not in _TLS_OPTIONS + _SENTINEL_OPTIONS:
            raise ValueError(f"only {', '.join(_TLS_OPTIONS + _SENTINEL_OPTIONS)} may stand behind the ?")
        value = _decode(name, text)
        if value is None or name in options:
            raise ValueError(f"{name} stands there {'twice' if name in options else 'without a value'}")
        if name in _TLS_OPTIONS and not tls:
            raise ValueError(f"{name} is for TLS: begin with rediss in place of redis")
        if name in _SENTINEL_OPTIONS and kind != "sentinel":
            raise ValueError(f"{name} is for redis+sentinel://")
        options[name] = value
    if options.get("verify", "full") not in ("full", "ca", "none"):
        raise ValueError("verify should be full, ca or none")
    if "key" in options and "cert" not in options:
        raise ValueError("key needs cert")
    if "sentinel_user" in options and "sentinel_password" not in options:
        raise ValueError("sentinel_user needs sentinel_password")
    return options
