"""The two programs in the README run, against each other."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def program(name: str) -> str:
    """The block whose first line is ``# name``."""
    for block in re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE):
        if block.startswith(f"# {name}\n"):
            return textwrap.dedent(block)
    raise AssertionError(f"README.md has no block that begins with '# {name}'")


def test_the_programs_of_the_readme_work(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    for name in ("server.py", "client.py"):
        source = program(name)
        assert source.count("\n") <= 21
        assert "1935" in source
        (tmp_path / name).write_text(source.replace("1935", port).replace("0.0.0.0", "127.0.0.1"))
    environment = {**os.environ, "PYTHONPATH": str(README.parent), "PYTHONUNBUFFERED": "1"}
    python = [sys.executable, "-W", "error"]
    with subprocess.Popen(
        [*python, "server.py"], cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            assert "listening" in server.stdout.readline()
            client = subprocess.run(
                [*python, "client.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30
            )
            assert client.returncode == 0, client.stderr
            assert "key frame" in client.stdout
        finally:
            server.kill()
