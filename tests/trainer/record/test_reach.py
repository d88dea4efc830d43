"""Bytes and joules to a score, by hand."""

from __future__ import annotations

import pytest

from trainer.record.reach import common_target, first_reaching, reach_table
from trainer.record.run import Curve, Joules, Layers, Point, Record, Spread, now


def curve(method: str, means: list[float], sent: float) -> Curve:
    """Each round sends `sent` bytes, hears half as many, and takes 2 J and 3 s."""
    points = tuple(
        Point(
            round=r,
            score=Spread(mean=mean, worst=0.0, best=1.0),
            seconds=3.0 * (r + 1),
            up=Layers(payload=sent * (r + 1)),
            down=Layers(payload=sent * (r + 1) / 4, mqtt=sent * (r + 1) / 4),
            joules=Joules(compute=1.5 * (r + 1), radio=0.5 * (r + 1), idle=None),
        )
        for r, mean in enumerate(means)
    )
    return Curve(method=method, split="iid", seed=0, points=points)


FL, FD = curve("fl", [0.7, 0.9, 0.95], 1000), curve("fd", [0.5, 0.72, 0.869], 10)


def test_the_target_is_what_all_have_reached() -> None:
    assert common_target([FL, FD]) == 0.86
    assert common_target([curve("fd", [0.29], 1)]) == 0.29
    with pytest.raises(ValueError, match="nothing has been reached"):
        common_target([curve("fd", [], 1)])


def test_the_first_point_at_or_above_it() -> None:
    point = first_reaching(FL, 0.9)
    assert point is not None
    assert point.round == 1
    assert first_reaching(FD, 0.9) is None


def test_a_row_a_curve() -> None:
    record = Record(kind="emulate", settings={}, provenance={}, started=now(), curves=(FL, FD))
    assert reach_table(record, "iid").rows == (
        ("fl", 0, 2, 3000.0, 4.0, 6.0, 0.95),
        ("fd", 0, 3, 45.0, 6.0, 9.0, 0.869),
    )
    assert reach_table(record, "iid", 0.9).rows[1] == ("fd", 0, None, None, None, None, 0.869)
