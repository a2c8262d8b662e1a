"""What recorded files are called there, as ``record.directory`` and ``record.path``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cluster.importing.blocks import Directive
from cluster.importing.draft import Draft

_MOMENT: Final = "%Y%m%dT%H%M%SZ"
"""In place of numbers of seconds or milliseconds."""
_SRS_FIELDS: Final = {
    "[app]": "{app}", "[stream]": "{name}", "[2006]": "%Y", "[01]": "%m", "[02]": "%d", "[15]": "%H", "[04]": "%M",
    "[05]": "%S",
}  # fmt: skip
_STRFTIME: Final = {"%F": "%Y-%m-%d", "%T": "%H-%M-%S", "%R": "%H-%M", "%s": _MOMENT, ":": "-"}


@dataclass(frozen=True, slots=True)
class Names:
    """Of all files of an application, or of all."""

    directory: str
    path: str
    """Without the ending; maybe not a legal one."""
    ending: str
    """``flv`` or ``mp4``."""
    same: bool
    """Whether they are called as they were there."""

    def carry(self, draft: Draft, directive: Directive) -> None:
        """Set what they become; ``directive`` says where the files go."""
        known = draft.get("record.path") is not None
        carried = draft.set("record.directory", self.directory, directive) and draft.set(
            "record.path", self.path, directive
        )
        changes = []
        if not self.directory.startswith("/"):
            changes.append("the directory is relative to the configuration file")
        if not self.same:
            zone = ", with times in UTC" if "%" in self.path else ""
            changes.append(f"files are called {self.path}.{self.ending} in it{zone}")
        if carried and changes and not known:
            draft.leave(directive, f"carried, but {', and '.join(changes)}")


def of_srs(path: str) -> Names:
    """Those of a ``dvr_path``."""
    if not path.endswith((".flv", ".mp4")):
        path += "/[stream].[timestamp].flv"
    path, _, ending = path.rpartition(".")
    parts = path.split("/")
    fixed = next((number for number, part in enumerate(parts) if "[" in part), len(parts) - 1)
    directory = "/".join(parts[:fixed]) or ("/" if path.startswith("/") else ".")
    there = "/".join(parts[fixed:])
    moment = "" if "[05]" in there else _MOMENT
    names = re.sub(r"\[vhost\][/._-]?", "", there)
    names = re.sub(r"([._-]?)\[(?:timestamp|999)\]", lambda found: moment and found[1] + moment, names)
    names = re.sub(r"\[\w+\]", lambda found: _SRS_FIELDS.get(found[0], found[0]), names)
    complete = _complete(names)
    return Names(directory, complete, ending, same="%" not in names and complete == names and "[vhost]" not in there)


def of_nginx_rtmp(application: str, *, path: str, suffix: str, unique: bool) -> Names:
    """Those of ``record_path``, ``record_suffix`` and ``record_unique``; a path may end with the application."""
    directory = path.rstrip("/") or "recordings"
    parent, slash, last = directory.rpartition("/")
    apart = bool(slash) and last == application
    base, dot, ending = suffix.rpartition(".")
    if not dot or not ending.isalnum():
        base = suffix
    names = f"{{app}}/{{name}}{f'-{_MOMENT}' if unique else ''}" + re.sub(
        "|".join(_STRFTIME), lambda found: _STRFTIME[found[0]], base
    )
    same = apart and "%" not in names and suffix.endswith(".flv")
    return Names((parent or "/") if apart else directory, names, "flv", same)


def _complete(names: str) -> str:
    """With ``{app}`` and ``{name}``, without which streams would mix."""
    for field in ("{name}", "{app}"):
        if field not in names:
            names = f"{field}/{names}"
    return names
