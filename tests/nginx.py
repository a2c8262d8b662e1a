"""A real nginx before a server."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

PROGRAM: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
"""``None``: it is not installed."""


@asynccontextmanager
async def nginx(
    folder: Path, upstream: int, version: str, path: str = "/", *, keep: bool = False
) -> AsyncIterator[int]:
    """nginx as a reverse proxy of ``upstream``, which is at ``path`` there; its port.

    ``version``: of HTTP, between the two.  ``keep``: paths are passed on as they are, ``path`` included.
    """
    assert PROGRAM is not None
    below = "" if path == "/" or keep else "/"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;"
        " events { worker_connections 64; }"
        f" http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
        f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;"
        f" server {{ listen 127.0.0.1:{port};"
        f" location {path} {{ proxy_pass http://127.0.0.1:{upstream}{below}; proxy_http_version {version};"
        " proxy_buffering off; } } }"
    )
    process = await asyncio.create_subprocess_exec(
        PROGRAM, "-c", config, "-p", folder, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
        yield port
    finally:
        process.terminate()
        await process.wait()
