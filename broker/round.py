"""The aggregator's state machine: events in, actions out. Nothing here waits, reads a clock, a disk or a socket.

`step(state, event, now) -> (state, actions)`; `now` is seconds on a monotonic clock, `deadline(state)` says when the
shell must bring the next `Tick`. The shell (`broker.aggregator`) carries the actions out in order; it may gather the
actions of many steps, but it commits their `Record`, `Close` and `Publish` to the ledger in one transaction before
it publishes, acknowledges or tells anything. One run has three phases:

    ASSEMBLING  waiting until enough devices are born; no plan has been published
    OPEN        round r of the plan is under way
    OVER        complete or failed

`_TABLE` at the end says what each event does in each phase. Every pair is there, because every event comes from
outside at a time of its own; what is no event at all raises `IllegalEventError`.

Decisions (docs/adr/0002, docs/round.md):

- A device is waited for while it is present and has not counted. One that departs is waited for no longer; one that
  joins or returns is. A round closes when nobody is waited for and the quorum has counted; at the deadline with the
  quorum; without it the deadline is extended a few times and then the run fails.
- An upload from a device with a seat counts even if the device is not known to be present (its will may overtake
  its upload): it is asked for its birth.
- At each extension the plan is published again: a device that hears it twice sends its pending upload again, which
  is how an upload lost at QoS 0 is found.
- What counted is averaged in the order of the seats, so that a resumed aggregator computes the same bits.

Letters: D devices, L labels, P parameters, r round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias, cast

import numpy as np

from broker.methods import fd, fl
from edge.wire.messages import (
    Birth,
    Command,
    Done,
    Message,
    Method,
    Order,
    Parameters,
    ParameterUpload,
    Plan,
    Seat,
    UintArray,
    Upload,
)
from edge.wire.rows import CodedRows

AnyUpload: TypeAlias = Upload | ParameterUpload | Done

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Connected to the broker and subscribed: a broker that was restarted may have lost what it retained."""


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


Event: TypeAlias = LinkUp | Born | Departed | Arrived | Tick

# ---------------------------------------------------------------- actions


class Fate(StrEnum):
    """What became of an upload; the ledger keeps it."""

    COUNTED = "counted"
    REPEATED = "repeated"
    """It had counted before, in this round or the one before it; nothing changes."""
    LATE = "late"
    """Its round had closed, or it is of another run."""
    EARLY = "early"
    """Of a round that has not been opened: this aggregator has forgotten something, or the device lies."""
    UNKNOWN_DEVICE = "unknown device"
    """From a device without a seat."""


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
class Refuse:
    """A device may not take part; the operator should see why. It is told nothing."""

    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class Extend:
    """The deadline has passed without a quorum; the round goes on. The operator should see it."""

    round: int
    counted: int
    left: int
    """Extensions that remain before the run fails."""


@dataclass(frozen=True, slots=True)
class Close:
    """A round is over: write its outcome into the ledger."""

    round: int
    cohort: tuple[str, ...]
    """In the order of the seats."""
    missing: tuple[str, ...]
    """Expected devices whose upload did not count, in the order of the seats."""


@dataclass(frozen=True, slots=True)
class End:
    """The run is over: complete, or failed with a reason."""

    complete: bool
    reason: str


Action: TypeAlias = Record | Publish | Tell | Refuse | Extend | Close | End

# ---------------------------------------------------------------- settings and state


class IllegalEventError(RuntimeError):
    """The shell fed something that is no event: a defect of the shell, not of the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """One run, and every default of it.

    Steps, rate, gamma and rounds are those with which FD was best on MNIST, 10 devices of 500 samples (docs/round.md).
    """

    run: int
    """uint32, never used before: a device takes an old number for its old run."""
    program: bytes
    schema: bytes
    labels: int
    """L."""
    parameters: int
    """P."""
    devices: int
    """The run starts when so many are born."""
    method: Method = Method.FD
    rounds: int = 30
    steps: int = 32
    seed: int = 0
    lr: float = 0.1
    gamma: float = 1.0
    bits: int = 4
    qos: int = 1
    report: bool = True
    normalise: bool = False
    deadline_s: float = 60.0
    """Of a round, from its opening; an extension is as long again."""
    quorum: int = 1
    """Uploads without which no round closes, devices without which no run starts."""
    extensions: int = 3
    """Times that one round is extended before the run fails."""
    start_deadline_s: float = 60.0
    """When the run starts with the quorum, or fails."""

    def __post_init__(self) -> None:
        if not 1 <= self.quorum <= self.devices <= MOST_SEATS:
            raise ValueError(f"1 <= quorum ({self.quorum}) <= devices ({self.devices}) <= {MOST_SEATS}")
        if self.extensions < 0 or self.start_deadline_s <= 0:
            raise ValueError("extensions is at least 0, start_deadline_s is positive")
        if self.labels < 1 or self.parameters < 1:
            raise ValueError("labels and parameters are positive: take them from the program's manifest")
        _plan(self, 0, frozenset(), _none(self), None)  # raises ValueError for what a plan cannot carry


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """What the ledger keeps of a run that was cut short, enough to go on with it."""

    seats: Mapping[str, int]
    """Device -> seat, from every `Tell` of a `Seat`."""
    plan: Plan | None
    """Of the last `Publish` of a plan; None when the run had not started."""
    parameters: Parameters | None
    """Of the last `Publish` of parameters (FL), written in the same transaction as its plan."""
    uploads: Mapping[str, AnyUpload]
    """Device -> upload, from every COUNTED `Record` of round `plan.round`."""


class Phase(StrEnum):
    ASSEMBLING = "assembling"
    OPEN = "open"
    OVER = "over"


@dataclass(slots=True, kw_only=True)
class RoundState:
    """One run as the aggregator knows it. Belongs to `step`: read it, never write it, never keep an old one.

    Its containers are changed in place, because a round of D uploads would otherwise copy D entries D times.
    """

    settings: RunSettings
    phase: Phase = Phase.ASSEMBLING
    due: float | None
    """When the next `Tick` is needed, on the shell's clock."""
    seats: dict[str, int] = field(default_factory=dict)
    """Every device ever let in; stable for the run."""
    present: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    plan: Plan | None = None
    """The last published."""
    parameters: Parameters | None = None
    """The last published (FL)."""
    expected: set[str] = field(default_factory=set)
    """Present at the round's opening, or born in it."""
    waiting: set[str] = field(default_factory=set)
    """Present, and not yet counted in the open round."""
    counted: dict[str, AnyUpload] = field(default_factory=dict)
    """Of the open round."""
    previous: frozenset[str] = frozenset()
    """The cohort of the round before the open one."""
    extended: int = 0
    """Times that the open round was extended."""


MOST_SEATS = 65536
"""A seat is a uint16 on the wire."""

Outcome: TypeAlias = tuple[RoundState, list[Action]]


def open_run(settings: RunSettings, now: float) -> Outcome:
    """A run that waits for its devices."""
    return RoundState(settings=settings, due=now + settings.start_deadline_s), []


def resume(settings: RunSettings, resumption: Resumption, now: float) -> Outcome:
    """Take up a run after a crash, from its ledger.

    The open round gets its whole deadline again, and every device with a seat is waited for until its birth or its
    `Gone` (both retained) says otherwise. Plan and parameters go out with the first `LinkUp`; only a run whose last
    plan was written but perhaps never sent publishes it here, before its `End`.
    """
    plan = resumption.plan
    state = RoundState(settings=settings, due=now + settings.start_deadline_s, seats=dict(resumption.seats))
    if plan is None:
        return state, []
    state.plan, state.parameters = plan, resumption.parameters
    state.previous = frozenset(device for device, seat in state.seats.items() if seat in plan.cohort)
    if plan.done:
        return state, [*_broadcast(state), *_end(state, complete=True, reason=_COMPLETE)]
    state.present = set(state.seats)
    _open(state, now)
    state.counted = dict(resumption.uploads)
    state.waiting -= state.counted.keys()
    return state, _close_if_all(state, now)


def deadline(state: RoundState) -> float | None:
    """When the shell must bring a `Tick` at the latest; None when the run is over."""
    return state.due


def step(state: RoundState, event: Event, now: float) -> Outcome:
    """The state given is changed and returned. Raises `IllegalEventError` on what is no event."""
    handler = _TABLE.get((state.phase, type(event)))
    if handler is None:
        raise IllegalEventError(f"{type(event).__name__} in phase {state.phase} is no event of this machine")
    return state, handler(state, event, now)


# ---------------------------------------------------------------- devices come and go


def _assemble(state: RoundState, event: Born, now: float) -> list[Action]:
    actions = _admit(state, event)
    if len(state.present) >= state.settings.devices:
        actions += _start(state, now)
    return actions


def _join(state: RoundState, event: Born, now: float) -> list[Action]:
    actions = _admit(state, event)
    if event.device in state.present:
        state.expected.add(event.device)
        if event.device not in state.counted:
            state.waiting.add(event.device)
        return actions
    return actions + _close_if_all(state, now)


def _admit(state: RoundState, event: Born) -> list[Action]:
    """Give the device its seat, the same one each time, or refuse it."""
    reason = _refusal(state, event)
    if reason is not None:
        _remove(state, event.device)
        state.refused.add(event.device)
        return [Refuse(event.device, reason)]
    state.refused.discard(event.device)
    state.present.add(event.device)
    seat = state.seats.setdefault(event.device, len(state.seats))
    return [Tell(event.device, Seat(run=state.settings.run, seat=seat))]


def _refusal(state: RoundState, event: Born) -> str | None:
    settings, birth = state.settings, event.birth
    if birth.program != settings.program:
        return f"program {birth.program.hex()}, the run is for {settings.program.hex()}: put the run's program on it"
    if birth.schema != settings.schema:
        return f"label schema {birth.schema.hex()}, the run's is {settings.schema.hex()}: put the run's program on it"
    if event.device not in state.seats and len(state.seats) >= MOST_SEATS:
        return f"all {MOST_SEATS} seats are taken: start another fleet"
    return None


def _remove(state: RoundState, device: str) -> None:
    state.present.discard(device)
    state.waiting.discard(device)


def _depart(state: RoundState, event: Departed, now: float) -> list[Action]:
    del now
    _remove(state, event.device)
    return []


def _depart_open(state: RoundState, event: Departed, now: float) -> list[Action]:
    _remove(state, event.device)
    return _close_if_all(state, now)


# ---------------------------------------------------------------- uploads


def _arrive_open(state: RoundState, event: Arrived, now: float) -> list[Action]:
    device, upload = event.device, event.upload
    if device not in state.seats or device in state.refused:
        return _arrive_closed(state, event, now)
    assert state.plan is not None  # the phase is OPEN
    fate = _fate(state, device, upload, state.plan)
    actions: list[Action] = [Record(device, upload, fate)]
    if device not in state.present:
        actions.append(Tell(device, Command(order=Order.REBIRTH)))
    if fate is Fate.COUNTED:
        state.counted[device] = upload
        state.waiting.discard(device)
        if not state.waiting:
            actions += _close_if_all(state, now)
    return actions


def _fate(state: RoundState, device: str, upload: AnyUpload, plan: Plan) -> Fate:
    if upload.run != plan.run:
        return Fate.LATE
    if upload.round == plan.round and not plan.done:
        return Fate.REPEATED if device in state.counted else _NEW[state.phase]
    if upload.round == plan.round - 1 and device in state.previous:
        return Fate.REPEATED
    return Fate.LATE if upload.round < plan.round else Fate.EARLY


_NEW = {Phase.OPEN: Fate.COUNTED, Phase.OVER: Fate.LATE}
"""A first upload of the plan's round: a run that has failed counts no more."""


def _arrive_closed(state: RoundState, event: Arrived, now: float) -> list[Action]:
    """No round is open for it: it is recorded, and a stranger is asked who it is.

    But only where its birth would bring it a seat: asked for nothing, it would send its upload again and again.
    """
    del now
    device, upload = event.device, event.upload
    if device not in state.seats or device in state.refused:
        actions: list[Action] = [Record(device, upload, Fate.UNKNOWN_DEVICE)]
        if state.phase is not Phase.OVER and device not in state.refused:
            actions.append(Tell(device, Command(order=Order.REBIRTH)))
        return actions
    if state.plan is not None:
        return [Record(device, upload, _fate(state, device, upload, state.plan))]
    return [Record(device, upload, Fate.EARLY if upload.run == state.settings.run else Fate.LATE)]


# ---------------------------------------------------------------- time


def _tick_assembling(state: RoundState, event: Tick, now: float) -> list[Action]:
    del event
    if not _is_due(state, now):
        return []
    present, quorum = len(state.present), state.settings.quorum
    if present >= quorum:
        return _start(state, now)
    reason = f"{present} devices came in time, the quorum is {quorum}: start more of them, or lower the quorum"
    return _end(state, complete=False, reason=reason)


def _tick_open(state: RoundState, event: Tick, now: float) -> list[Action]:
    del event
    if not _is_due(state, now):
        return []
    settings, counted = state.settings, len(state.counted)
    if counted >= settings.quorum:
        return _close(state, now)
    assert state.plan is not None  # the phase is OPEN
    if state.extended < settings.extensions:
        state.extended += 1
        state.due = now + settings.deadline_s
        left = settings.extensions - state.extended
        return [Extend(state.plan.round, counted, left), *_broadcast(state)]
    reason = (
        f"round {state.plan.round}: {counted} uploads after {state.extended} extensions, the quorum is "
        f"{settings.quorum}: see which devices are gone, allow more time, or lower the quorum"
    )
    return _end(state, complete=False, reason=reason)


def _is_due(state: RoundState, now: float) -> bool:
    return state.due is not None and now >= state.due


# ---------------------------------------------------------------- rounds


def _start(state: RoundState, now: float) -> list[Action]:
    state.plan = _plan(state.settings, 0, frozenset(), _none(state.settings), None)
    _open(state, now)
    return _broadcast(state)


def _open(state: RoundState, now: float) -> None:
    """Open the round of `state.plan`, with whoever is present."""
    state.phase = Phase.OPEN
    state.due = now + state.settings.deadline_s
    state.expected = set(state.present)
    state.waiting = set(state.present)
    state.counted = {}
    state.extended = 0


def _close_if_all(state: RoundState, now: float) -> list[Action]:
    if state.waiting or len(state.counted) < state.settings.quorum:
        return []
    return _close(state, now)


def _close(state: RoundState, now: float) -> list[Action]:
    assert state.plan is not None  # the phase is OPEN
    number, seats = state.plan.round, state.seats
    cohort = sorted(state.counted, key=seats.__getitem__)
    missing = sorted(state.expected - state.counted.keys(), key=seats.__getitem__)
    closed = Close(number, tuple(cohort), tuple(missing))
    _aggregate(state, number + 1, [state.counted[device] for device in cohort], [seats[device] for device in cohort])
    state.previous = frozenset(cohort)
    if number + 1 < state.settings.rounds:
        _open(state, now)
        return [closed, *_broadcast(state)]
    return [closed, *_broadcast(state), *_end(state, complete=True, reason=_COMPLETE)]


def _aggregate(state: RoundState, number: int, uploads: list[AnyUpload], seats: list[int]) -> None:
    """The result of the cohort's uploads becomes the plan (and the parameters) of round `number`."""
    settings = state.settings
    contributors, logits = _none(settings), None
    if settings.method is Method.FD:
        contributors, logits = fd.average(cast("list[Upload]", uploads), settings.bits)
    elif settings.method is Method.FL:
        mean = fl.average(cast("list[ParameterUpload]", uploads))
        state.parameters = Parameters(run=settings.run, round=number, parameters=mean)
    state.plan = _plan(settings, number, frozenset(seats), contributors, logits)


def _none(settings: RunSettings) -> UintArray:
    """(L,) nobody holds any label; empty where no logits are exchanged."""
    return np.zeros(settings.labels if settings.method is Method.FD else 0, np.uint32)


def _plan(
    settings: RunSettings, number: int, cohort: frozenset[int], contributors: UintArray, logits: CodedRows | None
) -> Plan:
    return Plan(
        run=settings.run,
        round=number,
        rounds=settings.rounds,
        method=settings.method,
        steps=settings.steps,
        seed=settings.seed,
        lr=settings.lr,
        gamma=settings.gamma,
        bits=settings.bits,
        deadline_s=settings.deadline_s,
        qos=settings.qos,
        report=settings.report,
        normalise=settings.normalise,
        program=settings.program,
        schema=settings.schema,
        cohort=cohort,
        contributors=contributors,
        logits=logits,
    )


def _broadcast(state: RoundState) -> list[Action]:
    """Parameters first: a device that has heard the plan then seldom waits for them."""
    messages = [message for message in (state.parameters, state.plan) if message is not None]
    return [Publish(message) for message in messages]


def _republish(state: RoundState, event: LinkUp, now: float) -> list[Action]:
    del event, now
    return _broadcast(state)


_COMPLETE = "all rounds closed"


def _end(state: RoundState, *, complete: bool, reason: str) -> list[Action]:
    state.phase, state.due = Phase.OVER, None
    return [End(complete, reason)]


def _ignore(state: RoundState, event: Event, now: float) -> list[Action]:
    del state, event, now
    return []


_Handler: TypeAlias = Callable[[RoundState, Any, float], list[Action]]

_TABLE: dict[tuple[Phase, type], _Handler] = {
    (Phase.ASSEMBLING, LinkUp): _ignore,
    (Phase.ASSEMBLING, Born): _assemble,
    (Phase.ASSEMBLING, Departed): _depart,
    (Phase.ASSEMBLING, Arrived): _arrive_closed,
    (Phase.ASSEMBLING, Tick): _tick_assembling,
    # ------------------------------------
    (Phase.OPEN, LinkUp): _republish,
    (Phase.OPEN, Born): _join,
    (Phase.OPEN, Departed): _depart_open,
    (Phase.OPEN, Arrived): _arrive_open,
    (Phase.OPEN, Tick): _tick_open,
    # ------------------------------------
    (Phase.OVER, LinkUp): _republish,
    (Phase.OVER, Born): _ignore,
    (Phase.OVER, Departed): _depart,
    (Phase.OVER, Arrived): _arrive_closed,
    (Phase.OVER, Tick): _ignore,
}
