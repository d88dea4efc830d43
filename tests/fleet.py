"""A fleet of real processes for the tests: broker, devices and aggregator as a user starts them.

Everything is waited for with a deadline; whatever still runs at the end is killed by its process id.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from broker.ledger import Ledger
from tests.edge.conftest import write_program, write_shard

POTSTILL = [sys.executable, "-m", "potstill"]

TRAINED = " steps in "
"""In a device's log, once a round."""
PATIENCE_S = 60.0
"""For anything a process should do; a loaded machine of two cores takes seconds to import numpy four times."""


def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s:g} s for: {what}"
        time.sleep(0.005)


class Aggregator:
    """`potstill broker run --json`; its events are read as they come."""

    def __init__(self, arguments: Sequence[str], prefix: Sequence[str] = ()) -> None:
        self.events: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*prefix, *POTSTILL, "broker", "run", "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def named(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.events if entry["event"] == event]

    def wait_for(self, event: str, count: int = 1, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The `count`-th event of this name."""
        until(
            lambda: len(self.named(event)) >= count or self.process.poll() is not None,
            f"{count} {event} events; had {self.events[-3:]}",
            timeout_s,
        )
        self.settle()
        found = self.named(event)
        assert len(found) >= count, f"the aggregator ended first: {self.events[-3:]}, {self.stderr()}"
        return found[count - 1]

    def settle(self) -> None:
        if self.process.poll() is not None:
            self._reader.join(10)

    def stderr(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read() if self.process.poll() is not None else ""

    def complete(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The end event of a run that came to its end."""
        end = self.wait_for("end", timeout_s=timeout_s)
        assert self.process.wait(timeout_s) == 0, end
        assert end["complete"] is True
        return end

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.settle()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


class Fleet:
    """A folder with a small program and shards, and the processes that work there."""

    def __init__(self, folder: Path, url: str, *, name: str = "attic", pool: int = 200) -> None:
        self.folder, self.url, self.name = folder, url, name
        self.program = write_program(folder / "program", pool=pool)
        self.runtime = "numpy"
        """Of the devices."""
        self.ledger = folder / "ledger.sqlite"
        self.devices: dict[str, subprocess.Popen[bytes]] = {}
        self._aggregators: list[Aggregator] = []

    def start(self, device: str, *more: str, prefix: Sequence[str] = (), url: str | None = None) -> int:
        """Start a device, or start it again; -> its process id."""
        shard = self.folder / f"{device}.npz"
        if not shard.exists():
            write_shard(shard, seed=sum(device.encode()), n=64, m=20)
        command = [*prefix, *POTSTILL, "edge", "run", "--broker", url or self.url, "--fleet", self.name]
        command += ["--device", device, "--program", str(self.program), "--data", str(shard)]
        command += ["--work", str(self.folder / f"work-{device}"), "--runtime", self.runtime, *more]
        with (self.folder / f"{device}.log").open("ab") as log:
            self.devices[device] = subprocess.Popen(command, stderr=log)
        return self.devices[device].pid

    def kill(self, device: str) -> None:
        """As a power cut does: no farewell."""
        self.devices[device].kill()
        self.devices[device].wait()

    @contextlib.contextmanager
    def held(self, device: str) -> Iterator[None]:
        """No round that it is in closes meanwhile: it is stopped, not dead, and no deadline is as short as this."""
        self.devices[device].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.devices[device].send_signal(signal.SIGCONT)

    def join(self, device: str) -> None:
        """Start it, or start it again, and wait until it has trained."""
        before = self.log(device).count(TRAINED) if (self.folder / f"{device}.log").exists() else 0
        self.start(device)
        until(lambda: self.log(device).count(TRAINED) > before, f"{device} to train")

    def aggregator(self, *arguments: str, prefix: Sequence[str] = (), url: str | None = None) -> Aggregator:
        made = Aggregator(["--broker", url or self.url, "--ledger", str(self.ledger), *arguments], prefix=prefix)
        self._aggregators.append(made)
        return made

    def new_run(self, *arguments: str, **how: Any) -> Aggregator:
        return self.aggregator("--fleet", self.name, "--program", str(self.program), *arguments, **how)

    def log(self, device: str) -> str:
        return (self.folder / f"{device}.log").read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for device in self.devices.values():
            device.terminate()
        for aggregator in self._aggregators:
            aggregator.close()
        for device in self.devices.values():
            try:
                device.wait(10)
            except subprocess.TimeoutExpired:
                device.kill()
                device.wait()


def rows(fleet: Fleet, run: int) -> list[tuple[int, str, str, int, int]]:
    with Ledger.read(fleet.ledger) as ledger:
        return ledger.uploads(run)


def counted(fleet: Fleet, run: int) -> set[tuple[int, str]]:
    """(round, device) of what counted; the ledger's primary key keeps them unique."""
    return {(number, device) for number, device, fate, *_ in rows(fleet, run) if fate == "counted"}


def last_accuracy(events: list[dict[str, Any]], rounds: int) -> dict[str, float]:
    return {e["device"]: e["accuracy"] for e in events if e["event"] == "report" and e["round"] == rounds - 1}
