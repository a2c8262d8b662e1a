"""Every setting of a node: the sections that belong to a node as a whole, and ``Config``, which holds all of them.

The other sections are declared beside the code they steer.  A component is handed its own section, a plain dataclass,
and never sees this package.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from cluster.access.patterns import pattern
from cluster.access.rules import KeyEntry, Rule
from cluster.config.text import GIB, KIB, MIB, toml
from cluster.forward.target import parse_target
from cluster.hostport import format_host_port, parse_host_port
from cluster.recording.naming import Naming
from cluster.registry.urls import check_prefix
from cluster.registry.urls import parse as parse_registry
from hls.hosts import check_host
from hls.settings import HlsSettings
from pyrtmp.names import problem
from pyrtmp.networks import parse_network
from pyrtmp.settings import EgressSettings, Limits, StreamSettings, Timeouts

MAX_WORKERS: Final = 256
MAX_APP_BYTES: Final = 1024
CALLBACK_EVENTS: Final = ("connect", "publish", "play", "unpublish", "stop", "done", "hls", "dvr")
"""Each ``on_...`` of ``CallbackSettings``."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: an IPv4 or IPv6 address or a host name, and a TCP port (0: any free one)."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: object) -> Address:
        """Read ``host:port``, an IPv6 address in brackets.  Raises ``ValueError`` with the reason."""
        if isinstance(text, Address):
            return text
        if not isinstance(text, str):
            raise ValueError(f"should be text such as \"0.0.0.0:1935\" or \"[::]:1935\", not {toml(text)}")
        host, port = parse_host_port(text, form="host:port, such as 0.0.0.0:1935 or [::]:1935")
        if port > 65535:
            raise ValueError(f"the port should be 0 to 65535, not {port}")
        if "_" in host and ":" not in host:  # nor can it stand in a node's record (cluster.registry.records)
            raise ValueError(f"{toml(host)} is not a host name")
        return cls(host, port)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def clashes(self, other: Address) -> bool:
        """Whether both cannot be bound by one process: the same port, and the same address or one that holds it."""
        wildcards = {"0.0.0.0": ".", "::": ":"}
        return self.port == other.port != 0 and (
            self.host == other.host
            or wildcards.get(self.host, " ") in other.host
            or wildcards.get(other.host, " ") in self.host
        )

    def __str__(self) -> str:
        return format_host_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where streams are fetched: a node's address for RTMP, or what goes before ``/app/stream.flv`` by HTTP."""

    host: str
    port: int
    scheme: Literal["rtmp", "rtmps", "http", "https"] = "rtmp"
    prefix: str = ""
    """``""`` or ``/part``, ``/part/part``."""

    @classmethod
    def parse(cls, text: object) -> Origin:
        """Read ``host:port``, ``rtmp[s]://host[:port]`` or ``http[s]://host[:port][/path]``.  Raises ``ValueError``."""
        if isinstance(text, Origin):
            return text
        if not isinstance(text, str) or "://" not in text:
            address = _reachable(Address.parse(text))
            return cls(address.host, address.port)
        match = re.fullmatch(r"(rtmps?|https?)://([^/?#@]*)((?:/[A-Za-z0-9._~-]+)*)/?", text)
        if match is None or not all(part.strip(".") for part in match[3].split("/")[1:]):
            raise ValueError(
                f"should be host:port, rtmps://host[:port] or http[s]://host[:port][/path], without user or query, "
                f"not {toml(text)}"
            )
        scheme, authority, prefix = match.groups()
        if scheme in ("rtmp", "rtmps") and prefix:
            raise ValueError(f"the application is the stream's own: should be {scheme}://{authority}, not {toml(text)}")
        if not re.search(r":[0-9]+$", authority):
            authority += f":{_PORTS[scheme]}"
        address = _reachable(Address.parse(authority))
        return cls(address.host, address.port, scheme, prefix)  # type: ignore[arg-type]  # the pattern has no other

    def __str__(self) -> str:
        address = str(Address(self.host, self.port))
        return address if self.scheme == "rtmp" else f"{self.scheme}://{address}{self.prefix}"


_PORTS: Final = {"rtmp": 1935, "rtmps": 1936, "http": 80, "https": 443}


def _one_per_core() -> int:
    """A worker for each core that this process may use; none where workers cannot share memory."""
    if sys.platform != "linux":
        return 0
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def _secret(secret: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
        raise ValueError("should be one or more printable ASCII characters without spaces")
    return secret


def _node_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise ValueError(f"should be 1 to 64 letters, digits, dots, underscores and hyphens, not {toml(text)}")
    return text


def _reachable(address: Address) -> Address:
    if not address.port or address.host in ("0.0.0.0", "::"):
        raise ValueError(f"should be an address to connect to, not {address}")
    return address


def _advertised(value: object) -> Origin:
    origin = Origin.parse(value)
    if origin.scheme not in ("rtmp", "rtmps"):
        raise ValueError(f"should be host:port or rtmps://host[:port], not {toml(str(value))}")
    return origin


def _group(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", text):
        raise ValueError(f"should be up to 64 letters, digits, dots, underscores and hyphens, not {toml(text)}")
    return text


def _registry(url: SecretStr) -> SecretStr:
    parse_registry(url.get_secret_value())
    return url


def _network(text: str) -> str:
    parse_network(text)
    return text


def _rule(text: str) -> str:
    Rule.parse(text)
    return text


def _key_entry(text: str) -> str:
    KeyEntry.parse(text)
    return text


def _signing(secret: SecretStr) -> SecretStr:
    secrets = secret.get_secret_value().split()
    if not secrets or not all(re.fullmatch(r"[!-~]{16,}", each) for each in secrets):
        raise ValueError("should be one or more secrets of 16 or more printable ASCII characters each")
    return secret


def _node_secret(secret: SecretStr) -> SecretStr:
    # Whoever hears a proof can try secrets on it at leisure.
    secrets = secret.get_secret_value().split()
    if not secrets or not all(re.fullmatch(r"[!-~]{32,}", each) for each in secrets):
        raise ValueError("should be one or more secrets of 32 or more printable ASCII characters each")
    return secret


def _hmac_secret(secret: SecretStr) -> SecretStr:
    # RFC 7518, 3.2: no shorter than the hash.
    if not re.fullmatch(r"[!-~]{32,}", secret.get_secret_value()):
        raise ValueError("should be 32 or more printable ASCII characters without spaces")
    return secret


def _public_key(secret: SecretStr) -> SecretStr:
    from cluster.access.tokens import public_key  # slow to import, and few use it

    public_key(secret.get_secret_value())
    return secret


def _algorithm(text: str) -> str:
    from cluster.access.tokens import ALGORITHMS

    if text not in ALGORITHMS:
        raise ValueError(f"should be one of {', '.join(ALGORITHMS)}, not {toml(text)}")
    return text


def _target(text: str) -> str:
    parse_target(text)
    return text


def _prefix(text: str) -> str:
    if not text:
        return text
    wrong = problem(text[1:], MAX_APP_BYTES)
    if not text.startswith("/") or wrong:
        raise ValueError(f'should be "" or like "/video", without a slash at its end, not {toml(text)}')
    return text


def _app(text: str) -> str:
    if wrong := problem(text, MAX_APP_BYTES):
        raise ValueError(wrong)
    return text


def _pattern(text: str) -> str:
    pattern(text)
    return text


def _record_path(text: str) -> str:
    Naming(text)
    return text


def _http_url(text: str) -> str:
    """The reasons repeat nothing: there may be a token in it."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not re.fullmatch(r"[!-~]+", text) or not host or port == 0:
        raise ValueError("should be a URL with a valid host and port, such as http://10.0.0.9:8085/api/v1/forward")
    if parts.scheme not in ("http", "https"):
        raise ValueError("should begin with http:// or https://")
    if "@" in parts.netloc or "#" in text:
        raise ValueError("should hold neither a user and password nor a '#'; tokens go into the query")
    return text


def _list(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise ValueError(f"should be a list, not {toml(value)}")
    return tuple(value)


Listen = Annotated[Address, BeforeValidator(Address.parse)]
FileName = Annotated[str, Field(min_length=1)]
Secret = Annotated[SecretStr, AfterValidator(_secret)]
Origins = Annotated[
    tuple[Annotated[Origin, BeforeValidator(Origin.parse)], ...], BeforeValidator(_list)
]
Targets = Annotated[
    tuple[Annotated[str, AfterValidator(_target)], ...], BeforeValidator(_list)
]
TargetsOfApps = dict[Annotated[str, AfterValidator(_app)], Targets]
Rules = Annotated[tuple[Annotated[str, AfterValidator(_rule)], ...], BeforeValidator(_list)]
KeyEntries = Annotated[tuple[Annotated[str, AfterValidator(_key_entry)], ...], BeforeValidator(_list)]
Algorithms = Annotated[tuple[Annotated[str, AfterValidator(_algorithm)], ...], BeforeValidator(_list)]
NetworkList = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_list)]
HostList = Annotated[tuple[Annotated[str, AfterValidator(check_host)], ...], BeforeValidator(_list)]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], BeforeValidator(_list)]
TextList = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_list)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """This machine's part in the cluster."""

    id: Annotated[str, AfterValidator(_node_id)] = field(default_factory=socket.gethostname)
    """The node's name in logs, metrics and the API."""

    role: Literal["origin", "edge"] = "origin"
    """What the node is for: an origin takes publishers, an edge takes viewers and fetches what they want to see from
    origins."""

    workers: int = field(default_factory=_one_per_core)
    """Processes that serve publishers and viewers, beside the one that supervises them; without this setting, one per
    core on Linux and 0 elsewhere.  0 runs everything in one process."""

    secret: Annotated[SecretStr, AfterValidator(_node_secret)] | None = None
    """Secret that all nodes of the cluster share.  With it a node believes what another one says of itself and of a
    stream only if that proves, without sending it, that it has the secret; and whom one node has let in by its rules
    (access.rules), the other nodes do not ask again.  Several, separated by spaces or line ends, are good at once; the
    first one proves.  Without it every peer is believed."""

    secret_file: Annotated[str, Field(min_length=1)] | None = None
    """File that holds it, relative to the configuration file; in place of secret."""

    group: Annotated[str, AfterValidator(_group)] = ""
    """Data centre or rack.  Nodes fetch streams from their own group while it has them."""

    advertise: Annotated[Origin, BeforeValidator(_advertised)] | None = None
    """Address and TCP port where other nodes reach this one by RTMP, as "10.0.0.1:1935", or by RTMPS, as
    "rtmps://origin-1.example.org:1936"; without it, rtmp.listen."""

    drain_seconds: float = 10.0
    """Longest time, in seconds, from SIGTERM until the last connection is closed.  Where there are other nodes,
    publishers that do not leave by themselves are closed at the first key frame after a third of it."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nodes know each other by; the first one proves."""
        return () if self.secret is None else tuple(self.secret.get_secret_value().split())


@dataclass(frozen=True, slots=True, kw_only=True)
class RtmpSettings:
    """Where publishers and RTMP viewers come in."""

    listen: Listen = Address("0.0.0.0", 1935)
    """Address and TCP port; an IPv6 address stands in brackets: [::]:1935."""

    proxy_from: NetworkList = ()
    """Addresses or networks of balancers that speak the PROXY protocol (version 1 or 2; haproxy: send-proxy-v2).  Every
    connection from there begins with its header, which says whose it is; from elsewhere none may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RtmpsSettings:
    """Where publishers, RTMP viewers and other nodes come in with TLS."""

    listen: Listen | None = None
    """Address and TCP port, as "0.0.0.0:1936"; without it, nobody does.  It needs tls.certificate.
    rtmp.proxy_from is not about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSettings:
    """Where HTTP-FLV and HLS viewers and the player page come in."""

    listen: Listen = Address("0.0.0.0", 8080)
    """Address and TCP port."""

    cors_origins: TextList = ("*",)
    """Web origins (https://example.org) whose pages may play the streams; "*" is all, [] none but this server's own."""

    trust_forwarded_from: NetworkList = ()
    """Addresses or networks of proxies that are believed for whom they ask (X-Forwarded-For)."""

    hosts: HostList = ()
    """Names that this server answers to (the header Host), without ports: ["live.example.org", "*.example.org"]; other
    requests get status 421.  localhost always may; nodes that fetch by HTTP ask by what edge.origins calls this one.
    [] is any."""

    prefix: Annotated[str, AfterValidator(_prefix)] = ""
    """What all paths begin with, as "/video", where a proxy passes only those to this server, and passes them as they
    are; the same on all nodes.  The page is then /video/, a stream /video/app/stream.m3u8."""

    redirect: bool = False
    """Whether viewers that come while this node drains or is full are sent to the best other node (status 307), where
    there is a registry.  While it drains, it then goes on listening for them.  Who came by HTTPS is not sent away."""

    redirect_to_https: bool = False
    """Whether viewers that come without TLS are sent to https.listen (status 308), but for those behind a proxy of
    trust_forwarded_from, which may do TLS itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpsSettings:
    """Where the same viewers come in with TLS."""

    listen: Listen | None = None
    """Address and TCP port, as "0.0.0.0:443"; without it, nobody does.  It needs tls.certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSettings:
    """What is shown to clients that come with TLS, what servers are verified with that this node connects to, and what
    is shown to them.  All are PEM files, relative to the configuration file, and are read again when they change."""

    certificate: FileName | None = None
    """The certificate for rtmps.listen, https.listen and the API, with those between it and an authority's behind it
    (fullchain.pem of certbot)."""

    key: FileName | None = None
    """Its private key."""

    client_ca: FileName | None = None
    """Authorities.  With it, every client of rtmps.listen and https.listen has to show a certificate of one of them:
    for nodes that only other nodes and known encoders connect to."""

    ca: FileName | None = None
    """Authorities that other nodes and targets of forwards are verified with, beside those of the machine."""

    client_certificate: FileName | None = None
    """The certificate that is shown to other nodes and targets of forwards, where they ask for one."""

    client_key: FileName | None = None
    """Its private key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Where operators come in: console, API, metrics, health."""

    listen: Listen = Address("127.0.0.1", 1985)
    """Address and TCP port.  One that other machines can reach needs a token."""

    tls: bool = False
    """Whether the API speaks HTTPS there, and HTTPS only.  It needs tls.certificate."""

    token: Secret | None = None
    """What a request must carry as "Authorization: Bearer TOKEN"; without one, every local user may ask."""

    token_file: Annotated[str, Field(min_length=1)] | None = None
    """File that holds the token, relative to the configuration file; in place of token."""

    hosts: HostList = ()
    """Names that it answers to (the header Host), without ports; others get status 421, but /healthz and /readyz.
    Without it, who shows no token, and at an address of loopback who opens the console, has to ask by address or as
    localhost, so that no web page can lend this machine a name (DNS rebinding)."""

    requests_per_minute: int = 6000
    """Most requests from one address in a minute, of IPv6 from one /64; more get status 429.  0 is no cap."""

    @property
    def secret(self) -> str:
        """The token, or ""."""
        return "" if self.token is None else self.token.get_secret_value()


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """Who may publish, play and ask the API.  Without rules everybody may publish and play."""

    rules: Rules = ()
    """Rules such as "publish live/* key" or "play * allow:10.0.0.0/8 signed token": actions, with commas (publish,
    play, api-read, api-write; * is publish,play), a pattern of app/name (* within one part, ** across parts, * alone
    for all), then checks (key, signed, token, callback, hook, allow, deny, allow:NETWORK, deny:NETWORK).  The first
    rule that names action and stream counts; of its checks the first with an opinion decides; when none has, it is
    refused."""

    default: Literal["allow", "deny"] = "allow"
    """Whether somebody may publish or play what no rule names.  For the API it is api.token that decides then."""

    keys: KeyEntries = ()
    """Stream keys for the check key, such as "publish live/cam sha256:...": actions, pattern and the key's hash, as
    pyrtmp secret key makes them.  A client shows its key as ?key=KEY behind the stream's name (or key in OBS), or as
    "Authorization: Bearer KEY"."""

    signed_secret: Annotated[SecretStr, AfterValidator(_signing)] | None = None
    """Secret for the check signed, which pyrtmp secret url signs with.  Several, separated by spaces or line ends, are
    good at once; the first one signs."""

    signed_secret_file: Annotated[str, Field(min_length=1)] | None = None
    """File that holds it, relative to the configuration file; in place of signed_secret."""

    token_secret: Annotated[SecretStr, AfterValidator(_hmac_secret)] | None = None
    """Secret of the issuer of tokens (JWT) for the check token, where they are signed with HS256, HS384 or HS512.  A
    client shows its token as ?token=TOKEN or as "Authorization: Bearer TOKEN"."""

    token_secret_file: Annotated[str, Field(min_length=1)] | None = None
    """File that holds it, relative to the configuration file; in place of token_secret."""

    token_key: Annotated[SecretStr, AfterValidator(_public_key)] | None = None
    """The issuer's public key, in PEM."""

    token_key_file: Annotated[str, Field(min_length=1)] | None = None
    """File that holds it, relative to the configuration file; in place of token_key."""

    token_jwks: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL where the issuer tells its public keys (JWKS).  No other is ever asked, and redirects are not followed."""

    token_issuer: Annotated[str, Field(min_length=1)] | None = None
    """What the claim iss must be; without it, anything."""

    token_audience: Annotated[str, Field(min_length=1)] | None = None
    """What must be among the claim aud; without it, anything."""

    token_claim: Annotated[str, Field(min_length=1)] = "permissions"
    """Name of the claim that says what a token permits, a list of {"action": ..., "path": PATTERN}."""

    token_algorithms: Algorithms = ("RS256", "ES256", "EdDSA", "Ed25519", "HS256")
    """Algorithms that tokens may be signed with, each with a key of its own kind."""

    failures_per_minute: int = 30
    """Wrong keys, signatures and tokens, and publishers refused by a back end, that each worker process takes from one
    address in a minute, of IPv6 from one /64; then the address has to wait, whatever it shows.  0 is no cap."""

    remember_seconds: float = 5.0
    """How long a yes to an HLS player counts for its next requests with the same credentials for the same stream."""

    list_streams: bool = True
    """Whether the page names the live streams, to whoever opens it."""

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """For signed URLs; the first one signs."""
        return () if self.signed_secret is None else tuple(self.signed_secret.get_secret_value().split())

    @property
    def has_token_keys(self) -> bool:
        """Whether there is something to verify tokens with."""
        return not (self.token_secret is None and self.token_key is None and self.token_jwks is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackSettings:
    """A back end that is asked who may connect, publish and play, and told what has ended.  Without access.rules it is
    asked about everybody; with rules, where they name the check callback."""

    dialect: Literal["srs", "nginx-rtmp", "mediamtx"] = "srs"
    """In whose words: JSON as SRS has it (http_hooks), forms as nginx-rtmp (notify), or JSON as MediaMTX (authMethod
    http), which only asks."""

    url: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL for everything that the dialect knows and that has no URL of its own below.  Nothing else is ever asked:
    redirects are not followed."""

    on_connect: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL asked whether an RTMP client may connect (SRS, nginx-rtmp)."""

    on_publish: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL asked whether it may publish."""

    on_play: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL asked whether it may play; once for an HLS player that goes on asking for the same stream with the same
    credentials."""

    on_unpublish: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL told that a publisher has ended (SRS; on_publish_done of nginx-rtmp)."""

    on_stop: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL told that a player has gone (SRS; on_play_done of nginx-rtmp)."""

    on_done: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL told of either (nginx-rtmp)."""

    on_hls: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL told of every HLS segment that is made here (SRS)."""

    on_dvr: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL told of every recorded file that is complete (SRS; on_record_done of nginx-rtmp); see section record."""

    deadline_seconds: float = 5.0
    """How long one question may take, waiting for its turn included, or one try of a notification.  Has to be shorter
    than timeouts.request."""

    concurrency: int = 32
    """Questions that each worker process asks at once; eight times as many wait, and more count as failed."""

    per_second: float = 0.0
    """Most requests per second, of all kinds, that each worker process sends there; more wait for their turn, and
    questions that cannot be asked within deadline_seconds count as failed.  0 is no cap."""

    on_failure: Literal["refuse", "allow"] = "refuse"
    """What becomes of a client about which the back end gave no answer of use; who asks the API is refused then."""

    retries: int = 3
    """How often a notification that was not accepted is sent again."""

    secret: Annotated[SecretStr, AfterValidator(_hmac_secret)] | None = None
    """Secret that requests are signed with: X-Pyrtmp-Signature is "sha256=" and the HMAC-SHA256, in hexadecimal, of
    X-Pyrtmp-Timestamp (Unix time), a dot and the body."""

    secret_file: Annotated[str, Field(min_length=1)] | None = None
    """File that holds it, relative to the configuration file; in place of secret."""

    @property
    def urls(self) -> dict[str, str]:
        """Where to, by event; also for those that the dialect has no words for."""
        found = {event: getattr(self, f"on_{event}", None) or self.url for event in (*CALLBACK_EVENTS, "api")}
        return {event: url for event, url in found.items() if url}

    @property
    def signing_secret(self) -> str:
        """The secret, or ""."""
        return "" if self.secret is None else self.secret.get_secret_value()


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """The source manager: where nodes find out which of them has a stream."""

    url: Annotated[SecretStr, AfterValidator(_registry)] | None = None
    """redis://[user:password@]host:6379/0, redis+sentinel://host:26379,host:26379/service,
    redis+cluster://host:6379,host:6379, or rediss... for TLS (?ca=FILE&cert=FILE&key=FILE); without it, the node knows
    of itself only."""

    url_file: Annotated[str, Field(min_length=1)] | None = None
    """File that holds the URL, relative to the configuration file; in place of url."""

    key_prefix: Annotated[str, AfterValidator(check_prefix)] = "pyrtmp:"
    """What the names of all keys begin with, so that clusters can share a Redis."""

    lease_seconds: float = 10.0
    """How long a stream stays a node's own when that is not heard of any more."""

    @property
    def secret(self) -> str:
        """The URL, or ""."""
        return "" if self.url is None else self.url.get_secret_value()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardSettings:
    """Streams published here are passed on."""

    to: Targets = ()
    """Where to: host:port (same application and stream name there) or rtmp[s]://host/app[/name]; {app} and {name} stand
    for the stream's own."""

    apps: TargetsOfApps = field(default_factory=dict)
    """Where to instead for streams of some applications, each with its list, as {live = ["10.0.0.2:1935"]}; streams of
    one whose list is empty are not passed on."""

    ask_url: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL of a back end that is asked, when a publisher starts, where else the stream goes: an on_forward callback of
    SRS (there forward.backend).  While it fails it is asked again, ten times in all.  Nodes that it names go by their
    own rules: they are not told what access.rules have allowed here."""

    @property
    def somewhere(self) -> bool:
        """Whether there may be streams that are passed on."""
        return bool(self.to or any(self.apps.values()) or self.ask_url is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """Streams published to this node are written to files; those that it fetches are not.  A file ends with its
    publisher, when it is long enough, and when a codec changes."""

    streams: Patterns = ()
    """Which ones, as patterns of app/name: ["live/*", "lessons/**"], or ["*"] for all."""

    directory: FileName | None = None
    """Where to, relative to the configuration file."""

    path: Annotated[str, AfterValidator(_record_path)] = "{app}/{name}/%Y-%m-%dT%H-%M-%SZ"
    """What a file is called there, without its ending: {app} and {name} stand for the stream's, {node} for node.id, and
    %Y, %m, %d, %H, %M and %S for when it begins, in UTC.  Where that is taken, a number follows."""

    format: Literal["mp4", "flv"] = "mp4"
    """mp4: a complete file is put into MP4, for every player and editor, by a process of its own; one that MP4 has no
    place for stays FLV.  flv: what the publisher sent, byte for byte."""

    file_seconds: float = 3600.0
    """Length of a file, in seconds, at which the next one begins, with a key frame; 0 is no cap."""

    keep_hours: float = 0.0
    """Hours for which complete files are kept; 0 is for ever.  Of what is in the directory, only what path could have
    named is deleted."""

    min_free_bytes: int = GIB
    """While the disk has less than that, nothing is recorded."""

    buffer_bytes: int = 16 * MIB
    """Most bytes of one stream that wait for a slow disk; beyond it frames are left out, up to a key frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """Streams that nobody publishes here are fetched from another node, while somebody watches."""

    origins: Origins = ()
    """Nodes to ask, as ["10.0.0.1:1935", "rtmps://10.0.0.2:1936"].  Streams are spread evenly over them; one that has
    not got the stream, or fails, is followed by the next.  One given as http://host:port or https://host:port, maybe
    with a path, is asked by HTTP-FLV, at /app/stream.flv under that; it takes no publishers from an edge."""

    linger_seconds: float = 2.0
    """How long, in seconds, a stream is still fetched after its last viewer left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings(Limits):
    """What connections may cost, each by itself and all together."""

    max_connections: int = 10_000
    """Most connections at once, RTMP and HTTP together; any more are closed when they are accepted."""

    max_connections_per_address: int = 0
    """Most connections at once from one address, of IPv6 from one /64; 0 is no cap.  Behind a balancer all clients
    share one, unless rtmp.proxy_from and http.trust_forwarded_from name it; then each worker process counts for
    itself."""

    max_streams: int = 0
    """Most streams published to this node at once, by encoders and by other nodes; 0 is no cap.  Those that it fetches
    do not count."""

    max_viewers_per_stream: int = 0
    """Most viewers of one stream, and of those who wait for it; 0 is no cap.  Other nodes count as one each."""

    max_cpu_share: float = 0.0
    """Part of a core above which a process turns newcomers away, whether they publish or play, as busy; those who are
    there go on, and other nodes are let in.  0 is no cap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important events that are logged."""

    format: Literal["text", "json"] = "text"
    """One line per event: for people, or one JSON object for a log collector."""

    file: Annotated[str, Field(min_length=1)] | None = None
    """Where to log instead; logrotate may move the file away at any time, without a signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All the settings of one node."""

    node: NodeSettings = field(default_factory=NodeSettings)
    rtmp: RtmpSettings = field(default_factory=RtmpSettings)
    rtmps: RtmpsSettings = field(default_factory=RtmpsSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    https: HttpsSettings = field(default_factory=HttpsSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    access: AccessSettings = field(default_factory=AccessSettings)
    callbacks: CallbackSettings = field(default_factory=CallbackSettings)
    edge: EdgeSettings = field(default_factory=EdgeSettings)
    forward: ForwardSettings = field(default_factory=ForwardSettings)
    record: RecordSettings = field(default_factory=RecordSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    egress: EgressSettings = field(default_factory=EgressSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    timeouts: Timeouts = field(default_factory=Timeouts)
    stream: StreamSettings = field(default_factory=StreamSettings)
    hls: HlsSettings = field(default_factory=HlsSettings)
    log: LogSettings = field(default_factory=LogSettings)


# Smallest and largest legal value of every number.  Here, and not at the fields, since pyrtmp and hls do without
# pydantic, which is slow to import.
BOUNDS: Mapping[str, tuple[float, float]] = {
    "node.workers": (0, MAX_WORKERS),
    "node.drain_seconds": (0, 3600),
    "edge.linger_seconds": (0, 3600),
    "api.requests_per_minute": (0, 1_000_000),
    "access.failures_per_minute": (0, 100_000),
    "access.remember_seconds": (0, 60),
    "callbacks.deadline_seconds": (0.1, 60),
    "callbacks.concurrency": (1, 1000),
    "callbacks.retries": (0, 20),
    "callbacks.per_second": (0, 100_000),
    "record.file_seconds": (0, 7 * 86400),
    "record.keep_hours": (0, 1_000_000),
    "record.min_free_bytes": (0, 1024 * GIB),
    "record.buffer_bytes": (64 * KIB, GIB),
    "registry.lease_seconds": (1, 3600),
    "egress.min_delay_ms": (0, 10_000),
    "egress.max_delay_ms": (0, 10_000),
    "egress.share": (0.001, 1),
    "egress.soft_delay_ms": (0, 10_000),
    "egress.busy_share": (0.001, 1),
    "limits.max_message_bytes": (64 * KIB, 16 * MIB - 1),  # 24 bits of message length
    "limits.max_command_bytes": (KIB, 16 * MIB - 1),
    "limits.max_chunk_bytes": (128, 16 * MIB - 1),  # 128 is the size before any is announced; 5.4.1: 0xFFFFFF
    "limits.max_chunk_streams": (4, 65597),  # 5.3.1.1: ids 2 to 65599, one of them is control
    "limits.max_message_streams": (1, 65535),
    "limits.max_name_bytes": (16, 4096),
    "limits.max_amf_depth": (4, 128),
    "limits.max_amf_items": (64, 1_000_000),
    "limits.max_connections": (1, 1_000_000),
    "limits.max_connections_per_address": (0, 1_000_000),
    "limits.max_publish_kbps": (0, 10_000_000),
    "limits.max_streams": (0, 1_000_000),
    "limits.max_viewers_per_stream": (0, 1_000_000),
    "limits.max_cpu_share": (0, 4),
    "timeouts.handshake": (0.01, 3600),
    "timeouts.connect": (0.01, 3600),
    "timeouts.request": (0.01, 3600),
    "timeouts.first_media": (0.01, 3600),
    "timeouts.media_idle": (0.01, 3600),
    "timeouts.write_stall": (0.01, 3600),
    "stream.log_bytes": (64 * KIB, 16 * GIB),
    "stream.log_seconds": (0.1, 3600),
    "stream.segment_bytes": (4 * KIB, GIB),
    "stream.gop_bytes": (64 * KIB, 16 * GIB),
    "stream.gop_seconds": (0.1, 3600),
    "stream.grace_seconds": (0, 3600),
    "stream.play_wait_seconds": (0, 3600),
    "stream.max_waiting": (0, 1_000_000),
    "stream.takeover_seconds": (0, 3600),
    "hls.fragment": (1, 60),
    "hls.max_fragment": (1, 60),
    "hls.window": (1, 3600),
    "hls.linger": (0.1, 3600),
    "hls.wait_seconds": (0, 300),
    "hls.max_bytes": (MIB, 16 * GIB),
}
