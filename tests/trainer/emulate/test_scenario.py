"""What is due when, without a fleet."""

from __future__ import annotations

from trainer.emulate.fleet import Happening, Trigger
from trainer.emulate.scenario import Scenario, wrong_clocks

DROP = Happening(kind="drop", devices=("d1",), at=Trigger(round=3), until=Trigger(round=6))
FADE = Happening(kind="fade", devices=("d2", "d3"), at=Trigger(seconds=5.0))
CLOCK = Happening(kind="clock", devices=("d4",), offset_s=-3600.0)


def test_each_end_comes_once_at_its_round() -> None:
    scenario = Scenario([DROP])
    told = {closed: [step.text for step in scenario.due(closed=closed, seconds=0)] for closed in range(8)}
    assert {closed: texts for closed, texts in told.items() if texts} == {3: ["drops out: d1"], 6: ["returns: d1"]}
    assert scenario.waiting == ()


def test_rounds_that_close_together_bring_everything_between() -> None:
    steps = Scenario([DROP]).due(closed=7, seconds=0)
    assert [step.back for step in steps] == [False, True]


def test_seconds_are_a_trigger_too_and_what_never_came_is_told() -> None:
    scenario = Scenario([DROP, FADE])
    assert scenario.due(closed=0, seconds=4.9) == []
    assert [step.text for step in scenario.due(closed=0, seconds=5.0)] == ["link fades: d2, d3"]
    assert [str(step.trigger) for step in scenario.waiting] == ["round 3", "round 6"]


def test_a_clock_is_wrong_from_the_start() -> None:
    assert Scenario([CLOCK]).waiting == ()
    assert wrong_clocks([DROP, CLOCK]) == {"d4": -3600.0}
