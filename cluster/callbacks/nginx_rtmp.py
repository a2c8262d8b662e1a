"""The dialect of nginx-rtmp (``on_publish`` and so on, ``notify_method post``): a form, answered by a status alone.

https://github.com/arut/nginx-rtmp-module/wiki/Directives#notify
"""

from __future__ import annotations

import os
import re
import time
from typing import Final
from urllib.parse import parse_qsl, urlencode

from cluster.callbacks.events import ALLOWED, REFUSED, Decision, Event, Reply, Subject

_QUESTIONS: Final = (Event.CONNECT, Event.PUBLISH, Event.PLAY)
_CALLS: Final = {Event.UNPUBLISH: "publish_done", Event.STOP: "play_done", Event.DVR: "record_done"}
_MAX_ARGUMENTS: Final = 64
_OWN: Final = frozenset((
    "app", "flashver", "swfurl", "tcurl", "pageurl", "addr", "clientid", "call", "name", "type", "start", "duration",
    "reset", "epoch", "recorder", "path",
))  # fmt: skip
_URL: Final = re.compile(r"(?:rtmps?|https?)://[!-~]{1,2048}", re.IGNORECASE)


class NginxRtmp:
    """2xx allows, 3xx has another name for the stream or a URL for the player, anything else refuses."""

    events: Final = frozenset((
        Event.CONNECT, Event.PUBLISH, Event.PLAY, Event.UNPUBLISH, Event.STOP, Event.DONE, Event.DVR,
    ))  # fmt: skip
    content_type: Final = "application/x-www-form-urlencoded"
    answer_bytes: Final = 0

    def write(self, event: Event, subject: Subject) -> bytes:
        """See ``Dialect``."""
        fields = [
            ("app", subject.app),
            ("flashver", subject.agent),
            ("swfurl", subject.swf_url),
            ("tcurl", subject.tc_url),
            ("pageurl", subject.page_url),
            ("addr", subject.address),
            ("clientid", subject.client),
            ("call", _CALLS.get(event, str(event))),
        ]
        if event is Event.CONNECT:
            fields.append(("epoch", str(int(time.time()))))
        else:
            fields.append(("name", subject.name))
        if event is Event.PUBLISH:
            fields.append(("type", "live"))
        if event is Event.DVR:
            # The one without a name; a back end does not know what a path would be relative to.
            fields += [("recorder", ""), ("path", os.path.abspath(subject.file))]
        return urlencode([*fields, *_arguments(subject.query)]).encode()

    def read(self, event: Event, reply: Reply) -> Decision:
        """See ``Dialect``."""
        # Nobody could be sent anywhere by the answer to a notification: it has arrived.
        if 200 <= reply.status < (300 if event in _QUESTIONS else 400):
            return ALLOWED
        if 300 <= reply.status < 400 and reply.location and event in (Event.PUBLISH, Event.PLAY):
            if "://" not in reply.location:
                return Decision(True, name=reply.location.partition("?")[0])
            if event is Event.PLAY and _URL.fullmatch(reply.location):
                return Decision(False, url=reply.location)
        return REFUSED


def _arguments(query: str) -> list[tuple[str, str]]:
    """The query's parameters as fields of their own, but none of a name that says something of the client already: of
    two such fields back ends take the first or the last."""
    try:
        found = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_ARGUMENTS)
    except ValueError:
        return []
    return [(name, value) for name, value in found if _field(name) not in _OWN]


def _field(name: str) -> str:
    """Which one some back ends read it as: PHP skips blanks before a name and ends it at ``[`` or NUL."""
    return re.split(r"[\[\0]", name, maxsplit=1)[0].strip().lower()
