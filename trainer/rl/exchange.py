"""What agents tell each other, and what they make of it (arXiv 1907.06536, 2005.06105), between rounds of actor-critic.

    FRD     up: the proxy cells visited in the round and a policy in each; down: the mean over the agents that visited a
            cell; then a few epochs of -sum_a p_fleet(a|s) log pi(a|s) over the cells' centres
    MixFRD  FRD, each batch mixed up with partners drawn from the memory: states and policies, weight ~ Beta(a, a)
    PD      the same with every state as it was, instead of cells
    FRL     the mean of the networks

The policy told is either the mean of what was acted on (`average`, the papers') or the policy of now at the centre.
Everything goes through the frames of `edge.wire`, so that what is distilled is what a device would have read, and the
bytes are those of the frames. Letters: M agents, E entries, S components, A actions, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edge.wire.codec import encode
from edge.wire.messages import FleetMemory, FleetPairs, MemoryUpload, Method, PairsUpload, Parameters, ParameterUpload
from edge.wire.options import AgentOptions
from edge.wire.proxy import Grid, Pairs, ProxyMemory, code_memory, pair
from edge.wire.streams import Purpose, stream
from edge.wire.tasks import Task
from trainer.rl.agents import Agents, Played
from trainer.rl.networks import Floats, Indices

BATCH = 64
"""Entries a distillation step: B of the programs."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is replayed."""

    states: Floats
    """(E, S)."""
    policies: Floats
    """(E, A)."""
    values: Floats | None
    """(E,)."""


# ---------------------------------------------------------------- what an agent tells


def grid(task: Task, options: AgentOptions) -> Grid:
    return Grid(ranges=task.ranges, bins=options.bins)


def visited(agents: Agents, agent: int, played: Played, options: AgentOptions, bits: int) -> ProxyMemory:
    """An agent's memory of a round."""
    tiles = grid(agents.task, options)
    cells, which, counts = np.unique(tiles.cell(played.states), return_inverse=True, return_counts=True)
    centres, me = tiles.centres(cells)[None], np.array([agent])
    if options.average:
        sums = np.zeros((len(cells), played.policies.shape[1]))
        np.add.at(sums, which, played.policies)
        policies: Floats = (sums / counts[:, None]).astype(np.float32)
    else:
        policies = agents.policies(me, centres)[0]
    values = agents.values(me, centres)[0] if options.values else None
    return code_memory(tiles, cells, policies, values, bits=bits)


# ---------------------------------------------------------------- what the fleet makes of it


def merge(memories: Sequence[ProxyMemory], tiles: Grid, bits: int) -> ProxyMemory:
    """The mean, in each cell, over the agents that visited it; coded again."""
    cells = np.concatenate([memory.cells for memory in memories])
    union, which, counts = np.unique(cells, return_inverse=True, return_counts=True)
    policies = np.zeros((len(union), memories[0].actions))
    np.add.at(policies, which, np.concatenate([memory.policies for memory in memories]))
    values = None
    told = [memory.values for memory in memories if memory.values is not None]
    if told:
        sums = np.zeros(len(union))
        np.add.at(sums, which, np.concatenate(told))
        values = (sums / counts).astype(np.float32)
    return code_memory(tiles, union, (policies / counts[:, None]).astype(np.float32), values, bits=bits)


# ---------------------------------------------------------------- what an agent makes of that


def distil(
    agents: Agents,
    which: Indices,
    memories: Sequence[Memory],
    options: AgentOptions,
    round_: int,
    *,
    mix: bool,
    lr: float | None = None,
) -> None:
    """Epochs of batches of each agent's memory; Adam starts anew for them and is back where it was after them."""
    draws = [
        _Draws(agents.seeds[i], agents.names[i], round_, len(memory.states), options, mix=mix)
        for i, memory in zip(which.tolist(), memories, strict=True)
    ]
    kept = [(bank, bank.actor.moments(), bank.critic.moments()) for bank in agents.banks]
    for bank in agents.banks:
        bank.actor.forget()
        bank.critic.forget()
    rate = options.distil_lr if lr is None else lr
    for step in range(max(draw.steps for draw in draws)):
        busy = [place for place, draw in enumerate(draws) if step < draw.steps]
        _distil_step(agents, which[busy], [memories[p] for p in busy], [draws[p] for p in busy], rate)
    for bank, actor, critic in kept:
        bank.actor.set_moments(actor)
        bank.critic.set_moments(critic)


def _distil_step(
    agents: Agents, which: Indices, memories: Sequence[Memory], draws: Sequence[_Draws], lr: float
) -> None:
    S, A = len(agents.task.ranges), len(agents.task.actions)
    x, target = np.zeros((len(which), BATCH, S), np.float32), np.zeros((len(which), BATCH, A), np.float32)
    value, share = np.zeros((len(which), BATCH), np.float32), np.zeros((len(which), BATCH), np.float32)
    has_values = memories[0].values is not None
    for place, (memory, draw) in enumerate(zip(memories, draws, strict=True)):
        rows, partners, weight = draw.next()
        n = len(rows)
        x[place, :n] = _mixed(memory.states, rows, partners, weight)
        target[place, :n] = _mixed(memory.policies, rows, partners, weight)
        if memory.values is not None:
            value[place, :n] = _mixed(memory.values[:, None], rows, partners, weight)[:, 0]
        share[place, :n] = 1 / n
    policies = agents.policies(which, x)
    gradient = (target.sum(axis=2, keepdims=True) * policies - target) * share[:, :, None]
    agents.step_actor(which, x, gradient, lr)
    if has_values:
        error = (agents.values(which, x) - value) * share
        agents.step_critic(which, x, error[:, :, None], lr)


def _mixed(values: Floats, rows: Indices, partners: Indices | None, weight: Floats | None) -> Floats:
    if partners is None or weight is None:
        return values[rows]
    found: Floats = weight * values[rows] + (np.float32(1) - weight) * values[partners]
    return found


class _Draws:
    """The batches of one agent's replay: each epoch a new order; a partner and a weight a row, where it is mixed."""

    def __init__(self, seed: int, name: str, round_: int, entries: int, options: AgentOptions, *, mix: bool) -> None:
        self.steps = options.epochs * (-(-entries // BATCH))
        self._entries, self._alpha = entries, options.mixup
        self._replay = stream(seed, name, round_, Purpose.REPLAY)
        self._mixup = stream(seed, name, round_, Purpose.MIXUP) if mix else None
        self._order: Indices = np.zeros(0, np.intp)

    def next(self) -> tuple[Indices, Indices | None, Floats | None]:
        """Rows (b,), partners (b,), weights (b, 1) of the rows."""
        if not len(self._order):
            self._order = self._replay.permutation(self._entries)
        rows, self._order = self._order[:BATCH], self._order[BATCH:]
        if self._mixup is None:
            return rows, None, None
        partners = self._mixup.integers(self._entries, size=len(rows))
        weight = self._mixup.beta(self._alpha, self._alpha, (len(rows), 1)).astype(np.float32)
        return rows, partners, weight


# ---------------------------------------------------------------- a whole exchange


@dataclass(frozen=True, slots=True)
class Exchanged:
    """Payload bytes of one exchange of one fleet."""

    up: list[int]
    """Of each agent's upload."""
    down: int
    """Of what every agent hears."""


def exchange(  # noqa: PLR0917 - the method, who takes part, and what they saw
    method: Method, agents: Agents, group: Indices, played: Sequence[Played], options: AgentOptions, round_: int,
    bits: int = 4,
) -> tuple[Exchanged, Memory | None]:  # fmt: skip
    """One exchange between the agents of `group` -> its bytes, and the memory that each of them is to distil."""
    if method is Method.FRL:
        return _average_networks(agents, group, round_), None
    name = {"run": 0, "round": round_}
    if method is Method.PD:
        raw = [pair(p.states, p.policies) for p in played]
        up = [len(encode(PairsUpload(**name, check=0, pairs=pairs))) for pairs in raw]
        every = Pairs(components=raw[0].components, numbers=np.concatenate([pairs.numbers for pairs in raw]))
        down = len(encode(FleetPairs(run=0, round=round_ + 1, pairs=every)))
        return Exchanged(up, down), Memory(every.states, every.policies, None)
    tiles = grid(agents.task, options)
    memories = [visited(agents, agent, p, options, bits) for agent, p in zip(group.tolist(), played, strict=True)]
    up = [len(encode(MemoryUpload(**name, check=0, memory=memory))) for memory in memories]
    fleet = merge(memories, tiles, bits)
    down = len(encode(FleetMemory(run=0, round=round_ + 1, memory=fleet)))
    return Exchanged(up, down), replayed(fleet, tiles)


def replayed(memory: ProxyMemory, tiles: Grid) -> Memory:
    return Memory(tiles.centres(memory.cells), memory.policies, memory.values)


def _average_networks(agents: Agents, group: Indices, round_: int) -> Exchanged:
    """Actor and critic of all agents become their mean, each weighing the same. Raises ValueError on two shapes."""
    banks = {id(bank): bank for bank, _, _ in agents.by_bank(group)}
    if len(banks) != 1:
        raise ValueError("frl averages networks, so all agents have one shape: give --hidden once")
    (bank,) = banks.values()
    local = np.searchsorted(bank.members, group)
    for networks in (bank.actor, bank.critic):
        networks.parameters[local] = networks.parameters[local].astype(np.float64).mean(axis=0).astype(np.float32)
    both = np.concatenate([bank.actor.parameters[local[0]], bank.critic.parameters[local[0]]])
    up = len(encode(ParameterUpload(run=0, round=round_, check=0, samples=1, parameters=both)))
    down = len(encode(Parameters(run=0, round=round_ + 1, parameters=both)))
    return Exchanged([up] * len(group), down)
