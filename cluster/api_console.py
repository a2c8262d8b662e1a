"""The operators' console: static files, which ask the API from the browser.

They hold no data and are given to everybody; what they show, the API gives to whoever may ask it.
"""

from __future__ import annotations

import mimetypes
from importlib.resources import files
from typing import Final

from aiohttp import web

PATH: Final = "/console/"

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "Server": "pyrtmp",
    "X-Content-Type-Options": "nosniff",
}


class Console:
    """Its files, read once."""

    def __init__(self) -> None:
        folder = files("cluster") / "console"
        self._files = {
            entry.name: (entry.read_bytes(), _content_type(entry.name)) for entry in folder.iterdir() if entry.is_file()
        }

    def routes(self) -> list[web.RouteDef]:
        """Paths and who answers them."""
        return [
            web.get("/", self._get_root),
            web.get(PATH.rstrip("/"), self._get_root),
            web.get(PATH + "{name:[^/]*}", self._get_file),
        ]

    @staticmethod
    def covers(request: web.Request) -> bool:
        """Whether nobody needs a permission for what is asked."""
        path = request.path
        return request.method in ("GET", "HEAD") and (path in ("/", PATH.rstrip("/")) or path.startswith(PATH))

    async def _get_root(self, request: web.Request) -> web.Response:
        """Browsers go to the console; whoever wants JSON is told that there is none here."""
        if "text/html" not in request.headers.get("Accept", ""):
            raise web.HTTPNotFound
        # Relative: a proxy may have put all of it under a path of its own.
        return web.Response(status=302, headers={**_HEADERS, "Location": PATH.lstrip("/")})

    async def _get_file(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info["name"] or "index.html")
        if found is None:
            raise web.HTTPNotFound
        body, content_type = found
        return web.Response(body=body, headers={**_HEADERS, "Content-Type": content_type})


def _content_type(name: str) -> str:
    if name.endswith(".js"):
        return "text/javascript; charset=utf-8"
    return f"{mimetypes.guess_type(name)[0] or 'text/plain'}; charset=utf-8"
