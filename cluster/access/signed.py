"""Signed URLs: HMAC-SHA256 over what may be done, until when and, if wanted, by whom.

::

    rtmp://host/live/cam?expires=1900000000&sign=...
    http://host:8080/live/cam.m3u8?expires=1900000000&ip=203.0.113.7&sign=...

    sign = base64url(HMAC-SHA256(secret, "pyrtmp1\\n" action "\\n" app/name "\\n" expires "\\n" ip)), unpadded

``action`` is ``publish`` or ``play``; ``expires`` is Unix time; without ``ip`` any address may use it.  A playlist puts
its own query behind the URLs of its segments, so one signature serves a stream with all that belongs to it.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from cluster.access.asking import Action, Answer, Asked, Verdict, refuse
from pyrtmp.names import problem
from pyrtmp.networks import parse_address

_VERSION: Final = "pyrtmp1"
_SIGNABLE: Final = (Action.PUBLISH, Action.PLAY)
_EXPIRES: Final = re.compile(r"(?!0)[0-9]{1,12}", re.ASCII)


def canonical(action: str, stream: str, expires: int, ip: str = "") -> bytes:
    """What is signed; no two different questions give the same text.  Raises ``ValueError``."""
    if any("\n" in each for each in (action, stream, ip)):
        raise ValueError("a line end cannot be signed")
    return "\n".join((_VERSION, action, stream, str(expires), ip)).encode()


def sign(secret: str, action: str, stream: str, expires: int, ip: str = "") -> str:
    """The signature, 43 characters that need no quoting.  Raises ``ValueError``."""
    digest = hmac.digest(secret.encode(), canonical(action, stream, expires, ip), sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def signed_query(secret: str, action: str, stream: str, expires: int, ip: str = "") -> str:
    """What goes behind the ``?`` of the URL.  Raises ``ValueError``."""
    if ip:
        address = parse_address(ip)
        if address is None:
            raise ValueError(f"{ip!r} is not an address")
        ip = str(address)
    middle = f"&ip={ip}" if ip else ""
    return f"expires={expires}{middle}&sign={sign(secret, action, stream, expires, ip)}"


def sign_url(secret: str, action: str, url: str, expires: int, ip: str = "") -> str:
    """``url`` with what makes it good.  Raises ``ValueError`` when it names no stream."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    if parts.scheme.startswith("http"):
        path = re.sub(r"(\.flv|/index\.m3u8|\.m3u8)$", "", path)
    elif not parts.scheme.startswith("rtmp"):
        raise ValueError(f"{url!r} is neither an rtmp:// nor an http:// URL")
    wrong = problem(path, 4096) or ("" if "/" in path else "a stream is app/name")
    if wrong:
        raise ValueError(f"{url!r}: {wrong}")
    query = signed_query(secret, action, path, expires, ip)
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))


class SignedCheck:
    """Whether the URL that a client asks with was signed with one of ``secrets``, for this and for now."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._secrets = tuple(secrets)

    def __call__(self, asked: Asked) -> Answer:
        given = asked.credentials
        if not given.sign or asked.action not in _SIGNABLE:
            return None
        if not _EXPIRES.fullmatch(given.expires):
            return refuse("bad_signature", "expires is missing or no time", guess=True)
        address = parse_address(given.ip) if given.ip else None
        if given.ip and address is None:
            return refuse("bad_signature", "ip is no address", guess=True)
        expires, ip = int(given.expires), "" if address is None else str(address)
        shown = given.sign.encode("utf-8", "surrogatepass")
        fits = False
        for secret in self._secrets:
            # The text, not the bytes it stands for: base64 has several spellings of the same bytes.
            fits |= hmac.compare_digest(shown, sign(secret, asked.action, asked.stream, expires, ip).encode())
        if not fits:
            return refuse("bad_signature", "not signed with our secret for this stream and action", guess=True)
        if expires <= asked.now:
            return refuse("expired", f"the URL ended {asked.now - expires:.0f} s ago")
        if address is not None and parse_address(asked.address) != address:
            return refuse("wrong_address", f"the URL is for {ip}")
        return Verdict(True, until=expires, credential=True)
