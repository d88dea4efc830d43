"""What a device profile may say: flat data, one file a device class, a source with every number, unknown keys refused.

A fact in TOML is `key = { value = 2.7, source = "pidramble", quality = "measured-by-source", note = "..." }`, its unit
at the end of its key; `others` lists what other sources say of the same thing. No profile inherits, none branches.
"""

# ruff: noqa: RUF009 - the defaults below are dataclasses.field(), written by two helpers

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Path = tuple[str, ...]
"""Of keys, from the top of the file: ("power", "idle_w", "source")."""


class Quality(StrEnum):
    """How far a value can be trusted."""

    DOCUMENTED = "documented"
    """The maker's or publisher's own statement."""
    MEASURED = "measured-by-source"
    REGRESSION = "regression"
    """Read from a model fitted to measurements."""
    ESTIMATE = "engineering-estimate"
    """Derived from other figures; the note says how. Replace it by a calibration run."""
    GUESS = "guess"
    """Nothing citable was found; the note says what speaks for it. Replace it by a calibration run."""


NOTE_NEEDED = (Quality.ESTIMATE, Quality.GUESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    title: str
    address: str
    """Where it can be read: an https address, or a file of this repository."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact(Generic[T]):
    value: T
    source: str
    """A key of sources.toml."""
    quality: Quality
    note: str = ""
    others: tuple[Fact[T], ...] = ()
    """The same quantity by other sources or for other revisions of the board."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a file."""

    path: Path
    message: str


# ---------------------------------------------------------------- what a key may hold


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spec:
    of: type
    low: float = 0
    high: float = 0
    """Plausible bounds: a value in another unit (mW for W) falls outside."""
    many: bool = False
    one_of: tuple[str, ...] = ()
    note_needed: bool = False


def _fact(of: type, low: float = 0, high: float = 0, **settings: Any) -> Any:
    return field(metadata={"spec": _Spec(of=of, low=low, high=high, **settings)})


def _optional(of: type, low: float = 0, high: float = 0, **settings: Any) -> Any:
    return field(default=None, metadata={"spec": _Spec(of=of, low=low, high=high, **settings)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    soc: Fact[str] = _fact(str)
    core: Fact[str] = _fact(str)
    cores: Fact[int] = _fact(int, 1, 64)
    clock_mhz: Fact[int] = _fact(int, 100, 10_000)
    isa: Fact[str] = _fact(str, one_of=("armv6", "armv7", "aarch64"))
    """Of the operating system that suits the board best."""
    ram_mib: Fact[tuple[int, ...]] = _fact(int, 64, 65_536, many=True)
    """Every size the class is sold with."""
    usable_ram_mib: Fact[int] | None = _optional(int, 32, 65_536)
    """Of the smallest size, after the system has started without a desktop."""
    wifi_chip: Fact[str] | None = _optional(str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    wifi_standards: Fact[str] = _fact(str)
    wifi_bands_ghz: Fact[tuple[float, ...]] = _fact(float, 2.4, 6, many=True)
    wifi_rate_mbit_per_s: Fact[float] = _fact(float, 1, 10_000)
    """Throughput as the maker documents it: the default rate of an emulated link."""
    ethernet_rate_mbit_per_s: Fact[float] | None = _optional(float, 10, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of the whole board at its 5 V input, without a display; the `extra` are added to a state without Wi-Fi."""

    halt_w: Fact[float] = _fact(float, 0.01, 30)
    idle_w: Fact[float] = _fact(float, 0.01, 30)
    idle_trimmed_w: Fact[float] | None = _optional(float, 0.01, 30)
    """With what is not needed switched off."""
    boot_w: Fact[float] | None = _optional(float, 0.01, 30)
    one_core_w: Fact[float] = _fact(float, 0.01, 30)
    all_cores_w: Fact[float] = _fact(float, 0.01, 30)
    peak_w: Fact[float] | None = _optional(float, 0.01, 30)
    wifi_associated_extra_w: Fact[float] | None = _optional(float, 0.001, 5)
    wifi_transmit_extra_w: Fact[float] | None = _optional(float, 0.001, 5)
    supply_a: Fact[float] = _fact(float, 0.5, 10)
    """Current of the recommended supply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtimes:
    """Whether each runtime can be there; the note says why."""

    onnx: Fact[bool] = _fact(bool, note_needed=True)
    tflite: Fact[bool] = _fact(bool, note_needed=True)
    numpy: Fact[bool] = _fact(bool, note_needed=True)
    torch: Fact[bool] = _fact(bool, note_needed=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """Where each Python package comes from, or "none"."""

    numpy: Fact[str] = _fact(str)
    onnxruntime: Fact[str] = _fact(str)
    ai_edge_litert: Fact[str] = _fact(str)
    tflite_runtime: Fact[str] = _fact(str)
    torch: Fact[str] = _fact(str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What to train at most: a warning's threshold, not a wall."""

    max_parameters: Fact[int] = _fact(int, 100, 1_000_000_000)
    max_batch: Fact[int] = _fact(int, 1, 4096)


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

    def facts(self) -> Iterator[tuple[str, Fact[Any]]]:
        """Every fact that the profile has, as ("power.idle_w", fact), in the schema's order."""
        for section in _SECTIONS:
            values = getattr(self, section)
            for key in fields(values):
                if (fact := getattr(values, key.name)) is not None:
                    yield f"{section}.{key.name}", fact


_SECTIONS: dict[str, type[Any]] = {
    "hardware": Hardware,
    "network": Network,
    "power": Power,
    "runtimes": Runtimes,
    "wheels": Wheels,
    "limits": Limits,
}

# ---------------------------------------------------------------- TOML -> values, or everything that is wrong


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = sources
        self.problems: list[Problem] = []

    def wrong(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path=path, message=message))

    def keys(self, path: Path, table: Mapping[str, Any], known: list[str], needed: list[str]) -> None:
        for key in table:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f": did you mean {near[0]}?" if near else f": one of {', '.join(known)}"
                self.wrong((*path, key), f"unknown key{hint}")
        for key in needed:
            if key not in table:
                self.wrong((*path, key), "is missing")

    def text(self, path: Path, value: object) -> str:
        if isinstance(value, str) and value.strip():
            return value
        self.wrong(path, "is a text that says something")
        return ""

    def table(self, path: Path, value: object) -> dict[str, Any] | None:
        if isinstance(value, dict):
            return value
        self.wrong(path, "is a table")
        return None

    def section(self, name: str, raw: object) -> Any:
        table = self.table((name,), raw)
        if table is None:
            return None
        keys = fields(_SECTIONS[name])
        self.keys((name,), table, [key.name for key in keys], [key.name for key in keys if _is_needed(key)])
        facts = {
            key.name: self.fact((name, key.name), table[key.name], key.metadata["spec"])
            for key in keys
            if key.name in table
        }
        return None if self.problems else _SECTIONS[name](**facts)

    def fact(self, path: Path, raw: object, spec: _Spec) -> Fact[Any] | None:
        table = self.table(path, raw)
        if table is None:
            return None
        self.keys(path, table, [key.name for key in fields(Fact)], ["value", "source", "quality"])
        others = table.get("others", [])
        if not isinstance(others, list):
            self.wrong((*path, "others"), "is a list of facts")
            others = []
        return Fact(
            value=self.value((*path, "value"), table["value"], spec) if "value" in table else None,
            source=self.source((*path, "source"), table["source"]) if "source" in table else "",
            quality=self.quality(path, table, spec) if "quality" in table else Quality.GUESS,
            note=self.text((*path, "note"), table["note"]) if "note" in table else "",
            others=tuple(fact for other in others if (fact := self.fact((*path, "others"), other, spec)) is not None),
        )

    def value(self, path: Path, value: object, spec: _Spec) -> object:
        if not spec.many:
            return self.one(path, value, spec)
        if not isinstance(value, list) or not value:
            self.wrong(path, "is a list with at least one entry")
            return None
        return tuple(self.one(path, entry, spec) for entry in value)

    def one(self, path: Path, value: object, spec: _Spec) -> object:
        if spec.of is str:
            value = self.text(path, value)
            if spec.one_of and value not in spec.one_of:
                self.wrong(path, f"{value!r} is none of {', '.join(spec.one_of)}")
            return value
        if spec.of is bool:
            if not isinstance(value, bool):
                self.wrong(path, "is true or false")
            return value
        if isinstance(value, bool) or not isinstance(value, (int, spec.of)):
            self.wrong(path, f"{value!r} is not {'a whole number' if spec.of is int else 'a number'}")
        elif not spec.low <= value <= spec.high:  # type: ignore[operator]
            unit = path[-2].rpartition("_")[2]
            self.wrong(path, f"{value} is outside {spec.low:g}..{spec.high:g}: is it in the key's unit ({unit})?")
        return spec.of(value) if isinstance(value, (int, float)) else value

    def source(self, path: Path, source: object) -> str:
        key = self.text(path, source)
        if key and key not in self.sources:
            self.wrong(path, f"{key!r} is not in sources.toml: add its title and address there")
        return key

    def quality(self, path: Path, table: Mapping[str, Any], spec: _Spec) -> Quality:
        try:
            quality = Quality(table["quality"])
        except ValueError:
            self.wrong((*path, "quality"), f"{table['quality']!r} is none of {', '.join(Quality)}")
            return Quality.GUESS
        if (spec.note_needed or quality in NOTE_NEEDED) and "note" not in table:
            self.wrong(path, "needs a note that says why" if spec.note_needed else f"a {quality} needs a note: how so?")
        return quality


def _is_needed(key: Field[Any]) -> bool:
    return key.default is MISSING


def parse_profile(raw: Mapping[str, Any], name: str, sources: Mapping[str, Source]) -> Profile | list[Problem]:
    """A profile's parsed TOML -> the profile, or everything that is wrong with it."""
    reader = _Reader(sources)
    known = ["name", "title", *_SECTIONS]
    reader.keys((), raw, known, known)
    for key in ("name", "title"):
        if key in raw:
            reader.text((key,), raw[key])
    if "name" in raw and raw["name"] != name:
        reader.wrong(("name",), f"{raw['name']!r} is not the file's name, {name!r}")
    sections = {section: reader.section(section, raw[section]) for section in _SECTIONS if section in raw}
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


def parse_sources(raw: Mapping[str, Any]) -> dict[str, Source] | list[Problem]:
    """sources.toml, parsed -> its sources by key, or everything that is wrong with it."""
    reader = _Reader({})
    found: dict[str, Source] = {}
    for key, entry in raw.items():
        table = reader.table((key,), entry)
        if table is None:
            continue
        reader.keys((key,), table, [name.name for name in fields(Source)], ["title", "address"])
        texts = {name: reader.text((key, name), value) for name, value in table.items()}
        address = texts.get("address", "")
        if not address.startswith(("https://", "docs/")):
            reader.wrong((key, "address"), "begins with https://, or with docs/ for a file of this repository")
        if not reader.problems:
            found[key] = Source(**texts)
    return reader.problems or found
