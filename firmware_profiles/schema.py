"""What a device profile may say: flat data, one file a device class, a source with every number, unknown keys refused.

A fact in TOML is `key = { value = 2.7, source = "pidramble", quality = "measured-by-source", note = "..." }`, its unit
at the end of its key; `others` lists what other sources say of the same thing. No profile inherits, none branches.
"""

# ruff: noqa: RUF009 - the defaults below are dataclasses.field(): see firmware_profiles.facts

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from firmware_profiles.facts import Fact, Problem, Reader, Source, needed, optional


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    soc: Fact[str] = needed(str)
    core: Fact[str] = needed(str)
    cores: Fact[int] = needed(int, 1, 64)
    clock_mhz: Fact[int] = needed(int, 100, 10_000)
    isa: Fact[str] = needed(str, one_of=("armv6", "armv7", "aarch64"))
    """Of the operating system that suits the board best."""
    ram_mib: Fact[tuple[int, ...]] = needed(int, 64, 65_536, many=True)
    """Every size the class is sold with."""
    usable_ram_mib: Fact[int] | None = optional(int, 32, 65_536)
    """Of the smallest size, after the system has started without a desktop."""
    wifi_chip: Fact[str] | None = optional(str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    wifi_standards: Fact[str] = needed(str)
    wifi_bands_ghz: Fact[tuple[float, ...]] = needed(float, 2.4, 6, many=True)
    wifi_rate_mbit_per_s: Fact[float] = needed(float, 1, 10_000)
    """Throughput as the maker documents it: the default rate of an emulated link."""
    ethernet_rate_mbit_per_s: Fact[float] | None = optional(float, 10, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of the whole board at its 5 V input, without a display; the `extra` are added to a state without Wi-Fi."""

    halt_w: Fact[float] = needed(float, 0.01, 30)
    idle_w: Fact[float] = needed(float, 0.01, 30)
    idle_trimmed_w: Fact[float] | None = optional(float, 0.01, 30)
    """With what is not needed switched off."""
    boot_w: Fact[float] | None = optional(float, 0.01, 30)
    one_core_w: Fact[float] = needed(float, 0.01, 30)
    all_cores_w: Fact[float] = needed(float, 0.01, 30)
    peak_w: Fact[float] | None = optional(float, 0.01, 30)
    wifi_associated_extra_w: Fact[float] | None = optional(float, 0.001, 5)
    wifi_transmit_extra_w: Fact[float] | None = optional(float, 0.001, 5)
    supply_a: Fact[float] = needed(float, 0.5, 10)
    """Current of the recommended supply."""
    nj_per_instruction: Fact[float] | None = optional(float, 0.001, 100)
    """Of the board, above idle, for one ARM instruction of a training step: nanojoules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtimes:
    """Whether each runtime can be there; the note says why."""

    onnx: Fact[bool] = needed(bool, note_needed=True)
    tflite: Fact[bool] = needed(bool, note_needed=True)
    numpy: Fact[bool] = needed(bool, note_needed=True)
    torch: Fact[bool] = needed(bool, note_needed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """Where each Python package comes from, or "none"."""

    numpy: Fact[str] = needed(str)
    onnxruntime: Fact[str] = needed(str)
    ai_edge_litert: Fact[str] = needed(str)
    tflite_runtime: Fact[str] = needed(str)
    torch: Fact[str] = needed(str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What to train at most: a warning's threshold, not a wall."""

    max_parameters: Fact[int] = needed(int, 100, 1_000_000_000)
    max_batch: Fact[int] = needed(int, 1, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What `potstill profiles calibrate` found on one board of this class (docs/energy.md)."""

    date: Fact[str] = needed(str)
    machine: Fact[str] = needed(str)
    program: Fact[str] = needed(str)
    """Whose training step was timed."""
    sensor: Fact[str] = needed(str)
    """What measured the watts, or "none"."""
    onnx_step_us: Fact[float] | None = optional(float, 0.1, 1e9)
    tflite_step_us: Fact[float] | None = optional(float, 0.1, 1e9)
    numpy_step_us: Fact[float] | None = optional(float, 0.1, 1e9)
    torch_step_us: Fact[float] | None = optional(float, 0.1, 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    name: str
    """Of the file, without .toml."""
    title: str
    hardware: Hardware
    network: Network
    power: Power
    runtimes: Runtimes
    wheels: Wheels
    limits: Limits
    calibration: Calibration | None = None

    def facts(self) -> Iterator[tuple[str, Fact[Any]]]:
        """Every fact that the profile has, as ("power.idle_w", fact), in the schema's order."""
        for section in SECTIONS:
            values = getattr(self, section)
            for key in () if values is None else fields(values):
                if (fact := getattr(values, key.name)) is not None:
                    yield f"{section}.{key.name}", fact


SECTIONS: dict[str, type[Any]] = {
    "hardware": Hardware,
    "network": Network,
    "power": Power,
    "runtimes": Runtimes,
    "wheels": Wheels,
    "limits": Limits,
    "calibration": Calibration,
}
_OPTIONAL = ("calibration",)


def parse_profile(raw: Mapping[str, Any], name: str, sources: Mapping[str, Source]) -> Profile | list[Problem]:
    """A profile's parsed TOML -> the profile, or everything that is wrong with it."""
    reader = Reader(sources)
    known = ["name", "title", *SECTIONS]
    reader.keys((), raw, known, [key for key in known if key not in _OPTIONAL])
    reader.heading(raw, name)
    sections: dict[str, Any] = {
        section: reader.section(section, kind, raw[section]) for section, kind in SECTIONS.items() if section in raw
    }
    if reader.problems:
        return reader.problems
    profile = Profile(name=name, title=raw["title"], **sections)
    return _inconsistencies(profile) or profile


def _inconsistencies(profile: Profile) -> list[Problem]:
    power, found = profile.power, []
    for low, high in (("halt_w", "idle_w"), ("idle_w", "one_core_w"), ("one_core_w", "all_cores_w")):
        if getattr(power, low).value > getattr(power, high).value:
            found.append(Problem(path=("power", high), message=f"is less than {low}"))
    if profile.hardware.cores.value == 1 and power.one_core_w.value != power.all_cores_w.value:
        found.append(Problem(path=("power", "one_core_w"), message="is all_cores_w on a board of one core"))
    if not profile.runtimes.numpy.value:
        found.append(Problem(path=("runtimes", "numpy"), message="runs wherever the client does"))
    return found
