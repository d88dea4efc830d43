"""The demo's processes: started with a log each, watched, and all ended however the demo ends."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self
from urllib.parse import urlsplit

from trainer.demo.settings import DemoError

PATIENCE_S = 10.0
"""For all children together to end after SIGTERM; a device answers within one training step, milliseconds."""
POLL_S = 0.25
"""How often the children are looked at while the aggregator says nothing."""
BROKER_START_S = 20.0
"""The embedded broker listens after 0.3 s on an idle machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    name: str
    log: Path
    process: subprocess.Popen[bytes]


class Processes:
    """A context manager: no child outlives it."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """A second Ctrl-C does not leave children behind: it waits until they have ended."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
        try:
            self.stop(self._children)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def start(
        self,
        name: str,
        arguments: list[str],
        log: Path,
        *,
        piped: bool = False,
        within: Callable[[list[str]], list[str]] | None = None,
    ) -> Child:
        """`potstill ARGUMENTS`; its standard error (and output, unless piped to us) goes to the log.

        In a session of its own, so that Ctrl-C reaches the demo alone and the children end in order. `within` makes
        of the command one that runs it elsewhere, in a network namespace say.
        """
        words = [sys.executable, "-m", "potstill", *arguments]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = subprocess.Popen(
                words if within is None else within(words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else stream,
                stderr=stream,
                env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
                start_new_session=True,
            )
        child = Child(name=name, log=log, process=process)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raises DemoError when a child has ended by itself."""
        for child in self._children:
            if child.process.poll() is not None:
                raise DemoError(failure(child))

    def forget(self, child: Child) -> None:
        """A child that has ended as it should: it is no failure any more."""
        child.process.wait()
        if child.process.stdout is not None:
            child.process.stdout.close()
        self._children = [other for other in self._children if other is not child]

    def alive(self) -> int:
        return sum(child.process.poll() is None for child in self._children)

    def stop(self, children: list[Child]) -> None:
        """SIGTERM to all, the last started first, then patience for all, then SIGKILL."""
        last_first = children[::-1]
        for child in last_first:
            if child.process.poll() is None:
                child.process.terminate()
        end = time.monotonic() + PATIENCE_S
        for child in last_first:
            try:
                child.process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            if child.process.stdout is not None:
                child.process.stdout.close()
        self._children = [child for child in self._children if child not in children]


def aggregator(*, normalise: bool, **options: object) -> list[str]:
    """The arguments of a `potstill broker run` that tells its events; `start_deadline` is --start-deadline."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["broker", "run", "--json", "--normalise" if normalise else "--no-normalise", *words]


def failure(child: Child) -> str:
    """What a child that ended left behind, and where to read on."""
    last = [line for line in child.log.read_text(errors="replace").splitlines() if line.strip()][-3:]
    said = "\n  ".join(last) if last else "(it said nothing)"
    return f"{child.name} ended with code {child.process.poll()}:\n  {said}\nThe whole log: {child.log}"


def lines(child: Child, processes: Processes) -> Iterator[dict[str, Any]]:
    """The JSON objects that a piped child prints, until it ends. Raises DemoError when another child ends first."""
    return (line for line in lines_and_ticks(child, processes) if line is not None)


def lines_and_ticks(child: Child, processes: Processes) -> Iterator[dict[str, Any] | None]:
    """As `lines`, and None whenever the child has said nothing for POLL_S: time to look at something else."""
    stream = child.process.stdout
    assert stream is not None, "started with piped=True"
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if not selector.select(POLL_S):
                if child.process.poll() is None:
                    processes.check()
                yield None
                continue
            read = os.read(stream.fileno(), 65536)
            if not read:
                break
            *whole, rest = (rest + read).split(b"\n")
            yield from (_event(line, child) for line in whole if line.strip())
    child.process.wait()


def _event(line: bytes, child: Child) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or "event" not in event:
        raise DemoError(f"{child.name} printed {line[:80]!r}, not an event. Its log: {child.log}")
    return event


def start_broker(
    processes: Processes, log: Path, *options: str, within: Callable[[list[str]], list[str]] | None = None
) -> tuple[Child, str]:
    """The embedded broker on a free port, unless `options` say otherwise: -> its process, its URL. Raises DemoError."""
    child = processes.start("the broker", ["broker", "serve", "--json", *options], log, piped=True, within=within)
    end = time.monotonic() + BROKER_START_S
    stream = child.process.stdout
    assert stream is not None
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while time.monotonic() < end:
            if not selector.select(POLL_S):
                continue
            line = stream.readline()
            if not line:
                child.process.wait()
                raise DemoError(failure(child))
            return child, str(_event(line, child)["url"])
    raise DemoError(f"the broker did not start within {BROKER_START_S:g} s. Its log: {log}")


def check_reachable(url: str) -> None:
    """Raises DemoError when nobody listens at the broker's URL."""
    parts = urlsplit(url)
    try:
        port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
    except ValueError as problem:
        raise DemoError(f"broker {url!r}: {problem}. Write mqtt://HOST:PORT") from problem
    if parts.scheme not in {"mqtt", "mqtts"} or not parts.hostname:
        raise DemoError(f"broker {url!r}: write mqtt://HOST:PORT, or mqtts://HOST:PORT for TLS")
    if parts.username or parts.password:
        raise DemoError("the demo writes its broker's URL into logs and run.json: use a broker without a password")
    try:
        with contextlib.closing(socket.create_connection((parts.hostname, port), timeout=5)):
            pass
    except OSError as problem:
        raise DemoError(
            f"no broker at {parts.hostname}:{port} ({problem}): start it, or leave the broker out and one is started"
        ) from problem


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
