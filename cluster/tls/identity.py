"""A server's certificate chain and key, and the authorities of its clients."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


class IdentityError(ValueError):
    """Why there is no identity; ``setting`` is the option to blame, without its section."""

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(reason)
        self.setting = setting


@dataclass(frozen=True, slots=True)
class Files:
    """Where an identity is read from."""

    certificate: str
    """The server's certificate, then those between it and an authority's."""
    key: str
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What a server shows.  Texts are PEM."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes
    """Every client has to show a certificate of one of these authorities; ``b""``: none has to."""
    names: tuple[str, ...]
    """What clients may call the server: host names, addresses."""
    begins: float
    expires: float
    """Unix time."""

    def seconds_left(self) -> float:
        """Until it expires; negative afterwards."""
        return self.expires - time.time()
