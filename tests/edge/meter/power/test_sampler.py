"""The integral against sums worked out by hand; the sampler on a real thread with a recorded trace."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.meter.energy import Measured
from edge.meter.power.integral import Integral
from edge.meter.power.protocol import Joules, Reading, SensorFailed, SensorMissing, Watts
from edge.meter.power.sampler import EnergyMeter, default_rate_hz
from edge.meter.power.trace import TraceSensor


def test_watts_are_joined_by_straight_lines() -> None:
    integral = Integral(0.0, longest_s=10)
    for at_s, watts in ((0.0, 1.0), (1.0, 3.0), (3.0, 3.0)):
        integral.add(at_s, Watts(watts))
    window = integral.cut(3.5)
    assert (window.joules, window.covered_s, window.seconds, window.samples) == (8.0, 3.0, 3.5, 3)


def test_a_window_goes_on_from_the_last_reading() -> None:
    integral = Integral(0.0, longest_s=10)
    integral.add(0.0, Watts(2.0))
    integral.add(1.0, Watts(2.0))
    integral.cut(1.0)
    integral.add(2.0, Watts(4.0))
    assert integral.cut(2.0).joules == 3.0


@given(st.lists(st.floats(0.1, 20), min_size=3, max_size=20), st.integers(1, 1000))
def test_cuts_lose_nothing(watts: list[float], where: int) -> None:
    whole, parts = Integral(0.0, longest_s=10), Integral(0.0, longest_s=10)
    joules = 0.0
    for at, value in enumerate(watts):
        whole.add(float(at), Watts(value))
        parts.add(float(at), Watts(value))
        if where % (at + 1) == 0:
            joules += parts.cut(float(at)).joules
    assert joules + parts.cut(99.0).joules == pytest.approx(whole.cut(99.0).joules)


def test_nothing_is_made_up_where_a_reading_failed_or_came_late() -> None:
    integral = Integral(0.0, longest_s=2)
    integral.add(0.0, Watts(5.0))
    integral.add(1.0, Watts(5.0))
    integral.miss()
    integral.add(2.0, Watts(5.0))
    integral.add(3.0, Watts(5.0))
    integral.add(6.0, Watts(5.0))  # three seconds later: who knows
    window = integral.cut(6.0)
    assert (window.joules, window.covered_s, window.seconds) == (10.0, 2.0, 6.0)


def test_a_sensor_that_counts_itself_bridges_what_was_not_asked() -> None:
    integral = Integral(0.0, longest_s=2)
    integral.add(0.0, Joules(100.0))
    integral.miss()
    integral.add(60.0, Joules(160.0))
    window = integral.cut(60.0)
    assert (window.joules, window.covered_s) == (60.0, 60.0)


def trace(folder: Path, text: str = "seconds,watts\n0,2\n1000,2\n") -> TraceSensor:
    (folder / "trace.csv").write_text(text)
    return TraceSensor(folder / "trace.csv")


def test_a_round_of_a_constant_load_is_power_times_time(tmp_path: Path) -> None:
    ticks = itertools.count()
    meter = EnergyMeter(trace(tmp_path), rate_hz=200, clock=lambda: next(ticks) / 1000)  # 1 ms from look to look
    assert meter.rest(0.05) == pytest.approx(2.0)
    meter.start()
    first, second = meter.mark(), meter.mark()
    meter.close()
    for energy in (first, second):
        basis = energy.basis
        assert isinstance(basis, Measured)
        assert energy.total_j == pytest.approx(2.0 * basis.covered_s)
        assert energy.above_idle_j == pytest.approx(0.0, abs=1e-9)
        assert (energy.compute_j, energy.radio_j) == (None, None)
        assert (basis.sensor, basis.rate_hz) == ("trace trace.csv", 200)
        assert basis.idle_w == pytest.approx(2.0)
        assert basis.idle_window_s == pytest.approx(0.048)  # from the first reading of 50 ms to the last
    assert first.measured


class Flaky:
    """Constant watts that fail when told to: a PowerSensor."""

    name = "flaky"
    covers = "nothing"

    def __init__(self) -> None:
        self.works = True
        self.asked = 0
        self.open = True

    def read(self) -> Reading:
        self.asked += 1
        if not self.works:
            raise SensorFailed("flaky: Remote I/O error")
        return Watts(3.0)

    def close(self) -> None:
        self.open = False


class Clock:
    """Steps on by a tenth of a second whenever it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.1
        return self.now_s


def test_a_sensor_that_fails_mid_run_is_said_once_and_not_filled_in(caplog: pytest.LogCaptureFixture) -> None:
    sensor, clock = Flaky(), Clock()
    meter = EnergyMeter(sensor, rate_hz=1, clock=clock)
    meter._take()
    meter._take()
    covered = meter.mark().basis
    assert isinstance(covered, Measured)
    assert covered.whole
    sensor.works = False
    with caplog.at_level(logging.WARNING, logger="potstill.edge"):
        clock.now_s += 30
        for _ in range(3):
            meter._take()
        lost = meter.mark()
        sensor.works = True
        meter._take()
    assert isinstance(lost.basis, Measured)
    assert not lost.basis.whole
    assert (lost.total_j, lost.basis.covered_s, lost.basis.samples) == (0.0, 0.0, 0)
    assert [record.message for record in caplog.records] == [
        "power: flaky: Remote I/O error; until it answers again nothing is counted",
        "power: flaky answers again",
    ]
    meter.close()
    assert not sensor.open


def test_no_baseline_means_no_idle_subtracted_figure() -> None:
    meter = EnergyMeter(Flaky(), rate_hz=10, clock=Clock())
    meter._take()
    energy = meter.mark()
    assert (energy.idle_j, energy.above_idle_j) == (None, None)


def test_a_sensor_that_gives_nothing_at_rest_is_refused() -> None:
    sensor = Flaky()
    sensor.works = False
    with pytest.raises(SensorMissing, match="check its wiring"):
        EnergyMeter(sensor, rate_hz=100, clock=Clock()).rest(0.5)


def test_slow_sensors_are_asked_slowly() -> None:
    assert (default_rate_hz("plug:tasmota/desk"), default_rate_hz("pmic"), default_rate_hz("ina219:0x40")) == (1, 2, 10)
    with pytest.raises(SensorMissing, match="samples a second"):
        EnergyMeter(Flaky(), rate_hz=0)
