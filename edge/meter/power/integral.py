"""Joules from readings at known times. Pure: whoever reads the sensor gives the time."""

from __future__ import annotations

from dataclasses import dataclass

from edge.meter.power.protocol import Reading, Watts


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From one cut to the next."""

    joules: float
    """Of the covered time alone."""
    seconds: float
    covered_s: float
    """Time that lies between two readings in a row; the rest of the window was not measured and is not in `joules`."""
    samples: int


class Integral:
    """Trapezoid over watts, difference of joules. Nothing is filled in where readings are missing.

    A sensor that counts joules itself loses nothing while it is not asked; of watts, what lies between two readings
    further apart than `longest_s`, or with a failed one between them, is not counted.
    """

    def __init__(self, start_s: float, *, longest_s: float) -> None:
        self._longest_s = longest_s
        self._from_s = start_s
        self._last: tuple[float, Reading] | None = None
        self._joules = self._covered_s = 0.0
        self._samples = 0

    def add(self, at_s: float, reading: Reading) -> None:
        if self._last is not None:
            then_s, before = self._last
            seconds = at_s - then_s
            if isinstance(reading, Watts):
                counted = seconds <= self._longest_s
                joules = (before.value + reading.value) / 2 * seconds
            else:
                counted = True
                joules = reading.value - before.value
            if counted:
                self._joules += joules
                self._covered_s += seconds
        self._last = at_s, reading
        self._samples += 1

    def miss(self) -> None:
        """A reading failed."""
        if self._last is not None and isinstance(self._last[1], Watts):
            self._last = None

    def cut(self, at_s: float) -> Window:
        """The window since the last cut; the next begins here."""
        window = Window(
            joules=self._joules, seconds=at_s - self._from_s, covered_s=self._covered_s, samples=self._samples
        )
        self._from_s, self._joules, self._covered_s, self._samples = at_s, 0.0, 0.0, 0
        return window
