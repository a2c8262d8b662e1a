"""The import arrows: pyrtmp <- hls <- cluster, and protocol code without I/O (contracts in pyproject.toml)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("pyrtmp", "hls", "cluster")


def lint_imports(directory: Path) -> tuple[int, str]:
    """Exit code and output of import-linter on the packages in a directory."""
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("page", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_arrows() -> None:
    code, output = lint_imports(ROOT)
    assert code == 0, output


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("pyrtmp/errors.py", "import hls.settings", "pyrtmp <- hls <- cluster"),
        ("pyrtmp/errors.py", "import cluster", "pyrtmp <- hls <- cluster"),
        ("hls/settings.py", "import cluster.config", "pyrtmp <- hls <- cluster"),
        ("pyrtmp/chunk.py", "import asyncio", "protocol code is sans-I/O"),
        ("hls/settings.py", "import pydantic", "settings of a node stay in cluster"),
    ],
)
def test_a_reversed_arrow_is_found(copy: Path, module: str, line: str, contract: str) -> None:
    path = copy / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    code, output = lint_imports(copy)
    assert code == 1
    broken = output.partition("Broken contracts")[2]
    assert contract in broken
    assert module.removesuffix(".py").replace("/", ".") in broken
