"""The seam between the emulator and what emulates a device: what a back end is given, and what it gives.

The emulator deals the data, starts broker and aggregator, lays the links and decides when a device starts, dies and
returns. A back end starts one device as it is told and says what of it is truly enforced. Back ends: `process`,
`netns`, `container`, `machine`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from firmware_profiles.link import Link
from firmware_profiles.load import list_profiles
from firmware_profiles.schema import Profile


class BackendError(Exception):
    """A back end cannot work here, or a device cannot start. The message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device may take of this host."""

    cpus: float
    """Share of one processor."""
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One device as a back end is told to start it. Paths are the host's."""

    device: str
    fleet: str
    broker: str
    """URL as seen from inside `namespace`."""
    profile: Profile
    limits: Limits
    link: Link
    arch: str
    """native or arm64."""
    runtime: str | None
    program: Path
    """Folder; the device only reads it."""
    data: Path
    """One .npz; the device only reads it."""
    work: Path
    """Folder of the device's own, kept from start to start."""
    log: Path
    """Standard output and error are appended to it."""
    namespace: str | None
    """Of /run/netns, in which the device lives: its link, shaped, is the only way out. None: the host's network."""
    clock_offset_s: float = 0.0
    """Of its wall clock, which a `clock` event sets wrong; a back end that cannot says so in `Enforced.clock`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of what the back end gives."""

    def arguments(self, *, program: str, data: str, work: str) -> list[str]:
        """Of `potstill`, with the paths as the device sees them."""
        arguments = ["edge", "run", "--broker", self.broker, "--fleet", self.fleet, "--device", self.device]
        arguments += ["--program", program, "--data", data, "--work", work]
        if self.profile.name in list_profiles():  # a device knows what ships, and not a profile of the user's own
            arguments += ["--profile", self.profile.name]
        return arguments if self.runtime is None else [*arguments, "--runtime", self.runtime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforced:
    """What holds a device, one line each; a line that begins with "not" says that nothing does."""

    instruction_set: str
    cpu: str
    memory: str
    link: str
    clock: str
    """Its wall clock, which a `clock` event sets wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Since this start of the device. None: this back end cannot know."""

    cpu_s: float | None = None
    memory_peak_bytes: int | None = None
    oom_kills: int | None = None


class Running(Protocol):
    """A device that was started, until it has ended; a second start of it is another `Running`."""

    def poll(self) -> int | None:
        """Its exit code once it has ended: negative for a signal, as subprocess has it."""
        ...

    def terminate(self) -> None:
        """Ask it to end in good order (SIGTERM)."""
        ...

    def kill(self) -> None:
        """At once, no farewell; when this returns, nothing of it runs. Its kernel may still close its connection."""
        ...

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None when it has not ended by then."""
        ...

    def usage(self) -> Usage:
        """Also right after its end, until the back end is closed."""
        ...


class Backend(Protocol):
    """One for a run of the emulator. Whatever it makes outside its processes is recorded in `Leftovers` *before* it is
    made, so that it can be removed after a crash.
    """

    name: str
    """As in `fleet.BACKENDS`."""
    needs_namespace: bool
    """Whether its devices live in a network namespace of their own."""

    def prepare(self) -> Enforced:
        """Once, before the first start: whatever takes long (an image, a kernel). Raises BackendError with what is
        missing on this machine and how to get it.
        """
        ...

    def start(self, order: Order) -> Running:
        """Raises BackendError."""
        ...

    def close(self) -> None:
        """Remove what `prepare` and `start` made; every device has ended or is killed. Never raises."""
        ...
