"""INA219, INA228 and INA260 on an I2C bus, through Adafruit's CircuitPython drivers (the extra `ina`).

The drivers' own calibrations fit Adafruit's boards: INA219 with 0.1 ohm (32 V, 2 A), INA228 with 0.015 ohm (10 A),
INA260 with its shunt inside. The INA228 integrates by itself (register ENERGY, datasheet SBOS886, section 8.1.2): it
gives joules, and sampling misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from threading import Lock
from typing import Any

from edge.meter.power.protocol import Joules, Reading, SensorFailed, SensorMissing, Watts

DEFAULT_BUS = 1
"""The bus on pins 3 and 5 of every Raspberry Pi."""

_READ: dict[str, Callable[[Any], Reading]] = {
    "ina219": lambda driver: Watts(driver.power),
    "ina228": lambda driver: Joules(driver.energy),
    "ina260": lambda driver: Watts(driver.power / 1000),
}
CHIPS = tuple(_READ)


class LinuxBus:
    """What Adafruit's drivers ask of a bus, over Blinka's /dev/i2c-N: no board that Blinka knows is needed."""

    def __init__(self, bus: Any) -> None:
        self._lock = Lock()
        self.writeto = bus.writeto
        self.readfrom_into = bus.readfrom_into
        self.writeto_then_readfrom = bus.writeto_then_readfrom

    def try_lock(self) -> bool:
        return self._lock.acquire(blocking=False)

    def unlock(self) -> None:
        self._lock.release()

    def deinit(self) -> None:
        """The file is closed with the last reference to it."""
        del self.writeto, self.readfrom_into, self.writeto_then_readfrom


def open_bus(number: int) -> LinuxBus:
    """/dev/i2c-NUMBER. Raises SensorMissing."""
    try:
        from adafruit_blinka.microcontroller.generic_linux.i2c import I2C

        return LinuxBus(I2C(number))
    except ImportError as problem:
        raise SensorMissing(f"{problem.name}: pip install 'potstill[ina]'") from problem
    except (RuntimeError, OSError) as problem:
        raise SensorMissing(
            f"no I2C bus {number} ({problem}): switch it on (raspi-config, Interface Options, I2C) and be of group i2c"
        ) from problem


class InaSensor:
    """One chip on a bus. Raises SensorMissing where none answers at the address."""

    covers = "what flows through the chip's shunt, and nothing behind another supply"

    def __init__(self, chip: str, address: int, bus: Any, *, bus_name: str = "the bus") -> None:
        self.name = f"{chip} at 0x{address:02x} on {bus_name}"
        self._read = _READ[chip]
        self._bus = bus
        try:
            driver = getattr(import_module(f"adafruit_{chip}"), chip.upper())
        except ImportError as problem:
            raise SensorMissing(f"{problem.name}: pip install 'potstill[ina]'") from problem
        try:
            self._driver = driver(bus, address)
            if chip == "ina228":
                self._driver.reset_accumulators()
        except (ValueError, RuntimeError, OSError) as problem:
            raise SensorMissing(
                f"{self.name} does not answer ({problem}): check SDA, SCL, 3.3 V, ground and the address jumpers"
            ) from problem

    def read(self) -> Reading:
        try:
            return self._read(self._driver)
        except OSError as problem:
            raise SensorFailed(f"{self.name}: {problem}") from problem

    def close(self) -> None:
        self._bus.deinit()
