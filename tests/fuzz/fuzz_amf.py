"""Fuzz the AMF decoders, and the encoders with what they return.

    python tests/fuzz/fuzz_amf.py -max_total_time=30 tests/fuzz/corpus/amf

Permitted exceptions:

* ``AmfError`` from a decoder;
* ``LocalError`` from an encoder, for an AMF0 name that grew beyond 65535 bytes when its invalid bytes became U+FFFD.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    import atheris

    instrumented: Any = atheris.instrument_imports(include=["pyrtmp"])
else:
    instrumented = contextlib.nullcontext()

with instrumented:
    from pyrtmp import amf
    from pyrtmp.errors import AmfError, LocalError


def check(data: bytes) -> None:
    """What every body must hold to: decoded values can be printed, and encoded without further loss."""
    _check(data, amf.decode0, lambda values: amf.encode_command(values, True)[1:])
    _check(data, amf.decode3, lambda values: amf.encode3(*values))
    _check(data, lambda body: amf.decode_command(body, True), lambda values: amf.encode_command(values, True))


def _check(data: bytes, decode: Callable[[bytes], Any], encode: Callable[[Any], bytes]) -> None:
    try:
        values = decode(data)
    except AmfError:
        return
    repr(values)
    try:
        again = encode(values)
    except LocalError:
        if len(data) < 0xFFFF // 3:
            raise
        return
    assert encode(decode(again)) == again, "a second round changes the values"


if __name__ == "__main__":
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
