"""run.json, version 2: what one command did and found, in a form that one report can show (docs/run-json.md).

A record holds *curves*: a score against rounds, seconds, bytes and joules, one for each (method, split, seed, label).
Sums of a curve's points run from the start of its run and are means over its devices; a device's own figures stand in
`Device`. What nobody knows is None, never 0. Letters: D devices, r round.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

FORMAT = "potstill-run"
VERSION = 2
"""Of run.json; a reader refuses any other."""
KINDS = ("demo", "emulate", "reference", "rl")

PACKAGES = (
    "numpy",
    "paho-mqtt",
    "onnxruntime",
    "ai-edge-litert",
    "iotcore",
    "scikit-learn",
    "torch",
    "gymnasium",
    "ray",
)
"""Whose versions may change a figure."""


class RecordError(Exception):
    """A file is no run record. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of a score over devices (or agents)."""

    mean: float
    worst: float
    best: float

    @classmethod
    def of(cls, scores: Sequence[float]) -> Spread:
        """To six decimals, of one score at least."""
        mean = sum(scores) / len(scores)
        return cls(mean=round(mean, 6), worst=round(min(scores), 6), best=round(max(scores), 6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """Bytes of one direction, each layer alone: their sum is what went through the air. None: not known."""

    payload: float
    mqtt: float | None = None
    """Fixed header, topic, packet identifier, whole packets without payload (acknowledgements, keepalive)."""
    tls: float | None = None
    tcpip: float | None = None
    """TCP and IP headers, pure acknowledgements, retransmitted segments."""
    link: float | None = None
    """Frame headers and trailers of the radio or of Ethernet."""

    @property
    def known(self) -> float:
        """Sum of the layers that are known."""
        return self.payload + sum(value or 0.0 for value in (self.mqtt, self.tls, self.tcpip, self.link))


@dataclass(frozen=True, slots=True, kw_only=True)
class Joules:
    """Energy by where it went; `Record.provenance` says whether measured or modelled. None: not known."""

    compute: float | None
    radio: float | None
    idle: float | None

    @property
    def known(self) -> float:
        return sum(value or 0.0 for value in (self.compute, self.radio, self.idle))


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """After one round (or one exchange, or one episode: `Record.settings` says which)."""

    round: int
    """0-based."""
    score: Spread
    seconds: float | None = None
    """Since the run's first plan: of the wall clock, or of the channel model where provenance says so."""
    up: Layers | None = None
    """Cumulated bytes a device, sent."""
    down: Layers | None = None
    joules: Joules | None = None
    """Cumulated, a device."""
    missing: tuple[str, ...] = ()
    """Devices that did not count in this round."""
    devices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """device -> what it reported of this round, as it came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of one curve, at the end of its run."""

    name: str
    profile: str | None = None
    runtime: str | None = None
    link: str | None = None
    backend: str | None = None
    """What emulated it: process, netns, container, arm64, machine; None for hardware or the reference."""
    samples: tuple[int, ...] = ()
    """Training samples of each label."""
    test_samples: int | None = None
    score: float | None = None
    up: Layers | None = None
    down: Layers | None = None
    joules: Joules | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """Whatever else was counted: segments, retransmitted bytes, reconnects, cpu seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to the fleet, for the time axis."""

    kind: str
    text: str
    method: str | None = None
    """Of the curve it belongs to; None: all."""
    round: int | None = None
    seconds: float | None = None
    """As `Point.seconds`."""
    device: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    method: str
    split: str
    seed: int
    points: tuple[Point, ...]
    label: str = ""
    """What tells this curve from others of its method: `4 bits`, `asymmetric`."""
    complete: bool = True
    reason: str = ""
    """How it ended."""
    devices: tuple[Device, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Of the run as a whole: its number in the ledger, messages refused, seconds."""

    @property
    def name(self) -> str:
        return f"{self.method} {self.label}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    kind: str
    """Of the command: one of `KINDS`."""
    settings: Mapping[str, Any]
    """Everything asked for or chosen: with these, the data and the program the run can be repeated."""
    provenance: Mapping[str, str]
    """figure -> `measured: how`, `modelled: how` or `published: where`."""
    started: str
    ended: str | None = None
    complete: bool = False
    failure: str | None = None
    score: str = "accuracy"
    """What `Point.score` is: accuracy (0..1) or return."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    program: Mapping[str, Any] | None = None
    curves: tuple[Curve, ...] = ()
    events: tuple[Event, ...] = ()
    tables: tuple[Table, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}")
        for figure, source in self.provenance.items():
            if source.partition(":")[0] not in {"measured", "modelled", "published"}:
                raise ValueError(f"provenance of {figure} begins with measured:, modelled: or published:")


def environment() -> dict[str, Any]:
    return {
        "potstill": version("potstill"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_record(record: Record, path: Path) -> None:
    """Whole or not at all."""
    plain = {"format": FORMAT, "version": VERSION, **asdict(record)}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)


def read_record(path: Path) -> Record:
    """Raises RecordError."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise RecordError(f"{path} cannot be read ({problem}): name a run folder or its run.json") from problem
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise RecordError(f"{path} is no run record: name the run.json that a potstill command wrote")
    if plain.get("version") != VERSION:
        raise RecordError(f"{path} is of version {plain.get('version')}, this reads {VERSION}: run the command again")
    try:
        return _record({key: value for key, value in plain.items() if key not in {"format", "version"}})
    except (TypeError, ValueError, KeyError, AttributeError) as problem:
        raise RecordError(f"{path} is damaged ({problem}): run the command again") from problem


_T = TypeVar("_T")


def _record(plain: dict[str, Any]) -> Record:
    curves = tuple(map(_curve, plain.pop("curves")))
    events = tuple(Event(**event) for event in plain.pop("events"))
    tables = tuple(map(_table, plain.pop("tables")))
    return Record(curves=curves, events=events, tables=tables, **plain)


def _curve(plain: dict[str, Any]) -> Curve:
    points = tuple(map(_point, plain.pop("points")))
    devices = tuple(map(_device, plain.pop("devices")))
    return Curve(points=points, devices=devices, **plain)


def _point(plain: dict[str, Any]) -> Point:
    missing = tuple(plain.pop("missing"))
    return Point(score=Spread(**plain.pop("score")), missing=missing, **_sums(plain))


def _device(plain: dict[str, Any]) -> Device:
    return Device(samples=tuple(plain.pop("samples")), **_sums(plain))


def _sums(plain: dict[str, Any]) -> dict[str, Any]:
    """With bytes and joules as values."""
    return plain | {
        "up": _optional(Layers, plain["up"]),
        "down": _optional(Layers, plain["down"]),
        "joules": _optional(Joules, plain["joules"]),
    }


def _optional(kind: type[_T], plain: dict[str, Any] | None) -> _T | None:
    return None if plain is None else kind(**plain)


def _table(plain: dict[str, Any]) -> Table:
    rows = tuple(tuple(row) for row in plain["rows"])
    return Table(title=plain["title"], heads=tuple(plain["heads"]), rows=rows, notes=tuple(plain["notes"]))
