"""``pyrtmp import``: the configuration of another server as one of ours, as far as it goes.

``blocks`` reads the file, ``srs`` and ``nginx_rtmp`` know what its directives mean, ``draft`` keeps what they make of
them: settings that ``pyrtmp check`` takes, and a note for every directive that was not carried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cluster.importing import nginx_rtmp, srs
from cluster.importing.blocks import MAX_BYTES, BlocksError, Directive, parse
from cluster.importing.draft import Draft, Imported, Locate, Note

__all__ = ["KINDS", "MAX_BYTES", "BlocksError", "Imported", "Note", "convert"]

_READERS: Final[Mapping[str, Callable[[tuple[Directive, ...], Draft], None]]] = {
    "srs": srs.read,
    "nginx-rtmp": nginx_rtmp.read,
}
KINDS: Final = tuple(_READERS)


def convert(text: str, kind: str | None = None, *, locate: Locate = lambda path: None) -> Imported:
    """Our settings for those in ``text``, which is of ``kind`` (``KINDS``), or of the one that it looks like.

    ``locate`` finds the files that it names.  Raises ``BlocksError``.
    """
    directives = parse(text)
    if kind is None:
        kind = _kind(directives)
    draft = Draft(kind, locate)
    _READERS[kind](directives, draft)
    return draft.finish()


def _kind(directives: tuple[Directive, ...]) -> str:
    names = {each.name for each in directives}
    if "rtmp" in names:
        return "nginx-rtmp"
    if names & {"vhost", "http_api", "http_server", "listen", "rtmp_server", "rtc_server", "srt_server"}:
        return "srs"
    raise BlocksError(
        1, "this looks neither like SRS (vhost) nor like nginx-rtmp (rtmp { ... }); --from says which of them it is"
    )
