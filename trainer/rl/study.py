"""One method over many seeds: groups of agents that play, exchange and go on until each of them has solved its task.

Groups know nothing of each other; they run side by side because numpy is fast on many agents and slow on few.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from edge.wire.messages import Method
from edge.wire.tasks import Task
from trainer.rl.agents import Agents, Learning, population
from trainer.rl.exchange import Exchanged, Memory, distil, exchange
from trainer.rl.networks import Indices

HIDDEN = (24, 24)
"""Actor 4-24-24-2, critic 4-24-24-1 for CartPole: ours, the papers' could not be checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    task: Task
    method: Method
    seeds: tuple[int, ...]
    """One group of agents each."""
    agents: int = 2
    """A group."""
    episodes: int = 25
    """Between two exchanges: ours, as `HIDDEN`."""
    cap: int = 1000
    """Episodes of an agent at most."""
    bits: int = 4
    learning: Learning = field(default_factory=Learning)
    hidden: tuple[tuple[int, ...], ...] = (HIDDEN,)
    """Hidden layers of a group's agents, in turn: more than one makes a group of different networks."""
    common: bool = False
    """Whether a group's agents start from the same parameters."""

    def __post_init__(self) -> None:
        if self.agents < 1 or self.episodes < 1 or not self.seeds:
            raise ValueError("at least one seed, one agent and one episode")
        if self.cap < self.episodes:
            raise ValueError(f"cap {self.cap}: at least the {self.episodes} episodes between two exchanges")
        if self.method is Method.FRL and len(set(self.hidden)) > 1:
            raise ValueError("frl averages networks, so all agents have one shape: give --hidden once")


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What became of one seed's agents."""

    seed: int
    names: tuple[str, ...]
    solved: tuple[int | None, ...]
    """Episodes to solve of each agent; None: not within the cap."""
    returns: tuple[tuple[float, ...], ...]
    """Of each agent's episodes."""
    exchanges: tuple[Exchanged, ...]
    """Payload of each exchange the group made, until all of it had solved."""


@dataclass(slots=True)
class Progress:
    """Told after every round."""

    round: int
    groups: int
    """Still at it."""


def run(study: Study, tell: Callable[[Progress], None] = lambda _: None) -> list[Group]:
    """One `Group` a seed, in order."""
    K, seeds = study.agents, study.seeds
    agents = population(
        study.task,
        study.learning,
        names=[f"d{k:02d}" for _ in seeds for k in range(K)],
        seeds=[seed for seed in seeds for _ in range(K)],
        hidden=[study.hidden[k % len(study.hidden)] for _ in seeds for k in range(K)],
        common=study.common,
    )
    groups = [np.arange(g * K, (g + 1) * K) for g in range(len(seeds))]
    bytes_of: list[list[Exchanged]] = [[] for _ in seeds]
    busy, round_ = list(range(len(seeds))), 0
    while busy and round_ * study.episodes < study.cap:
        told = _round(study, agents, [groups[g] for g in busy], round_)
        for g, one in zip(busy, told, strict=True):
            if one is not None:
                bytes_of[g].append(one)
        busy = [g for g in busy if (agents.solved_at[groups[g]] < 0).any()]
        round_ += 1
        tell(Progress(round_, len(busy)))
    return [_group(agents, groups[g], seeds[g], bytes_of[g]) for g in range(len(seeds))]


def _round(study: Study, agents: Agents, groups: list[Indices], round_: int) -> list[Exchanged | None]:
    method, options = study.method, study.learning.options
    which = np.concatenate(groups)
    keeps = method.sends_memory
    seen = agents.play(which, round_, study.episodes, keep=keeps)
    played = dict(zip(which.tolist(), seen, strict=True)) if keeps else {}
    if method is Method.ALONE:
        return [None] * len(groups)
    found: list[Exchanged | None] = []
    learners: list[int] = []
    memories: list[Memory] = []
    for group in groups:
        own = [played[i] for i in group.tolist()] if keeps else []
        one, memory = exchange(method, agents, group, own, options, round_, study.bits)
        found.append(one)
        if memory is not None:
            learners += group.tolist()
            memories += [memory] * len(group)
    if learners:
        distil(agents, np.array(learners), memories, options, round_ + 1, mix=method is Method.MIXFRD)
    return found


def _group(agents: Agents, members: Indices, seed: int, exchanges: list[Exchanged]) -> Group:
    return Group(
        seed=seed,
        names=tuple(agents.names[i] for i in members.tolist()),
        solved=tuple(None if agents.solved_at[i] < 0 else int(agents.solved_at[i]) for i in members.tolist()),
        returns=tuple(tuple(agents.returns[i]) for i in members.tolist()),
        exchanges=tuple(exchanges),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of one study. Episodes count an agent that did not solve as the cap."""

    agents: int
    solved: int
    mean: float
    deviation: float
    """Over all agents."""
    slowest: float
    """Mean over groups of the group's slowest agent."""
    slowest_deviation: float
    up: float
    """Payload bytes of an exchange, an agent: mean over all."""
    down: float
    to_solve: float
    """Payload bytes up and down, an agent, until its whole group had solved: mean over groups."""


def figures(groups: list[Group], cap: int) -> Figures:
    episodes = np.array([[cap if one is None else one for one in group.solved] for group in groups], np.float64)
    ups = [byte for group in groups for one in group.exchanges for byte in one.up]
    downs = [one.down for group in groups for one in group.exchanges]
    spent = [sum(float(np.mean(one.up)) + one.down for one in group.exchanges) for group in groups]
    return Figures(
        agents=episodes.size,
        solved=sum(one is not None for group in groups for one in group.solved),
        mean=float(episodes.mean()),
        deviation=float(episodes.std()),
        slowest=float(episodes.max(axis=1).mean()),
        slowest_deviation=float(episodes.max(axis=1).std()),
        up=float(np.mean(ups)) if ups else 0.0,
        down=float(np.mean(downs)) if downs else 0.0,
        to_solve=float(np.mean(spent)),
    )
