"""What a power sensor is: it says watts now, or joules since it was opened, and fails aloud."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeAlias


class SensorMissing(ValueError):  # noqa: N818 - named by what is the case; the caller wires or installs something
    """No such sensor here; the message says how to get it, or what to give instead."""


class SensorFailed(RuntimeError):  # noqa: N818 - named by what happened; the caller goes on without this reading
    """One reading did not come. The next may: nothing is filled in for it."""


class Watts(NamedTuple):
    """Power at this moment."""

    value: float


class Joules(NamedTuple):
    """Energy counted by the sensor itself since it was opened: no sampling error, whatever the rate."""

    value: float


Reading: TypeAlias = Watts | Joules


class PowerSensor(Protocol):
    """One place where electric power is measured. Asked by one thread at a time; gives one kind of reading."""

    @property
    def name(self) -> str:
        """Kind and place: "ina219 at 0x40 on i2c-1"."""
        ...

    @property
    def covers(self) -> str:
        """What is in the figure and what is not."""
        ...

    def read(self) -> Reading:
        """Raises SensorFailed."""
        ...

    def close(self) -> None: ...
