"""The aggregator's state machine: events in, actions out. Nothing here waits, reads a clock, a disk or a socket.

`step(state, event, now) -> (state, actions)`; `now` is seconds on a monotonic clock, `deadline(state)` says when the
shell must bring the next `Tick`. The shell (`broker.aggregator`) carries the actions out in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from edge.wire.messages import Birth, Done, Message, Parameters, ParameterUpload, Plan, Upload

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Born:
    device: str
    birth: Birth


@dataclass(frozen=True, slots=True)
class Departed:
    """A device's `Gone` arrived: in good order or as its last will."""

    device: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """An upload that decoded; `broker.admit` has found nothing wrong with it but may not know the round."""

    device: str
    upload: Upload | ParameterUpload | Done


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event: TypeAlias = Born | Departed | Arrived | Tick

# ---------------------------------------------------------------- actions


class Fate(StrEnum):
    """What became of an upload; the ledger keeps it."""

    COUNTED = "counted"
    REPEATED = "repeated"
    LATE = "late"
    EARLY = "early"
    UNKNOWN_DEVICE = "unknown device"


@dataclass(frozen=True, slots=True)
class Record:
    """Write what became of this upload into the ledger (before its acknowledgement)."""

    device: str
    upload: Upload | ParameterUpload | Done
    fate: Fate


@dataclass(frozen=True, slots=True)
class Publish:
    """Broadcast a plan or parameters (both retained)."""

    message: Plan | Parameters


@dataclass(frozen=True, slots=True)
class Tell:
    """Send one device its `Seat` or a `Command`."""

    device: str
    message: Message


@dataclass(frozen=True, slots=True)
class Close:
    """A round is over: write its outcome into the ledger."""

    round: int
    cohort: tuple[str, ...]
    missing: tuple[str, ...]
    """Expected devices whose upload did not count."""


@dataclass(frozen=True, slots=True)
class End:
    """The run is over: complete, or failed with a reason."""

    complete: bool
    reason: str


Action: TypeAlias = Record | Publish | Tell | Close | End
