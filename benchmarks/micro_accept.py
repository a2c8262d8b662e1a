"""How workers come by their connections: SO_REUSEPORT against a supervisor that passes descriptors.

``python -m benchmarks.micro_accept [--connections 1000] [--workers 2]``

Real processes, real sockets.  *Spread* is the busiest worker's connections by the idlest's, all of them kept open;
*CPU* is that of all serving processes per connection, accepting and passing it on and nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from statistics import median

from cluster.workers import messages
from cluster.workers.channel import Channel, close_all, pair

ROUNDS = 9


def _take_by_port(port: int, pipe: Pipe) -> None:
    """A worker with a listening socket of its own on the shared port."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(4096)
    listener.setblocking(False)
    pipe.send(None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except BlockingIOError:
                    return
                kept.append(sock)

        loop.add_reader(listener.fileno(), accept)
        await _until_asked(loop, pipe)
        pipe.send((len(kept), time.process_time()))

    _run(main)


def _take_from_supervisor(sock: socket.socket, pipe: Pipe) -> None:
    """A worker that gets its connections over a channel."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        kept: list[socket.socket] = []

        def received(data: memoryview, fds: list[int]) -> None:
            messages.decode(data)
            kept.append(socket.socket(fileno=fds.pop(0)))
            close_all(fds)

        Channel(sock, received, lambda reason: None)
        pipe.send(None)
        await _until_asked(loop, pipe)
        pipe.send((len(kept), time.process_time()))

    _run(main)


def _supervise(port: int, ends: list[socket.socket], pipe: Pipe) -> None:
    """Accepts, and passes on to whoever has least."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(4096)
    listener.setblocking(False)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        channels = [Channel(end, lambda data, fds: None, lambda reason: None) for end in ends]
        passed = [0] * len(channels)

        def accept() -> None:
            while True:
                try:
                    sock, peer = listener.accept()
                except BlockingIOError:
                    return
                least = min(range(len(passed)), key=passed.__getitem__)
                passed[least] += 1
                message = messages.Connection("rtmp", str(peer[0]))
                channels[least].send(messages.encode(message), (sock.detach(),), own=True)

        loop.add_reader(listener.fileno(), accept)
        pipe.send(None)
        await _until_asked(loop, pipe)
        pipe.send((0, time.process_time()))

    _run(main)


async def _until_asked(loop: asyncio.AbstractEventLoop, pipe: Pipe) -> None:
    asked = asyncio.Event()
    loop.add_reader(pipe.fileno(), asked.set)
    await asked.wait()


def _run(main: object) -> None:
    import uvloop

    uvloop.run(main())  # type: ignore[operator]


def _measure(way: str, workers: int, connections: int) -> tuple[float, float]:
    """Spread, and CPU in us per connection."""
    context = get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tasks: list[tuple[object, tuple[object, ...]]]
    if way == "SO_REUSEPORT":
        tasks = [(_take_by_port, (port,)) for _ in range(workers)]
    else:
        pairs = [pair() for _ in range(workers)]
        tasks = [(_take_from_supervisor, (theirs,)) for _, theirs in pairs]
        tasks.append((_supervise, (port, [ours for ours, _ in pairs])))
    pipes, processes = [], []
    for target, arguments in tasks:
        here, there = context.Pipe()
        process = context.Process(target=target, args=(*arguments, there), daemon=True)  # type: ignore[arg-type]
        process.start()
        pipes.append(here)
        processes.append(process)
    for each in pipes:
        each.recv()
    before = [_cpu(process.pid or 0) for process in processes]
    clients = []
    for _ in range(connections):
        client = socket.create_connection(("127.0.0.1", port))
        clients.append(client)
    time.sleep(0.3)
    cpu = sum(_cpu(process.pid or 0) - start for process, start in zip(processes, before, strict=True))
    counts = []
    for each in pipes:
        each.send(None)
        counts.append(each.recv()[0])
    for process in processes:
        process.kill()
        process.join()
    for client in clients:
        client.close()
    counts = counts[:workers]
    assert sum(counts) == connections, counts
    return max(counts) / max(min(counts), 1), cpu / connections * 1e6


def _cpu(pid: int) -> float:
    """Seconds, from the scheduler's own count in nanoseconds: ticks are too coarse here."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro_accept", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--connections", default="16,100,1000")
    options = parser.parse_args()
    print("| connections | way | spread, median | spread, worst | CPU us/connection |\n|--:|---|--:|--:|--:|")
    for connections in map(int, options.connections.split(",")):
        for way in ("SO_REUSEPORT", "descriptors passed"):
            runs = [_measure(way, options.workers, connections) for _ in range(ROUNDS)]
            spreads = [spread for spread, _ in runs]
            cost = median(cost for _, cost in runs)
            print(f"| {connections} | {way} | {median(spreads):.2f} | {max(spreads):.2f} | {cost:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    sys.exit(main())
