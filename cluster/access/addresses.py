"""The check of the client's address."""

from __future__ import annotations

from cluster.access.asking import ALLOWED, Answer, Asked, Check, refuse
from pyrtmp.networks import Networks


def address_check(text: str) -> Check:
    """``allow``, ``deny``, or either with ``:`` and an address or network.  Has no opinion on other addresses."""
    kind, _, network = text.partition(":")
    networks = Networks([network]) if network else None
    verdict = ALLOWED if kind == "allow" else refuse("denied_address" if network else "denied")

    def check(asked: Asked) -> Answer:
        return verdict if networks is None or asked.address in networks else None

    return check
