"""How values are written for people."""

from __future__ import annotations

import json

KIB, MIB, GIB = 1024, 1024**2, 1024**3


def quantity(key: str, number: float) -> str:
    """A bound or default as people write it."""
    if key.endswith("_bytes"):
        for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if number >= unit and number % unit == 0:
                return f"{number // unit:g} {name}"
    return f"{number:.10g}"


def toml(value: object) -> str:
    """A value as the file would have it, shortened and on one line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
