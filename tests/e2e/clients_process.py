"""Starting and ending the programs that the end-to-end tests drive.

Each program leads a process group of its own, so that its helpers end with it, and only it is ever signalled: other
programs of the same name on this machine are none of our business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

UNPRIVILEGED = "nobody"
"""The user for programs that refuse to run as root."""


class ClientError(Exception):
    """A client did not do what was asked; the message ends with the last lines it wrote."""


def tail(log: Path, lines: int = 15) -> str:
    """Returns the last lines of a log, for the message of a failure."""
    if not log.exists():
        return "(no output)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


@contextlib.asynccontextmanager
async def running(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    unprivileged: bool = False,
    stdin: int = asyncio.subprocess.DEVNULL,
    stdout: int | None = None,
    pass_fds: Sequence[int] = (),
    ends_with: signal.Signals = signal.SIGTERM,
    grace: float = 3.0,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a program for the length of the block.

    `log` receives stderr, and stdout unless `stdout` says otherwise; `env` is added to the environment.  With
    `unprivileged`, root becomes `UNPRIVILEGED` for the program (`log` stays ours).  At the end of the block the whole
    group gets `ends_with` and, `grace` seconds later, SIGKILL.
    """
    identity: dict[str, object] = {}
    if unprivileged and os.geteuid() == 0:
        identity = {"user": UNPRIVILEGED, "group": "nogroup", "extra_groups": []}
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=output if stdout is None else stdout,
            stderr=output,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            pass_fds=pass_fds,
            **identity,  # type: ignore[arg-type]
        )
    try:
        yield process
    finally:
        await asyncio.shield(end(process, ends_with=ends_with, grace=grace))


async def end(
    process: asyncio.subprocess.Process, *, ends_with: signal.Signals = signal.SIGTERM, grace: float = 3.0
) -> int:
    """Ends a program of `running` and everything it started; returns its exit code (negative: the signal)."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, ends_with)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the leader, or helpers that outlived it
    code = await process.wait()
    # asyncio lets go of a process when its pipes are closed and read to the end.
    if process.stdin is not None:
        process.stdin.close()
    if process.stdout is not None:
        await process.stdout.read()
    return code
