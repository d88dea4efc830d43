"""What a user sees of runs under way: a live table on a terminal (rich), plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_S = 0.1
"""Between two drawings of the live table: it must not take the devices' processor."""
BAR = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Of the live table: a bar stands between the two."""

    run: tuple[str, ...]
    figures: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """How one run stands: its row of the table."""

    run: tuple[str, ...]
    """Its name, under `Heads.run`."""
    done: float
    """0..1"""
    figures: tuple[str, ...]
    line: str | None
    """The same for where there is no table; None: nothing to tell yet."""


class Progress(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, line: str) -> None:
        """A line that stays."""
        ...

    def show(self, row: Row) -> None:
        """May come as often as it likes."""
        ...


class Plain:
    """Lines; none of a run twice in a row."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: dict[tuple[str, ...], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def show(self, row: Row) -> None:
        if row.line is not None and row.line != self._last.get(row.run):
            self._last[row.run] = row.line
            self.say(row.line)


class Live:
    """A table of all runs, redrawn in place."""

    def __init__(self, heads: Heads) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._heads = heads
        self._console = Console()
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True)
        self._rows: dict[tuple[str, ...], Row] = {}
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

    def show(self, row: Row) -> None:
        self._rows[row.run] = row
        if row.done >= 1 or time.monotonic() - self._drawn_at >= REFRESH_S:
            self._drawn_at = time.monotonic()
            self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        from rich.table import Table

        table = Table(*self._heads.run, "", box=None, pad_edge=False)
        for head in self._heads.figures:
            table.add_column(head, justify="right")
        for row in self._rows.values():
            done = round(BAR * row.done)
            table.add_row(*row.run, "━" * done + "╌" * (BAR - done), *row.figures)
        return table


def choose(heads: Heads, stream: TextIO = sys.stdout) -> Progress:
    """Live where the stream is a terminal and rich is installed."""
    if stream.isatty():
        try:
            return Live(heads)
        except ImportError:
            pass
    return Plain(stream)
