"""Sensors that a kernel driver reads: INA219/220/226/230/231/3221 and others under /sys/class/hwmon.

Layout: Documentation/hwmon/ina2xx.rst (power1_input in uW, in1_input in mV, curr1_input in mA), ina3221.rst (three
channels, no power: in[123]_input in mV, curr[123]_input in mA, in[123]_label, in[123]_enable) and sysfs-interface.rst.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edge.meter.power.protocol import SensorFailed, SensorMissing, Watts

ROOT = Path("/sys/class/hwmon")
CHIPS = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina238", "ina3221")
"""Whose drivers call themselves so in `name`: what "auto" looks for. Any other chip is taken by its folder's name."""
BIND = "bind a chip with: echo ina219 0x40 > /sys/bus/i2c/devices/i2c-1/new_device (as root), or wire one"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """One figure of one chip."""

    folder: Path
    chip: str
    number: int
    label: str
    """What the device tree calls it; empty where it says nothing."""

    @property
    def spec(self) -> str:
        """As --power takes it."""
        return f"hwmon:{self.folder.name}/{self.number}"


def channels(root: Path = ROOT) -> list[Channel]:
    """Every channel of every chip that gives power, or voltage and current; those switched off are left out."""
    folders = sorted(root.glob("hwmon*"), key=lambda folder: (len(folder.name), folder.name))
    return [channel for folder in folders for channel in _channels_of(folder)]


def _channels_of(folder: Path) -> list[Channel]:
    chip = _text(folder / "name")
    powers = {int(found[1]) for file in folder.glob("power*_input") if (found := re.search(r"power(\d+)", file.name))}
    pairs = {int(found[1]) for file in folder.glob("curr*_input") if (found := re.search(r"curr(\d+)", file.name))}
    pairs = {number for number in pairs if (folder / f"in{number}_input").exists()}
    if chip == "ina3221":
        pairs -= {4}  # curr4 is the sum of the three and in4 a shunt voltage: no pair
    numbers = powers or pairs
    return [
        Channel(folder=folder, chip=chip, number=number, label=_text(folder / f"in{number}_label"))
        for number in sorted(numbers)
        if _text(folder / f"in{number}_enable") != "0"
    ]


def choose_channel(wanted: str, root: Path = ROOT) -> Channel:
    """`auto`, `hwmon2` or `hwmon2/1`. Raises SensorMissing that lists what there is."""
    found = channels(root)
    if wanted == "auto":
        fitting = [channel for channel in found if channel.chip in CHIPS]
    else:
        folder, _, number = wanted.partition("/")
        fitting = [
            channel for channel in found if channel.folder.name == folder and number in {"", str(channel.number)}
        ]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise SensorMissing(f"no power sensor {wanted!r} under {root}; {_listed(found) or BIND}")
    raise SensorMissing(f"{len(fitting)} power channels fit {wanted!r}: choose one; {_listed(fitting)}")


def _listed(found: list[Channel]) -> str:
    return ", ".join(
        f"{channel.spec} is {channel.chip}" + (f" {channel.label}" if channel.label else "") for channel in found
    )


class HwmonSensor:
    """One channel of one chip."""

    covers = "what flows through the chip's shunt, and nothing behind another supply"

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.name = f"{channel.chip} {channel.label}".strip() + f" ({channel.spec})"

    def read(self) -> Watts:
        folder, number = self._channel.folder, self._channel.number
        if (folder / f"power{number}_input").exists():
            return Watts(_number(folder / f"power{number}_input") * 1e-6)
        return Watts(_number(folder / f"in{number}_input") * _number(folder / f"curr{number}_input") * 1e-6)

    def close(self) -> None:
        """Nothing is held open."""


def _number(file: Path) -> float:
    try:
        return float(file.read_text())
    except (OSError, ValueError) as problem:
        raise SensorFailed(f"{file}: {problem}") from problem


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
