"""A recorded trace, played again: a CSV of seconds and watts, as bench meters export it."""

from __future__ import annotations

import bisect
import csv
import math
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from edge.meter.power.protocol import SensorFailed, SensorMissing, Watts

HEADER = ["seconds", "watts"]


class TraceSensor:
    """Watts at the time since it was opened, between two rows in proportion. Raises SensorMissing on another file."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = f"trace {file.name}"
        self.covers = "what was recorded, at another time"
        self._seconds, self._watts = read_trace(file)
        self._clock = clock
        self._opened_s = clock()

    def read(self) -> Watts:
        at_s = self._clock() - self._opened_s + self._seconds[0]
        if at_s > self._seconds[-1]:
            raise SensorFailed(f"{self.name} has ended, after {self._seconds[-1] - self._seconds[0]:g} s")
        after = max(1, bisect.bisect_left(self._seconds, at_s))
        (t0, t1), (w0, w1) = self._seconds[after - 1 : after + 1], self._watts[after - 1 : after + 1]
        return Watts(w0 + (w1 - w0) * (at_s - t0) / (t1 - t0))

    def close(self) -> None:
        """Nothing is held open."""


def read_trace(file: Path) -> tuple[list[float], list[float]]:
    """Seconds and watts, row by row. Raises SensorMissing that says what is wrong and where."""
    wanted = f"a trace is CSV with the header {','.join(HEADER)} and at least two rows, seconds rising"
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            header, *rows = list(csv.reader(lines))
        pairs = [(float(seconds), float(watts)) for seconds, watts in rows]
    except (OSError, ValueError) as problem:
        raise SensorMissing(f"{file}: {problem}; {wanted}") from problem
    numbers = all(math.isfinite(number) for pair in pairs for number in pair)
    rising = all(before[0] < after[0] for before, after in pairwise(pairs))
    if header != HEADER or len(pairs) < 2 or not numbers or not rising:
        raise SensorMissing(f"{file}: {wanted}")
    return [seconds for seconds, _ in pairs], [watts for _, watts in pairs]
