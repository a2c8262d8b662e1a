"""Files of a page: read once, served from memory."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple


class StaticFile(NamedTuple):
    """One of them."""

    name: str
    body: bytes
    content_type: str
    """Value of Content-Type."""
    etag: str
    """Value of ETag, with its quotes."""


def read_files(package: str, *folders: str) -> Iterator[StaticFile]:
    """Those in a folder of ``package``, notes for developers left out."""
    for entry in files(package).joinpath(*folders).iterdir():
        if entry.is_file() and not entry.name.endswith(".md"):
            yield _read(entry)


def read_file(package: str, *path: str) -> StaticFile:
    """One of ``package``."""
    return _read(files(package).joinpath(*path))


def _read(entry: Traversable) -> StaticFile:
    body, name = entry.read_bytes(), entry.name
    return StaticFile(name, body, _content_type(name), f'"{hashlib.sha256(body).hexdigest()[:16]}"')


def _content_type(name: str) -> str:
    guessed = mimetypes.guess_type(name)[0] or "text/plain"
    if name.endswith(".js"):
        guessed = "text/javascript"
    return f"{guessed}; charset=utf-8" if guessed.startswith("text/") else guessed
