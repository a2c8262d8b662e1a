"""A client that means harm, in a process of its own: it sends as fast as the server takes it, and comes back.

    python tests/cluster/workers/flood.py KIND PORT

``messages``: publishes the smallest media there are.  ``commands``: calls what the server does not know, and reads no
answer.  ``connections``: comes, says something else than RTMP, and goes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from pyrtmp import amf
from pyrtmp.chunk import encode
from pyrtmp.message import AUDIO, COMMAND_AMF0, Message

KINDS = ("messages", "commands", "connections")
AGENT = "flood"
HELLO = b"\3" + bytes(1536) + bytes(1536)


def _command(msid: int, *values: object) -> bytes:
    return b"".join(encode(Message(COMMAND_AMF0, 0, msid, amf.encode0(*values)), 3, chunk_size=128))


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(HELLO + _command(0, "connect", 1, {"app": "live", "tcUrl": "rtmp://h/live", "flashVer": AGENT}))
    return sock


def _messages(port: int) -> None:
    block = b"".join(b"".join(encode(Message(AUDIO, number, 1, b"\xaf\1x"), 4)) for number in range(1000))
    with _connect(port) as sock:
        sock.sendall(_command(0, "createStream", 2, None) + _command(1, "publish", 3, None, "hostile", "live"))
        while True:
            sock.sendall(block)


def _commands(port: int) -> None:
    block = b"".join(_command(0, "what", number, None) for number in range(1000))
    with _connect(port) as sock:
        while True:
            sock.sendall(block)


def _connections(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(os.urandom(64))


def main(kind: str, port: int) -> None:
    come = {"messages": _messages, "commands": _commands, "connections": _connections}[kind]
    while True:
        with contextlib.suppress(OSError):
            come(port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
