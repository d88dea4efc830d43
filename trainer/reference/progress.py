"""What a user sees of runs under way: a live table on a terminal, a line a measurement elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from trainer.reference.run import Standing
from trainer.reference.settings import Settings

if TYPE_CHECKING:
    from rich.table import Table

REFRESH_S = 0.1
BAR = 20


class Progress(Protocol):
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, settings: Settings, label: str, now: Standing) -> None:
        """How a run stands, after each round."""
        ...


def _cells(settings: Settings, label: str, now: Standing) -> tuple[str, ...]:
    score = now.points[-1].score if now.points else None
    mean, worst = ("", "") if score is None else (f"{score.mean:.3f}", f"{score.worst:.3f}")
    rounds = f"{now.round}/{settings.rounds}"
    return (
        settings.split,
        f"{settings.method} {label}".strip(),
        str(settings.seed),
        rounds,
        mean,
        worst,
        f"{now.up:,.0f}",
    )


class Plain:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def show(self, settings: Settings, label: str, now: Standing) -> None:
        if now.points and now.points[-1].round == now.round - 1:
            split, method, seed, rounds, mean, worst, up = _cells(settings, label, now)
            print(
                f"{split:12} {method:16} seed {seed}  round {rounds:>7}  mean {mean} worst {worst}  up {up} B",
                file=self._stream,
                flush=True,
            )


class Live:
    def __init__(self) -> None:
        from rich.live import Live as RichLive

        self._live = RichLive(auto_refresh=False, transient=True)
        self._lines: dict[tuple[str, str, int], tuple[str, ...]] = {}
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, problem, trace)

    def show(self, settings: Settings, label: str, now: Standing) -> None:
        done = BAR * now.round // settings.rounds
        split, method, seed, *rest = _cells(settings, label, now)
        self._lines[split, method, settings.seed] = (split, method, seed, "━" * done + "╌" * (BAR - done), *rest)
        if now.round == settings.rounds or time.monotonic() - self._drawn_at >= REFRESH_S:
            self._drawn_at = time.monotonic()
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        for head in ("split", "method", "seed", "", "round", "mean", "worst", "bytes up"):
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
