"""The Raspberry Pi 5's power management chip, through `vcgencmd pmic_read_adc`.

It prints current and voltage of twelve rails in two blocks, paired by name (`VDD_CORE_A current(7)=...`,
`VDD_CORE_V volt(15)=...`), and two voltages without a current, EXT5V and BATT. The sum of the twelve products is what
this sensor gives. It leaves out the chip's own loss and everything that takes 5 V past it: USB, a HAT, the fan.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from edge.meter.power.protocol import SensorFailed, SensorMissing, Watts

COMMAND = ("vcgencmd", "pmic_read_adc")
TIMEOUT_S = 5.0
_LINE = re.compile(r"(\w+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)[AV]")


def rail_powers_w(transcript: str) -> dict[str, float]:
    """What the command printed -> watts by rail, those with both a current and a voltage."""
    amperes: dict[str, float] = {}
    volts: dict[str, float] = {}
    for rail, unit, value in _LINE.findall(transcript):
        (amperes if unit == "A" else volts)[rail] = float(value)
    return {rail: current * volts[rail] for rail, current in amperes.items() if rail in volts}


class PmicSensor:
    """Sum over the rails. Raises SensorMissing where there is no such command or no such chip."""

    name = "pmic (vcgencmd pmic_read_adc)"
    covers = "the chip's twelve rails; not its own loss, USB, HATs and the fan"

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._command = list(command)
        try:
            self.read()
        except SensorFailed as problem:
            raise SensorMissing(
                f"{problem}: a Raspberry Pi 5 has this sensor; be of group video, or take another --power"
            ) from problem

    def read(self) -> Watts:
        try:
            printed = subprocess.run(self._command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise SensorFailed(f"{' '.join(self._command)}: {problem}") from problem
        rails = rail_powers_w(printed.stdout)
        if printed.returncode or not rails:
            said = (printed.stderr or printed.stdout).strip() or f"status {printed.returncode}"
            raise SensorFailed(f"{' '.join(self._command)} gave no rails: {said[:200]}")
        return Watts(sum(rails.values()))

    def close(self) -> None:
        """Nothing is held open."""
