"""A certificate for 127.0.0.1, for as long as a benchmark runs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Certificate:
    """Two PEM files."""

    file: Path
    key: Path


@contextmanager
def new_certificate(*, rsa: bool = False) -> Iterator[Certificate]:
    """Elliptic (P-256) or RSA (2048 bits), signed by itself; gone when the block is left."""
    directory = Path(tempfile.mkdtemp(prefix="bench-tls-"))
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    kind = ("rsa:2048",) if rsa else ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    words = [
        "openssl", "req", "-x509", "-newkey", *kind, "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
        "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", made.key, "-out", made.file,
    ]  # fmt: skip
    try:
        subprocess.run(words, check=True, capture_output=True)
        yield made
    finally:
        shutil.rmtree(directory)
