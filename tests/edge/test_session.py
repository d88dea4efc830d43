"""The device's machine: every pair of phase and event, then the rules one by one, as short histories."""

from __future__ import annotations

from dataclasses import replace

import cbor2
import numpy as np
import pytest

from edge.session import (
    Action,
    Adopt,
    Announce,
    Event,
    Heard,
    IllegalEventError,
    Leave,
    LinkDown,
    LinkUp,
    Note,
    Pending,
    Phase,
    Review,
    Save,
    Send,
    Session,
    Train,
    Trained,
    snapshot,
    start,
    step,
)
from edge.wire.codec import encode
from edge.wire.messages import (
    Command,
    Done,
    FleetMemory,
    LabelUpload,
    Method,
    Order,
    Parameters,
    ParameterUpload,
    Plan,
    Seat,
    Seeds,
    SeedUpload,
    Upload,
)
from edge.wire.options import AgentOptions, FldOptions, ShareOptions
from edge.wire.proxy import Grid, code_memory
from edge.wire.rows import code_rows

PROGRAM, OTHER = b"prog", b"else"
RUN, ROUNDS, L = 7, 3, 2
STOP, REBIRTH = Command(order=Order.STOP), Command(order=Order.REBIRTH)
SEAT = Seat(run=RUN, seat=4)
LINK_UP, LINK_DOWN = LinkUp(), LinkDown()


def upload(number: int, rows: list[list[float]] | None = None, counts: tuple[int, ...] = (3, 5)) -> Upload:
    values = np.array(rows or [[0.75, 0.25], [0.5, 0.5]])
    coded = code_rows(values, 32)
    return Upload(run=RUN, round=number, check=1, counts=np.array(counts, np.uint32), logits=coded)


def plan(
    number: int,
    *,
    method: Method = Method.FD,
    cohort: tuple[int, ...] = (),
    run: int = RUN,
    qos: int = 1,
    options: tuple[float, ...] = (),
) -> Plan:
    """Of FD: from round 1 on three devices hold label 0 and one holds label 1."""
    fd = method is Method.FD
    contributors = np.array(([3, 1] if number > 0 else [0, 0]) if fd else [], np.uint32)
    return Plan(
        run=run,
        round=number,
        rounds=ROUNDS,
        method=method,
        steps=8,
        seed=1,
        lr=0.1,
        gamma=1.0,
        bits=32,
        deadline_s=10.0,
        qos=qos,
        report=True,
        normalise=False,
        program=PROGRAM,
        cohort=frozenset(cohort),
        contributors=contributors,
        logits=code_rows(np.array([[0.5, 0.5], [0.25, 0.75]]), 32) if fd and number > 0 else None,
        options=options,
    )


def parameters(number: int, run: int = RUN) -> Parameters:
    return Parameters(run=run, round=number, parameters=np.full(3, number, np.float32))


def trained(number: int, run: int = RUN) -> Trained:
    return Trained(run, number, replace(upload(number), run=run))


def heard(*messages: Plan | Parameters | Seat | Command) -> list[Event]:
    return [Heard(message) for message in messages]


def play(session: Session, *events: Event) -> tuple[Session, list[Action]]:
    """-> the session after all events, the actions of the last."""
    actions: list[Action] = []
    for event in events:
        session, actions = step(session, event)
    return session, actions


def fresh() -> Session:
    return start(None, program=PROGRAM)


def seated() -> Session:
    return play(fresh(), LINK_UP, Heard(SEAT))[0]


def training(number: int = 0) -> Session:
    """Linked, seated, in the training of round `number`; all before it trained and counted."""
    session = play(seated(), Heard(plan(0)))[0]
    for done in range(number):
        session = play(session, trained(done), Heard(plan(done + 1, cohort=(4,))))[0]
    return session


def sent(number: int = 0) -> Session:
    return play(training(number), trained(number))[0]


def kinds(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def restarted(session: Session) -> Session:
    """Through the disk's format and back."""
    return start(cbor2.loads(cbor2.dumps(snapshot(session))), program=PROGRAM)


# ---------------------------------------------------------------- the table

IN_PHASE = {
    Phase.IDLE: fresh(),
    Phase.WAITING: play(fresh(), LINK_UP, Heard(plan(0)))[0],
    Phase.TRAINING: training(),
    Phase.SENT: sent(),
    Phase.LEFT: play(training(), Heard(STOP))[0],
}
EVENTS: dict[str, Event] = {
    "LinkUp": LINK_UP,
    "LinkDown": LINK_DOWN,
    "Plan": Heard(plan(1)),
    "Parameters": Heard(parameters(1)),
    "Seat": Heard(SEAT),
    "Command": Heard(REBIRTH),
    "Trained": trained(0),
}
ILLEGAL = {("idle", "Trained"), ("waiting", "Trained"), ("sent", "Trained"), ("left", "LinkUp")}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("phase", Phase)
def test_every_pair_of_phase_and_event_is_legal_or_raises(phase: Phase, name: str) -> None:
    session, event = IN_PHASE[phase], EVENTS[name]
    assert session.phase is phase
    if (phase, name) not in ILLEGAL:
        after, actions = step(session, event)
        assert isinstance(after, Session)
        assert isinstance(actions, list)
        return
    with pytest.raises(IllegalEventError, match=f"{name} .*phase {phase}"):
        step(session, event)


def test_training_that_nobody_asked_for_raises() -> None:
    with pytest.raises(IllegalEventError, match="Trained of run 7 round 2 cannot happen in phase training"):
        step(training(), trained(2))
    left = play(training(), Heard(STOP), trained(0))[0]
    with pytest.raises(IllegalEventError, match="left"):
        step(left, trained(0))  # a second time


# ---------------------------------------------------------------- joining


@pytest.mark.parametrize("messages", [(SEAT, plan(0)), (plan(0), SEAT)], ids=["seat first", "plan first"])
def test_a_new_run_begins_with_seat_and_plan_in_either_order(messages: tuple[Seat | Plan, ...]) -> None:
    session, actions = fresh(), []
    for message in messages:
        session, more = step(session, Heard(message))
        actions += more
    assert kinds(actions) == ["Reset", "Train"]
    assert session.phase is Phase.TRAINING


def test_a_seat_of_another_run_does_not_do() -> None:
    session, actions = play(fresh(), Heard(Seat(run=6, seat=1)), Heard(plan(0)))
    assert kinds(actions) == ["Reset"]
    assert session.phase is Phase.WAITING


def test_the_plan_replaces_one_that_waits() -> None:
    session, actions = play(fresh(), *heard(plan(0), plan(1), SEAT))
    assert [action.plan.round for action in actions if isinstance(action, Train)] == [1]
    assert session.phase is Phase.TRAINING


@pytest.mark.parametrize(
    "messages", [(plan(2, method=Method.FL), parameters(2)), (parameters(2), plan(2, method=Method.FL))]
)
def test_fl_joins_late_with_plan_and_parameters_in_either_order(messages: tuple[Plan | Parameters, ...]) -> None:
    session, actions = play(seated(), *heard(*messages))
    adopted = [action.parameters for action in actions if isinstance(action, Adopt)]
    assert [action for action in kinds(actions) if action != "Reset"] == ["Adopt", "Train"]
    np.testing.assert_array_equal(adopted[0], [2, 2, 2])
    assert session.opening is None


def test_fl_begins_round_0_without_parameters_and_waits_for_those_of_its_round() -> None:
    session, actions = play(seated(), Heard(plan(0, method=Method.FL)))
    assert kinds(actions) == ["Reset", "Train"]
    done = Trained(RUN, 0, ParameterUpload(run=RUN, round=0, check=1, samples=9, parameters=np.ones(3, np.float32)))
    session, actions = play(session, done, *heard(parameters(2), plan(1, method=Method.FL, cohort=(4,))))
    assert (session.phase, actions) == (Phase.WAITING, [])
    session, actions = play(session, Heard(parameters(1)))
    assert kinds(actions) == ["Adopt", "Review", "Train"]


def test_parameters_that_were_adopted_are_not_kept_again() -> None:
    session, _ = play(seated(), *heard(parameters(1), plan(1, method=Method.FL), parameters(1)))
    assert session.opening is None


def test_a_run_for_another_program_is_noted_once_and_left_alone() -> None:
    theirs = replace(plan(0), run=8, program=OTHER)
    session, actions = play(seated(), Heard(theirs))
    assert kinds(actions) == ["Note"]
    assert session.phase is Phase.IDLE
    assert play(session, Heard(theirs))[1] == []
    busy, actions = play(training(), Heard(theirs))
    assert (busy.phase, kinds(actions)) == (Phase.TRAINING, ["Note"])


def test_a_run_heard_of_when_it_is_over_asks_for_nothing() -> None:
    session, actions = play(seated(), Heard(plan(ROUNDS)))
    assert (session.run, session.phase, kinds(actions)) == (None, Phase.IDLE, ["Note"])


def test_a_new_run_resets_and_forgets_the_old_one() -> None:
    session, actions = play(sent(1), Heard(plan(0, run=8)))
    assert kinds(actions) == ["Reset"]
    assert (session.run, session.completed, session.pending, session.phase) == (8, -1, None, Phase.WAITING)
    session, actions = play(session, Heard(Seat(run=8, seat=0)))
    assert kinds(actions) == ["Train"]


# ---------------------------------------------------------------- a round after the other


def test_the_upload_is_saved_before_it_is_sent_and_kept_until_a_cohort_settles_it() -> None:
    session, actions = play(training(), trained(0))
    assert actions == [Save(), Send(encode(upload(0)), 1)]
    session, actions = play(session, Heard(plan(1, cohort=(4,))))
    assert kinds(actions) == ["Review", "Train"]
    assert session.pending is None


def test_the_plans_qos_is_the_uploads() -> None:
    actions = play(seated(), Heard(plan(0, qos=0)), trained(0))[1]
    assert [action.qos for action in actions if isinstance(action, Send)] == [0]


def test_the_teacher_is_the_mean_of_the_others_where_the_own_rows_counted() -> None:
    actions = play(sent(), Heard(plan(1, cohort=(4, 1, 2))))[1]
    teacher = actions[-1].teacher if isinstance(actions[-1], Train) else None
    # label 0: (3 [1/2, 1/2] - [3/4, 1/4]) / 2; label 1: nobody else holds it
    np.testing.assert_allclose(teacher, [[0.375, 0.625], [0, 0]], atol=1e-6)  # type: ignore[arg-type]


def test_the_teacher_is_the_whole_mean_where_the_own_rows_did_not_count() -> None:
    actions = play(sent(), Heard(plan(1, cohort=(1, 2, 3))))[1]
    assert kinds(actions) == ["Note", "Review", "Train"]
    assert isinstance(actions[0], Note)
    assert "late or lost" in actions[0].text
    teacher = actions[-1].teacher if isinstance(actions[-1], Train) else None
    np.testing.assert_allclose(teacher, [[0.5, 0.5], [0.25, 0.75]], atol=1e-6)  # type: ignore[arg-type]


def test_a_label_that_was_not_uploaded_keeps_the_whole_mean() -> None:
    mine = Trained(RUN, 0, upload(0, [[0.75, 0.25]], (3, 0)))
    actions = play(training(), mine, Heard(plan(1, cohort=(4,))))[1]
    teacher = actions[-1].teacher if isinstance(actions[-1], Train) else None
    np.testing.assert_allclose(teacher, [[0.375, 0.625], [0.25, 0.75]], atol=1e-6)  # type: ignore[arg-type]


def test_round_0_of_fd_has_a_teacher_of_zeros_and_other_methods_have_none() -> None:
    first, alone = play(seated(), Heard(plan(0)))[1][-1], play(seated(), Heard(plan(0, method=Method.ALONE)))[1][-1]
    assert isinstance(first, Train)
    assert isinstance(alone, Train)
    np.testing.assert_array_equal(first.teacher, np.zeros((L, L)))
    assert alone.teacher is None


def test_a_cohort_that_was_not_heard_leaves_the_upload_unknown() -> None:
    session, actions = play(sent(), Heard(plan(2, cohort=(4,))))
    assert kinds(actions) == ["Note", "Train"]  # no review: round 1 was not trained here
    assert isinstance(actions[0], Note)
    assert "was not heard" in actions[0].text
    teacher = actions[-1].teacher if isinstance(actions[-1], Train) else None
    np.testing.assert_allclose(teacher, [[0.5, 0.5], [0.25, 0.75]], atol=1e-6)  # type: ignore[arg-type]
    assert session.pending is None


def test_no_review_where_the_plan_wants_no_reports() -> None:
    assert kinds(play(sent(), Heard(replace(plan(1, cohort=(4,)), report=False)))[1]) == ["Train"]


@pytest.mark.parametrize("number", [0, 1])
def test_plans_of_the_past_change_nothing(number: int) -> None:
    session = sent(2)
    assert play(session, Heard(plan(number))) == (session, [])
    busy = training(2)
    assert play(busy, Heard(plan(number))) == (busy, [])


def test_the_last_plan_brings_the_last_review_and_the_next_run_may_come() -> None:
    session, actions = play(sent(2), Heard(plan(3, cohort=(4,))))
    assert actions == [Review(RUN, 2), Save()]
    assert (session.phase, session.completed) == (Phase.IDLE, ROUNDS)
    assert play(session, Heard(plan(3, cohort=(4,))))[1] == []
    assert kinds(play(session, *heard(Seat(run=8, seat=0), plan(0, run=8)))[1]) == ["Reset", "Train"]


def test_the_last_plan_of_fl_waits_for_the_last_parameters_but_for_no_seat() -> None:
    begun = play(seated(), Heard(plan(0, method=Method.FL)))[0]
    done = Trained(RUN, 0, ParameterUpload(run=RUN, round=0, check=1, samples=9, parameters=np.ones(3, np.float32)))
    session, actions = play(begun, done, Heard(plan(ROUNDS, method=Method.FL)))
    assert session.phase is Phase.WAITING
    session, actions = play(session, Heard(parameters(ROUNDS)))
    assert kinds(actions) == ["Adopt", "Save"]
    assert session.phase is Phase.IDLE


# ---------------------------------------------------------------- too late


def test_a_plan_heard_while_training_waits_and_the_outdated_upload_is_dropped() -> None:
    session, actions = play(training(), Heard(plan(1)))
    assert actions == []
    session, actions = play(session, trained(0))
    assert kinds(actions) == ["Note", "Review", "Save", "Train"]
    assert (session.phase, session.pending, session.completed) == (Phase.TRAINING, None, 0)
    assert isinstance(actions[-1], Train)
    assert actions[-1].plan.round == 1


def test_only_the_newest_of_the_waiting_plans_counts() -> None:
    actions = play(training(), *heard(plan(1), plan(2)), trained(0))[1]
    assert [action.plan.round for action in actions if isinstance(action, Train)] == [2]


def test_too_late_for_the_last_round() -> None:
    session, actions = play(training(2), Heard(plan(3)), trained(2))
    assert kinds(actions) == ["Note", "Review", "Save"]
    assert (session.phase, session.completed) == (Phase.IDLE, ROUNDS)


def test_a_new_run_heard_while_training_resets_when_the_training_is_done() -> None:
    session, actions = play(training(1), *heard(plan(0, run=8), Seat(run=8, seat=2)))
    assert session.run == RUN
    session, actions = play(session, trained(1))
    assert kinds(actions) == ["Note", "Reset", "Save", "Train"]
    assert (session.run, snapshot(session)["completed"]) == (8, -1)


def test_too_late_and_what_comes_next_is_still_missing() -> None:
    """FL: the outdated work is saved although the next round cannot begin."""
    begun = play(seated(), Heard(plan(0, method=Method.FL)))[0]
    session, actions = play(begun, Heard(plan(1, method=Method.FL)), trained(0))
    assert kinds(actions) == ["Note", "Save"]
    assert session.phase is Phase.WAITING


# ---------------------------------------------------------------- the link, commands


def test_the_pending_upload_is_sent_again_when_the_link_returns() -> None:
    session, actions = play(sent(), LINK_DOWN, LINK_UP)
    assert actions == [Announce(), Send(encode(upload(0)), 1)]
    assert play(session, Heard(plan(0), replay=True)) == (session, [])
    assert kinds(play(session, Heard(plan(0)))[1]) == ["Send"]  # published just now: the aggregator asks again


def test_training_goes_on_without_a_link_and_its_upload_waits_for_one() -> None:
    session, actions = play(training(), LINK_DOWN, trained(0))
    assert actions == [Save()]
    assert play(session, Heard(plan(0)))[1] == []
    assert kinds(play(session, LINK_UP)[1]) == ["Announce", "Send"]


def test_the_same_plan_asks_again_only_where_something_is_pending() -> None:
    assert play(training(), Heard(plan(0)))[1] == []
    assert kinds(play(sent(), Heard(plan(0)))[1]) == ["Send"]


def test_rebirth_announces_and_sends_what_the_aggregator_may_not_have_counted() -> None:
    assert kinds(play(sent(), Heard(REBIRTH))[1]) == ["Announce", "Send"]
    assert kinds(play(training(), Heard(REBIRTH))[1]) == ["Announce"]
    assert play(training(), LINK_DOWN, Heard(REBIRTH))[1] == []


def test_stop_leaves_and_training_that_ends_later_is_saved_for_the_next_start() -> None:
    session, actions = play(training(), Heard(STOP))
    assert kinds(actions) == ["Leave"]
    assert isinstance(actions[0], Leave)
    session, actions = play(session, Heard(plan(1)), trained(0))
    assert actions == [Save()]
    _, actions = play(restarted(session), LINK_UP)
    assert kinds(actions) == ["Announce", "Send"]


# ---------------------------------------------------------------- the snapshot


def test_a_restart_sends_the_pending_upload_and_takes_its_own_rows_out_of_the_mean() -> None:
    session, actions = play(restarted(sent()), LINK_UP)
    assert kinds(actions) == ["Announce", "Send"]
    assert play(session, Heard(plan(0), replay=True))[1] == []
    actions = play(session, Heard(plan(1, cohort=(4,)), replay=True))[1]
    assert kinds(actions) == ["Review", "Train"]
    assert isinstance(actions[-1], Train)
    np.testing.assert_allclose(actions[-1].teacher, [[0.375, 0.625], [0, 0]], atol=1e-6)  # type: ignore[arg-type]


def test_a_restart_in_the_middle_of_training_trains_that_round_anew() -> None:
    on_disk = sent(0)
    _, actions = play(restarted(on_disk), LINK_UP, *heard(plan(1, cohort=(4,))))
    assert [action.plan.round for action in actions if isinstance(action, Train)] == [1]


def test_a_restart_after_the_run_changes_nothing() -> None:
    over = play(sent(2), Heard(plan(3, cohort=(4,))))[0]
    session, actions = play(restarted(over), LINK_UP, Heard(plan(3, cohort=(4,))))
    assert (session.phase, actions) == (Phase.IDLE, [])


@pytest.mark.parametrize("pending", [Done(run=RUN, round=0), upload(0), None])
def test_the_snapshot_survives_the_disk(pending: Upload | Done | None) -> None:
    kept = None if pending is None else Pending(pending, encode(pending), 1)
    session = sent()._replace(pending=kept)
    assert snapshot(restarted(session)) == snapshot(session)
    assert snapshot(restarted(fresh())) == snapshot(fresh())


def test_a_snapshot_of_another_program_is_left_behind() -> None:
    assert start(snapshot(sent()), program=OTHER).run is None
    assert start({**snapshot(sent()), "format": 0}, program=PROGRAM).run is None


@pytest.mark.parametrize(
    "damage",
    [{"pending": b"\x00"}, {"pending": 5}, {"seat": [1]}, {"seat": [-1, 0]}, {"pending": b"\x82\x01\x06"}],
)
def test_a_damaged_snapshot_is_refused(damage: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="delete it"):
        start({**snapshot(sent()), **damage}, program=PROGRAM)
    with pytest.raises(ValueError, match="delete it"):
        start({"format": 1}, program=PROGRAM)


def test_a_message_of_another_kind_is_no_pending_upload() -> None:
    with pytest.raises(ValueError, match="Seat where the pending upload belongs"):
        start({**snapshot(sent()), "pending": encode(SEAT)}, program=PROGRAM)


# ---------------------------------------------------------------- FLD: seeds until they have counted


def fld(number: int, cohort: tuple[int, ...] = ()) -> list[Event]:
    """What opens the round."""
    said = plan(number, method=Method.FLD, cohort=cohort, options=FldOptions().to_plan(number))
    return heard(parameters(number), said) if number else heard(said)


def asked_for_seeds(actions: list[Action]) -> bool:
    (train,) = [action for action in actions if isinstance(action, Train)]
    return train.seeds


def given(number: int) -> Trained:
    seeds = Seeds(
        x=np.zeros((1, 2), np.uint8),
        first=np.zeros(1, np.uint32),
        second=np.zeros(0, np.uint32),
        scale=1.0,
        offset=0.0,
    )
    return Trained(RUN, number, SeedUpload(means=upload(number), seeds=seeds))


def test_seeds_are_given_until_an_upload_has_counted() -> None:
    session, actions = play(seated(), *fld(0))
    assert asked_for_seeds(actions)
    session, actions = play(session, given(0), *fld(1))  # late or lost
    assert asked_for_seeds(actions)
    session, actions = play(session, given(1), *fld(2, cohort=(4,)))
    assert not asked_for_seeds(actions)


def test_a_device_whose_cohort_was_not_heard_gives_its_seeds_again() -> None:
    _, actions = play(play(seated(), *fld(0))[0], given(0), *fld(2, cohort=(4,)))
    assert asked_for_seeds(actions)


def test_a_restarted_device_knows_whether_its_seeds_have_counted() -> None:
    session = play(play(seated(), *fld(0))[0], given(0), *fld(1, cohort=(4,)))[0]
    session, _ = play(restarted(play(session, trained(1))[0]), LINK_UP, *fld(2))
    assert session.seeded
    pending = restarted(play(play(seated(), *fld(0))[0], given(0))[0])
    assert pending.pending is not None
    assert pending.pending.upload == given(0).upload
    assert not asked_for_seeds(play(pending, LINK_UP, Heard(SEAT), *fld(1, cohort=(4,)))[1])


def test_another_run_asks_for_seeds_again() -> None:
    session = play(play(seated(), *fld(0))[0], given(0), *fld(1, cohort=(4,)))[0]
    next_run = plan(0, method=Method.FLD, run=8, options=FldOptions().to_plan(0))
    _, actions = play(session, trained(1), *heard(Seat(run=8, seat=0), next_run))
    assert asked_for_seeds(actions)


# ---------------------------------------------------------------- share: labels of the last rounds


def share(number: int, labels: bytes, cohort: tuple[int, ...] = (4,)) -> Plan:
    """Of a run whose devices train on the inputs of two rounds."""
    options = ShareOptions(inputs=8, buffer=2, warm_up=0).to_plan(number)
    base = replace(plan(number), rounds=9, cohort=frozenset(cohort))
    return replace(base, method=Method.SHARE, options=options, labels=labels)


def labelled(number: int) -> Trained:
    return Trained(RUN, number, LabelUpload(means=upload(number), labels=b"\1"))


def test_a_device_trains_on_the_labels_of_the_newest_rounds() -> None:
    session, actions = play(seated(), Heard(share(0, b"")))
    assert [action.shared for action in actions if isinstance(action, Train)] == [()]
    for number in (1, 2, 3):
        session, actions = play(session, labelled(number - 1), Heard(share(number, bytes([number]))))
    (train,) = [action for action in actions if isinstance(action, Train)]
    assert train.shared == ((1, b"\2"), (2, b"\3"))
    assert train.teacher is not None
    np.testing.assert_allclose(train.teacher[0], [0.375, 0.625])  # its own rows, of a LabelUpload, taken out


def test_a_restarted_device_still_has_the_labels() -> None:
    session = seated()
    for number in (0, 1, 2):
        session = play(session, Heard(share(number, bytes([number]) if number else b"")), labelled(number))[0]
    session, actions = play(restarted(session), LINK_UP, Heard(share(3, b"\3")))
    assert [action.shared for action in actions if isinstance(action, Train)] == [((1, b"\2"), (2, b"\3"))]
    again = play(restarted(session), LINK_UP, Heard(share(3, b"\3")))[1]  # it died while training
    assert [action.shared for action in again if isinstance(action, Train)] == [((1, b"\2"), (2, b"\3"))]


def test_a_new_run_begins_without_labels() -> None:
    session = play(seated(), Heard(share(0, b"")), labelled(0), Heard(share(1, b"\1")), labelled(1))[0]
    session = play(session, *heard(Seat(run=8, seat=0), plan(0, run=8)))[0]
    assert session.shared == ()


@pytest.mark.parametrize("first", ["plan", "memory"])
def test_agents_distil_the_fleets_memory_before_they_play(first: str) -> None:
    """It comes beside the plan, in either order, and goes into the round's training, once."""
    coded = code_memory(Grid(ranges=(1.0,), bins=4), np.array([2], np.uint32), np.full((1, 2), 0.5, np.float32))
    memory, options = FleetMemory(run=RUN, round=1, memory=coded), AgentOptions().to_plan(1)
    opens = [Heard(plan(1, method=Method.FRD, options=options)), Heard(memory)]
    session, actions = play(seated(), *(opens if first == "plan" else opens[::-1]))
    assert [action.memory for action in actions if isinstance(action, Train)] == [memory]
    assert session.opening is None
    session, actions = play(session, Heard(memory))
    assert (session.opening, actions) == (None, [])


def test_a_first_round_of_agents_has_no_memory() -> None:
    _, actions = play(seated(), Heard(plan(0, method=Method.FRD, options=AgentOptions().to_plan(0))))
    assert [action.memory for action in actions if isinstance(action, Train)] == [None]
