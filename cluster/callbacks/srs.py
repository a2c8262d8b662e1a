"""The dialect of SRS (``http_hooks``): a JSON object each, answered by ``0`` or ``{"code": 0}``.

https://ossrs.io/lts/en-us/docs/v6/doc/http-callback
"""

from __future__ import annotations

import json
import os
import secrets
from hashlib import sha256
from typing import Any, Final

from cluster.callbacks.events import ALLOWED, REFUSED, AnswerError, Decision, Event, Reply, Subject

_VHOST: Final = "__defaultVhost__"
"""What SRS calls the only one there is."""


class Srs:
    """``node`` is the server's id; the service's is another one with each start."""

    events: Final = frozenset((
        Event.CONNECT, Event.PUBLISH, Event.PLAY, Event.UNPUBLISH, Event.STOP, Event.HLS, Event.DVR,
    ))  # fmt: skip
    content_type: Final = "application/json"
    answer_bytes: Final = 4096

    def __init__(self, node: str) -> None:
        self._node = node
        self._service = secrets.token_hex(4)

    def write(self, event: Event, subject: Subject) -> bytes:
        """See ``Dialect``."""
        fields: dict[str, Any] = {
            "server_id": self._node,
            "service_id": self._service,
            "action": f"on_{event}",
            "client_id": subject.client,
            "ip": subject.address,
            "vhost": _VHOST,
            "app": subject.app,
            "tcUrl": subject.tc_url or f"rtmp://{_VHOST}/{subject.app}",
            "stream": subject.name,
            "param": f"?{subject.query}" if subject.query else "",
        }
        if event in (Event.CONNECT, Event.PLAY):
            fields["pageUrl"] = subject.page_url
        if event is not Event.CONNECT:
            fields["stream_url"] = f"/{subject.path}"
            # The same on every node and for every publisher of the stream.
            fields["stream_id"] = f"vid-{sha256(subject.path.encode()).hexdigest()[:7]}"
        if subject.segment is not None:
            # Nothing is on disk: the paths there are empty, the URLs are those of the viewers' HTTP server.
            fields |= {
                "duration": round(subject.segment.duration, 3),
                "cwd": "",
                "file": "",
                "url": f"{subject.path}/{subject.segment.name}",
                "m3u8": "",
                "m3u8_url": f"{subject.path}.m3u8",
                "seq_no": subject.segment.sequence,
            }
        if event is Event.DVR:
            fields |= {"cwd": _directory(), "file": subject.file}
        return json.dumps(fields).encode()

    def read(self, event: Event, reply: Reply) -> Decision:
        """See ``Dialect``."""
        if reply.status not in (200, 201):
            return REFUSED
        try:
            answer = json.loads(reply.body)
        except (ValueError, RecursionError):
            raise AnswerError("the answer is not JSON") from None
        code = answer.get("code") if isinstance(answer, dict) else answer
        if type(code) is not int:
            raise AnswerError('the answer is neither a number nor {"code": number}')
        return REFUSED if code else ALLOWED


def _directory() -> str:
    """The process's own, which ``file`` is relative to, or "" where that is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""
