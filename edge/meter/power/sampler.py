"""Samples a sensor beside the client, and says what each round took.

A thread of its own: a training step may take longer than a sampling period. What sampling costs is in the figures, in
the idle baseline as in the rounds: it goes on at the same rate in both.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from edge.meter.energy import Energy, Measured
from edge.meter.power.integral import Integral, Window
from edge.meter.power.protocol import PowerSensor, SensorFailed, SensorMissing

LOG = logging.getLogger("potstill.edge")

RATES_HZ = {"plug": 1.0, "pmic": 2.0}
"""Of the kinds that answer slowly: a plug's own meter is read about once a second, vcgencmd is a process each time."""
RATE_HZ = 10.0
"""Of all others: an INA219 converts in 1 ms, and a reading takes about 1 ms of I2C at 100 kHz."""
LONGEST_PERIODS = 10
"""Between two readings in watts; what lies further apart is not measured (`Integral`)."""
JOIN_S = 10.0


def default_rate_hz(spec: str) -> float:
    return RATES_HZ.get(spec.partition(":")[0], RATE_HZ)


class EnergyMeter:
    """`rest`, then `start`, then a `mark` at the end of each round. Owns the sensor."""

    def __init__(self, sensor: PowerSensor, *, rate_hz: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises SensorMissing on a rate that no sensor here can keep."""
        if not 0.01 <= rate_hz <= 1000:
            raise SensorMissing(f"{rate_hz:g} samples a second: 0.01 to 1000")
        self._sensor = sensor
        self._rate_hz = rate_hz
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failing = False
        self._idle_w: float | None = None
        self._idle_s = 0.0
        self._integral = self._begin()

    @property
    def sensor(self) -> str:
        return self._sensor.name

    @property
    def idle_w(self) -> float | None:
        """Mean power at rest, where `rest` was called."""
        return self._idle_w

    def rest(self, seconds: float, *, go_on: Callable[[], bool] = lambda: True) -> float:
        """Sample for so long while nothing else happens, or until `go_on` says no: the idle baseline, in watts.

        Raises SensorMissing where the sensor gives nothing.
        """
        self._integral = self._begin()
        end_s = self._clock() + seconds
        self._take()
        while self._clock() < end_s and go_on():
            self._stop.wait(1 / self._rate_hz)
            self._take()
        window = self._cut()
        if window.covered_s <= 0:
            raise SensorMissing(
                f"{self.sensor} gave no two readings in a row in {seconds:g} s of rest: check its wiring"
            )
        self._idle_w, self._idle_s = window.joules / window.covered_s, window.covered_s
        return self._idle_w

    def start(self) -> None:
        self._integral = self._begin()
        self._take()
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)
        self._thread.start()

    def mark(self) -> Energy:
        """What the time since `start` or the last mark took."""
        self._take()
        window = self._cut()
        return measured(window, self._sensor, rate_hz=self._rate_hz, idle_w=self._idle_w, idle_window_s=self._idle_s)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        self._sensor.close()

    def _begin(self) -> Integral:
        return Integral(self._clock(), longest_s=LONGEST_PERIODS / self._rate_hz)

    def _run(self) -> None:
        due_s = self._clock()
        while not self._stop.is_set():
            due_s = max(due_s + 1 / self._rate_hz, self._clock())  # what was missed is not made up for
            if not self._stop.wait(max(0.0, due_s - self._clock())):
                self._take()

    def _take(self) -> None:
        with self._lock:
            asked_s = self._clock()
            try:
                reading = self._sensor.read()
            except SensorFailed as problem:
                self._integral.miss()
                if not self._failing:
                    LOG.warning("power: %s; until it answers again nothing is counted", problem)
                self._failing = True
                return
            self._integral.add((asked_s + self._clock()) / 2, reading)
            if self._failing:
                LOG.warning("power: %s answers again", self._sensor.name)
            self._failing = False

    def _cut(self) -> Window:
        with self._lock:
            return self._integral.cut(self._clock())


def look(sensor: PowerSensor, *, seconds: float, rate_hz: float) -> Iterator[tuple[float, float]]:
    """(seconds since the start, mean watts since the reading before), live. Closes the sensor. Raises SensorMissing."""
    meter = EnergyMeter(sensor, rate_hz=rate_hz)
    try:
        started_s = time.monotonic()
        while time.monotonic() - started_s < seconds:
            watts = meter.rest(1 / rate_hz)
            yield time.monotonic() - started_s, watts
    finally:
        meter.close()


def measured(
    window: Window, sensor: PowerSensor, *, rate_hz: float, idle_w: float | None, idle_window_s: float
) -> Energy:
    return Energy(
        total_j=window.joules,
        idle_j=None if idle_w is None else idle_w * window.covered_s,
        compute_j=None,
        radio_j=None,
        basis=Measured(
            sensor=sensor.name,
            covers=sensor.covers,
            rate_hz=rate_hz,
            samples=window.samples,
            window_s=window.seconds,
            covered_s=window.covered_s,
            idle_w=idle_w,
            idle_window_s=idle_window_s,
        ),
    )
