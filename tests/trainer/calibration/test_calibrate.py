"""A real calibration of this machine, with and without a sensor (a recorded trace), and figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.meter.energy import slowdown
from edge.runtime.choose import installed
from firmware_profiles.facts import Quality
from firmware_profiles.load import load_profile, read_profile
from firmware_profiles.schema import Profile
from trainer.calibration.cli import calibrate
from trainer.calibration.measure import Figures, Power, Steps, step_cpu_s
from trainer.calibration.profile import calibrated, nj_per_instruction
from trainer.instructions.counts import known_counts
from trainer.programs import SHIPPED, shipped

PI_4B = load_profile("pi-4b")


def watts(value: float) -> Power:
    return Power(watts=value, seconds=10, sensor="ina219")


def figures(*, idle_w: float = 2.5, busy_w: float = 3.5, step_s: float = 0.005) -> Figures:
    best = Steps(runtime="onnx", version="onnx 1.32.0", steps=2000, cpu_s=step_s, power=watts(busy_w))
    slow = Steps(runtime="numpy", version="numpy 2.4.6", steps=900, cpu_s=0.0112, power=watts(busy_w))
    return Figures(
        date="2026-11-22",
        machine="Raspberry Pi 4 Model B Rev 1.4",
        program="cnn-8x8",
        sensor="ina219 at 0x40 on i2c-1",
        idle=watts(idle_w),
        all_cores=watts(6.1),
        runtimes=(best, slow),
    )


def run(*arguments: str) -> str:
    result = CliRunner().invoke(calibrate, ["--seconds", "0.2", "--rest", "0.3", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def profile(file: Path) -> Profile:
    read = read_profile(file)
    assert isinstance(read, Profile), read
    return read


def test_step_times_of_every_runtime_go_into_a_profile_without_a_sensor(tmp_path: Path) -> None:
    run("--base", "pi-4b", "-o", str(tmp_path / "mine.toml"))
    mine = profile(tmp_path / "mine.toml")
    assert mine.power == PI_4B.power
    calibration = mine.calibration
    assert calibration is not None
    assert (calibration.program.value, calibration.sensor.value) == ("cnn-8x8", "none")
    for runtime in installed():
        step = getattr(calibration, f"{runtime}_step_us")
        assert step.quality is Quality.MEASURED
        assert 1 < step.value < 1e7
    here = step_cpu_s(shipped("cnn-8x8"), "numpy", seconds=0.2)
    same = slowdown(mine, runtime="numpy", program="cnn-8x8", host_step_s=here)
    assert 0.1 < same.factor < 10  # itself, on a machine that other things keep busy


def test_a_sensors_watts_take_the_place_of_what_was_known(tmp_path: Path) -> None:
    (tmp_path / "rising.csv").write_text("seconds,watts\n0,2\n250,27\n")
    out = tmp_path / "mine.toml"
    run("--base", "pi-4b", "--power", f"trace:{tmp_path / 'rising.csv'}", "--power-rate", "100", "-o", str(out))
    mine = profile(out)
    idle, busy, all_cores = (fact.value for fact in (mine.power.idle_w, mine.power.one_core_w, mine.power.all_cores_w))
    assert 2.0 < idle < busy < all_cores
    assert mine.power.idle_w.source == "potstill-calibrate"
    assert "rising.csv" in mine.power.idle_w.note
    assert mine.power.idle_w.others[0].value == PI_4B.power.idle_w.value
    assert mine.power.halt_w == PI_4B.power.halt_w


def test_without_a_file_it_only_says(tmp_path: Path) -> None:
    said = run()
    assert "us a step" in said
    assert "sensor: none" in said
    assert not list(tmp_path.iterdir())


def test_a_machine_that_is_no_known_board_must_say_where_to_start_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(calibrate, ["-o", str(tmp_path / "mine.toml")])
    assert result.exit_code == 1
    assert "say with --base which one" in result.output
    assert not list(tmp_path.iterdir())


def test_watts_that_contradict_the_profile_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "low.csv").write_text("seconds,watts\n0,0.05\n1000,0.05\n")
    arguments = ["--base", "pi-4b", "--power", f"trace:{tmp_path / 'low.csv'}", "-o", str(tmp_path / "mine.toml")]
    result = CliRunner().invoke(calibrate, ["--seconds", "0.2", "--rest", "0.3", *arguments])
    assert result.exit_code == 1
    assert "contradict each other" in result.output
    assert "is less than halt_w" in result.output
    assert not (tmp_path / "mine.toml").exists()


def test_an_unknown_sensor_is_refused_before_anything_is_measured() -> None:
    result = CliRunner().invoke(calibrate, ["--power", "toaster"])
    assert result.exit_code == 1
    assert "one of hwmon:auto" in result.output


def test_joules_of_a_step_over_its_instructions() -> None:
    counts = {"onnx": 5_000_000}
    assert nj_per_instruction(figures(), counts) == pytest.approx(1.0 * 0.005 / 5e6 * 1e9)
    mine = calibrated(PI_4B, figures(), name="mine", counts=counts)
    each = mine.power.nj_per_instruction
    assert each is not None
    assert (each.value, each.quality) == (1.0, Quality.MEASURED)
    assert each.others[0].quality is Quality.ESTIMATE


@pytest.mark.parametrize("found", [figures(busy_w=2.5), replace(figures(), idle=None)], ids=["no rise", "no rest"])
def test_no_joules_an_instruction_where_they_are_not_known(found: Figures) -> None:
    assert nj_per_instruction(found, {"onnx": 5_000_000}) is None
    assert nj_per_instruction(figures(), {"numpy": 1}) is None
    mine = calibrated(PI_4B, found, name="mine", counts={})
    assert mine.power.nj_per_instruction == PI_4B.power.nj_per_instruction


def test_a_second_calibration_replaces_the_first() -> None:
    once = calibrated(PI_4B, figures(), name="mine", counts={})
    twice = calibrated(once, figures(idle_w=2.6), name="mine", counts={})
    assert twice.title == f"{PI_4B.title}, calibrated 2026-11-22"
    assert [fact.value for fact in (twice.power.idle_w, *twice.power.idle_w.others)][:3] == [2.6, 2.5, 2.7]


def test_every_shipped_program_was_counted_on_every_64_bit_core() -> None:
    for core in ("Cortex-A53", "Cortex-A72", "Cortex-A76"):
        for program in SHIPPED:
            counts = known_counts(core, program)
            assert counts.keys() == {"numpy", "onnx", "tflite"}
            assert counts["onnx"] == min(counts.values()) > max(counts.values()) / 10
    assert known_counts("ARM1176JZF-S", "cnn-8x8") == {}
