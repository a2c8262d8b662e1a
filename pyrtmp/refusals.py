"""What was refused lately, stream by stream, for whoever asks why a stream does not work.

Strangers cause refusals at will, with any name and from many addresses: all is bounded, and what one address adds takes
the place of what it added before.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from pyrtmp.networks import subscriber

MAX_NAMES: Final = 1024
MAX_NAMES_PER_ADDRESS: Final = 64
"""Names of the same address; a room with 30 cameras behind one address has half as many."""
MAX_PER_NAME: Final = 4
"""Refusals of a name that are told apart: by address, and by what was asked."""
MAX_WHY: Final = 256
"""Characters of a reason."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The newest of those of one address."""

    what: str
    """``publish``, ``play`` or, for a whole application, ``connect``."""
    address: str
    code: str
    """As the client was told: ``NetStream.Play.StreamNotFound``, ``404``."""
    why: str
    at: float
    """Unix time."""
    times: int = 1


@dataclass(slots=True)
class _Name:
    address: str
    """Whose it is that was refused first; of IPv6 a /64."""
    refusals: dict[tuple[str, str], Refusal] = field(default_factory=dict)


class Refusals:
    """The newest refusals; names are those of streams, ``app/name``, and of applications."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, _Name] = OrderedDict()
        self._of_address: dict[str, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        """Names that are remembered."""
        return len(self._names)

    def note(self, name: str, refusal: Refusal) -> None:
        """Somebody was refused."""
        known = self._names.get(name)
        if known is None:
            whose = subscriber(refusal.address)
            self._make_room(whose)
            known = self._names[name] = _Name(whose)
            self._of_address.setdefault(whose, OrderedDict())[name] = None
        self._names.move_to_end(name)
        self._of_address[known.address].move_to_end(name)
        refusals = known.refusals
        before = refusals.pop((refusal.what, refusal.address), None)
        refusals[refusal.what, refusal.address] = Refusal(
            refusal.what, refusal.address, refusal.code, refusal.why[:MAX_WHY], refusal.at,
            times=1 if before is None else before.times + 1,
        )
        if len(refusals) > MAX_PER_NAME:
            del refusals[next(iter(refusals))]

    def of(self, name: str) -> list[Refusal]:
        """Those of one name, the newest first."""
        known = self._names.get(name)
        return [] if known is None else list(reversed(known.refusals.values()))

    def _make_room(self, address: str) -> None:
        own = self._of_address.get(address, ())
        if len(own) >= MAX_NAMES_PER_ADDRESS:
            self._forget(next(iter(own)))
        elif len(self._names) >= MAX_NAMES:
            self._forget(next(iter(self._names)))

    def _forget(self, name: str) -> None:
        address = self._names.pop(name).address
        own = self._of_address[address]
        del own[name]
        if not own:
            del self._of_address[address]
