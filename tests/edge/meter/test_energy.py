"""The model against sums worked out by hand, and that measured and modelled never meet in one figure."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from edge.meter.energy import (
    Compute,
    Energy,
    Measured,
    MixedEnergyError,
    Modelled,
    NotCalibratedError,
    Radio,
    compute_from_cpu,
    compute_from_instructions,
    energy_from_plain,
    modelled,
    radio_from_packets,
    slowdown,
    summed,
)
from firmware_profiles.facts import Fact, Quality
from firmware_profiles.load import load_profile, load_radio
from firmware_profiles.schema import Calibration, Profile

ZERO_2_W = load_profile("pi-zero-2-w")
"""0.6 W idle, 1.0 W with one core busy."""
NO_RADIO = Radio(joules=0.0, how="none", quality=Quality.DOCUMENTED)


def fact(value: object, quality: Quality = Quality.MEASURED) -> Fact[object]:
    return Fact(value=value, source="potstill-calibrate", quality=quality, note="")


def calibrated(step_us: float) -> Profile:
    calibration = Calibration(
        date=fact("2026-11-22"),  # type: ignore[arg-type]
        machine=fact("a board"),  # type: ignore[arg-type]
        program=fact("cnn-8x8"),  # type: ignore[arg-type]
        sensor=fact("none"),  # type: ignore[arg-type]
        numpy_step_us=fact(step_us),  # type: ignore[arg-type]
    )
    return replace(ZERO_2_W, calibration=calibration)


def measured(total_j: float, *, sensor: str = "rapl", idle_w: float | None = 1.0) -> Energy:
    basis = Measured(
        sensor=sensor,
        covers="a package",
        rate_hz=10,
        samples=30,
        window_s=3,
        covered_s=3,
        idle_w=idle_w,
        idle_window_s=5,
    )
    idle_j = None if idle_w is None else idle_w * 3
    return Energy(total_j=total_j, idle_j=idle_j, compute_j=None, radio_j=None, basis=basis)


def model(total_s: float = 10.0) -> Energy:
    compute = Compute(joules=0.4, how="by hand", quality=Quality.MEASURED)
    return modelled(ZERO_2_W, compute=compute, radio=NO_RADIO, window_s=total_s)


def test_a_board_eight_times_slower_takes_eight_times_the_cpu_time() -> None:
    slow = slowdown(calibrated(800.0), runtime="numpy", program="cnn-8x8", host_step_s=100e-6)
    assert slow.factor == pytest.approx(8.0)
    compute = compute_from_cpu(ZERO_2_W, host_cpu_s=0.5, slowdown=slow)
    assert compute.joules == pytest.approx(0.5 * 8 * (1.0 - 0.6))
    energy = modelled(
        ZERO_2_W, compute=compute, radio=Radio(joules=0.25, how="wifi", quality=Quality.GUESS), window_s=20.0
    )
    assert energy.total_j == pytest.approx(1.6 + 0.25 + 12.0)
    assert energy.above_idle_j == pytest.approx(1.85)
    assert (energy.compute_j, energy.radio_j, energy.idle_j) == pytest.approx((1.6, 0.25, 12.0))
    assert isinstance(energy.basis, Modelled)
    assert energy.basis.quality is Quality.GUESS
    assert energy.basis.profile == "pi-zero-2-w"
    assert "x 8" in energy.basis.compute


def test_instructions_cost_what_the_profile_says_and_say_that_it_is_an_estimate() -> None:
    compute = compute_from_instructions(ZERO_2_W, instructions=50_000_000)
    assert compute.joules == pytest.approx(50e6 * 0.42e-9)
    assert compute.quality is Quality.ESTIMATE
    assert "engineering-estimate" in compute.how


def test_what_was_never_calibrated_is_refused_with_the_command() -> None:
    with pytest.raises(NotCalibratedError, match="potstill profiles calibrate --base pi-zero-2-w --program cnn-8x8"):
        slowdown(ZERO_2_W, runtime="numpy", program="cnn-8x8", host_step_s=1e-4)
    with pytest.raises(NotCalibratedError, match="--program har-cnn"):
        slowdown(calibrated(800.0), runtime="numpy", program="har-cnn", host_step_s=1e-4)
    with pytest.raises(NotCalibratedError, match="on onnx"):
        slowdown(calibrated(800.0), runtime="onnx", program="cnn-8x8", host_step_s=1e-4)
    with pytest.raises(NotCalibratedError, match="nj_per_instruction"):
        compute_from_instructions(load_profile("pi-zero-w"), instructions=1)


def test_a_radio_costs_what_its_packets_cost_and_says_how() -> None:
    """Ten packets of 225 bytes, MCS 7: 78 us at 1.14 W, 139.5 us at 0.94 W, 0.42 mJ a frame, less 0.125 W idle."""
    found = radio_from_packets(load_radio("wifi-2.4-good"), up={225: 10}, down={}, window_s=1.0)
    by_hand = 10 * (78e-6 * 1.14 + 139.5e-6 * 0.94 + 0.42e-3 - 217.5e-6 * 0.125)
    assert found.joules == pytest.approx(by_hand)
    assert found.how.startswith("wifi-2.4-good: 10 packets up, 0 down")
    assert found.quality is Quality.ESTIMATE
    with pytest.raises(ValueError, match="bare link"):
        radio_from_packets(load_radio("lossy-250k"), up={225: 10}, down={}, window_s=1.0)


def test_measured_and_modelled_do_not_add_up() -> None:
    with pytest.raises(MixedEnergyError, match="keep them apart"):
        summed([measured(5.0), measured(1.0), model()])
    with pytest.raises(MixedEnergyError):
        summed([model(), measured(5.0)])


def test_sums_keep_what_is_known_and_say_how() -> None:
    total = summed([measured(5.0), measured(4.0), measured(4.0, sensor="pmic")])
    assert (total.total_j, total.idle_j, total.above_idle_j) == (13.0, 9.0, 4.0)
    assert isinstance(total.basis, Measured)
    assert total.basis.sensor == "rapl + pmic"
    assert (total.basis.window_s, total.basis.samples) == (9, 90)
    assert summed([measured(5.0), measured(5.0, idle_w=None)]).above_idle_j is None
    both = summed([model(10.0), model(5.0)])
    assert both.total_j == pytest.approx(0.8 + 0.6 * 15)
    assert isinstance(both.basis, Modelled)
    assert (both.basis.window_s, both.basis.compute) == (15.0, "by hand")


def test_a_record_says_which_it_is() -> None:
    assert measured(5.0).to_plain()["basis"]["kind"] == "measured"
    plain = model().to_plain()
    assert plain["basis"]["kind"] == "modelled"
    assert plain["basis"]["quality"] == "measured-by-source"
    assert plain["total_j"] == pytest.approx(6.4)


@pytest.mark.parametrize("energy", [measured(5.0), measured(5.0, idle_w=None), model()])
def test_a_record_reads_back_the_same(energy: Energy) -> None:
    assert energy_from_plain(json.loads(json.dumps(energy.to_plain()))) == energy


def test_a_record_of_another_kind_is_refused() -> None:
    plain = measured(5.0).to_plain()
    plain["basis"]["kind"] = "guessed"
    with pytest.raises(ValueError, match="not 'guessed'"):
        energy_from_plain(plain)
