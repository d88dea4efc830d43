"""A fleet to be emulated, as frozen values: `trainer/emulate/fleet_file.py` reads them from its file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from firmware_profiles.link import Link, Shape
from firmware_profiles.schema import Profile

BACKENDS = ("process", "netns", "container", "machine")
"""What can emulate a device: docs/emulate.md says what each enforces."""

_FAST = Shape(rate_bit_per_s=1e12, delay_s=0.0, jitter_s=0.0, loss=0.0, queue_bytes=10**9)
UNSHAPED = Link(name="none", up=_FAST, down=_FAST, mtu_bytes=1500)
"""As fast as the host."""


class FleetError(ValueError):
    """A fleet that cannot be emulated as written; the message lists everything and says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The [fleet] table; None: as the demo chooses for the program."""

    data: str = "digits"
    split: str = "fd"
    methods: tuple[str, ...] = ("fl", "fd")
    rounds: int | None = None
    steps: int | None = None
    samples: int | None = None
    own_test: bool | None = None
    lr: float | None = None
    gamma: float | None = None
    normalise: bool | None = None
    bits: int = 4
    seed: int = 0
    program: str | None = None
    """A folder, relative to the fleet's file."""
    broker: str = "embedded"
    """embedded, mosquitto, or the URL of one that runs (process groups only)."""
    quorum: int | None = None
    """None: all devices but those that an event or a battery may take away."""
    deadline_s: float = 120.0
    extensions: int = 3
    start_deadline_s: float = 300.0
    shaper: str = "auto"
    """How links are laid: tun, netem, or auto: netem where the kernel has it."""
    compute: str = "time"
    """What joules of computing are modelled from: processor time here, or ARM instructions of the training steps."""
    target: float | None = None
    """Accuracy that bytes and joules are counted to. None: the best that every method reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One direction of a [link.NAME] table or of a fade; None: as the link it is made from."""

    rate_kbit_per_s: float | None = None
    delay_ms: float | None = None
    jitter_ms: float | None = None
    loss_fraction: float | None = None
    queue_bytes: int | None = None

    def change(self, shape: Shape) -> Shape:
        """Raises ValueError."""
        given: dict[str, Any] = {
            "rate_bit_per_s": None if self.rate_kbit_per_s is None else 1000 * self.rate_kbit_per_s,
            "delay_s": None if self.delay_ms is None else self.delay_ms / 1000,
            "jitter_s": None if self.jitter_ms is None else self.jitter_ms / 1000,
            "loss": self.loss_fraction,
            "queue_bytes": self.queue_bytes,
        }
        return replace(shape, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Air:
    """What a device is connected by."""

    link: Link
    radio: str | None
    """Of firmware_profiles, for frames, airtime and joules; None: none is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    profile: str
    count: int = 1
    name: str = ""
    """What events call it; the profile's where not given. Its devices are numbered through the fleet: d0, d1, ..."""
    link: str = "none"
    backend: str = "process"
    runtime: str | None = None
    arch: str = "native"
    """arm64: real ARM code under qemu-user (container) or in a whole machine."""
    memory_mib: int | None = None
    """None: the profile's usable memory (of the smallest size sold)."""
    cpus: float | None = None
    """Share of one of this host's processors; None: docs/emulate.md says how it is estimated from the profile."""
    battery_j: float | None = None
    """The device is stopped when its modelled joules have crossed this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """When: after `round` rounds have closed, or `seconds` after the first plan; neither: before the run."""

    round: int | None = None
    seconds: float | None = None

    def __str__(self) -> str:
        if self.round is not None:
            return f"round {self.round}"
        return "the start" if self.seconds is None else f"{self.seconds:g} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One [[event]] of the scenario, the same in every method's run."""

    kind: str
    """drop, fade, broker-restart or clock."""
    devices: tuple[str, ...] = ()
    at: Trigger = Trigger()
    until: Trigger | None = None
    """drop: it returns; fade: the link is as before. None: never."""
    up: Figures = Figures()
    """fade: what changes of each device's own link."""
    down: Figures = Figures()
    offset_s: float = 0.0
    """clock: added to the device's wall clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One device of the fleet."""

    name: str
    number: int
    """0-based, through all groups."""
    group: Group
    profile: Profile
    air: Air


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    name: str
    training: Training
    members: tuple[Member, ...]
    happenings: tuple[Happening, ...] = ()

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    @property
    def backends(self) -> tuple[str, ...]:
        """Those in use, in the order of `BACKENDS`."""
        return tuple(name for name in BACKENDS if any(member.group.backend == name for member in self.members))

    @property
    def quorum(self) -> int:
        if self.training.quorum is not None:
            return self.training.quorum
        leaving = {name for happening in self.happenings if happening.kind == "drop" for name in happening.devices}
        leaving |= {member.name for member in self.members if member.group.battery_j is not None}
        return max(1, len(self.members) - len(leaving))
