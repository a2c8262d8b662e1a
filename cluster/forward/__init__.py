"""Forwarding: every stream published here is pushed to other servers by RTMP.

::

    hub --started--> Forwarder --per stream: Source--> Push (one task per stream and target)
                                                         '-- connect, publish, back off; while live:
    stream --messages, once per round--> Feed (a tap) --one write--> Client --> target

A ``Target`` says where to; what is given up, when and for how long is in ``PushSettings``.
"""

from cluster.forward.forwarder import ExtraTargets, Forwarder
from cluster.forward.push import Connect, ForwardFacts
from cluster.forward.settings import PushSettings
from cluster.forward.target import Destination, Target, parse_target

__all__ = [
    "Connect",
    "Destination",
    "ExtraTargets",
    "ForwardFacts",
    "Forwarder",
    "PushSettings",
    "Target",
    "parse_target",
]
