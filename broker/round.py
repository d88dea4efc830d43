"""The aggregator's state machine: events in, actions out. Nothing here waits, reads a clock, a disk or a socket.

`step(state, event, now) -> (state, actions)`; `now` is seconds on a monotonic clock, `deadline(state)` says when the
shell must bring the next `Tick`. The shell (`broker.aggregator`) carries the actions out in order; it may gather the
actions of many steps, but it commits their `Record`, `Close` and `Publish` to the ledger in one transaction before
it publishes, acknowledges or tells anything. One run has four phases:

    ASSEMBLING  waiting until enough devices are born; no plan has been published
    OPEN        round r of the plan is under way
    CONVERTING  round r has closed, the model of round r + 1 is being made of it (FLD)
    OVER        complete or failed

`_TABLE` at the end says what each event does in each phase. Every pair of what comes from outside is there, because
it comes at a time of its own; `Converted` answers a `Convert`. Anything else raises `IllegalEventError`.

Decisions (docs/adr/0002, docs/round.md):

- A device is waited for while it is present and has not counted. One that departs is waited for no longer; one that
  joins or returns is. A round closes when nobody is waited for and the quorum has counted; at the deadline with the
  quorum; without it the deadline is extended a few times and then the run fails.
- An upload from a device with a seat counts even if the device is not known to be present (its will may overtake
  its upload): it is asked for its birth.
- At each extension the plan is published again: a device that hears it twice sends its pending upload again, which
  is how an upload lost at QoS 0 is found.
- What is being converted is on no disk: until `Converted` comes, ledger and devices know the round as open. A resumed
  aggregator closes it again; an upload that came meanwhile is late, and counts if that happens.
- What counted is averaged in the order of the seats, so that a resumed aggregator computes the same bits.

Letters: D devices, L labels, P parameters, r round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from broker.methods import fd, fl, proxy, share
from broker.settings import MOST_SEATS, RunSettings, make_plan, nobody
from edge.wire.messages import (
    SEEDED,
    AnyUpload,
    Birth,
    Command,
    FleetMemory,
    FleetPairs,
    FloatArray,
    LabelUpload,
    MemoryUpload,
    Message,
    Method,
    Opening,
    Order,
    PairsUpload,
    Parameters,
    ParameterUpload,
    Plan,
    Seat,
    Seeds,
    SeedUpload,
    Upload,
)
from edge.wire.options import FldOptions, ShareOptions

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
    upload: AnyUpload


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The work of a `Convert` is done."""

    round: int
    parameters: FloatArray
    """(P,); not finite where training has diverged."""


Event: TypeAlias = LinkUp | Born | Departed | Arrived | Tick | Converted

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
    upload: AnyUpload
    fate: Fate


@dataclass(frozen=True, slots=True)
class Publish:
    """Broadcast a plan or what opens its round (both retained)."""

    message: Plan | Opening


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convert:
    """Train the model of the next round on the devices' seeds (FLD), then feed `Converted`."""

    round: int
    """The one that has closed."""
    method: Method
    options: FldOptions
    seed: int
    normalise: bool
    parameters: FloatArray | None
    """(P,) of the round before; None: the program's initial state."""
    seeds: tuple[Seeds, ...]
    """Of every device that has given any, in the order of `by_name`: seats differ from run to run."""
    teacher: NDArray[np.float64]
    """(L, L) the cohort's mean logits, zeros where nobody sent the label."""


@dataclass(frozen=True, slots=True)
class End:
    """The run is over: complete, or failed with a reason."""

    complete: bool
    reason: str


Action: TypeAlias = Record | Publish | Tell | Refuse | Extend | Convert | Close | End

# ---------------------------------------------------------------- settings and state


class IllegalEventError(RuntimeError):
    """The shell fed something that is no event: a defect of the shell, not of the fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """What the ledger keeps of a run that was cut short, enough to go on with it."""

    seats: Mapping[str, int]
    """Device -> seat, from every `Tell` of a `Seat`."""
    plan: Plan | None
    """Of the last `Publish` of a plan; None when the run had not started."""
    opening: Opening | None
    """Of the last `Publish` of what opens a round, written in the same transaction as its plan."""
    uploads: Mapping[str, AnyUpload]
    """Device -> upload, from every COUNTED `Record` of round `plan.round`."""
    seeds: Mapping[str, Seeds] = field(default_factory=dict)
    """Device -> what it gave first, from every COUNTED `Record` of the rounds before (FLD)."""


class Phase(StrEnum):
    ASSEMBLING = "assembling"
    OPEN = "open"
    CONVERTING = "converting"
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
    opening: Opening | None = None
    """The last published: parameters (FL, FLD, FRL), the fleet's memory (FRD, MixFRD, PD)."""
    seeds: dict[str, Seeds] = field(default_factory=dict)
    """What each device gave first, in a closed round (FLD)."""
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
    state.plan, state.opening, state.seeds = plan, resumption.opening, dict(resumption.seeds)
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
    if (birth.program, birth.schema) != (settings.program, settings.schema):
        labels = "of the same labels" if birth.schema == settings.schema else "of other labels"
        program = f"program {birth.program.hex()} {labels}"
        return f"{program}, the run is for {settings.program.hex()}: put the run's program on it"
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


_NEW = {Phase.OPEN: Fate.COUNTED, Phase.CONVERTING: Fate.LATE, Phase.OVER: Fate.LATE}
"""A first upload of the plan's round: neither a closed round nor a run that has failed counts any more."""


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
    state.plan = make_plan(state.settings, 0, frozenset(), nobody(state.settings), None)
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
    if state.settings.method not in SEEDED:
        return _conclude(state, now)
    convert = _convert(state)
    state.phase, state.due = Phase.CONVERTING, None
    return [convert]


def _conclude(state: RoundState, now: float) -> list[Action]:
    """The round's outcome goes into the ledger, and the next plan out."""
    assert state.plan is not None  # a round is open, or converted
    number, seats = state.plan.round, state.seats
    cohort = _cohort(state)
    missing = sorted(state.expected - state.counted.keys(), key=seats.__getitem__)
    closed = Close(number, tuple(cohort), tuple(missing))
    _aggregate(state, number + 1, [state.counted[device] for device in cohort], [seats[device] for device in cohort])
    state.previous = frozenset(cohort)
    if number + 1 < state.settings.rounds:
        _open(state, now)
        return [closed, *_broadcast(state)]
    return [closed, *_broadcast(state), *_end(state, complete=True, reason=_COMPLETE)]


def _cohort(state: RoundState) -> list[str]:
    return sorted(state.counted, key=state.seats.__getitem__)


def _aggregate(state: RoundState, number: int, uploads: list[AnyUpload], seats: list[int]) -> None:
    """The result of the cohort's uploads becomes the plan of round `number`, and what else opens it."""
    settings = state.settings
    contributors, logits, labels = nobody(settings), None, b""
    if settings.method.averages_logits:
        contributors, logits = fd.average(_means(uploads), settings.bits)
    elif settings.method not in {Method.ALONE, *SEEDED}:
        state.opening = _opening(settings, number, uploads)
    if isinstance(settings.options, ShareOptions) and number > settings.options.warm_up:
        labels = share.vote([upload for upload in uploads if isinstance(upload, LabelUpload)], settings.options)
    state.plan = make_plan(settings, number, frozenset(seats), contributors, logits, labels)


def _opening(settings: RunSettings, number: int, uploads: list[AnyUpload]) -> Opening:
    """What is not in the plan because it is large."""
    name = {"run": settings.run, "round": number}
    if settings.method.sends_parameters:
        return Parameters(**name, parameters=fl.average(cast("list[ParameterUpload]", uploads)))
    if settings.method is Method.PD:
        return FleetPairs(**name, pairs=proxy.gather(cast("list[PairsUpload]", uploads)))
    return FleetMemory(**name, memory=proxy.merge(cast("list[MemoryUpload]", uploads)))


def _means(uploads: list[AnyUpload]) -> list[Upload]:
    """The mean logits in each."""
    return [u.means if isinstance(u, LabelUpload | SeedUpload) else cast("Upload", u) for u in uploads]


# ---------------------------------------------------------------- conversion (FLD)


def _convert(state: RoundState) -> Convert:
    """What the open round's cohort said and gave, with what was given before."""
    settings, plan = state.settings, state.plan
    assert plan is not None  # the phase is OPEN
    assert isinstance(settings.options, FldOptions)  # the settings check it
    uploads = [state.counted[device] for device in _cohort(state)]
    for device, upload in state.counted.items():
        if isinstance(upload, SeedUpload):
            state.seeds.setdefault(device, upload.seeds)
    return Convert(
        round=plan.round,
        method=settings.method,
        options=settings.options,
        seed=settings.seed,
        normalise=settings.normalise,
        parameters=state.opening.parameters if isinstance(state.opening, Parameters) else None,
        seeds=tuple(state.seeds[device] for device in sorted(state.seeds, key=by_name)),
        teacher=fd.mean(_means(uploads))[1],
    )


def by_name(device: str) -> tuple[int, str]:
    """To sort by: short names first, so that d2 comes before d10."""
    return len(device), device


def _converted(state: RoundState, event: Converted, now: float) -> list[Action]:
    assert state.plan is not None  # the phase is CONVERTING
    if event.round != state.plan.round:
        raise IllegalEventError(f"round {event.round} converted while round {state.plan.round} is under way")
    if not np.isfinite(event.parameters).all():
        reason = f"round {event.round}: the conversion has diverged; lower --conversion-lr"
        return _end(state, complete=False, reason=reason)
    state.opening = Parameters(run=state.settings.run, round=event.round + 1, parameters=event.parameters)
    return _conclude(state, now)


def _join_converting(state: RoundState, event: Born, now: float) -> list[Action]:
    """It is waited for from the next round on."""
    del now
    return _admit(state, event)


def _broadcast(state: RoundState) -> list[Action]:
    """What opens the round first: a device that has heard the plan then seldom waits for it."""
    messages = [message for message in (state.opening, state.plan) if message is not None]
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
    (Phase.CONVERTING, LinkUp): _republish,
    (Phase.CONVERTING, Born): _join_converting,
    (Phase.CONVERTING, Departed): _depart,
    (Phase.CONVERTING, Arrived): _arrive_closed,
    (Phase.CONVERTING, Tick): _ignore,
    (Phase.CONVERTING, Converted): _converted,
    # ------------------------------------
    (Phase.OVER, LinkUp): _republish,
    (Phase.OVER, Born): _ignore,
    (Phase.OVER, Departed): _depart,
    (Phase.OVER, Arrived): _arrive_closed,
    (Phase.OVER, Tick): _ignore,
}
