"""Put this process where a device belongs and become its command: `python -m trainer.emulate.inside [..] -- COMMAND`.

It enters a network namespace and cgroups, takes its limits, and asks the kernel to end it with its parent: a device
must not outlive an emulator that was killed. Standard library only: it runs once a device.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from trainer.emulate.link import enter_namespace

_PR_SET_PDEATHSIG = 1


def command(
    words: list[str],
    *,
    namespace: str | None = None,
    cgroups: tuple[Path, ...] = (),
    data_bytes: int | None = None,
    cpus: tuple[int, ...] = (),
    nice: int = 0,
) -> list[str]:
    """`words`, run as the arguments say.

    `data_bytes` is RLIMIT_DATA: private writable memory (heap, not mapped files). `cpus` are processors of this host.
    """
    options = ["--parent", str(os.getpid()), "--nice", str(nice)]
    if namespace is not None:
        options += ["--netns", namespace]
    for cgroup in cgroups:
        options += ["--cgroup", str(cgroup)]
    if data_bytes is not None:
        options += ["--data", str(data_bytes)]
    if cpus:
        options += ["--cpus", ",".join(map(str, cpus))]
    return [sys.executable, "-m", "trainer.emulate.inside", *options, "--", *words]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--netns")
    parser.add_argument("--cgroup", action="append", type=Path, default=[])
    parser.add_argument("--data", type=int)
    parser.add_argument("--cpus", type=lambda text: [int(number) for number in text.split(",")])
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    _end_with(given.parent)
    for cgroup in given.cgroup:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
    if given.netns is not None:
        enter_namespace(given.netns)
    if given.data is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (given.data, given.data))
    if given.cpus:
        os.sched_setaffinity(0, given.cpus)
    if given.nice:
        os.nice(given.nice)
    os.execvp(given.command[0], given.command)  # noqa: S606 - the command is the emulator's own


def _end_with(parent: int) -> None:
    """SIGKILL when the parent ends, however it ends."""
    if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise SystemExit("the kernel has no parent-death signal: the emulator needs Linux")
    if os.getppid() != parent:  # it ended before we asked
        raise SystemExit(1)


if __name__ == "__main__":
    main()
