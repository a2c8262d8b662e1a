"""What becomes of a node's settings when they are read again while it runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cluster.config.options import options
from cluster.config.settings import Config

RESTART: frozenset[str] = frozenset(
    ("node.id", "node.role", "node.workers", "rtmp.listen", "http.listen", "api.listen", "edge.origins", "node.group",
     "rtmps.listen", "https.listen", "api.tls", "node.advertise", "registry.url", "registry.url_file",
     "http.prefix", "registry.key_prefix", "registry.lease_seconds")
)
"""What stays as it is until the node is started again.  All the rest is live; ``stream`` and ``hls`` for streams that
begin from then on."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How new settings differ from those in force."""

    config: Config
    """What can be in force now."""
    live: tuple[str, ...]
    """Keys that change now."""
    restart: tuple[str, ...]
    """Keys that keep their value until the node is started again."""


def compare(before: Config, after: Config) -> Changes:
    """What of ``after`` can follow ``before`` in a node that runs."""
    differ = [name for name in options() if _value(before, name) != _value(after, name)]
    restart = {name for name in differ if name in RESTART}
    if not before.api.listen.is_loopback and after.api.token is None:
        # It goes on listening where others reach it: not without the token that this needs.
        restart |= {name for name in differ if name in ("api.token", "api.token_file")}
    if listens_with_tls(before) and after.tls.certificate is None:
        restart |= {name for name in differ if name in ("tls.certificate", "tls.key", "tls.client_ca")}
    kept: dict[str, dict[str, object]] = {}
    for name in restart:
        section, _, key = name.partition(".")
        kept.setdefault(section, {})[key] = _value(before, name)
    sections = {section: dataclasses.replace(getattr(after, section), **values) for section, values in kept.items()}
    return Changes(
        dataclasses.replace(after, **sections),
        tuple(name for name in differ if name not in restart),
        tuple(name for name in differ if name in restart),
    )


def listens_with_tls(config: Config) -> bool:
    """Whether anybody comes in with TLS, so that there is a certificate."""
    return config.rtmps.listen is not None or config.https.listen is not None or config.api.tls


def _value(config: Config, name: str) -> object:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)
