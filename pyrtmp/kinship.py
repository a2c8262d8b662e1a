"""How the nodes of one cluster know each other: by a secret that they share and never send.

A node adds to what it says of itself (``pyrtmp.kin``) a *proof*: HMAC-SHA256 with the secret over all the rest of the
entry, over which side says it, and over what ties it to this one conversation:

    RTMP     C1 and S1, random bytes that either side has drawn for this connection (``Session.binding``).  Shown
             again on another connection it is wrong.
    HTTP     asking: a nonce and the time, in the entry.  It is good for 60 seconds, once (per process that is asked).
             Answering: the nonce that was asked with.

Neither costs a round trip.  What a peer says that shows no right proof counts as said by nobody, where there is a
secret; without one everybody is believed.  Whoever stands between two nodes without TLS can still change what follows
the proof, or pass it on to another node at that very moment.  It says itself what it is good for (``admits``), one
stream, so that nothing else is to be had by that.
"""

from __future__ import annotations

import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final

from pyrtmp.kin import ENTRY, STRANGER, Kin, parse_header
from pyrtmp.names import StreamKey

ASKS: Final = b"asks"
ANSWERS: Final = b"answers"
"""Who says it: the side that connects, or the other one."""

MAX_AGE: Final = 60.0
"""Seconds that a proof over HTTP is good for, and that clocks may differ."""

MAX_NONCES: Final = 65536
"""Proofs by HTTP that are remembered; nodes that ask more often within ``MAX_AGE`` are not believed."""

_LABEL: Final = b"pyrtmp kin 1"
_HTTP: Final = b"http"


def admission(action: str, key: StreamKey) -> str:
    """What ``Kin.admits`` is for ``action`` (``publish`` or ``play``) on a stream; of one length for all names."""
    return sha256(f"{action} {key}".encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Kinship:
    """Of one process.  ``secrets``: the first proves, each is good; none: there is nothing to prove."""

    def __init__(self, secrets: tuple[str, ...] = (), *, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._nonces: OrderedDict[str, float] = OrderedDict()
        self.configure(secrets)

    def configure(self, secrets: tuple[str, ...]) -> None:
        """Use others from now on."""
        self._secrets = tuple(each.encode() for each in secrets)

    def __bool__(self) -> bool:
        """Whether there is a secret."""
        return bool(self._secrets)

    def admitted_by(self, kin: Kin, action: str, key: StreamKey) -> str:
        """The node that has allowed ``action`` on the stream and proved that it is one, or ``""``."""
        return kin.node if self._secrets and kin.admits and kin.admits == admission(action, key) else ""

    def proved_by(self, kin: Kin) -> str:
        """The node that has proved that it is one, or ``""``."""
        return kin.node if self._secrets else ""

    # RTMP

    def entry(self, kin: Kin, side: bytes, binding: bytes) -> dict[str, Any]:
        """``Kin.entry`` with the proof, for the connection that ``binding`` names."""
        said = kin.entry()[ENTRY]
        if self._secrets:
            said["proof"] = _proof(self._secrets[0], said, side, binding)
        return {ENTRY: said}

    def greeting(self, kin: Kin, known: bool, binding: bytes) -> dict[str, Any] | None:
        """What one that said it is a node is answered: whether it is ``known`` as one; nothing, without a secret.

        To one that is not, ``kin`` should say no more than who answers.
        """
        if not self._secrets:
            return None
        return self.entry(kin, ANSWERS, binding) if known else {ENTRY: kin.entry()[ENTRY] | {"known": False}}

    def read(self, values: Mapping[str, Any] | None, side: bytes, binding: bytes) -> tuple[Kin, str]:
        """What a peer said, as far as it counts; and why it does not, or ``""``."""
        entry = (values or {}).get(ENTRY)
        kin = Kin.read(values)
        if isinstance(entry, Mapping) and entry.get("known") is False:
            return STRANGER, "it does not take this node for one of its own: is node.secret the same on both?"
        if not self._secrets or kin == STRANGER:
            # Not proved, and there may be a secret by the time it counts.
            return (replace(kin, admits="") if kin.admits else kin), ""
        doubt = self._doubt(entry, side, binding)
        return (STRANGER, doubt) if doubt else (kin, "")

    # HTTP

    def ask(self, kin: Kin) -> str:
        """The value of a request's header, printable ASCII."""
        said = kin.entry()[ENTRY]
        if self._secrets:
            said |= {"nonce": token_hex(16), "time": str(int(self._now()))}
            said["proof"] = _proof(self._secrets[0], said, ASKS, _HTTP)
        return json.dumps(said)

    def answer(self, kin: Kin, known: bool, asked: str) -> str:
        """The value of the header in the answer to a request with the header ``asked``; see ``greeting``.  "": none."""
        said = self.greeting(kin, known, _nonce(asked)) or (kin.entry() if known else {})
        return json.dumps(said[ENTRY]) if said else ""

    def read_asked(self, text: str | None) -> tuple[Kin, str]:
        """As ``read``, from the header of a request."""
        if text is None:  # nearly everybody
            return STRANGER, ""
        values = parse_header(text)
        kin, doubt = self.read(values, ASKS, _HTTP)
        if self._secrets and kin != STRANGER:
            doubt = self._stale(values[ENTRY].get("nonce"), values[ENTRY].get("time"))
        return (STRANGER, doubt) if doubt else (kin, "")

    def read_answer(self, text: str | None, asked: str) -> tuple[Kin, str]:
        """As ``read``, from the header of the answer to a request with the header ``asked``."""
        return self.read(parse_header(text), ANSWERS, _nonce(asked))

    def _stale(self, nonce: object, said: object) -> str:
        now = self._now()
        if not isinstance(nonce, str) or not isinstance(said, str) or not said.isdecimal() or len(said) > 12:
            return "it does not say when it was made"
        if abs(now - int(said)) > MAX_AGE:
            return f"it was made {now - int(said):.0f} s ago; do both clocks go right?"
        while self._nonces and next(iter(self._nonces.values())) <= now:  # they stand in the order of their ends
            self._nonces.popitem(last=False)
        if nonce in self._nonces or len(self._nonces) >= MAX_NONCES:
            return "it was shown before"
        self._nonces[nonce] = now + 2 * MAX_AGE  # it may come from a clock that is ahead
        return ""

    def _doubt(self, entry: object, side: bytes, binding: bytes) -> str:
        """Why an entry proves nothing, or ``""``."""
        if not isinstance(entry, Mapping) or not isinstance(entry.get("proof"), str):
            return "it shows no proof: has it a node.secret?"
        said = {name: value for name, value in entry.items() if name != "proof"}
        if not all(isinstance(value, str | bool) for value in said.values()):
            return "its proof covers what it cannot"
        shown = entry["proof"].encode("utf-8", "replace")
        if not any(
            [hmac.compare_digest(_proof(each, said, side, binding).encode(), shown) for each in self._secrets]
        ):
            return "its proof is wrong: is its node.secret the same?"
        return ""


def _nonce(asked: str) -> bytes:
    """What a node asked with."""
    nonce = parse_header(asked).get(ENTRY, {}).get("nonce")
    return nonce.encode("utf-8", "surrogatepass") if isinstance(nonce, str) else b""


def _proof(secret: bytes, said: Mapping[str, Any], side: bytes, binding: bytes) -> str:
    # JSON with sorted names is the same on both sides, whatever way the entry went; its values are text and booleans.
    text = json.dumps(said, sort_keys=True).encode()
    return hmac.digest(secret, b"\0".join((_LABEL, side, binding.hex().encode(), text)), "sha256").hex()
