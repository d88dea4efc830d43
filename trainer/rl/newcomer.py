"""A fresh device learns from a fleet's memory alone: no episode is played, until its return is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge.wire.codec import encode
from edge.wire.messages import FleetMemory, FleetPairs
from edge.wire.options import AgentOptions
from edge.wire.proxy import Grid, ProxyMemory, code_memory, pair
from edge.wire.streams import Purpose, stream
from trainer.rl.agents import Agents, Played, population
from trainer.rl.environments import environments
from trainer.rl.exchange import Memory, distil, grid, replayed
from trainer.rl.networks import Floats, Indices
from trainer.rl.study import HIDDEN, Study

ROUNDS = 2
"""Rounds whose states the memory holds, once the fleet has solved its task: the one just played, and one more."""
EPOCHS, RATE = 50, 3e-3
"""Of the newcomer's distillation, with Adam."""
EVALUATED = 20
"""Episodes of the greedy policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """What newcomers reach with one kind of memory, over the fleets."""

    what: str
    entries: float
    payload: float
    """Bytes of the one frame a newcomer hears, mean over the fleets."""
    median: float
    """Of the newcomers' mean greedy returns."""
    worst: float
    best: float


KINDS: tuple[tuple[int, int | None], ...] = ((30, None), (30, 1000), (20, None), (15, None))
"""Memories: bins, and how many entries are kept (those visited most often; None: all)."""


def teach(study: Study, kinds: Sequence[tuple[int, int | None]] = KINDS) -> list[Newcomer]:
    """Fleets of FRD agents (policies of now) until they have solved; then newcomers from memories of several sizes.

    Raw pairs come last.
    """
    agents, seen = _fleet(study)
    groups = [np.arange(g * study.agents, (g + 1) * study.agents) for g in range(len(study.seeds))]
    found = []
    for bins, most in kinds:
        tiles = grid(study.task, replace(study.learning.options, bins=bins))
        memories = [_memory(agents, group, seen, tiles, most) for group in groups]
        sizes = [len(encode(FleetMemory(run=0, round=1, memory=memory))) for memory in memories]
        returns = _returns(study, [replayed(memory, tiles) for memory in memories])
        what = f"{bins} bins" + ("" if most is None else f", the {most:,} most visited")
        found.append(_newcomer(what, [memory.entries for memory in memories], sizes, returns))
    found.append(_raw(study, agents, groups, seen))
    return found


def _newcomer(what: str, entries: Sequence[int], sizes: Sequence[int], returns: Floats) -> Newcomer:
    return Newcomer(
        what=what,
        entries=float(np.mean(entries)),
        payload=float(np.mean(sizes)),
        median=float(np.median(returns)),
        worst=float(returns.min()),
        best=float(returns.max()),
    )


def _fleet(study: Study) -> tuple[Agents, list[Played]]:
    """Agents that have each solved the task, and what each has seen since its first episode."""
    K, seeds = study.agents, study.seeds
    agents = population(
        study.task,
        study.learning,
        names=[f"d{k:02d}" for _ in seeds for k in range(K)],
        seeds=[seed for seed in seeds for _ in range(K)],
        hidden=[HIDDEN for _ in seeds for _ in range(K)],
        common=False,
    )
    seen: list[list[Played]] = [[] for _ in agents.names]
    round_ = 0
    while (agents.solved_at < 0).any() and round_ * study.episodes < study.cap:
        which = np.flatnonzero(agents.solved_at < 0)
        for agent, played in zip(which.tolist(), agents.play(which, round_, study.episodes, keep=True), strict=True):
            seen[agent].append(played)
        round_ += 1
    return agents, [_joined(rounds[-ROUNDS:]) for rounds in seen]


def _joined(rounds: list[Played]) -> Played:
    return Played(
        np.concatenate([played.states for played in rounds]), np.concatenate([played.policies for played in rounds])
    )


def _memory(agents: Agents, group: Indices, seen: Sequence[Played], tiles: Grid, most: int | None) -> ProxyMemory:
    """The mean over a fleet's agents of what each does now in the cells that any of them visited."""
    states = np.concatenate([seen[i].states for i in group.tolist()])
    cells, counts = np.unique(tiles.cell(states), return_counts=True)
    if most is not None and len(cells) > most:
        cells = np.sort(cells[np.argsort(-counts, kind="stable")[:most]])
    centres = np.broadcast_to(tiles.centres(cells), (len(group), len(cells), len(tiles.ranges)))
    policies = agents.policies(group, centres).mean(axis=0)
    return code_memory(tiles, cells, policies.astype(np.float32))


def _raw(study: Study, agents: Agents, groups: Sequence[Indices], seen: Sequence[Played]) -> Newcomer:
    """PD: every state of the fleet's last round, with the policy acted on."""
    del agents
    pairs = [_joined([seen[i] for i in group.tolist()]) for group in groups]
    sizes = [len(encode(FleetPairs(run=0, round=1, pairs=pair(one.states, one.policies)))) for one in pairs]
    returns = _returns(study, [Memory(one.states, one.policies, None) for one in pairs], epochs=5)
    return _newcomer("raw states (pd)", [len(one.states) for one in pairs], sizes, returns)


def _returns(study: Study, memories: Sequence[Memory], *, epochs: int = EPOCHS) -> Floats:
    """One newcomer a memory: fresh networks, distilled, then the mean return of the greedy policy."""
    newcomers = population(
        study.task,
        study.learning,
        names=["newcomer"] * len(memories),
        seeds=list(study.seeds),
        hidden=[HIDDEN] * len(memories),
        common=False,
    )
    which = np.arange(len(memories))
    options = AgentOptions(epochs=epochs, distil_lr=RATE)
    distil(newcomers, which, memories, options, 0, mix=False)
    return evaluate(newcomers, which)


def evaluate(agents: Agents, which: Indices, episodes: int = EVALUATED) -> Floats:
    """(M,) mean return of each agent's most probable actions; starts of their own, which no training used."""
    task, totals = agents.task, np.zeros(len(which))
    for episode in range(episodes):
        played = environments(task, len(which))
        now = np.stack([played.reset(i, _start(agents.seeds[a], episode)) for i, a in enumerate(which.tolist())])
        going = np.arange(len(which))
        for _ in range(task.steps):
            actions = agents.policies(which[going], now[going][:, None])[:, 0].argmax(axis=1)
            after, rewards, ended = played.step(going, actions)
            now[going] = after
            totals[going] += rewards
            going = going[~ended]
            if not len(going):
                break
    return (totals / episodes).astype(np.float32)


def _start(seed: int, episode: int) -> int:
    return int(stream(seed, "evaluation", episode, Purpose.ENVIRONMENT).integers(2**31))
