"""Stream keys: a secret that a client shows as it is, of which the node knows the hash.

Keys are made by the machine (``pyrtmp secret key``, 192 random bits), so a plain SHA-256 tells no more about them than
scrypt would: nobody tries 2^192 keys.  And it costs a stranger's request 1 us of CPU, where scrypt takes 50 ms and
16 MiB, and would be the easiest way to bring the node down.  The scheme stands before the hash, so that another one
can come beside it.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from itertools import chain
from typing import Final

from cluster.access.asking import Answer, Asked, Verdict, refuse
from cluster.access.rules import KeyEntry

SCHEME: Final = "sha256:"
MIN_LENGTH: Final = 20
"""Characters below which a key that somebody made up is too easy to guess from its hash."""
_KEY_BYTES: Final = 24
_FITS: Final = Verdict(True, credential=True)


def new_key() -> str:
    """32 characters that need no quoting in a URL."""
    return secrets.token_urlsafe(_KEY_BYTES)


def hash_key(key: str) -> str:
    """As it stands in the configuration; ``printf %s KEY | sha256sum`` says the same."""
    return SCHEME + sha256(key.encode()).hexdigest()


class KeyCheck:
    """Whether the key that a client shows is one of those for what it wants."""

    def __init__(self, entries: Iterable[KeyEntry]) -> None:
        self._exact: defaultdict[str, list[KeyEntry]] = defaultdict(list)
        """Of one stream each; there may be thousands."""
        self._patterns: list[KeyEntry] = []
        for entry in entries:
            (self._patterns if "*" in entry.streams else self._exact[entry.streams]).append(entry)
        self._known = frozenset(each.digest for each in chain(self._patterns, *self._exact.values()))

    def __call__(self, asked: Asked) -> Answer:
        if not asked.credentials.key:
            return None
        digest = sha256(asked.credentials.key.encode("utf-8", "surrogatepass")).digest()
        # How long this takes depends on the stream asked for, never on the key.
        fits = False
        for entry in chain(self._exact.get(asked.stream, ()), self._patterns):
            fits |= entry.covers(asked.action, asked.stream) & compare_digest(digest, entry.digest)
        if fits:
            return _FITS
        if digest in self._known:
            return refuse("key_of_another", "the key is for another stream or action")
        return refuse("wrong_key", guess=True)
