"""What servers of one kind tell each other about a stream, beside the protocol: in one entry named ``pyrtmp``.

The one that connects puts it into the command object of connect, the one that plays to it into the information of
``NetStream.Play.Start``.  Over HTTP both send it as a header, ``X-Pyrtmp-Kin``, whose value is the entry as JSON.
Other servers and players ignore it.

    node      (string) who says it
    hops      (string) the nodes the stream came through, first the one it was published to, separated by spaces
    lineage   (string) names the timeline of its timestamps; copies of a stream share it
    birth     (string) when that timeline began, and where it stands (``pyrtmp.birth.Told``)
    copy      (boolean) true: what it publishes is its own or another node's all the same
    wait      (boolean) false: answer play with StreamNotFound at once when nobody publishes the stream
    session   (string) the id, at that node, of whatever this connection is for: a pull, or the publisher of a stream
              that is passed on.  Log lines and the API repeat it
    admits    (string) what its own rules have allowed (``pyrtmp.kinship.admission``)

Who plays may also ask, with the command ``pyrtmpStanding``, how far the stream is there (``pyrtmp.delay``).

``pyrtmp.kinship`` adds what shows that a node of the cluster says it.  What a peer says is read with care (``Kin.read``
raises nothing) and trusted as far as that peer is: it decides what is played again and what is left out, never where
this server connects to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

ENTRY: Final = "pyrtmp"
HEADER: Final = "X-Pyrtmp-Kin"

MAX_HEADER: Final = 2048
"""Characters of a header that is read; the longest that is written has about 1000."""

MAX_HOPS: Final = 8
"""A stream that came through so many nodes goes no further."""

_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BIRTH: Final = re.compile(r"[0-9.-]{1,112}")


class Descent(NamedTuple):
    """Where a stream comes from."""

    lineage: str = ""
    """``""``: not known."""
    hops: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kin:
    """What a peer said of itself and of its stream; nothing, for one of another kind."""

    node: str = ""
    hops: tuple[str, ...] = ()
    lineage: str = ""
    copy: bool = False
    wait: bool = True
    birth: str = ""
    session: str = ""
    admits: str = ""

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> Kin:
        """From a command object or the information of a status."""
        entry = (values or {}).get(ENTRY)
        if not isinstance(entry, Mapping):
            return STRANGER
        node, hops, lineage = (entry.get(name) for name in ("node", "hops", "lineage"))
        birth = entry.get("birth")
        names = hops[: 65 * (MAX_HOPS + 1)].split() if isinstance(hops, str) else []
        return cls(
            _name(node),
            tuple(filter(None, map(_name, names)))[: MAX_HOPS + 1],
            _name(lineage),
            entry.get("copy") is True,
            entry.get("wait") is not False,
            birth if isinstance(birth, str) and _BIRTH.fullmatch(birth) else "",
            _name(entry.get("session")),
            _name(entry.get("admits")),
        )

    def entry(self) -> dict[str, Any]:
        """The parameter to add."""
        said: dict[str, Any] = {"node": self.node, "hops": " ".join(self.hops)}
        if self.lineage:
            said["lineage"] = self.lineage
        if self.birth:
            said["birth"] = self.birth
        if self.copy:
            said["copy"] = True
        if not self.wait:
            said["wait"] = False
        if self.session:
            said["session"] = self.session
        if self.admits:
            said["admits"] = self.admits
        return {ENTRY: said}

    @property
    def log_fields(self) -> dict[str, str]:
        """What a log line says of who asks; nothing for one of another kind."""
        said = {"node": self.node, "session": self.session}
        return {name: value for name, value in said.items() if self.node and value}

    def came_through(self, node: str) -> bool:
        """Whether the stream was at ``node`` already, or at too many: taken from here it would run in a circle."""
        return len(self.hops) >= MAX_HOPS or (bool(node) and node in self.hops)


STRANGER: Final = Kin()
"""A player, an encoder, or another server."""


def parse_header(text: str | None) -> dict[str, Any]:
    """What the value of an HTTP header says, ``None`` without one: as it stands in a command object."""
    if text is None or len(text) > MAX_HEADER:
        return {}
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {ENTRY: entry} if isinstance(entry, dict) else {}


def _name(value: object) -> str:
    return value if isinstance(value, str) and _ID.fullmatch(value) else ""
