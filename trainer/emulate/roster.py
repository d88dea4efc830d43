"""The devices of a run: which of them are up, started and stopped through their back ends."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer.emulate.backend import Backend, Order, Running, Usage

PATIENCE_S = 15.0
"""For all devices together to say farewell; under a processor quota a device takes seconds for it."""


class Roster:
    def __init__(self, orders: Mapping[str, Order], backends: Mapping[str, Backend]) -> None:
        """`backends`: of each device, by its name."""
        self._orders = orders
        self.fleet = next(iter(orders.values())).fleet
        self._backends = backends
        self._up: dict[str, Running] = {}
        self._newest: dict[str, Running] = {}
        self._earlier_cpu_s: dict[str, float] = {}
        """Of a device's starts before its newest."""

    def start(self, name: str) -> None:
        """No second one of a device that is up. Raises BackendError."""
        if name not in self._up:
            self._earlier_cpu_s[name] = self.cpu_s(name) or 0.0
            self._up[name] = self._newest[name] = self._backends[name].start(self._orders[name])

    def kill(self, name: str) -> None:
        """At once; nothing happens to a device that is down. Its kernel, this host's, still closes its connection."""
        running = self._up.pop(name, None)
        if running is not None:
            running.kill()

    def ended(self) -> list[tuple[str, int]]:
        """Devices that ended by themselves since this was last asked, with their exit codes."""
        codes = [(name, running.poll()) for name, running in self._up.items()]
        found = [(name, code) for name, code in codes if code is not None]
        for name, _ in found:
            del self._up[name]
        return found

    def usage(self, name: str) -> Usage:
        """Of its newest start."""
        running = self._newest.get(name)
        return Usage() if running is None else running.usage()

    def cpu_s(self, name: str) -> float | None:
        """Of all its starts; None where its back end cannot know."""
        newest = self.usage(name).cpu_s
        return None if newest is None else self._earlier_cpu_s[name] + newest

    def log(self, name: str) -> Path:
        return self._orders[name].log

    @property
    def up(self) -> frozenset[str]:
        return frozenset(self._up)

    def stop(self, names: Iterable[str] | None = None) -> None:
        """In good order, with patience for all together, then by force."""
        leaving = {name: self._up.pop(name) for name in list(self._up if names is None else names) if name in self._up}
        for running in leaving.values():
            running.terminate()
        end = time.monotonic() + PATIENCE_S
        for running in leaving.values():
            if running.wait(max(0.0, end - time.monotonic())) is None:
                running.kill()


def last_words(log: Path, lines: int = 3) -> str:
    """What a device left in its log."""
    try:
        said = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-lines:]
    except OSError:
        said = []
    return "\n  ".join(said) if said else "(it said nothing)"
