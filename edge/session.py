"""The device's state machine: events in, actions out. Nothing here waits, reads a clock, a disk or a socket.

`step(session, event) -> (session, actions)`; the shell (`edge.client`) carries the actions out in order and feeds
what comes of them back as events.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import (
    Command,
    Done,
    Parameters,
    ParameterUpload,
    Plan,
    Seat,
    Upload,
)

FloatArray: TypeAlias = NDArray[np.float32]

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Connected to the broker and subscribed."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection is gone; the shell reconnects by itself."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message for this device arrived and decoded."""

    message: Plan | Parameters | Seat | Command


@dataclass(frozen=True, slots=True)
class Trained:
    """The work of a `Train` action is done."""

    run: int
    round: int
    upload: Upload | ParameterUpload | Done
    """What this round gives to the aggregator."""


Event: TypeAlias = LinkUp | LinkDown | Heard | Trained

# ---------------------------------------------------------------- actions


@dataclass(frozen=True, slots=True)
class Announce:
    """Publish this device's `Birth`."""


@dataclass(frozen=True, slots=True)
class Reset:
    """A new run begins: model and optimiser back to the program's initial state, counters to zero."""

    run: int


@dataclass(frozen=True, slots=True)
class Adopt:
    """Replace the model's parameters (FL's averaged model)."""

    parameters: FloatArray


@dataclass(frozen=True, slots=True)
class Review:
    """Evaluate the model on the test set and publish the `Report` of `round`."""

    run: int
    round: int


@dataclass(frozen=True, slots=True)
class Train:
    """Do the plan's K steps towards `teacher`, then feed `Trained`."""

    plan: Plan
    teacher: FloatArray | None
    """(L, L) leave-one-out mean logits, a row of zeros where there is no teacher; None without distillation."""


@dataclass(frozen=True, slots=True)
class Send:
    """Publish an upload (also again, after a reconnect: the aggregator counts it once)."""

    upload: Upload | ParameterUpload | Done
    qos: int


@dataclass(frozen=True, slots=True)
class Save:
    """Write session and model state to disk, atomically, before anything after it is done."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something the operator should see: a missed cohort, a plan for another program."""

    text: str


@dataclass(frozen=True, slots=True)
class Leave:
    """End the client in good order."""

    reason: str


Action: TypeAlias = Announce | Reset | Adopt | Review | Train | Send | Save | Note | Leave
