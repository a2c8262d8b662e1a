"""redis-py clients for a target: one that runs commands, and one after the other that listen.

Each wait on a socket has an end, redis-py repeats nothing by itself, and nothing here cancels a command: a connection
whose command was cancelled may give the next one the wrong answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any, Final

from redis._parsers import AsyncCommandsParser
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from cluster.registry.urls import Target

SOCKET_SECONDS: Final = 1.0
"""Longest wait for a connection, and for an answer."""


class _Sentinel(Sentinel):
    """One question at a time: redis-py moves the sentinel that answers to the front of its list, and two that do so at
    once lose another one from it."""

    def __init__(self, hosts: Sequence[tuple[str, int]], options: dict[str, Any]) -> None:
        super().__init__(hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        self._asking = asyncio.Lock()

    async def discover_master(self, service_name: str) -> Any:
        """Address and port."""
        async with self._asking:
            return await super().discover_master(service_name)


class _Commands(AsyncCommandsParser):
    """Which arguments are keys, asked for when that decides something.

    redis-py asks each time that it reads the layout of a Cluster; the answer is a table of all commands, which takes
    the event loop tens of milliseconds, and one of several servers that is gone has it do so with every command.
    """

    async def initialize(self, node: ClusterNode | None = None) -> None:
        """With a ``node``: ask this one, if need be."""
        if node is None:
            await super().initialize()
        else:
            self.node = node


class Clients:
    """Makes clients; closes those it keeps."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._sentinel: _Sentinel | None = None
        self._cluster: RedisCluster | None = None
        self._client: Redis | None = None

    @property
    def is_cluster(self) -> bool:
        """Whether keys are on several servers."""
        return self._target.kind == "cluster"

    def commands(self) -> Any:
        """The client for commands."""
        target = self._target
        if target.kind == "cluster":
            self._cluster = RedisCluster(
                startup_nodes=[ClusterNode(*each) for each in target.hosts],
                require_full_coverage=False,
                # Each script may run twice; the layout is read again between.
                retry=Retry(NoBackoff(), 1),
                **{name: value for name, value in self._options().items() if name not in ("db", "retry")},
            )
            self._cluster.commands_parser = _Commands()
            return self._cluster
        self._client = self._make()
        return self._client

    def listener(self) -> Redis:
        """A new client for listening; whoever asked closes it."""
        if self._cluster is None:
            return self._make()
        # Any server passes on what is published to any other.
        known = [(each.host, int(each.port)) for each in self._cluster.get_primaries()]
        host, port = random.choice([*known, *self._target.hosts])
        return Redis(host=host, port=port, **self._options())

    async def close(self) -> None:
        """Close what is kept."""
        closing = [each.aclose() for each in (self._client, self._cluster, self._sentinel) if each is not None]
        if self._cluster is not None:
            # While it means to read the layout again, the Cluster's client does not close what it has.
            manager = self._cluster.nodes_manager
            closing += [manager.aclose(), manager.aclose("startup_nodes")]
        for each in closing:
            with contextlib.suppress(Exception):  # a connection that does not close in time
                await each
        self._client = self._cluster = self._sentinel = None

    def _make(self) -> Redis:
        target = self._target
        if target.kind == "redis":
            host, port = target.hosts[0]
            return Redis(host=host, port=port, **self._options())
        if self._sentinel is None:
            sentinels = {
                **self._options(),
                "db": 0,
                "username": target.sentinel_user,
                "password": target.sentinel_password,
            }
            self._sentinel = _Sentinel(target.hosts, sentinels)
        client: Redis = self._sentinel.master_for(target.service, **self._options())
        return client

    def _options(self) -> dict[str, Any]:
        target = self._target
        options: dict[str, Any] = {
            "db": target.database,
            "username": target.user,
            "password": target.password,
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        if target.tls:
            options |= {
                "ssl": True,
                "ssl_ca_certs": target.ca,
                "ssl_certfile": target.cert,
                "ssl_keyfile": target.key,
                "ssl_cert_reqs": "none" if target.verify == "none" else "required",
                "ssl_check_hostname": target.verify == "full",
            }
        return options
