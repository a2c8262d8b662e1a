"""The operators' console: static files, which ask the API from the browser.

They hold no data and are given to everybody; what they show, the API gives to whoever may ask it.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web

from hls.static import read_file, read_files

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
    """Its files, read once; it looks like the viewers' page."""

    def __init__(self) -> None:
        files = (*read_files("cluster", "console"), read_file("hls", "page", "theme.css"))
        self._files = {file.name: file for file in files}

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
        return web.Response(body=found.body, headers={**_HEADERS, "Content-Type": found.content_type})
