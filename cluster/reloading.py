"""Reading a node's settings again while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from cluster import logs
from cluster.config import Config, ConfigError, compare

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of reading the settings again, by ``section.key``."""

    changed: tuple[str, ...] = ()
    """In force now."""
    needs_restart: tuple[str, ...] = ()
    """As before until the node is started again."""
    problems: tuple[str, ...] = ()
    """Why nothing changed: a line for each mistake."""


class Reloader:
    """The settings in force.  ``read`` reads them anew; raises ``ConfigError``."""

    def __init__(self, config: Config, read: Callable[[], Config] | None) -> None:
        self.config = config
        self._read = read

    def reload(self) -> Reloaded:
        """Read again.  ``config`` is then what can be in force; logging follows at once, the rest is the caller's."""
        if self._read is None:
            _log.warning("reload_ignored", reason="there is nothing to read again")
            return Reloaded(problems=("this node was not started from settings that can be read again",))
        try:
            changes = compare(self.config, self._read())
        except ConfigError as error:
            for problem in error.problems:
                _log.error("reload_refused", problem=str(problem))
            return Reloaded(problems=tuple(map(str, error.problems)))
        before, self.config = self.config, changes.config
        if before.log != self.config.log:
            logs.configure(
                level=self.config.log.level, format=self.config.log.format, file=self.config.log.file
            )
        _log.info(
            "reloaded",
            changed=", ".join(changes.live) or "nothing",
            needs_restart=", ".join(changes.restart) or "nothing",
        )
        return Reloaded(changed=changes.live, needs_restart=changes.restart)
