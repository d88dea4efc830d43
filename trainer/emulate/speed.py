"""How fast a board's core is beside one of this host's: the processor share of an emulated device.

Known where the profile holds a calibration of this program's step (`potstill profiles calibrate`), against which this
host's own step is timed. Without one an estimate: Dhrystone figures a MHz that Arm documents for its cores, times the
profile's clock, over the same of this host, whose own figure is an estimate too. Training steps are not Dhrystone:
docs/emulate.md says how far off this may be.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.meter.energy import NotCalibratedError, Slowdown, slowdown
from firmware_profiles.facts import Quality
from firmware_profiles.schema import Profile

DMIPS_PER_MHZ = {"ARM1176": 1.25, "Cortex-A53": 2.3, "Cortex-A72": 4.7, "Cortex-A76": 8.0}
"""Of one core. Arm's processor pages and technical overviews for the first three; the last from Arm's statement of 1.35
times the integer performance of a Cortex-A75 (its 5.2 to 5.9), an engineering estimate."""
HOST_DMIPS_PER_MHZ = 10.0
"""Of a desktop or server core of 2019 or later: engineering estimate."""
HOST_MHZ = 3000.0
"""Where /proc/cpuinfo does not say (virtual machines, ARM): engineering estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    share: float
    """Of one of this host's processors: what one core of the board is worth."""
    how: str
    quality: Quality

    @property
    def slowdown(self) -> Slowdown:
        """For the energy model: how many seconds of the board a processor second of this host stands for."""
        return Slowdown(factor=1 / self.share, how=self.how, quality=self.quality)


EMULATED = Speed(
    share=1.0, how="emulated ARM code, slower than the board: up to a whole processor", quality=Quality.ESTIMATE
)
"""Of a device whose instructions are not this host's: a quota on top would make it slower still."""


def speed(profile: Profile, *, host_mhz: float | None = None) -> Speed:
    """At most one processor: a device's client has one thread."""
    mhz = host_mhz or read_host_mhz()
    core = next((name for name in DMIPS_PER_MHZ if name in profile.hardware.core.value), None)
    each = DMIPS_PER_MHZ[core] if core else min(DMIPS_PER_MHZ.values())
    board = each * profile.hardware.clock_mhz.value
    share = min(1.0, board / (HOST_DMIPS_PER_MHZ * mhz))
    return Speed(
        share=round(share, 4),
        how=(
            f"estimated: {profile.hardware.core.value} at {profile.hardware.clock_mhz.value} MHz x {each:g} DMIPS/MHz, "
            f"this host {mhz:.0f} MHz x {HOST_DMIPS_PER_MHZ:g}"
        ),
        quality=Quality.ESTIMATE,
    )


def calibrated_speed(profile: Profile, *, runtime: str, program: str, host_step_s: float) -> Speed | None:
    """What a calibration of the board says of this very training step; None where there is none of it."""
    try:
        slow = slowdown(profile, runtime=runtime, program=program, host_step_s=host_step_s)
    except NotCalibratedError:
        return None
    return Speed(share=round(min(1.0, 1 / slow.factor), 4), how=f"calibrated: {slow.how}", quality=slow.quality)


def read_host_mhz(cpuinfo: Path = Path("/proc/cpuinfo")) -> float:
    """The fastest processor's clock at the moment."""
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return max((float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")), default=HOST_MHZ)
