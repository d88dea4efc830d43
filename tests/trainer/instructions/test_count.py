"""Counting instructions: the arithmetic of marks, and a program that ships, counted twice in the real emulator."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from trainer.instructions import count as counting
from trainer.instructions.cli import instructions
from trainer.instructions.count import Count, CountError, count_step, read_marks
from trainer.programs import shipped

EMULATOR = pytest.mark.tools("qemu-aarch64", "gcc", "mmdebstrap", "setarch")


def read(marks: list[int], steps: int) -> Count:
    return read_marks(marks, program="p", runtime="numpy", cpu="cortex-a72", steps=steps)


def test_what_a_mark_costs_is_taken_off() -> None:
    count = read([1000, 1050, 2000, 2040, 3000, 3140, 4000, 4240, 5000, 5142], 3)
    assert (count.overhead, count.steps) == (40, (100, 200, 102))
    assert count.each == 102
    assert count.spread == pytest.approx(100 / 102)


def test_missing_marks_are_no_count() -> None:
    with pytest.raises(CountError, match="3 marks of 6"):
        read([1, 2, 3], 1)


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    said = CliRunner().invoke(instructions, ["--program", "cnn-8x8"])
    assert said.exit_code == 1
    assert "apt-get install --no-install-recommends qemu-user gcc libc6-dev mmdebstrap" in said.output


@EMULATOR
def test_a_step_is_counted_to_the_instruction() -> None:
    """The same steps in a run of N and in one of 2 N: what is counted is the step, and nothing of the run around it."""
    few, many = (count_step(shipped("cnn-8x8"), steps=steps) for steps in (2, 4))
    assert few.overhead == many.overhead
    assert few.steps == many.steps[:2]
    assert few.runtime.startswith("numpy ")
    assert 1e6 < few.each < 100e6
    assert many.spread < 0.01


@EMULATOR
def test_another_emulator_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "RUN_S", 0)
    with pytest.raises(CountError, match="count fewer --steps"):
        count_step(shipped("cnn-8x8"), steps=1)
