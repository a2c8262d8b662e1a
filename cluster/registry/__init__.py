"""The source manager: which node owns which stream, and who holds copies of it.

``connect`` makes the registry that a URL names; a ``Keeper`` is one node's dealings with it.
"""

from cluster.registry.base import Listener, Registry, RegistryError, Renewal, TakenError
from cluster.registry.events import Answer, Began, Challenge, Copied, Draining, Ended, Event
from cluster.registry.keeper import Keeper
from cluster.registry.records import Copy, Lease, Location, NodeRecord, Offer
from cluster.registry.urls import Target, connect, parse

__all__ = [
    "Answer",
    "Began",
    "Challenge",
    "Copied",
    "Copy",
    "Draining",
    "Ended",
    "Event",
    "Keeper",
    "Lease",
    "Listener",
    "Location",
    "NodeRecord",
    "Offer",
    "Registry",
    "RegistryError",
    "Renewal",
    "TakenError",
    "Target",
    "connect",
    "parse",
]
