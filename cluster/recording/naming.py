"""What recordings are called: ``record.path`` as names of files, and as a pattern that knows them again."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from pyrtmp.names import StreamKey

PART: Final = ".part"
"""Behind the name of a file that is not complete."""

_NAME: Final = r"[A-Za-z0-9._~-]+"
_FIELDS: Final = {
    "{app}": rf"{_NAME}(?:/{_NAME})*", "{name}": _NAME, "{node}": _NAME,
    "%Y": r"[0-9]{4}", **dict.fromkeys(("%m", "%d", "%H", "%M", "%S"), r"[0-9]{2}"),
}  # fmt: skip
_PIECE: Final = re.compile(rf"({'|'.join(map(re.escape, _FIELDS))})")
_ENDINGS: Final = rf"(?:-[0-9]+)?\.(?:flv|mp4)(?:{re.escape(PART)})?"


class Naming:
    """One ``record.path``.  Raises ``ValueError`` where that cannot be one."""

    def __init__(self, path: str) -> None:
        pieces = _PIECE.split(path)
        fixed = "".join(pieces[::2])
        if wrong := re.search(r"[^A-Za-z0-9._~/-]", fixed):
            raise ValueError(
                f"has {wrong[0]!a}: should be of letters, digits, '.', '_', '-', '~' and '/', and of "
                f"{', '.join(_FIELDS)}"
            )
        if not all(part.strip(".") for part in path.split("/")):
            raise ValueError("should be relative, without parts that are empty or only dots")
        if "{app}" not in pieces or "{name}" not in pieces:
            raise ValueError("should hold {app} and {name}, so that streams do not mix")
        self._pieces = pieces
        named = ""
        for piece in pieces:
            group = piece.strip("{}")
            if piece in ("{app}", "{name}"):
                named += f"(?P={group})" if f"(?P<{group}>" in named else f"(?P<{group}>{_FIELDS[piece]})"
            else:
                named += _FIELDS.get(piece, re.escape(piece))
        self._pattern = re.compile(named + _ENDINGS)

    def name(self, key: StreamKey, node: str, begun: datetime) -> str:
        """That of a file which begins then, without its ending."""
        begun = begun.astimezone(UTC)
        said = {"{app}": key.app, "{name}": key.name, "{node}": node}
        return "".join(
            said.get(piece) or (begun.strftime(piece) if piece in _FIELDS else piece) for piece in self._pieces
        )

    def stream(self, name: str) -> StreamKey | None:
        """Whose file that could be, complete or not; None for one that has another name.  ``name`` is relative to the
        directory."""
        found = self._pattern.fullmatch(name)
        return None if found is None else StreamKey(found["app"], found["name"])
