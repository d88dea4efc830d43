"""What agents agree on: its checks, its digest, its names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edge.wire.tasks import TASKS, task

CARTPOLE = TASKS["CartPole-v1"]


def test_a_task_is_found_by_gymnasium_s_name() -> None:
    assert task("CartPole-v1") is CARTPOLE
    with pytest.raises(ValueError, match="no task 'Pong': one of CartPole-v1, Acrobot-v1"):
        task("Pong")


def test_every_field_is_in_the_digest() -> None:
    for change in ({"actions": ("right", "left")}, {"ranges": (2.0, 3.0, 0.2, 3.5)}, {"solved": 400.0}):
        assert replace(CARTPOLE, **change).digest != CARTPOLE.digest


def test_a_return_lies_between_the_least_and_the_largest() -> None:
    assert [CARTPOLE.fraction(mean) for mean in (-5, 0, 125, 500, 501)] == [0, 0, 0.25, 1, 1]


@pytest.mark.parametrize(
    "change",
    [{"ranges": (1.0,)}, {"ranges": (0.0, 1.0, 1.0, 1.0)}, {"actions": ("left",)}, {"steps": 0}, {"solved": 501.0}],
)
def test_a_task_that_makes_no_sense_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"at least two actions|one positive range"):
        replace(CARTPOLE, **change)  # type: ignore[arg-type]
