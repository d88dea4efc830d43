"""Events in, figures out."""

from __future__ import annotations

from trainer.demo.observe import Observed
from trainer.record.run import Spread


def report(device: str, number: int, accuracy: float) -> dict[str, object]:
    return {"event": "report", "device": device, "round": number, "accuracy": accuracy, "loss": 1.0}


def closed(number: int, seconds: float) -> dict[str, object]:
    return {"event": "round", "round": number, "rounds": 2, "cohort": [], "missing": [], "seconds": seconds}


def test_figures_of_a_whole_run() -> None:
    seen = Observed(devices=2, rounds=2)
    events = [
        {"event": "run", "run": 7},
        {"event": "waiting", "born": 2, "devices": 2},
        closed(0, 1.5),
        report("d0", 0, 0.2),
        report("d1", 0, 0.4),
        closed(1, 0.5),
        report("d0", 1, 0.5),
        report("d1", 1, 0.75),
        {"event": "end", "complete": True, "reason": "all rounds done"},
    ]
    for event in events:
        seen.hear(event)
    assert (seen.run, seen.born, seen.closed, seen.seconds) == (7, 2, 2, 2.0)
    assert seen.accuracy(1) == Spread(mean=0.625, worst=0.5, best=0.75)
    assert seen.complete


def test_the_newest_round_is_one_that_all_have_reported() -> None:
    seen = Observed(devices=2, rounds=2)
    assert seen.newest is None
    seen.hear(report("d0", 0, 0.2))
    assert seen.newest is None
    seen.hear(report("d1", 0, 0.2))
    seen.hear(report("d1", 1, 0.3))
    assert seen.newest == 0


def test_refusals_are_counted_and_strange_events_left_alone() -> None:
    seen = Observed(devices=1, rounds=1)
    seen.hear({"event": "refused", "device": "d0", "reason": "size", "times": 3})
    seen.hear({"event": "weather", "sun": True})
    assert seen.refused == 3
    assert not seen.complete
