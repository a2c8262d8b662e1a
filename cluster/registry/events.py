"""What nodes tell each other through the registry: small JSON on one channel.

Nothing depends on an event's arrival: who misses one finds out a little later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from cluster.registry.records import STRICT, Codec, Epoch, Key, NodeId, Token


@dataclass(frozen=True, slots=True)
class Began:
    """A node owns a stream from now on."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    key: Key
    node: NodeId
    epoch: Epoch
    kind: Literal["began"] = "began"


@dataclass(frozen=True, slots=True)
class Ended:
    """A node does not own a stream any more."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    key: Key
    node: NodeId
    epoch: Epoch
    kind: Literal["ended"] = "ended"


@dataclass(frozen=True, slots=True)
class Copied:
    """A node holds a copy of a stream."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    key: Key
    node: NodeId
    kind: Literal["copied"] = "copied"


@dataclass(frozen=True, slots=True)
class Challenge:
    """A node wants a stream that another one owns: does its publisher let go?"""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    key: Key
    from_node: NodeId
    to_node: NodeId
    id: Token
    kind: Literal["challenge"] = "challenge"


@dataclass(frozen=True, slots=True)
class Answer:
    """To a challenge: ``alive`` at once, then one of the others."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    id: Token
    to_node: NodeId
    verdict: Literal["alive", "yields", "refuses"]
    kind: Literal["answer"] = "answer"


@dataclass(frozen=True, slots=True)
class Draining:
    """A node leaves: place nothing on it."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    node: NodeId
    kind: Literal["draining"] = "draining"


Event = Began | Ended | Copied | Challenge | Answer | Draining

EVENTS: Final = Codec[Event](Annotated[Event, Field(discriminator="kind")])
