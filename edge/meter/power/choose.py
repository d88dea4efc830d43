"""A sensor by what --power says, and what sensors there are on this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge.meter.power import hwmon, ina, pmic, rapl
from edge.meter.power.protocol import PowerSensor, SensorMissing
from edge.meter.power.trace import TraceSensor

FORMS = (
    "hwmon:auto, hwmon:hwmonN[/CHANNEL], ina219:0x40[@BUS], ina228:.., ina260:.., pmic, rapl, "
    "plug:tasmota/NAME[@mqtt://HOST], plug:shelly/ID[@mqtt://HOST], trace:FILE"
)
DEVICES = Path("/dev")


def open_sensor(spec: str, *, broker: str | None = None) -> PowerSensor:
    """The sensor that `spec` names (`FORMS`); `broker` is where a plug is that names none. Raises SensorMissing."""
    kind, _, rest = spec.partition(":")
    if spec == "pmic":
        return pmic.PmicSensor()
    if spec == "rapl":
        return rapl.RaplSensor()
    if kind == "hwmon" and rest:
        return hwmon.HwmonSensor(hwmon.choose_channel(rest))
    if kind in ina.CHIPS:
        return _on_bus(kind, rest)
    if kind == "plug":
        return _plug(rest, broker)
    if kind == "trace" and rest:
        return TraceSensor(Path(rest))
    raise SensorMissing(f"no sensor is called {spec!r}: one of {FORMS}")


def _on_bus(chip: str, rest: str) -> PowerSensor:
    address, _, bus = rest.partition("@")
    try:
        where, number = int(address, 0), int(bus or ina.DEFAULT_BUS)
    except ValueError as problem:
        raise SensorMissing(f"{chip}:{rest}: an address and a bus are wanted, such as {chip}:0x40@1") from problem
    return ina.InaSensor(chip, where, ina.open_bus(number), bus_name=f"i2c-{number}")


def _plug(rest: str, broker: str | None) -> PowerSensor:
    from edge.meter.power.plug import MAKERS, PlugSensor

    name, _, url = rest.partition("@")
    maker, _, plug = name.partition("/")
    if maker not in MAKERS or not plug or set(plug) & set("+#"):
        raise SensorMissing(f"plug:{rest}: plug:MAKER/NAME is wanted, with one of {', '.join(MAKERS)}")
    if not url and broker is None:
        raise SensorMissing(f"plug:{rest}: say where it is, as in plug:{name}@mqtt://HOST")
    return PlugSensor(maker, plug, url or str(broker))


def found_sensors(
    *, hwmon_root: Path = hwmon.ROOT, rapl_root: Path = rapl.ROOT, devices: Path = DEVICES
) -> list[tuple[str, str]]:
    """(what to give to --power, what it is): everything that shows itself without being touched.

    Chips on an I2C bus that no driver has are not asked: whatever else lies at that address would be written to.
    """
    found = [(channel.spec, f"{channel.chip} {channel.label}".strip()) for channel in hwmon.channels(hwmon_root)]
    if zones := rapl.packages(rapl_root):
        found.append(("rapl", f"{len(zones)} processor package(s)"))
    if shutil.which(pmic.COMMAND[0]):
        found.append(("pmic", "vcgencmd is here; a Raspberry Pi 5 has the sensor"))
    buses = sorted(devices.glob("i2c-[0-9]*"), key=lambda bus: int(bus.name[4:]))
    found += [(f"ina219:0x40@{bus.name[4:]}", f"{bus}: an INA219, INA228 or INA260 may be wired here") for bus in buses]
    return found
