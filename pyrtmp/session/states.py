"""The two state machines of an RTMP server connection, as data.

A NetConnection goes through its states once, in order.  Each message stream (NetStream) has a state of its own;
``NETSTREAM`` says which command of the client (``publish``, ``play`` ...) and which answer of the owner
(``accept_publish``, ``end_play`` ...) is legal in which state and where it leads.  A missing key is the error: the
command is answered with ``NetStream.Failed`` and changes nothing, the answer raises ``LocalError``.

::

            publish            accepted                 closeStream, deleteStream, FCUnpublish
    IDLE ------------> ASKED_PUBLISH ------> PUBLISHING --------------------> IDLE
            play               accepted                 closeStream, deleteStream
    IDLE ------------> ASKED_PLAY ---------> PLAYING -----------------------> IDLE
                          deferred
                       ASKED_PLAY ---------> WAITING (for a publisher) -----> PLAYING or IDLE

In the two ASKED states no command arrives: what the client sends is held back until the question is answered.  So
no client command is in their rows.
"""

from __future__ import annotations

import enum
from typing import Final


class Connection(enum.Enum):
    """Where a NetConnection stands; each state but the last two has a deadline."""

    HANDSHAKE = "handshake"
    AWAIT_CONNECT = "connect"
    ASKED_CONNECT = "asked_connect"
    CONNECTED = "connected"
    CLOSED = "closed"


class NetStream(enum.Enum):
    """Where one message stream stands."""

    IDLE = "idle"
    ASKED_PUBLISH = "asked_publish"
    PUBLISHING = "publishing"
    ASKED_PLAY = "asked_play"
    WAITING = "waiting"
    PLAYING = "playing"


IDLE: Final = NetStream.IDLE
ASKED_PUBLISH: Final = NetStream.ASKED_PUBLISH
PUBLISHING: Final = NetStream.PUBLISHING
ASKED_PLAY: Final = NetStream.ASKED_PLAY
WAITING: Final = NetStream.WAITING
PLAYING: Final = NetStream.PLAYING

NETSTREAM: Final[dict[NetStream, dict[str, NetStream]]] = {
    IDLE: {"publish": ASKED_PUBLISH, "play": ASKED_PLAY, "closeStream": IDLE, "deleteStream": IDLE,
           "receiveAudio": IDLE, "receiveVideo": IDLE},
    ASKED_PUBLISH: {"accept_publish": PUBLISHING, "refuse_publish": IDLE},
    PUBLISHING: {"closeStream": IDLE, "deleteStream": IDLE, "end_publish": IDLE},
    ASKED_PLAY: {"accept_play": PLAYING, "refuse_play": IDLE, "defer_play": WAITING},
    WAITING: {"accept_play": PLAYING, "refuse_play": IDLE, "end_play": IDLE, "play": ASKED_PLAY,
              "closeStream": IDLE, "deleteStream": IDLE, "pause": WAITING, "seek": WAITING,
              "receiveAudio": WAITING, "receiveVideo": WAITING},
    PLAYING: {"end_play": IDLE, "play": ASKED_PLAY, "closeStream": IDLE, "deleteStream": IDLE, "pause": PLAYING,
              "seek": PLAYING, "receiveAudio": PLAYING, "receiveVideo": PLAYING},
}
