"""A board's speed beside this host's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_profiles.facts import Fact, Quality
from firmware_profiles.load import list_profiles, load_profile
from firmware_profiles.schema import Calibration
from trainer.emulate.speed import HOST_MHZ, calibrated_speed, read_host_mhz, speed


def test_every_shipped_board_is_slower_than_a_server_core_and_in_the_right_order() -> None:
    shares = {name: speed(load_profile(name), host_mhz=3000).share for name in list_profiles()}
    assert all(0.01 < share < 1 for share in shares.values())
    assert shares["pi-zero-w"] < shares["pi-zero-2-w"] < shares["pi-3b-plus"] < shares["pi-4b"] < shares["pi-5"]


def test_the_share_is_dhrystone_a_mhz_times_the_clock() -> None:
    found = speed(load_profile("pi-zero-2-w"), host_mhz=2300)
    assert found.share == pytest.approx(2.3 * 1000 / (10 * 2300))
    assert found.slowdown.factor == pytest.approx(10)
    assert "estimated" in found.how


def test_a_slow_host_gives_a_whole_processor_at_most() -> None:
    assert speed(load_profile("pi-5"), host_mhz=100).share == 1


def test_the_host_clock_is_the_fastest_processor_s(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("model name\t: x\ncpu MHz\t\t: 2445.4\n\ncpu MHz\t\t: 2500.0\n")
    assert read_host_mhz(tmp_path / "cpuinfo") == 2500
    assert read_host_mhz(tmp_path / "absent") == HOST_MHZ


def test_a_calibrated_board_is_held_against_this_hosts_own_step() -> None:
    def fact(value: Any) -> Fact[Any]:
        return Fact(value=value, source="potstill-calibrate", quality=Quality.MEASURED)

    calibration = Calibration(
        date=fact("2026-11-22"),
        machine=fact("m"),
        program=fact("cnn-8x8"),
        sensor=fact("none"),
        onnx_step_us=fact(5000),
    )
    board = replace(load_profile("pi-zero-2-w"), calibration=calibration)
    found = calibrated_speed(board, runtime="onnx", program="cnn-8x8", host_step_s=0.0005)
    assert found is not None
    assert found.share == pytest.approx(0.1)
    assert found.slowdown.factor == pytest.approx(10)
    assert found.how.startswith("calibrated: cnn-8x8 on onnx")
    assert calibrated_speed(board, runtime="numpy", program="cnn-8x8", host_step_s=0.0005) is None
    assert calibrated_speed(load_profile("pi-5"), runtime="onnx", program="cnn-8x8", host_step_s=0.0005) is None
