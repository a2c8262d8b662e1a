"""The dialect of MediaMTX (``authMethod: http``): a JSON object, answered by a status that begins with 20.

https://mediamtx.org/docs/usage/authentication
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final
from urllib.parse import parse_qsl

from cluster.callbacks.events import ALLOWED, REFUSED, Decision, Event, Reply, Subject

_ACTIONS: Final = {Event.PUBLISH: "publish", Event.PLAY: "read", Event.API: "api"}
_MAX_PARAMETERS: Final = 64


class Mediamtx:
    """Only asks; there are no notifications."""

    events: Final = frozenset(_ACTIONS)
    content_type: Final = "application/json"
    answer_bytes: Final = 0

    def write(self, event: Event, subject: Subject) -> bytes:
        """See ``Dialect``."""
        user, password, token = _credentials(subject.query, subject.authorization)
        return json.dumps({
            "user": user,
            "password": password,
            "token": token,
            "ip": subject.address,
            "action": _ACTIONS[event],
            "path": subject.path,
            "protocol": subject.protocol,
            "id": subject.client,
            "query": subject.query,
            "userAgent": subject.agent,
        }).encode()  # fmt: skip

    def read(self, event: Event, reply: Reply) -> Decision:
        """See ``Dialect``."""
        return ALLOWED if 200 <= reply.status < 210 else REFUSED


def _credentials(query: str, authorization: str) -> tuple[str, str, str]:
    """User, password and token: of the header or, without it, of ``?user=&pass=`` and ``?token=`` or ``?jwt=``."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")
        except (ValueError, binascii.Error):
            return "", "", ""
        return user, password, ""
    if scheme.lower() == "bearer":
        user, colon, password = value.partition(":")
        return (user, password, "") if colon else ("", "", value)
    try:
        found = dict(parse_qsl(query, max_num_fields=_MAX_PARAMETERS))
    except ValueError:
        return "", "", ""
    return found.get("user", ""), found.get("pass", ""), found.get("token") or found.get("jwt", "")
