"""The run's broker: one of its own, which can be restarted on its port, or one that is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainer.demo.processes import Child, Processes, check_reachable, start_broker
from trainer.emulate.fleet import Fleet
from trainer.emulate.network import HUB_ADDRESS


class Broker:
    def __init__(
        self,
        fleet: Fleet,
        processes: Processes,
        log: Path,
        within: Callable[[list[str]], list[str]],
        *,
        shared: bool,
    ) -> None:
        self._kind = fleet.training.broker
        self._processes = processes
        self._log = log
        self._within = within
        self._host = "127.0.0.1" if shared else HUB_ADDRESS
        self._child: Child | None = None
        self.url = self._kind

    def start(self) -> None:
        """Raises DemoError."""
        if "://" in self._kind:
            check_reachable(self._kind)
            return
        options = ["--kind", self._kind, "--host", self._host]
        if self._host == HUB_ADDRESS:
            options.append("--expose")  # to the run's own namespaces, which nothing else is in
        if self._child is not None:
            options += ["--port", self.url.rpartition(":")[2]]
        self._child, self.url = start_broker(self._processes, self._log, *options, within=self._within)

    def restart(self) -> None:
        assert self._child is not None, "only a broker of our own has this event"
        self._processes.stop([self._child])
        self.start()
