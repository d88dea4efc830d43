"""Every topic string. Short, because a topic rides in every message: a PUBLISH of "ps/f/u/d07" spends 10 bytes on it.

| topic      | who publishes | QoS, retained | what                                      |
|------------|---------------|---------------|-------------------------------------------|
| ps/F/p     | aggregator    | 1, yes        | `Plan`                                    |
| ps/F/w     | aggregator    | 1, yes        | `Parameters`                              |
| ps/F/u/D   | device D      | 0 or 1, no    | `Upload`, `ParameterUpload` or `Done`     |
| ps/F/s/D   | device D      | 1, yes        | `Birth`; `Gone` at the end and as the will |
| ps/F/m/D   | device D      | 1, no         | `Report`, `Meter`                         |
| ps/F/c/D   | aggregator    | 1, no         | `Seat` or `Command`                       |
"""

from __future__ import annotations

import re
from functools import lru_cache

NAME_LENGTH = 32
"""Of a fleet's or a device's name; with both at their longest a topic takes 70 bytes."""

_NAME = re.compile(rf"[a-z0-9-]{{1,{NAME_LENGTH}}}")
_OF_DEVICE = re.compile(rf"ps/[a-z0-9-]{{1,{NAME_LENGTH}}}/[usmc]/([a-z0-9-]{{1,{NAME_LENGTH}}})")


def check_name(name: str, what: str = "name") -> str:
    """The name itself, or ValueError: a wildcard or slash in it would reach other devices' topics."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{what} {name!r}: 1 to {NAME_LENGTH} of the characters a-z, 0-9 and '-'")
    return name


def plan(fleet: str) -> str:
    return f"ps/{_fleet(fleet)}/p"


def parameters(fleet: str) -> str:
    return f"ps/{_fleet(fleet)}/w"


def upload(fleet: str, device: str) -> str:
    return _of_device(fleet, "u", device)


def birth(fleet: str, device: str) -> str:
    return _of_device(fleet, "s", device)


def report(fleet: str, device: str) -> str:
    return _of_device(fleet, "m", device)


def command(fleet: str, device: str) -> str:
    return _of_device(fleet, "c", device)


def every_upload(fleet: str) -> str:
    """A filter for all devices of the fleet, as are the next two."""
    return f"ps/{_fleet(fleet)}/u/+"


def every_birth(fleet: str) -> str:
    return f"ps/{_fleet(fleet)}/s/+"


def every_report(fleet: str) -> str:
    return f"ps/{_fleet(fleet)}/m/+"


def parse_device(topic: str) -> str:
    """The device that a topic belongs to. Raises ValueError on a topic of no single device."""
    match = _OF_DEVICE.fullmatch(topic)
    if match is None:
        raise ValueError(f"topic {topic!r} belongs to no device: ps/FLEET/u|s|m|c/DEVICE")
    return match[1]


def _fleet(fleet: str) -> str:
    return check_name(fleet, "fleet")


@lru_cache(maxsize=256)
def _of_device(fleet: str, channel: str, device: str) -> str:
    return f"ps/{_fleet(fleet)}/{channel}/{check_name(device, 'device')}"
