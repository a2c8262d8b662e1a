"""Where events worth a log line go: one call, an event name and its facts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol


class Journal(Protocol):
    """Takes events.  A structlog logger is one; ``LoggingJournal`` is the default."""

    def debug(self, event: str, **facts: Any) -> Any:
        """For whoever looks for a fault."""

    def info(self, event: str, **facts: Any) -> Any:
        """What happened."""

    def warning(self, event: str, **facts: Any) -> Any:
        """A peer did something wrong."""

    def error(self, event: str, **facts: Any) -> Any:
        """This side did something wrong, or ran out of something."""


class LoggingJournal:
    """Events as lines of the standard ``logging`` module, facts as ``name=value``, hostile bytes escaped."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("pyrtmp")

    def debug(self, event: str, **facts: Any) -> None:
        self._log(logging.DEBUG, event, facts)

    def info(self, event: str, **facts: Any) -> None:
        self._log(logging.INFO, event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._log(logging.WARNING, event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._log(logging.ERROR, event, facts)

    def _log(self, level: int, event: str, facts: dict[str, Any]) -> None:
        if self._logger.isEnabledFor(level):
            line = " ".join((event, *(f"{name}={value!r}" for name, value in facts.items())))
            # Two frames up: whoever wrote the event, not this class.
            self._logger.log(level, "%s", line, stacklevel=3)


def protected(journal: Journal, subject: object, method: Callable[..., object], *arguments: object) -> bool:
    """Call what belongs to somebody else; whether it came back.  An exception is written to ``journal`` and stops here.

    ``subject`` is whom the call was about, for the log line.
    """
    try:
        method(*arguments)
    except Exception as error:
        name = getattr(method, "__qualname__", repr(method))
        journal.error("callback_failed", subject=str(subject), callback=name, error=repr(error))
        return False
    return True
