"""What the user sees while the demo runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from trainer.demo.observe import Observed

if TYPE_CHECKING:
    from rich.table import Table

PLAIN_EVERY = 5
"""Rounds between two plain lines."""
REFRESH_S = 0.1
"""Between two drawings of the live table: it must not take the devices' processor."""


class Progress(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, line: str) -> None:
        """A line that stays."""
        ...

    def show(self, split: str, method: str, seen: Observed, up: int) -> None:
        """How a run stands; `up` device processes are alive."""
        ...


class Plain:
    """Lines, every few rounds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._said: set[tuple[str, str, int]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def show(self, split: str, method: str, seen: Observed, up: int) -> None:
        newest = seen.newest
        if newest is None or ((newest + 1) % PLAIN_EVERY and newest + 1 != seen.rounds):
            return
        key = (split, method, newest)
        if key not in self._said:
            self._said.add(key)
            self.say(f"{split:12} {method:6} {_standing(seen, newest)}  devices up {up}/{seen.devices}")


def _standing(seen: Observed, newest: int) -> str:
    accuracy = seen.accuracy(newest)
    return f"round {newest + 1:3}/{seen.rounds}  accuracy mean {accuracy.mean:.3f} worst {accuracy.worst:.3f}"


class Live:
    """A table of all runs, redrawn in place (rich)."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = Console()
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True)
        self._lines: dict[tuple[str, str], tuple[str, ...]] = {}
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, problem, trace)

    def say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False)

    def show(self, split: str, method: str, seen: Observed, up: int) -> None:
        over = seen.complete
        mean, worst = ("", "")
        if seen.newest is not None:
            accuracy = seen.accuracy(seen.newest)
            mean, worst = f"{accuracy.mean:.3f}", f"{accuracy.worst:.3f}"
        done = round(20 * seen.closed / seen.rounds)
        bar = "━" * done + "╌" * (20 - done)
        devices = f"{up}/{seen.devices}" if seen.closed or seen.born == seen.devices else f"{seen.born} joined"
        self._lines[split, method] = (split, method, bar, f"{seen.closed}/{seen.rounds}", mean, worst, devices)
        if over or time.monotonic() - self._drawn_at >= REFRESH_S:
            self._drawn_at = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for head in ("split", "method", "", "round", "mean", "worst", "devices"):
            table.add_column(head, justify="left" if head in {"split", "method", ""} else "right")
        for cells in self._lines.values():
            table.add_row(*cells)
        return table


def choose(stream: TextIO = sys.stdout) -> Progress:
    """Live where the stream is a terminal and rich is installed."""
    if stream.isatty():
        try:
            return Live()
        except ImportError:
            pass
    return Plain(stream)
