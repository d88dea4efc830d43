"""The device's state machine: events in, actions out. Nothing here waits, reads a clock, a disk or a socket.

`step(session, event) -> (session, actions)`; the shell (`edge.client`) carries the actions out in order and feeds
what comes of them back as events. A device goes through five phases:

    IDLE      no run has work for it: none heard, the last one over, or a plan for another program
    WAITING   a plan was heard, but the seat or what opens the round (parameters: FL, FLD, FRL; the fleet's memory: FRD,
              MixFRD, PD) has not come yet; any order will do
    TRAINING  the plan's K steps are under way in the shell's worker
    SENT      the round's upload is pending: no cohort has said yet whether it counted
    LEFT      told to stop

`_TABLE` at the end says what each event does in each phase; a pair that is not in it raises `IllegalEventError`.
The link may come and go in any phase: training goes on without it, and what is pending is sent again after it.

Decisions (docs/adr/0002, docs/round.md):

- The plan is the only acknowledgement. A pending upload is sent when it is made, when the link returns, when the
  aggregator asks for a rebirth, and when the same plan is heard again on a live link (the aggregator asks again);
  the plan's replay on subscribing is not such a question. It is settled by the next plan's cohort.
- A plan heard while training waits, the newest one alone. When the outdated work is done its upload is dropped, for
  its round has closed, but the model keeps what it learnt, and the newest plan begins.
- The snapshot holds what a restart needs and nothing of a round in progress: a device that dies while training
  hears the retained plan again and trains that round anew, from the model saved after its last finished round.

Letters: L labels, P parameters, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.methods.fd import teacher
from edge.wire.codec import FrameError, decode, encode
from edge.wire.messages import (
    AnyUpload,
    Command,
    FleetMemory,
    FleetPairs,
    LabelUpload,
    Opening,
    Order,
    Parameters,
    Plan,
    Seat,
    SeedUpload,
    Upload,
)
from edge.wire.options import FldOptions, ShareOptions

FloatArray: TypeAlias = NDArray[np.float32]

# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Connected to the broker and subscribed. Without a LinkDown before it: the link was replaced."""


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The connection is gone; the shell reconnects by itself."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A message for this device arrived and decoded."""

    message: Plan | Opening | Seat | Command
    replay: bool = False
    """The broker had it retained and sent it because we subscribed, not because it was published just now: the RETAIN
    flag (MQTT 5, 3.3.1.3), seen to be set so by rumqttd 0.20 and mosquitto 2.0.11."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The work of a `Train` action is done."""

    run: int
    round: int
    upload: AnyUpload
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
    """Replace the model's parameters (averaged ones: FL, FRL; FLD's converted ones)."""

    parameters: FloatArray


@dataclass(frozen=True, slots=True)
class Review:
    """Evaluate the model on the test set and publish the `Report` of `round`.

    Comes again when the device died in the round after: a report is kept once a (run, round, device).
    """

    run: int
    round: int


@dataclass(frozen=True, slots=True)
class Train:
    """Do the plan's K steps towards `teacher`, then feed `Trained`."""

    plan: Plan
    teacher: FloatArray | None
    """(L, L) leave-one-out mean logits, a row of zeros where there is no teacher; None without distillation."""
    seeds: bool = False
    """Whether the upload is to bring this device's seeds (FLD): none of its uploads is known to have counted."""
    shared: tuple[tuple[int, bytes], ...] = ()
    """Rounds and the fleet's labels of the inputs they shared, oldest first (`share`)."""
    memory: FleetMemory | FleetPairs | None = None
    """What the fleet does in the states it has seen, to be distilled before anything is played (FRD, MixFRD, PD)."""


@dataclass(frozen=True, slots=True)
class Send:
    """Publish an upload (also again, after a reconnect: the aggregator counts it once)."""

    frame: bytes
    qos: int


@dataclass(frozen=True, slots=True)
class Save:
    """Write `snapshot(session)` and the model's state to disk, atomically, before anything after it is done.

    The session is the one `step` returned with this action.
    """


@dataclass(frozen=True, slots=True)
class Note:
    """Something the operator should see: a missed cohort, a plan for another program."""

    text: str


@dataclass(frozen=True, slots=True)
class Leave:
    """End the client in good order."""

    reason: str


Action: TypeAlias = Announce | Reset | Adopt | Review | Train | Send | Save | Note | Leave

# ---------------------------------------------------------------- state


class IllegalEventError(RuntimeError):
    """The shell fed an event that cannot happen in this phase: a defect of the shell, not of the fleet."""


class Phase(StrEnum):
    IDLE = "idle"
    WAITING = "waiting"
    TRAINING = "training"
    SENT = "sent"
    LEFT = "left"


class Pending(NamedTuple):
    """An upload that no cohort has spoken of yet."""

    upload: AnyUpload
    frame: bytes
    """The same as it is saved and sent."""
    qos: int
    """Its plan's."""


class Session(NamedTuple):
    """All that a device knows of its run; a tuple, because a changed copy of it is made several times a round."""

    program: bytes
    """Digest of the program this device serves: what a plan must name."""
    phase: Phase = Phase.IDLE
    linked: bool = False
    run: int | None = None
    """The run that the model belongs to."""
    completed: int = -1
    """The last round of `run` trained here; the number of rounds when the run is over; -1: none."""
    seat: Seat | None = None
    """The last one told, perhaps of a run whose plan has not come yet."""
    plan: Plan | None = None
    """The plan acted on (or waited with) in `run`; None after a restart."""
    queued: Plan | None = None
    """The newest plan heard while training."""
    opening: Opening | None = None
    """The last heard, until it is adopted or distilled."""
    pending: Pending | None = None
    """The upload of round `completed`, until a plan settles it."""
    counted: Upload | None = None
    """This device's own rows within the logits of `plan`."""
    seeded: bool = False
    """An upload of this device has counted in this run: the aggregator has its seeds (FLD)."""
    shared: tuple[tuple[int, bytes], ...] = ()
    """Rounds and the fleet's labels of the inputs they shared, oldest first, as many as the plan says (`share`)."""
    noted: int | None = None
    """The run about which the operator has been told that it is not for this device."""


Outcome: TypeAlias = tuple[Session, list[Action]]


_FORMAT = 3
"""Of the snapshot; one of another format is left behind."""


def start(saved: Mapping[str, Any] | None, *, program: bytes) -> Session:
    """A session for a device that serves this program, from the snapshot on its disk or None.

    A snapshot of another program or release is left behind, for its model does not fit: `run` is then None, and
    the model's state saved with it must not be loaded. Raises ValueError on a mapping that `snapshot` did not write.
    """
    fresh = Session(program=program)
    if saved is None:
        return fresh
    try:
        if (saved["format"], saved["program"]) != (_FORMAT, program):
            return fresh
        frame, seat = saved["pending"], saved["seat"]
        return fresh._replace(
            phase=Phase.IDLE if frame is None else Phase.SENT,
            run=saved["run"],
            completed=saved["completed"],
            seat=None if seat is None else Seat(run=seat[0], seat=seat[1]),
            pending=None if frame is None else Pending(_upload(frame), frame, saved["pending_qos"]),
            seeded=saved["seeded"],
            shared=tuple((round_, data) for round_, data in saved["shared"]),
        )
    except (KeyError, TypeError, IndexError, ValueError, FrameError) as problem:
        raise ValueError(
            f"not a session's snapshot ({problem!r}): delete it, the device then joins afresh"
        ) from problem


def snapshot(session: Session) -> dict[str, Any]:
    """What the disk keeps: None, ints, bytes and lists of them, ready for CBOR."""
    return {
        "format": _FORMAT,
        "program": session.program,
        "run": session.run,
        "completed": session.completed,
        "seat": None if session.seat is None else [session.seat.run, session.seat.seat],
        "pending": None if session.pending is None else session.pending.frame,
        "pending_qos": 1 if session.pending is None else session.pending.qos,
        "seeded": session.seeded,
        "shared": [[round_, data] for round_, data in session.shared],
    }


def _upload(frame: bytes) -> AnyUpload:
    message = decode(frame, limit=len(frame))
    if not isinstance(message, AnyUpload):
        raise ValueError(f"a {type(message).__name__} where the pending upload belongs")  # noqa: TRY004
    return message


def step(session: Session, event: Event) -> Outcome:
    """Raises `IllegalEventError` where the table has no entry."""
    content = event.message if isinstance(event, Heard) else event
    handler = _TABLE.get((session.phase, type(content)))
    if handler is None:
        raise _illegal(session, event)
    if isinstance(event, Heard) and event.replay and _is_known(session, event.message):
        return session, []
    return handler(session, content)


def _illegal(session: Session, event: object) -> IllegalEventError:
    at = "no plan" if session.plan is None else f"run {session.plan.run} round {session.plan.round}"
    what = f"of run {event.run} round {event.round} " if isinstance(event, Trained) else ""
    return IllegalEventError(
        f"{type(event).__name__} {what}cannot happen in phase {session.phase} ({at}): "
        "feed one Trained for each Train, and no LinkUp after Leave"
    )


# ---------------------------------------------------------------- the link


def _link_up(session: Session, _: LinkUp) -> Outcome:
    session = session._replace(linked=True)
    return session, [Announce(), *_sent(session)]


def _link_down(session: Session, _: LinkDown) -> Outcome:
    return session._replace(linked=False), []


def _sent(session: Session) -> list[Action]:
    """Send what is pending, if it can be."""
    if session.pending is None or not session.linked:
        return []
    return [Send(session.pending.frame, session.pending.qos)]


# ---------------------------------------------------------------- plans


def _hear_plan(session: Session, plan: Plan) -> Outcome:
    if not _ours(session, plan):
        return _not_ours(session, plan)
    if plan.run != session.run:
        return _enter_run(session, plan)
    newest = _newest(session)
    if plan.round > newest:
        session, notes = _settle(session, plan)
        session, actions = _begin(session._replace(plan=plan))
        return session, [*notes, *actions]
    return session, _sent(session) if plan.round == newest else []


def _newest(session: Session) -> int:
    """The last round of `session.run` that a plan was heard of."""
    return session.completed if session.plan is None else session.plan.round


def _is_known(session: Session, message: object) -> bool:
    """A plan that was heard before: its replay on subscribing is not the aggregator asking again."""
    return isinstance(message, Plan) and message.run == session.run and message.round <= _newest(session)


def _queue_plan(session: Session, plan: Plan) -> Outcome:
    if not _ours(session, plan):
        return _not_ours(session, plan)
    assert session.plan is not None  # the phase is TRAINING
    if plan.run == session.run and plan.round <= session.plan.round:
        return session, []
    return session._replace(queued=plan), []


def _ours(session: Session, plan: Plan) -> bool:
    """For our program, and either of our run or with work still to come."""
    return plan.program == session.program and (plan.run == session.run or not plan.done)


def _not_ours(session: Session, plan: Plan) -> Outcome:
    if session.noted == plan.run:
        return session, []
    if plan.program != session.program:
        text = f"serves program {plan.program.hex()}, this device {session.program.hex()}: put the same program on both"
    else:
        text = "is already over: this device waits for the next"
    return session._replace(noted=plan.run), [Note(f"run {plan.run} {text}")]


def _enter_run(session: Session, plan: Plan) -> Outcome:
    session = session._replace(
        run=plan.run, completed=-1, plan=plan, pending=None, counted=None, seeded=False, shared=()
    )
    session, actions = _begin(session)
    return session, [Reset(plan.run), *actions]


def _settle(session: Session, plan: Plan) -> Outcome:
    """The cohort of a newer plan of the same run says what became of the pending upload."""
    if session.pending is None:
        return session._replace(counted=None), []
    upload = session.pending.upload
    seated = session.seat is not None and session.seat.run == plan.run and session.seat.seat in plan.cohort
    if upload.round == plan.round - 1 and seated:
        return session._replace(pending=None, counted=_means(upload), seeded=True), []
    lost = f"its cohort was not heard, the fleet is at round {plan.round}"
    if upload.round == plan.round - 1:
        lost = "the upload was late or lost, it did not count"
    return session._replace(pending=None, counted=None), [Note(f"round {upload.round}: {lost}")]


def _means(upload: AnyUpload) -> Upload | None:
    """The mean logits in it."""
    if isinstance(upload, LabelUpload | SeedUpload):
        return upload.means
    return upload if isinstance(upload, Upload) else None


def _begin(session: Session) -> Outcome:
    """Act on `session.plan`, or wait for what is missing."""
    plan = session.plan
    assert plan is not None  # every caller has just set it
    if not _ready(session, plan):
        return session._replace(phase=Phase.WAITING), []
    actions: list[Action] = []
    opening = session.opening if _opens(plan) else None
    if opening is not None:
        session = session._replace(opening=None)
    if isinstance(opening, Parameters):
        actions.append(Adopt(opening.parameters))
    if plan.report and plan.round > 0 and session.completed == plan.round - 1:
        actions.append(Review(plan.run, session.completed))
    if plan.done:
        session = session._replace(phase=Phase.IDLE, completed=plan.round, counted=None)
        return session, [*actions, Save()]
    shared = _shared(session, plan)
    seeds = isinstance(plan.read_options(), FldOptions) and not session.seeded
    memory = None if isinstance(opening, Parameters) else opening
    towards = teacher(plan, session.counted) if plan.method.averages_logits else None
    actions.append(Train(plan, towards, seeds, shared, memory))
    return session._replace(phase=Phase.TRAINING, counted=None, shared=shared), actions


def _shared(session: Session, plan: Plan) -> tuple[tuple[int, bytes], ...]:
    """The newest rounds' labels, those of this plan's eve with them."""
    options = plan.read_options()
    if not isinstance(options, ShareOptions) or not plan.labels:
        return session.shared
    before = [entry for entry in session.shared if entry[0] < plan.round - 1]
    return (*before, (plan.round - 1, plan.labels))[-options.buffer :]


def _ready(session: Session, plan: Plan) -> bool:
    heard = session.opening
    if _opens(plan) and (heard is None or (heard.run, heard.round) != (plan.run, plan.round)):
        return False
    return plan.done or (session.seat is not None and session.seat.run == plan.run)


def _opens(plan: Plan) -> bool:
    """Whether the round opens with more than its plan; round 0 starts from the program's own initial parameters."""
    return plan.round > 0 and (plan.method.sends_parameters or plan.method.sends_memory)


# ---------------------------------------------------------------- what else is heard


def _hear_opening(session: Session, opening: Opening) -> Outcome:
    plan = session.plan
    if plan is not None and opening.run == plan.run and opening.round <= plan.round:
        return session, []  # already adopted; kept, they would fill the memory of a small device
    return session._replace(opening=opening), []


def _hear_seat(session: Session, seat: Seat) -> Outcome:
    return session._replace(seat=seat), []


def _awaited_opening(session: Session, opening: Opening) -> Outcome:
    return _begin(session._replace(opening=opening))


def _awaited_seat(session: Session, seat: Seat) -> Outcome:
    return _begin(session._replace(seat=seat))


def _obey(session: Session, command: Command) -> Outcome:
    if command.order is Order.STOP:
        return session._replace(phase=Phase.LEFT), [Leave("told to stop")]
    announced: list[Action] = [Announce()] if session.linked else []
    return session, [*announced, *_sent(session)]


def _ignore(session: Session, _: object) -> Outcome:
    return session, []


# ---------------------------------------------------------------- training


def _finish(session: Session, trained: Trained) -> Outcome:
    session = _completed(session, trained)
    if session.queued is None:
        session = session._replace(phase=Phase.SENT)
        return session, [Save(), *_sent(session)]
    return _drop(session, session.queued)


def _finish_left(session: Session, trained: Trained) -> Outcome:
    """Told to stop while training: the work is saved and sent at the next start."""
    return _completed(session, trained), [Save()]


def _completed(session: Session, trained: Trained) -> Session:
    plan = session.plan
    expected = plan is not None and session.completed < plan.round
    if not expected or plan is None or (trained.run, trained.round) != (plan.run, plan.round):
        raise _illegal(session, trained)
    pending = Pending(trained.upload, encode(trained.upload), plan.qos)
    return session._replace(completed=trained.round, pending=pending)


def _drop(session: Session, newer: Plan) -> Outcome:
    """The round closed while it was trained here: the upload goes, the work stays.

    The work is saved before the next training begins, with whatever has been adopted and reset by then: that is the
    state in which a restart would begin the same training.
    """
    note = Note(f"round {session.completed}: trained too late, round {newer.round} of run {newer.run} was already open")
    session = session._replace(phase=Phase.IDLE, pending=None, queued=None)
    session, actions = _hear_plan(session, newer)
    training = [action for action in actions if isinstance(action, Train)]
    before = [action for action in actions if not isinstance(action, Train | Save)]
    return session, [note, *before, Save(), *training]


_Handler: TypeAlias = Callable[[Session, Any], Outcome]

_TABLE: dict[tuple[Phase, type], _Handler] = {
    (Phase.IDLE, LinkUp): _link_up,
    (Phase.IDLE, LinkDown): _link_down,
    (Phase.IDLE, Plan): _hear_plan,
    (Phase.IDLE, Parameters): _hear_opening,
    (Phase.IDLE, FleetMemory): _hear_opening,
    (Phase.IDLE, FleetPairs): _hear_opening,
    (Phase.IDLE, Seat): _hear_seat,
    (Phase.IDLE, Command): _obey,
    # ------------------------------------
    (Phase.WAITING, LinkUp): _link_up,
    (Phase.WAITING, LinkDown): _link_down,
    (Phase.WAITING, Plan): _hear_plan,
    (Phase.WAITING, Parameters): _awaited_opening,
    (Phase.WAITING, FleetMemory): _awaited_opening,
    (Phase.WAITING, FleetPairs): _awaited_opening,
    (Phase.WAITING, Seat): _awaited_seat,
    (Phase.WAITING, Command): _obey,
    # ------------------------------------
    (Phase.TRAINING, LinkUp): _link_up,
    (Phase.TRAINING, LinkDown): _link_down,
    (Phase.TRAINING, Plan): _queue_plan,
    (Phase.TRAINING, Parameters): _hear_opening,
    (Phase.TRAINING, FleetMemory): _hear_opening,
    (Phase.TRAINING, FleetPairs): _hear_opening,
    (Phase.TRAINING, Seat): _hear_seat,
    (Phase.TRAINING, Command): _obey,
    (Phase.TRAINING, Trained): _finish,
    # ------------------------------------
    (Phase.SENT, LinkUp): _link_up,
    (Phase.SENT, LinkDown): _link_down,
    (Phase.SENT, Plan): _hear_plan,
    (Phase.SENT, Parameters): _hear_opening,
    (Phase.SENT, FleetMemory): _hear_opening,
    (Phase.SENT, FleetPairs): _hear_opening,
    (Phase.SENT, Seat): _hear_seat,
    (Phase.SENT, Command): _obey,
    # ------------------------------------
    (Phase.LEFT, LinkDown): _link_down,
    (Phase.LEFT, Plan): _ignore,
    (Phase.LEFT, Parameters): _ignore,
    (Phase.LEFT, FleetMemory): _ignore,
    (Phase.LEFT, FleetPairs): _ignore,
    (Phase.LEFT, Seat): _ignore,
    (Phase.LEFT, Command): _ignore,
    (Phase.LEFT, Trained): _finish_left,
}
