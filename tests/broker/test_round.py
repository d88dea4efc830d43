"""The aggregator's machine: every pair of phase and event, then the rules one by one, as short histories."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from broker.round import (
    Action,
    Arrived,
    Born,
    Close,
    Convert,
    Converted,
    Departed,
    End,
    Event,
    Extend,
    Fate,
    IllegalEventError,
    LinkUp,
    Phase,
    Publish,
    Record,
    Refuse,
    Resumption,
    RoundState,
    Tell,
    Tick,
    deadline,
    open_run,
    resume,
    step,
)
from broker.settings import RunSettings
from edge.wire.labels import pack_labels
from edge.wire.messages import (
    Birth,
    Command,
    Done,
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
from edge.wire.options import ShareOptions
from edge.wire.rows import code_rows

PROGRAM, SCHEMA, OTHER = b"prog", b"labs", b"else"
RUN, L = 7, 2
REBIRTH = Command(order=Order.REBIRTH)


def settings(**changes: object) -> RunSettings:
    base = RunSettings(
        run=RUN, program=PROGRAM, schema=SCHEMA, labels=L, parameters=3, devices=3, rounds=2, bits=32, quorum=2,
        deadline_s=10.0, start_deadline_s=100.0, extensions=1,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def birth(program: bytes = PROGRAM, schema: bytes = SCHEMA) -> Birth:
    samples = np.ones(L, np.uint32)
    return Birth(profile="", runtime="numpy", version="0", program=program, schema=schema, samples=samples)


def upload(number: int, first: float = 0.5, *, run: int = RUN) -> Upload:
    """A device that holds label 0 alone."""
    rows = code_rows(np.array([[first, 1 - first]]), 32)
    return Upload(run=run, round=number, check=1, counts=np.array([4, 0], np.uint32), logits=rows)


def parameter_upload(number: int, value: float, samples: int) -> ParameterUpload:
    parameters = np.full(3, value, np.float32)
    return ParameterUpload(run=RUN, round=number, check=1, samples=samples, parameters=parameters)


class Run:
    """One run on a clock of its own."""

    def __init__(self, state: RoundState, now: float = 0.0) -> None:
        self.state, self.now = state, now

    def __call__(self, *events: Event, at: float | None = None) -> list[Action]:
        """-> the actions of the last event."""
        self.now = self.now if at is None else at
        actions: list[Action] = []
        for event in events:
            self.state, actions = step(self.state, event, self.now)
        return actions


def assembling(**changes: object) -> Run:
    return Run(open_run(settings(**changes), 0.0)[0])


def opened(**changes: object) -> Run:
    """Devices a, b and c are present, round 0 is open since 0 s."""
    run = assembling(**changes)
    run(*(Born(device, birth()) for device in "abc"))
    return run


def over() -> Run:
    run = opened(rounds=1)
    run(*(Arrived(device, upload(0)) for device in "abc"))
    return run


def converting(**changes: object) -> Run:
    """Devices a, b and c have given, round 0 has closed and its conversion is under way."""
    run = opened(method=Method.FLD, size=2, **changes)
    run(*(Arrived(device, seed_upload(0, value)) for value, device in enumerate("abc")))
    return run


def seed_upload(number: int, value: int) -> SeedUpload:
    seeds = Seeds(
        x=np.full((1, 2), value, np.uint8),
        first=np.zeros(1, np.uint32),
        second=np.zeros(0, np.uint32),
        scale=1.0,
        offset=0.0,
    )
    return SeedUpload(means=upload(number), seeds=seeds)


def plans(actions: list[Action]) -> list[Plan]:
    return [a.message for a in actions if isinstance(a, Publish) and isinstance(a.message, Plan)]


def fates(actions: list[Action]) -> list[Fate]:
    return [action.fate for action in actions if isinstance(action, Record)]


def kinds(actions: list[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


# ---------------------------------------------------------------- the table

EVENTS: dict[str, Event] = {
    "LinkUp": LinkUp(),
    "Born": Born("a", birth()),
    "Departed": Departed("a"),
    "Arrived": Arrived("a", upload(0)),
    "Tick": Tick(),
}


@pytest.mark.parametrize("name", EVENTS)
@pytest.mark.parametrize("phase", Phase)
def test_every_event_may_come_in_every_phase(phase: Phase, name: str) -> None:
    run = {
        Phase.ASSEMBLING: assembling,
        Phase.OPEN: opened,
        Phase.CONVERTING: converting,
        Phase.OVER: over,
    }[phase]()
    assert run.state.phase is phase
    actions = run(EVENTS[name])
    assert len(fates(actions)) == (name == "Arrived")


def test_what_is_no_event_raises() -> None:
    with pytest.raises(IllegalEventError, match="str in phase open"):
        opened()("tick")  # type: ignore[arg-type]


@pytest.mark.parametrize("other", [assembling, opened, over])
def test_a_conversion_that_nobody_asked_for_raises(other: Callable[[], Run]) -> None:
    with pytest.raises(IllegalEventError, match="Converted in phase"):
        other()(Converted(0, np.zeros(3, np.float32)))


# ---------------------------------------------------------------- conversion


def test_a_closed_round_is_converted_before_anybody_hears_of_it() -> None:
    run = opened(method=Method.FLD, size=2)
    run(Arrived("b", seed_upload(0, 1)), Arrived("a", seed_upload(0, 0)))
    record, order = run(Arrived("c", upload(0, 0.8)))
    assert isinstance(record, Record)
    assert isinstance(order, Convert)
    assert (order.round, order.parameters, order.seeds) == (0, None, (seed_upload(0, 0).seeds, seed_upload(0, 1).seeds))
    np.testing.assert_allclose(order.teacher, np.array([[0.6, 0.4], [0.0, 0.0]]), atol=1e-6)
    assert deadline(run.state) is None
    closed, parameters, plan = run(Converted(0, np.arange(3, dtype=np.float32)), at=50.0)
    assert closed == Close(0, ("a", "b", "c"), ())
    assert parameters == Publish(Parameters(run=RUN, round=1, parameters=np.arange(3, dtype=np.float32)))
    assert plans([plan])[0].round == 1
    assert deadline(run.state) == 60.0


def test_the_next_conversion_goes_on_from_the_last_with_the_seeds_once_given() -> None:
    run = converting()
    run(Converted(0, np.ones(3, np.float32)))
    run(Arrived("a", seed_upload(1, 9)), Arrived("b", upload(1)))
    _, order = run(Arrived("c", upload(1)))
    assert isinstance(order, Convert)
    assert order.parameters is not None
    assert order.parameters.tolist() == [1, 1, 1]
    assert [int(seeds.x[0, 0]) for seeds in order.seeds] == [0, 1, 2]  # a gave again, and nothing changed


def test_what_comes_during_a_conversion_is_late_or_repeated_and_a_device_may_join() -> None:
    run = opened(method=Method.FLD, size=2)
    run(Arrived("a", seed_upload(0, 0)), Arrived("b", seed_upload(0, 1)), Departed("c"))
    assert run.state.phase is Phase.CONVERTING
    assert fates(run(Arrived("a", seed_upload(0, 0)))) == [Fate.REPEATED]
    assert fates(run(Arrived("c", seed_upload(0, 2)))) == [Fate.LATE]
    assert kinds(run(Born("d", birth()))) == ["Tell"]
    assert run(Tick(), at=1000.0) == []
    closed, *_ = run(Converted(0, np.zeros(3, np.float32)))
    assert closed == Close(0, ("a", "b"), ("c",))
    assert run.state.waiting == {"a", "b", "d"}


def test_a_conversion_that_diverges_ends_the_run_with_the_reason() -> None:
    (end,) = converting()(Converted(0, np.full(3, np.nan, np.float32)))
    assert isinstance(end, End)
    assert not end.complete
    assert "lower --conversion-lr" in end.reason


def test_an_aggregator_that_died_converting_converts_again() -> None:
    uploads = {device: seed_upload(0, value) for value, device in enumerate("abc")}
    plan = opened(method=Method.FLD, size=2).state.plan
    resumption = Resumption(seats={"a": 0, "b": 1, "c": 2}, plan=plan, opening=None, uploads=uploads)
    state, actions = resume(settings(method=Method.FLD, size=2), resumption, 0.0)
    assert state.phase is Phase.CONVERTING
    assert kinds(actions) == ["Convert"]


def test_the_answer_to_another_round_raises() -> None:
    with pytest.raises(IllegalEventError, match="round 1 converted while round 0"):
        converting()(Converted(1, np.zeros(3, np.float32)))


# ---------------------------------------------------------------- share


def label_upload(number: int, labels: list[int], counts: list[int]) -> LabelUpload:
    rows = code_rows(np.full((2, 2), 0.5), 32)
    means = Upload(run=RUN, round=number, check=1, counts=np.array(counts, np.uint32), logits=rows)
    return LabelUpload(means=means, labels=pack_labels(np.array(labels), 2))


def test_the_plan_carries_the_vote_after_the_warm_up() -> None:
    run = opened(method=Method.SHARE, rounds=3, options=ShareOptions(inputs=3, warm_up=1))
    assert run.state.plan is not None
    assert run.state.plan.options == (0.0, 3.0, 2.0)
    actions = run(*(Arrived(device, label_upload(0, [1, 1, 1], [1, 1])) for device in "abc"))
    (plan,) = plans(actions)
    assert (plan.labels, plan.options) == (b"", (3.0, 3.0, 2.0))  # nobody was asked for labels in round 0
    # label 1 of b and c weighs 1 each, label 0 of a weighs 3; where they agree, they agree
    said = {"a": ([0, 0, 1], [9, 9]), "b": ([1, 0, 1], [1, 1]), "c": ([1, 0, 1], [1, 1])}
    actions = run(*(Arrived(device, label_upload(1, *said[device])) for device in "abc"))
    (plan,) = plans(actions)
    assert plan.labels == pack_labels(np.array([0, 0, 1]), 2)
    assert plan.logits is not None


# ---------------------------------------------------------------- assembling


def test_a_device_gets_its_seat_and_the_same_one_again() -> None:
    run = assembling()
    assert run(Born("a", birth())) == [Tell("a", Seat(run=RUN, seat=0))]
    assert run(Born("b", birth())) == [Tell("b", Seat(run=RUN, seat=1))]
    assert run(Departed("a"), Born("a", birth())) == [Tell("a", Seat(run=RUN, seat=0))]


def test_the_run_starts_when_all_devices_are_there() -> None:
    run = assembling()
    actions = run(*(Born(device, birth()) for device in "abc"), at=3.0)
    (plan,) = plans(actions)
    assert (plan.run, plan.round, plan.rounds, plan.cohort, plan.logits) == (RUN, 0, 2, frozenset(), None)
    assert deadline(run.state) == 13.0


def test_a_device_that_left_again_is_not_among_them() -> None:
    run = assembling()
    assert plans(run(Born("a", birth()), Born("b", birth()), Departed("a"), Born("c", birth()))) == []
    assert run.state.phase is Phase.ASSEMBLING


def test_the_run_starts_with_the_quorum_at_the_start_deadline() -> None:
    run = assembling()
    run(Born("a", birth()), Born("b", birth()))
    assert run(Tick(), at=99.0) == []
    assert len(plans(run(Tick(), at=100.0))) == 1


def test_the_run_fails_without_the_quorum_at_the_start_deadline() -> None:
    run = assembling()
    (end,) = run(Born("a", birth()), Tick(), at=100.0)
    assert isinstance(end, End)
    assert not end.complete
    assert "the quorum is 2" in end.reason
    assert deadline(run.state) is None


@pytest.mark.parametrize("other", [birth(program=OTHER), birth(schema=OTHER)], ids=["program", "schema"])
def test_a_device_with_another_program_is_refused_and_told_nothing(other: Birth) -> None:
    run = assembling()
    (refused,) = run(Born("a", other))
    assert isinstance(refused, Refuse)
    assert "put the run's program on it" in refused.reason
    assert kinds(run(Arrived("a", upload(0)))) == ["Record"]  # and not asked for its birth again
    assert kinds(run(Born("a", birth()))) == ["Tell"]  # its operator has put the program right


def test_a_device_that_returns_with_another_program_is_waited_for_no_longer() -> None:
    run = opened()
    run(Arrived("a", upload(0)), Arrived("b", upload(0)))
    assert kinds(run(Born("c", birth(program=OTHER)))) == ["Refuse", "Close", "Publish"]


def test_there_are_no_more_seats_than_the_wire_can_name() -> None:
    run = assembling()
    run.state.seats.update({f"d{number}": number for number in range(65536)})
    assert kinds(run(Born("z", birth()))) == ["Refuse"]
    assert kinds(run(Born("d9", birth()))) == ["Tell"]


def test_an_upload_before_the_run_has_started_is_early_or_of_another_run() -> None:
    run = assembling()
    run(Born("a", birth()))
    assert fates(run(Arrived("a", upload(0)))) == [Fate.EARLY]
    assert fates(run(Arrived("a", upload(0, run=6)))) == [Fate.LATE]
    stranger = run(Arrived("z", upload(0)))
    assert fates(stranger) == [Fate.UNKNOWN_DEVICE]
    assert stranger[1:] == [Tell("z", REBIRTH)]


# ---------------------------------------------------------------- rounds


def test_a_round_closes_when_everybody_has_counted() -> None:
    run = opened()
    assert kinds(run(Arrived("c", upload(0, 0.2)), Arrived("a", upload(0, 0.4)))) == ["Record"]
    record, close, publish = run(Arrived("b", upload(0, 0.9)), at=4.0)
    assert close == Close(0, ("a", "b", "c"), ())
    assert isinstance(record, Record)
    assert isinstance(publish, Publish)
    (plan,) = plans([publish])
    assert (plan.round, plan.cohort) == (1, frozenset({0, 1, 2}))
    np.testing.assert_array_equal(plan.contributors, [3, 0])
    assert plan.logits is not None
    np.testing.assert_allclose(plan.logits.values(), [[0.5, 0.5]], atol=1e-6)
    assert deadline(run.state) == 14.0


def test_the_last_round_ends_the_run_with_a_plan_that_asks_for_nothing() -> None:
    run = opened()
    run(*(Arrived(device, upload(0)) for device in "abc"))
    actions = run(*(Arrived(device, upload(1)) for device in "abc"))
    assert kinds(actions) == ["Record", "Close", "Publish", "End"]
    assert plans(actions)[0].done
    assert isinstance(actions[-1], End)
    assert actions[-1].complete
    assert deadline(run.state) is None


def test_fl_publishes_the_weighted_mean_before_the_plan() -> None:
    run = opened(method=Method.FL)
    values = {"a": (1.0, 10), "b": (2.0, 10), "c": (4.0, 20)}
    actions = run(*(Arrived(d, parameter_upload(0, value, n)) for d, (value, n) in values.items()))
    assert kinds(actions) == ["Record", "Close", "Publish", "Publish"]
    first = actions[2]
    assert isinstance(first, Publish)
    assert isinstance(first.message, Parameters)
    np.testing.assert_allclose(first.message.parameters, (10 * 1 + 10 * 2 + 20 * 4) / 40)
    assert first.message.round == plans(actions)[0].round == 1
    assert len(plans(actions)[0].contributors) == 0


def test_alone_only_keeps_the_clock() -> None:
    run = opened(method=Method.ALONE)
    actions = run(*(Arrived(device, Done(run=RUN, round=0)) for device in "abc"))
    assert kinds(actions) == ["Record", "Close", "Publish"]
    assert plans(actions)[0].logits is None


def test_the_fate_of_every_upload() -> None:
    run = opened()
    assert fates(run(Arrived("a", upload(0)))) == [Fate.COUNTED]
    assert fates(run(Arrived("a", upload(0, 0.9)))) == [Fate.REPEATED]
    assert fates(run(Arrived("b", upload(1)))) == [Fate.EARLY]
    assert fates(run(Arrived("b", upload(0, run=6)))) == [Fate.LATE]
    run(Arrived("b", upload(0)), Tick(), at=10.0)  # closes with the quorum, without c
    assert fates(run(Arrived("c", upload(0)))) == [Fate.LATE]
    assert fates(run(Arrived("a", upload(0)))) == [Fate.REPEATED]  # a redelivery after the close: it had counted
    assert fates(run(Arrived("c", upload(1)))) == [Fate.COUNTED]
    assert fates(over()(Arrived("a", upload(0)))) == [Fate.REPEATED]


def test_what_came_first_counts() -> None:
    run = opened(quorum=1)
    run(Arrived("a", upload(0, 0.4)), Arrived("a", upload(0, 0.9)))
    (plan,) = plans(run(Tick(), at=10.0))
    assert plan.logits is not None
    np.testing.assert_allclose(plan.logits.values(), [[0.4, 0.6]], atol=1e-6)


def test_a_stranger_is_asked_for_its_birth() -> None:
    actions = opened()(Arrived("z", upload(0)))
    assert fates(actions) == [Fate.UNKNOWN_DEVICE]
    assert actions[1:] == [Tell("z", REBIRTH)]
    assert kinds(over()(Arrived("z", upload(0)))) == ["Record"]  # its birth would not bring it a seat any more


def test_an_upload_of_a_seated_device_counts_although_its_will_was_sent() -> None:
    run = opened()
    actions = run(Departed("a"), Arrived("a", upload(0)))
    assert fates(actions) == [Fate.COUNTED]
    assert actions[1:] == [Tell("a", REBIRTH)]
    assert kinds(run(Born("a", birth()))) == ["Tell"]
    assert run.state.waiting == {"b", "c"}


# ---------------------------------------------------------------- deadline and quorum


def test_the_deadline_closes_with_the_quorum_and_names_the_missing() -> None:
    run = opened()
    run(Arrived("a", upload(0)), Arrived("b", upload(0)))
    assert run(Tick(), at=9.9) == []
    actions = run(Tick(), at=10.0)
    assert actions[0] == Close(0, ("a", "b"), ("c",))
    assert plans(actions)[0].cohort == {0, 1}


def test_without_the_quorum_the_round_is_extended_and_its_plan_repeated_then_the_run_fails() -> None:
    run = opened()
    run(Arrived("a", upload(0)))
    actions = run(Tick(), at=10.0)
    assert actions[0] == Extend(0, 1, 0)
    assert [plan.round for plan in plans(actions)] == [0]
    assert deadline(run.state) == 20.0
    (end,) = run(Tick(), at=20.0)
    assert isinstance(end, End)
    assert not end.complete
    assert "round 0: 1 uploads after 1 extensions, the quorum is 2" in end.reason


def test_extensions_are_counted_by_round() -> None:
    run = opened()
    run(Tick(), at=10.0)
    run(*(Arrived(device, upload(0)) for device in "abc"))
    assert run(Tick(), at=20.0)[0] == Extend(1, 0, 0)


def test_a_run_that_has_failed_counts_no_more() -> None:
    run = opened(extensions=0)
    run(Arrived("a", upload(0)), Tick(), at=10.0)
    assert run.state.phase is Phase.OVER
    assert fates(run(Arrived("b", upload(0)))) == [Fate.LATE]
    assert fates(run(Arrived("a", upload(0)))) == [Fate.REPEATED]


# ---------------------------------------------------------------- devices come and go


def test_a_device_that_departs_is_waited_for_no_longer() -> None:
    run = opened()
    run(Arrived("a", upload(0)), Arrived("b", upload(0)))
    actions = run(Departed("c"))
    assert actions[0] == Close(0, ("a", "b"), ("c",))


def test_the_upload_of_a_device_that_departs_counts() -> None:
    run = opened()
    run(Arrived("a", upload(0)), Departed("a"), Arrived("b", upload(0)))
    actions = run(Arrived("c", upload(0)))
    assert actions[1] == Close(0, ("a", "b", "c"), ())
    assert run.state.expected == {"b", "c"}  # of the next round


def test_below_the_quorum_an_empty_round_stays_open_for_those_who_return() -> None:
    run = opened()
    assert run(*(Departed(device) for device in "abc")) == []
    run(Born("b", birth()), Born("z", birth()), Arrived("b", upload(0)))
    assert run(Arrived("z", upload(0)))[1] == Close(0, ("b", "z"), ("a", "c"))


def test_a_device_that_joins_in_a_round_is_waited_for_in_it() -> None:
    run = opened()
    run(Arrived("a", upload(0)), Arrived("b", upload(0)))
    assert run(Born("z", birth())) == [Tell("z", Seat(run=RUN, seat=3))]
    assert kinds(run(Arrived("c", upload(0)))) == ["Record"]
    assert run(Arrived("z", upload(0)))[1] == Close(0, ("a", "b", "c", "z"), ())


def test_a_device_that_returns_after_it_counted_is_not_waited_for_twice() -> None:
    run = opened()
    run(Arrived("a", upload(0)), Departed("a"), Born("a", birth()), Arrived("b", upload(0)))
    assert kinds(run(Arrived("c", upload(0)))) == ["Record", "Close", "Publish"]


def test_the_plan_goes_out_again_when_the_link_returns() -> None:
    assert assembling()(LinkUp()) == []
    assert [plan.round for plan in plans(opened()(LinkUp()))] == [0]
    assert plans(over()(LinkUp()))[0].done
    run = opened(method=Method.FL)
    run(*(Arrived(device, parameter_upload(0, 1.0, 1)) for device in "abc"))
    assert [type(a.message) for a in run(LinkUp()) if isinstance(a, Publish)] == [Parameters, Plan]


# ---------------------------------------------------------------- after a crash


def resumption(run: Run) -> Resumption:
    """What a ledger would have kept of it."""
    state = run.state
    return Resumption(seats=dict(state.seats), plan=state.plan, opening=state.opening, uploads=dict(state.counted))


def test_a_run_that_had_not_started_assembles_again_with_the_same_seats() -> None:
    run = assembling()
    run(Born("a", birth()), Born("b", birth()))
    state, actions = resume(settings(), resumption(run), 50.0)
    assert actions == []
    assert (state.phase, deadline(state)) == (Phase.ASSEMBLING, 150.0)
    assert Run(state)(Born("b", birth())) == [Tell("b", Seat(run=RUN, seat=1))]


def test_the_open_round_goes_on_with_what_had_counted() -> None:
    run = opened()
    run(*(Arrived(device, upload(0)) for device in "abc"))
    run(Arrived("b", upload(1, 0.3)))
    state, actions = resume(settings(), resumption(run), 50.0)
    assert actions == []
    again = Run(state, 50.0)
    assert deadline(state) == 60.0
    assert [plan.round for plan in plans(again(LinkUp()))] == [1]
    assert fates(again(Arrived("a", upload(0)))) == [Fate.REPEATED]  # its acknowledgement was lost with the crash
    assert fates(again(Arrived("b", upload(1)))) == [Fate.REPEATED]
    again(Arrived("a", upload(1, 0.5)))
    actions = again(Departed("c"))
    assert actions[0] == Close(1, ("a", "b"), ("c",))
    logits = plans(actions)[0].logits
    assert logits is not None
    np.testing.assert_allclose(logits.values(), [[0.4, 0.6]], atol=1e-6)


def test_a_round_in_which_all_had_counted_closes_at_once() -> None:
    run = opened()
    kept = replace(resumption(run), uploads={device: upload(0) for device in "abc"})
    actions = resume(settings(), kept, 50.0)[1]
    assert kinds(actions) == ["Close", "Publish"]


def test_a_run_whose_last_plan_was_written_ends_with_it() -> None:
    state, actions = resume(settings(rounds=1), resumption(over()), 50.0)
    assert kinds(actions) == ["Publish", "End"]
    assert (state.phase, deadline(state)) == (Phase.OVER, None)
    assert fates(Run(state)(Arrived("a", upload(0)))) == [Fate.REPEATED]


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quorum": 0}, "quorum"),
        ({"quorum": 4}, "quorum"),
        ({"devices": 65537}, "devices"),
        ({"extensions": -1}, "extensions"),
        ({"start_deadline_s": 0.0}, "start_deadline_s"),
        ({"labels": 0}, "labels"),
        ({"bits": 5}, "bits"),
        ({"rounds": 0}, "rounds"),
    ],
)
def test_settings_that_no_run_can_have_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        settings(**changes)


# ---------------------------------------------------------------- cost


@pytest.mark.alone
def test_the_cost_of_an_upload_does_not_grow_with_the_fleet() -> None:
    """Per upload within a round, 2,000 devices against 250: a copy of the round's containers would cost eight-fold."""

    def seconds(devices: int) -> float:
        run = assembling(devices=devices + 1)
        names = [f"d{number}" for number in range(devices)]
        run(*(Born(name, birth()) for name in [*names, "last"]))
        events = [Arrived(name, upload(0)) for name in names]
        begun = time.process_time()
        run(*events)
        return (time.process_time() - begun) / devices

    assert min(seconds(2000) for _ in range(3)) < 4 * min(seconds(250) for _ in range(3))
