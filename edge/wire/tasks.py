"""What a fleet of reinforcement-learning agents agrees on: environments, their actions, their proxy states.

A task is to agents what a label schema is to classifiers: two agents with one task may exchange policies, whatever
their networks. Actions are numbered in the environment's order. Letters: S components of a state, A actions.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property

from edge.wire.messages import DIGEST_BYTES


@dataclass(frozen=True, kw_only=True)
class Task:
    name: str
    """Gymnasium's name of the environment."""
    actions: tuple[str, ...]
    """(A,) names; the labels of the actor's program."""
    ranges: tuple[float, ...]
    """(S,) the proxy grid tiles -range..range of each component; what lies outside belongs to the outermost cell."""
    scale: tuple[float, ...]
    """(S,) what a network multiplies its input by, first of all."""
    steps: int
    """Of the longest episode (gymnasium's time limit)."""
    returns: tuple[float, float]
    """Least and largest return of an episode."""
    solved: float
    """The mean return of the last `SOLVED_EPISODES` episodes is above this."""

    def __post_init__(self) -> None:
        if not len(self.ranges) == len(self.scale) > 0 or min(self.ranges) <= 0:
            raise ValueError("one positive range and one scale for each component of the state")
        if len(self.actions) < 2 or self.steps < 1 or not self.returns[0] <= self.solved <= self.returns[1]:
            raise ValueError("at least two actions and one step; solved lies between the least and largest return")

    @cached_property
    def digest(self) -> bytes:
        """First 4 bytes of the SHA-256 of every field: what agents of one fleet have in common."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).digest()[:DIGEST_BYTES]

    def fraction(self, mean_return: float) -> float:
        """Where a return lies between the least and the largest, 0..1."""
        least, largest = self.returns
        return min(1.0, max(0.0, (mean_return - least) / (largest - least)))


SOLVED_EPISODES = 10
"""A task is solved when the mean of so many consecutive episodes is (docs/rl.md)."""

TASKS = {
    task.name: task
    for task in (
        # 2.4 and .2095 are where gymnasium ends the episode; the other ranges, of what was visited, are ours.
        Task(
            name="CartPole-v1",
            actions=("left", "right"),
            ranges=(2.4, 3.0, 0.2095, 3.5),
            scale=(1.0, 1.0, 5.0, 1.0),
            steps=500,
            returns=(0.0, 500.0),
            solved=490.0,
        ),
        # The ranges are gymnasium's own bounds of the observation; -100 is the threshold of gymnasium's registry.
        Task(
            name="Acrobot-v1",
            actions=("-1 N m", "0", "+1 N m"),
            ranges=(1.0, 1.0, 1.0, 1.0, 4 * math.pi, 9 * math.pi),
            scale=(1.0, 1.0, 1.0, 1.0, 0.25, 0.15),
            steps=500,
            returns=(-500.0, 0.0),
            solved=-100.0,
        ),
    )
}


def task(name: str) -> Task:
    """Raises ValueError that names the tasks there are."""
    if name not in TASKS:
        raise ValueError(f"no task {name!r}: one of {', '.join(TASKS)}; edge/wire/tasks.py says what another one needs")
    return TASKS[name]
