"""Devices as processes of this host: bare (`process`), or in a namespace and a cgroup of their own (`netns`)."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trainer.emulate import inside
from trainer.emulate.backend import BackendError, Enforced, Limits, Order, Usage
from trainer.emulate.cgroups import Cgroup, Hierarchy, find_hierarchy
from trainer.emulate.leftovers import Leftovers

_NICE = 5
"""Of a device: broker, aggregator and links go first, as they have machines of their own in the field."""
_FAKETIME = ("lib/*/faketime", "lib/faketime", "lib64/faketime", "local/lib/faketime")


class Local:
    """A process of this host, as `backend.Running`."""

    def __init__(self, process: subprocess.Popen[bytes], usage: Callable[[], Usage]) -> None:
        """`usage` may know nothing any more once the process has ended."""
        self._process = process
        self._read = usage
        self._last = Usage()

    def poll(self) -> int | None:
        return self._process.poll()

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self.usage()
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout_s)
        return None

    def usage(self) -> Usage:
        read = self._read()
        if read != Usage():
            self._last = read
        return self._last


class ProcessBackend:
    """No privileges. Processor and link are the host's."""

    name = "process"
    needs_namespace = False

    def __init__(self) -> None:
        self._running: list[Local] = []

    def prepare(self) -> Enforced:
        return Enforced(
            instruction_set=f"not: {platform.machine()}, this host's",
            cpu="not: one of this host's processors, at its full speed, shared with the others",
            memory="RLIMIT_DATA: private writable memory; mapped files are not counted",
            link="not: this host's loopback; bytes are counted, times and losses are not the link's",
            clock=clock_enforced(find_faketime()),
        )

    def start(self, order: Order) -> Local:
        processors = sorted(os.sched_getaffinity(0))
        words = inside.command(
            _words(order),
            namespace=order.namespace,
            data_bytes=order.limits.memory_mib * 2**20,
            cpus=(processors[hash_of(order.device) % len(processors)],),
            nice=_NICE,
        )
        process = _start(words, order)
        running = Local(process, lambda: _usage(process.pid))
        self._running.append(running)
        return running

    def close(self) -> None:
        for running in self._running:
            running.kill()


class NamespaceBackend:
    """Root: a network namespace and a cgroup a device."""

    name = "netns"
    needs_namespace = True

    def __init__(self, prefix: str, leftovers: Leftovers) -> None:
        self._prefix = prefix
        self._leftovers = leftovers
        self._hierarchy: Hierarchy | None = None
        self._cgroups: dict[str, Cgroup] = {}
        self._running: list[Local] = []

    def prepare(self) -> Enforced:
        self._hierarchy = find_hierarchy()
        cgroup = f"cgroup v{self._hierarchy.version}"
        return Enforced(
            instruction_set=f"not: {platform.machine()}, this host's",
            cpu=f"{cgroup}: a share of one processor's time",
            memory=f"{cgroup}: resident memory and page cache; what asks for more is killed",
            link="rate, delay, jitter, loss and queue of each direction, packet by packet",
            clock=clock_enforced(find_faketime()),
        )

    def start(self, order: Order) -> Local:
        cgroup = self._cgroup(order.device, order.limits)
        before = cgroup.usage()
        process = _start(
            inside.command(_words(order), namespace=order.namespace, cgroups=cgroup.paths, nice=_NICE), order
        )
        running = Local(process, lambda: _since(before, cgroup.usage()))
        self._running.append(running)
        return running

    def _cgroup(self, device: str, limits: Limits) -> Cgroup:
        """Made at the first start: a device that returns goes on in its own."""
        if device not in self._cgroups:
            assert self._hierarchy is not None, "prepare comes first"
            cgroup = Cgroup(hierarchy=self._hierarchy, name=f"{self._prefix}-{device}")
            self._leftovers.add("cgroup", cgroup.name)
            cgroup.make(limits)
            self._cgroups[device] = cgroup
        return self._cgroups[device]

    def close(self) -> None:
        for running in self._running:
            running.kill()
        for cgroup in self._cgroups.values():
            with contextlib.suppress(OSError):  # it stays among the leftovers, and is tried again
                self._leftovers.remove("cgroup", cgroup.name)


def hash_of(device: str) -> int:
    """The same in every run."""
    return sum(device.encode())


def _words(order: Order) -> list[str]:
    arguments = order.arguments(program=str(order.program), data=str(order.data), work=str(order.work))
    return [sys.executable, "-m", "potstill", *arguments]


def _start(words: list[str], order: Order) -> subprocess.Popen[bytes]:
    order.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "ORT_DISABLE_TELEMETRY": "1",
        **clock(order.clock_offset_s, find_faketime()),
        **order.environment,
    }
    with order.log.open("ab") as log:
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _since(before: Usage, now: Usage) -> Usage:
    """A device that returns goes on in the cgroup of its first start."""
    if now.cpu_s is None or before.cpu_s is None:
        return now
    return replace(now, cpu_s=now.cpu_s - before.cpu_s)


def _usage(pid: int) -> Usage:
    """While the process lives; all None afterwards."""
    try:
        times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return Usage()
    peak = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")]
    ticks = int(times[11]) + int(times[12])  # utime, stime: proc(5), fields 14 and 15
    return Usage(cpu_s=ticks / os.sysconf("SC_CLK_TCK"), memory_peak_bytes=peak[0] if peak else None)


# ---------------------------------------------------------------- the wall clock


def find_faketime() -> Path | None:
    """libfaketime, which shifts what a process's C library says of the time. Debian: apt-get install libfaketime."""
    found = [path for folder in _FAKETIME for path in Path("/usr").glob(f"{folder}/libfaketime.so.1")]
    return found[0] if found else None


def clock_enforced(library: Path | None) -> str:
    """Linux has no namespace of the wall clock: time_namespaces(7) shift the monotonic clocks alone."""
    if library is None:
        return "not: this host's, there is no libfaketime (Debian: apt-get install libfaketime)"
    return "libfaketime: the wall clock as the C library tells it; monotonic time stays"


def clock(offset_s: float, library: Path | None) -> dict[str, str]:
    """Environment of a process whose wall clock is that much ahead. Raises BackendError."""
    if not offset_s:
        return {}
    if library is None:
        raise BackendError("a wrong clock needs libfaketime: apt-get install libfaketime, or backend = 'machine'")
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{offset_s:+.0f}", "DONT_FAKE_MONOTONIC": "1"}
