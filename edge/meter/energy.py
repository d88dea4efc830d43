"""Joules of a stretch of time: measured by a sensor, or modelled from a profile. Never both in one figure. Pure.

A sensor sees the whole board: its figure has a total and, with an idle baseline, what is above it. The model adds up

    compute = CPU seconds of the device x (one_core_w - idle_w)      or  ARM instructions x nJ each
    radio   = what edge.meter's radio model says of the bytes and their airtime
    idle    = idle_w x seconds of the window

CPU seconds are counted where the client runs and scaled by how much longer the same step takes on the board
(`Slowdown`, from `potstill profiles calibrate`). Host CPU time depends on load and caches; instruction counts
do not (`potstill profiles instructions`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any

from edge.meter.radio.energy import radio_energy
from firmware_profiles.facts import Fact, Quality
from firmware_profiles.radio_schema import Radio as RadioProfile
from firmware_profiles.schema import Profile

CERTAINTY = (Quality.DOCUMENTED, Quality.MEASURED, Quality.REGRESSION, Quality.ESTIMATE, Quality.GUESS)
"""Best first."""


class MixedEnergyError(ValueError):
    """Measured joules were added to modelled ones: report them side by side instead."""


class NotCalibratedError(ValueError):
    """The profile lacks what the model needs; the message says which command fills it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How a sensor came by a figure."""

    sensor: str
    covers: str
    rate_hz: float
    """Readings a second that were asked for."""
    samples: int
    """Readings that came."""
    window_s: float
    covered_s: float
    """Of the window, what lies between two readings in a row. The joules are of this time alone."""
    idle_w: float | None
    """Mean power at rest before the run, by the same sensor at the same rate."""
    idle_window_s: float

    @property
    def whole(self) -> bool:
        """No more of the window is missing than two sampling periods."""
        return self.window_s - self.covered_s <= 2 / self.rate_hz


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelled:
    """How the model came by a figure."""

    profile: str
    compute: str
    """In words: what was counted, and what it was multiplied with."""
    radio: str
    window_s: float
    quality: Quality
    """Of the least certain number that went in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Of one window of time, or a sum of several. None: not known."""

    total_j: float
    idle_j: float | None
    compute_j: float | None
    """A sensor cannot tell compute from radio: both None."""
    radio_j: float | None
    basis: Measured | Modelled

    @property
    def measured(self) -> bool:
        return isinstance(self.basis, Measured)

    @property
    def above_idle_j(self) -> float | None:
        """Idle-subtracted: what the work took on top of a board that is switched on and waits."""
        return None if self.idle_j is None else self.total_j - self.idle_j

    def __str__(self) -> str:
        above = "" if self.above_idle_j is None else f", {self.above_idle_j:.2f} J above idle"
        missing = ""
        if isinstance(self.basis, Measured) and not self.basis.whole:
            missing = f"; {self.basis.window_s - self.basis.covered_s:.1f} of {self.basis.window_s:.1f} s not measured"
        return f"{self.total_j:.2f} J {'measured' if self.measured else 'modelled'}{above}{missing}"

    def __add__(self, other: Energy) -> Energy:
        """Raises MixedEnergyError where one is measured and the other modelled."""
        return Energy(
            total_j=self.total_j + other.total_j,
            idle_j=_sum(self.idle_j, other.idle_j),
            compute_j=_sum(self.compute_j, other.compute_j),
            radio_j=_sum(self.radio_j, other.radio_j),
            basis=_both(self.basis, other.basis),
        )

    def to_plain(self) -> dict[str, Any]:
        """For JSON: the figures, and `basis` with "measured" or "modelled" as its kind."""
        return {
            "total_j": self.total_j,
            "above_idle_j": self.above_idle_j,
            "idle_j": self.idle_j,
            "compute_j": self.compute_j,
            "radio_j": self.radio_j,
            "basis": {"kind": "measured" if self.measured else "modelled", **asdict(self.basis)},
        }


def energy_from_plain(plain: Mapping[str, Any]) -> Energy:
    """What `Energy.to_plain` wrote, from a device's journal. Raises KeyError, TypeError or ValueError."""
    how = dict(plain["basis"])
    kind = how.pop("kind")
    basis: Measured | Modelled
    if kind == "measured":
        basis = Measured(**how)
    elif kind == "modelled":
        basis = Modelled(**how | {"quality": Quality(how["quality"])})
    else:
        raise ValueError(f"energy is measured or modelled, not {kind!r}")
    return Energy(
        total_j=float(plain["total_j"]),
        idle_j=plain["idle_j"],
        compute_j=plain["compute_j"],
        radio_j=plain["radio_j"],
        basis=basis,
    )


def summed(energies: Iterable[Energy]) -> Energy:
    """Raises MixedEnergyError where measured and modelled meet, TypeError where there is nothing to sum."""
    return reduce(lambda one, other: one + other, energies)


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


def _both(one: Measured | Modelled, other: Measured | Modelled) -> Measured | Modelled:
    if isinstance(one, Measured) and isinstance(other, Measured):
        return replace(
            one,
            sensor=_said(one.sensor, other.sensor),
            covers=_said(one.covers, other.covers),
            rate_hz=min(one.rate_hz, other.rate_hz),
            samples=one.samples + other.samples,
            window_s=one.window_s + other.window_s,
            covered_s=one.covered_s + other.covered_s,
            idle_w=one.idle_w if one.idle_w == other.idle_w else None,
            idle_window_s=min(one.idle_window_s, other.idle_window_s),
        )
    if isinstance(one, Modelled) and isinstance(other, Modelled):
        return Modelled(
            profile=_said(one.profile, other.profile),
            compute=_said(one.compute, other.compute),
            radio=_said(one.radio, other.radio),
            window_s=one.window_s + other.window_s,
            quality=least_certain(one.quality, other.quality),
        )
    raise MixedEnergyError("measured and modelled joules do not add up to a figure: keep them apart")


def _said(one: str, other: str) -> str:
    """Each way once, in the order in which they came."""
    return " + ".join(dict.fromkeys([*one.split(" + "), *other.split(" + ")]))


def least_certain(*qualities: Quality) -> Quality:
    return max(qualities, key=CERTAINTY.index)


# ---------------------------------------------------------------- the model


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """How many seconds of the board a CPU second of this host stands for."""

    factor: float
    how: str
    quality: Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """Above idle."""

    joules: float
    how: str
    quality: Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    """Above idle."""

    joules: float
    how: str
    quality: Quality


def slowdown(profile: Profile, *, runtime: str, program: str, host_step_s: float) -> Slowdown:
    """Board against this host, from one training step of the same program on the same runtime.

    Raises NotCalibratedError where the profile was calibrated with another program or not at all.
    """
    if not host_step_s > 0:
        raise ValueError(f"a step of {host_step_s:g} s: measure it on this host first")
    step = step_fact(profile, runtime=runtime, program=program)
    factor = step.value * 1e-6 / host_step_s
    return Slowdown(
        factor=factor,
        how=f"{program} on {runtime}: {step.value:g} us on the board, {host_step_s * 1e6:.4g} us here, x {factor:.3g}",
        quality=step.quality,
    )


def step_fact(profile: Profile, *, runtime: str, program: str) -> Fact[float]:
    """Microseconds of a training step on the board. Raises NotCalibratedError."""
    calibration = profile.calibration
    step: Fact[float] | None = None
    if calibration is not None and calibration.program.value == program:
        step = getattr(calibration, f"{runtime}_step_us")
    if step is None:
        raise NotCalibratedError(
            f"{profile.name} has no step time of {program} on {runtime}: on the board, run "
            f"`potstill profiles calibrate --base {profile.name} --program {program}`"
        )
    return step


def compute_from_cpu(profile: Profile, *, host_cpu_s: float, slowdown: Slowdown) -> Compute:
    """The process's own CPU seconds on this host -> joules above idle on one core of the board."""
    idle, busy = profile.power.idle_w, profile.power.one_core_w
    seconds = host_cpu_s * slowdown.factor
    return Compute(
        joules=seconds * (busy.value - idle.value),
        how=f"CPU time scaled ({slowdown.how}) x ({busy.value:g} - {idle.value:g}) W",
        quality=least_certain(idle.quality, busy.quality, slowdown.quality),
    )


def compute_from_instructions(profile: Profile, *, instructions: int) -> Compute:
    """ARM instructions (`potstill profiles instructions`) -> joules above idle. Raises NotCalibratedError."""
    each = profile.power.nj_per_instruction
    if each is None:
        raise NotCalibratedError(
            f"{profile.name} has no nj_per_instruction: `potstill profiles calibrate` with a sensor fills it in"
        )
    return Compute(
        joules=instructions * each.value * 1e-9,
        how=f"ARM instructions x {each.value:g} nJ ({each.quality})",
        quality=each.quality,
    )


def radio_from_packets(
    radio: RadioProfile, *, up: Mapping[int, int], down: Mapping[int, int], window_s: float, bursts: int = 1
) -> Radio:
    """Packets of a window, {bytes: how many} each way, -> joules above idle (`edge.meter.radio.energy`).

    Raises ValueError on a bare link, of which no joules are known.
    """
    found = radio_energy(radio, up=up, down=down, seconds=window_s, bursts=bursts)
    assert radio.power is not None, "radio_energy refuses a radio without"
    facts = (radio.power.transmit_w, radio.power.receive_w, radio.power.idle_w)
    frames = (radio.power.transmit_frame_mj, radio.power.receive_frame_mj)
    return Radio(
        joules=found.above_idle_j,
        how=(
            f"{radio.name}: {sum(up.values())} packets up, {sum(down.values())} down, "
            f"{found.transmit_s + found.receive_s:.3g} s on the air x power, and a constant a frame"
        ),
        quality=least_certain(*(fact.quality for fact in (*facts, *frames))),
    )


def modelled(profile: Profile, *, compute: Compute, radio: Radio, window_s: float) -> Energy:
    """What a board of this class takes in `window_s` seconds of its own time."""
    idle = profile.power.idle_w
    return Energy(
        total_j=compute.joules + radio.joules + idle.value * window_s,
        idle_j=idle.value * window_s,
        compute_j=compute.joules,
        radio_j=radio.joules,
        basis=Modelled(
            profile=profile.name,
            compute=compute.how,
            radio=radio.how,
            window_s=window_s,
            quality=least_certain(idle.quality, compute.quality, radio.quality),
        ),
    )
