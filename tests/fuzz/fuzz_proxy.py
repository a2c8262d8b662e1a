"""Fuzz the PROXY protocol's header, as it comes: byte by byte.

    python tests/fuzz/fuzz_proxy.py -max_len=600 -max_total_time=30 tests/fuzz/corpus/proxy

Permitted exception: ``ProxyError``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from typing import Any

if __name__ == "__main__":
    import atheris

    instrumented: Any = atheris.instrument_imports(include=["pyrtmp"])
else:
    instrumented = contextlib.nullcontext()

with instrumented:
    from pyrtmp.errors import ProxyError
    from pyrtmp.proxy import MAX_BINARY, parse


def check(data: bytes) -> None:
    """What is decided once stays so, whatever follows; and it is decided in time."""
    whole = outcome(data)
    for end in range(len(data)):
        early = outcome(data[:end])
        assert early is None or early == whole
    assert whole is not None or len(data) < MAX_BINARY
    if isinstance(whole, tuple):
        address, length = whole
        assert 0 < length <= min(len(data), MAX_BINARY)
        assert outcome(data[: length - 1]) is None
        assert not address or str(ipaddress.ip_address(address)) == address


def outcome(data: bytes) -> tuple[str, int] | str | None:
    try:
        return parse(data)
    except ProxyError:
        return "refused"


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
