"""What the registry holds, as JSON of bounded size that is validated on reading.

Fields that are not known are ignored: the nodes of a cluster are upgraded one after the other.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, PlainValidator, TypeAdapter

from pyrtmp.names import StreamKey, make_key, problem

MAX_BYTES: Final = 16 * 1024
"""Longest value; the longest names that can be allowed take a quarter of it."""
MAX_NAME: Final = 4096
"""Longest ``app/name`` that ``limits.max_name_bytes`` can allow."""
MAX_EPOCH: Final = 10**15 - 1
"""Highest epoch: exact in Lua, whose numbers are doubles."""

STRICT: Final = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

Record = TypeVar("Record")


def key_problem(key: StreamKey) -> str:
    """Why no stream can have this key, or ``""``."""
    if "/" in key.name:
        return "the name has more than one part"
    return problem(str(key), MAX_NAME)


def _read_key(value: Any) -> StreamKey:
    if isinstance(value, StreamKey):
        key = value
    elif isinstance(value, str) and "/" in value:
        key = make_key(*value.split("/", 1))
    else:
        raise ValueError("should be app/name")
    if wrong := key_problem(key):
        raise ValueError(wrong)
    return key


def _address(text: str) -> str:
    if text and not 0 < int(text.rpartition(":")[2]) < 65536:
        raise ValueError("the port should be 1 to 65535")
    return text


_HOST_PORT: Final = r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252}):[0-9]{1,5}"

Key = Annotated[StreamKey, PlainValidator(_read_key), PlainSerializer(str, return_type=str)]
NodeId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}\z")]
Token = Annotated[str, Field(pattern=r"^[!-~]{0,256}\z")]
"""Something opaque: printable ASCII."""
Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{0,64}\z")]
Address = Annotated[str, Field(pattern=rf"^(rtmps://)?{_HOST_PORT}\z"), AfterValidator(_address)]
"""With ``rtmps://`` in front where it is reached with TLS."""
AnyAddress = Annotated[str, Field(pattern=rf"^({_HOST_PORT})?\z"), AfterValidator(_address)]
"""``""``: none."""
Epoch = Annotated[int, Field(ge=1, le=MAX_EPOCH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node as it tells of itself, about once a second."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    id: NodeId
    role: Literal["origin", "edge"]
    group: Group = ""
    """Its data centre."""
    rtmp: Address
    """``host:port`` or ``rtmps://host:port`` where the other nodes reach it."""
    http: AnyAddress = ""
    stress: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """How busy it is: 0 idle, 1 full."""
    draining: bool = False
    boot: Token = ""
    """Random for each start of its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a node claims a stream with: a lease that has no epoch yet."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    key: Key
    node: NodeId
    publisher: Token = ""
    lineage: Token = ""
    """Names the stream's timeline; copies share it."""
    rtmp: Address
    http: AnyAddress = ""
    group: Group = ""
    boot: Token = ""
    """Of the node's process: leases of one that ended are nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Offer):
    """Who owns a stream.  Of two leases of one stream, the one with the higher epoch counts."""

    epoch: Epoch

    @classmethod
    def of(cls, offer: Offer, epoch: int) -> Lease:
        """The lease that was granted."""
        return cls(**_values(offer), epoch=epoch)

    @property
    def offer(self) -> Offer:
        """What it was claimed with."""
        return Offer(**_values(self))


def _values(offer: Offer) -> dict[str, Any]:
    return {each.name: getattr(offer, each.name) for each in fields(Offer)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A node that holds a forwarded copy of a stream."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    key: Key
    node: NodeId
    lineage: Token = ""
    rtmp: Address
    http: AnyAddress = ""
    group: Group = ""


@dataclass(frozen=True, slots=True)
class Location:
    """Where a stream is to be had."""

    owner: Lease | None = None
    copies: tuple[Copy, ...] = field(default=())

    def __bool__(self) -> bool:
        return self.owner is not None or bool(self.copies)


class Codec(Generic[Record]):
    """A kind of record as JSON and back."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    @functools.cached_property
    def _adapter(self) -> TypeAdapter[Record]:
        return TypeAdapter(self._kind)

    def to_json(self, record: Record) -> bytes:
        """As ``from_json`` reads it.  Raises ``ValueError`` for one that it would not read."""
        data = self._adapter.dump_json(record, warnings=False)
        if self.from_json(data) != record:
            raise ValueError("would be read as something else")
        return data

    def from_json(self, data: bytes) -> Record:
        """Raises ``ValueError``."""
        if len(data) > MAX_BYTES:
            raise ValueError(f"a record of {len(data)} bytes")
        return self._adapter.validate_json(data)


NODES: Final = Codec[NodeRecord](NodeRecord)
OFFERS: Final = Codec[Offer](Offer)
COPIES: Final = Codec[Copy](Copy)
