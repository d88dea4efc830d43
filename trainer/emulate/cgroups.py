"""Processor and memory limits by cgroup, version 2 or 1, whichever this machine has.

Version 2 where its `cpu` and `memory` controllers are at its root (a Pi, a laptop); else version 1's hierarchies `cpu`,
`cpuacct` and `memory`. Sources: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/ of Linux.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from trainer.emulate.backend import BackendError, Limits, Usage

ROOT = Path("/sys/fs/cgroup")
PERIOD_US = 20_000
"""Of the processor quota: a device at 5 % runs 1 ms, the kernel's least, in every 20."""
_LEAST_QUOTA_US = 1_000
_V1 = ("cpu", "cpuacct", "memory")
_GONE_S = 10.0
"""For killed processes to leave their cgroup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """Where cgroups are made on this machine."""

    version: int
    root: Path = ROOT

    @property
    def tops(self) -> tuple[Path, ...]:
        return (self.root,) if self.version == 2 else tuple(self.root / controller for controller in _V1)

    def paths(self, name: str) -> tuple[Path, ...]:
        return tuple(top / name for top in self.tops)


def find_hierarchy(root: Path = ROOT) -> Hierarchy:
    """Raises BackendError where there is neither version with both controllers, or no right to write."""
    controllers = root / "cgroup.controllers"
    if controllers.exists() and {"cpu", "memory"} <= set(controllers.read_text().split()):
        found = Hierarchy(version=2, root=root)
    elif all((root / controller).is_dir() for controller in _V1):
        found = Hierarchy(version=1, root=root)
    else:
        raise BackendError(
            f"no cgroup with cpu and memory under {root}: mount cgroup2 there, or use backend = 'process'"
        )
    if not all(os.access(top, os.W_OK) for top in found.tops):
        raise BackendError(f"cgroups under {root} cannot be made: run as root, or use backend = 'process'")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """One device's, of either version."""

    hierarchy: Hierarchy
    name: str

    @property
    def paths(self) -> tuple[Path, ...]:
        """Each takes the device's processes."""
        return self.hierarchy.paths(self.name)

    def make(self, limits: Limits) -> None:
        """Raises BackendError."""
        quota_us = max(_LEAST_QUOTA_US, round(limits.cpus * PERIOD_US))
        memory_bytes = limits.memory_mib * 2**20
        try:
            for path in self.paths:
                path.mkdir(parents=True, exist_ok=True)
            if self.hierarchy.version == 2:
                (group,) = self.paths
                _write(self.hierarchy.root / "cgroup.subtree_control", "+cpu +memory")
                _write(group / "cpu.max", f"{quota_us} {PERIOD_US}")
                _write(group / "memory.max", str(memory_bytes))
                if (group / "memory.swap.max").exists():
                    _write(group / "memory.swap.max", "0")
            else:
                cpu, _, memory = self.paths
                _write(cpu / "cpu.cfs_period_us", str(PERIOD_US))
                _write(cpu / "cpu.cfs_quota_us", str(quota_us))
                _write(memory / "memory.limit_in_bytes", str(memory_bytes))
        except OSError as problem:
            raise BackendError(f"cgroup {self.name}: {problem}") from problem

    def usage(self) -> Usage:
        """All None once it is gone."""
        try:
            return self._usage_2() if self.hierarchy.version == 2 else self._usage_1()
        except FileNotFoundError:
            return Usage()

    def _usage_2(self) -> Usage:
        (group,) = self.paths
        peak = group / "memory.peak"  # since Linux 5.19
        return Usage(
            cpu_s=_table(group / "cpu.stat")["usage_usec"] / 1e6,
            memory_peak_bytes=int(peak.read_text()) if peak.exists() else None,
            oom_kills=_table(group / "memory.events")["oom_kill"],
        )

    def _usage_1(self) -> Usage:
        _, cpuacct, memory = self.paths
        return Usage(
            cpu_s=int((cpuacct / "cpuacct.usage").read_text()) / 1e9,
            memory_peak_bytes=int((memory / "memory.max_usage_in_bytes").read_text()),
            oom_kills=_table(memory / "memory.oom_control").get("oom_kill"),
        )


def remove_cgroup(name: str, root: Path = ROOT) -> None:
    """Of either version, with whatever still runs in it. No error where there is none. Raises OSError."""
    for version in (1, 2):
        for path in Hierarchy(version=version, root=root).paths(name):
            if path.is_dir():
                _empty(path)


def _empty(path: Path) -> None:
    end = time.monotonic() + _GONE_S
    while True:
        for number in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
        try:
            path.rmdir()
        except OSError as problem:
            if problem.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)  # the kernel tells nobody when the last one has left
        else:
            return


def _write(path: Path, value: str) -> None:
    path.write_text(value, encoding="ascii")


def _table(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}
