"""Figures of a calibration -> a profile: pure. What was there before stays as what other sources say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from firmware_profiles.facts import Fact, Quality
from firmware_profiles.schema import Calibration, Profile
from trainer.calibration.measure import Figures, Power

SOURCE = "potstill-calibrate"
"""Of sources.toml."""
T = TypeVar("T")


def calibrated(base: Profile, figures: Figures, *, name: str, counts: dict[str, int]) -> Profile:
    """The base with what was measured in place of what was known; `counts`: instructions a step, by runtime."""
    power = base.power
    changes: dict[str, Any] = {}
    if figures.idle is not None:
        changes["idle_w"] = _measured(power.idle_w, figures.idle, figures)
    if (busy := figures.runtimes[0].power) is not None:
        changes["one_core_w"] = _measured(power.one_core_w, busy, figures)
        if figures.all_cores is not None:
            changes["all_cores_w"] = _measured(power.all_cores_w, figures.all_cores, figures)
        elif base.hardware.cores.value == 1:
            changes["all_cores_w"] = changes["one_core_w"]
    if (each := nj_per_instruction(figures, counts)) is not None:
        fact = _fact(each, figures, f"{figures.program} on {figures.runtimes[0].version}")
        changes["nj_per_instruction"] = _before(fact, power.nj_per_instruction)
    steps = {
        f"{steps.runtime}_step_us": _fact(_digits(steps.cpu_s * 1e6), figures, f"{steps.version}, {steps.steps} steps")
        for steps in figures.runtimes
    }
    calibration = Calibration(
        date=_fact(figures.date, figures),
        machine=_fact(figures.machine, figures),
        program=_fact(figures.program, figures),
        sensor=_fact(figures.sensor, figures),
        **steps,
    )
    title = f"{base.title.partition(', calibrated')[0]}, calibrated {figures.date}"
    return replace(base, name=name, title=title, power=replace(power, **changes), calibration=calibration)


def nj_per_instruction(figures: Figures, counts: dict[str, int]) -> float | None:
    """Of the best runtime: joules of a step above idle, over its instructions. None where one of them is not known."""
    best = figures.runtimes[0]
    if figures.idle is None or best.power is None or best.runtime not in counts:
        return None
    each = (best.power.watts - figures.idle.watts) * best.cpu_s / counts[best.runtime] * 1e9
    return _digits(each) if each > 0 else None


def _measured(known: Fact[float], power: Power, figures: Figures) -> Fact[float]:
    return _before(_fact(_digits(power.watts), figures, f"{power.sensor} over {power.seconds:.1f} s"), known)


def _before(fact: Fact[float], known: Fact[float] | None) -> Fact[float]:
    return fact if known is None else replace(fact, others=(replace(known, others=()), *known.others))


def _fact(value: T, figures: Figures, note: str = "") -> Fact[T]:
    words = f"{figures.machine}, {figures.date}" + (f": {note}" if note else "")
    return Fact(value=value, source=SOURCE, quality=Quality.MEASURED, note=words)


def _digits(value: float) -> float:
    """Four of them: no sensor or clock here has more."""
    return float(f"{value:.4g}")
