"""A load generator in a process of its own, so that its work never delays the latency probes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol


class Worker(Protocol):
    """Lives in the child: ``step`` is called again and again; other public methods answer ``Child.ask``."""

    def step(self) -> None:
        """Do what is due, then sleep for a short while."""


class Child:
    """The parent's handle on a worker.  A call runs between two steps; its exception is raised here."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        # "spawn": nothing of the parent (sockets, threads) is inherited.
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(make_worker, other), daemon=True)
        self._process.start()
        other.close()

    def ask(self, method: str, *args: object, **options: object) -> Any:
        self._pipe.send((method, args, options))
        answer, error = self._pipe.recv()
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(make_worker: Callable[[], Worker], pipe: Connection) -> None:
    worker = make_worker()
    try:
        while True:
            worker.step()
            if not pipe.poll():
                continue
            method, args, options = pipe.recv()
            try:
                pipe.send((getattr(worker, method)(*args, **options), None))
            except Exception as error:  # belongs to the caller, whatever it is
                pipe.send((None, RuntimeError(f"{method}: {error!r}")))
    except (EOFError, KeyboardInterrupt):
        pass


def sleep_until(deadline: float, shortest: float) -> None:
    """Sleep until a monotonic time, but at least ``shortest`` seconds: it bounds what a generator costs."""
    time.sleep(max(shortest, deadline - time.monotonic()))
