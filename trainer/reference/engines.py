"""Where the work of a run is done: here, in a process a core, or on a Ray cluster. All give the same results.

What is handed over are settings and arrays, and every random number comes from a stream of (seed, device, round,
purpose): nothing depends on who computes what, nor on the order.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from trainer.reference.settings import RunError

ENGINES = ("local", "ray")
CONNECT_S = 5.0
_T = TypeVar("_T")


class Engine(Protocol):
    workers: int

    def call(self, function: Callable[..., _T], *arguments: Any) -> Awaitable[_T]: ...


class Here:
    """In this process."""

    workers = 1

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        await asyncio.sleep(0)  # let the other runs take their turn
        return function(*arguments)


class Pool:
    """One process a core; each keeps its data and programs."""

    def __init__(self, pool: ProcessPoolExecutor, workers: int) -> None:
        self._pool = pool
        self.workers = workers

    def call(self, function: Callable[..., _T], *arguments: Any) -> Awaitable[_T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


class Ray:
    """Over a Ray cluster: one task a device and round."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote: dict[Any, Any] = {}
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def call(self, function: Callable[..., _T], *arguments: Any) -> Awaitable[_T]:
        if function not in self._remote:
            self._remote[function] = self._ray.remote(function)
        reference = self._remote[function].remote(*arguments)
        return asyncio.wrap_future(reference.future())


@contextmanager
def engine(name: str, workers: int | None = None, address: str | None = None) -> Iterator[Engine]:
    """`local` with so many processes (1: here; default: one a core) or `ray` at an address (default: its own node).

    Raises RunError where ray is not installed or there is no cluster.
    """
    count = workers or len(os.sched_getaffinity(0))
    if name == "ray":
        with _ray(count, address) as made:
            yield made
    elif count == 1:
        yield Here()
    else:
        pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_alone)
        try:
            yield Pool(pool, count)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _alone() -> None:
    """A worker's libraries take one thread: the other cores have workers of their own."""
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1")


@contextmanager
def _ray(workers: int, address: str | None) -> Iterator[Ray]:
    try:
        import ray
    except ImportError as problem:
        raise RunError("--engine ray needs ray: pip install 'potstill[ray]'") from problem
    if address is not None:
        _require_listening(address)
    own = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
    except (ConnectionError, RuntimeError) as problem:
        raise RunError(f"no Ray cluster at {address or 'this machine'} ({problem}): ray start --head") from problem
    try:
        yield Ray(ray)
    finally:
        ray.shutdown()


def _require_listening(address: str) -> None:
    """Raises RunError where nobody does: ray itself tries for five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError) as problem:
        raise RunError(
            f"no Ray cluster at {address} ({problem}): start one with `ray start --head --port 6379` and give its "
            "HOST:6379"
        ) from problem
