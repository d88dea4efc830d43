"""RAPL: the energy counters of x86 processor packages under /sys/class/powercap.

Layout: Documentation/power/powercap/powercap.rst: zones intel-rapl:N with `name`, `energy_uj` and
`max_energy_range_uj`, at which the counter begins again. AMD's counters appear under the same names.
"""

from __future__ import annotations

from pathlib import Path

from edge.meter.power.protocol import Joules, SensorFailed, SensorMissing

ROOT = Path("/sys/class/powercap")


def packages(root: Path = ROOT) -> list[Path]:
    """Zones of whole packages. Their parts (core, uncore, dram) and `psys`, which holds packages, would count twice."""
    return [zone for zone in sorted(root.glob("intel-rapl:*")) if _text(zone / "name").startswith("package-")]


class RaplSensor:
    """Sum over the processor's packages, since it was opened. Raises SensorMissing.

    A counter that begins again is seen as long as it is read once a turn: 262 kJ at 100 W last 43 minutes.
    """

    covers = "the processor's packages; not memory, disks, supply or radio"

    def __init__(self, root: Path = ROOT) -> None:
        self._zones = packages(root)
        if not self._zones:
            raise SensorMissing(f"no RAPL package under {root}: only x86 processors have it, and few virtual machines")
        self.name = "rapl (" + ", ".join(_text(zone / "name") for zone in self._zones) + ")"
        try:
            self._ranges = [_number(zone / "max_energy_range_uj") for zone in self._zones]
            self._last = [_number(zone / "energy_uj") for zone in self._zones]
        except SensorFailed as problem:
            raise SensorMissing(f"{problem}: run as root, or chmod o+r the energy_uj files") from problem
        self._total_uj = 0

    def read(self) -> Joules:
        now = [_number(zone / "energy_uj") for zone in self._zones]
        self._total_uj += sum(
            after - before if after >= before else after - before + turn
            for before, after, turn in zip(self._last, now, self._ranges, strict=True)
        )
        self._last = now
        return Joules(self._total_uj * 1e-6)

    def close(self) -> None:
        """Nothing is held open."""


def _number(file: Path) -> int:
    try:
        return int(file.read_text())
    except (OSError, ValueError) as problem:
        raise SensorFailed(f"{file}: {problem}") from problem


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
