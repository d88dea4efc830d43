"""Advantage actor-critic for many agents at once: each plays its own environment, all in lock step.

An agent plays segments of at most n steps (an episode's end ends a segment), then takes one step of its actor and one
of its critic, with generalised advantage estimation (arXiv 1506.02438):

    delta_t = r_t + gamma V(s_t+1) - V(s_t)      A_t = delta_t + gamma lambda A_t+1      V(terminal) = 0

An episode that the time limit ended is not terminal. Agents do not know of each other here; what they exchange is
`trainer.rl.exchange`'s. Every random number is of the streams that a device draws from, so an agent here and a device
with the same seed, name and network play the same episodes (tests/trainer/rl).

Letters: N agents, M of them at a time, S components of a state, A actions, n steps of a segment, B rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.options import AgentOptions
from edge.wire.streams import FLEET, Purpose, stream
from edge.wire.tasks import SOLVED_EPISODES, Task
from trainer.rl.environments import environments
from trainer.rl.networks import Floats, Indices, Networks, initial, softmax

Flags: TypeAlias = NDArray[np.bool_]

DRAWS = 1024
"""Uniform numbers an agent draws at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How one agent learns; the rest is `AgentOptions`."""

    lr: float = 1e-3
    """Of the actor."""
    clip: float = 0.5
    """Largest norm of a gradient; part of the compiled program."""
    options: AgentOptions = field(default_factory=AgentOptions)


@dataclass(frozen=True, slots=True)
class Bank:
    """Agents of one pair of network shapes."""

    members: Indices
    """Their numbers in the population, ascending."""
    actor: Networks
    critic: Networks


@dataclass(slots=True)
class Played:
    """What one agent saw in a round."""

    states: Floats
    """(n, S) in order."""
    policies: Floats
    """(n, A) as acted on."""


@dataclass(slots=True)
class Agents:
    """N agents: `names[i]` and `seeds[i]` are those of agent i's random streams."""

    task: Task
    learning: Learning
    names: Sequence[str]
    seeds: Sequence[int]
    banks: Sequence[Bank]
    returns: list[list[float]] = field(default_factory=list)
    """Of each agent's episodes so far."""
    solved_at: NDArray[np.int64] = field(init=False)
    """(N,) episodes when the last ten's mean first was above the task's threshold; -1: not yet."""
    steps_taken: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.returns = [[] for _ in self.names]
        self.solved_at = np.full(len(self.names), -1)
        self.steps_taken = np.zeros(len(self.names), np.int64)

    def policies(self, which: Indices, states: Floats) -> Floats:
        """States (M, B, S) -> (M, B, A)."""
        return softmax(self._scores("actor", which, states, len(self.task.actions)))

    def values(self, which: Indices, states: Floats) -> Floats:
        """States (M, B, S) -> (M, B)."""
        return self._scores("critic", which, states, 1)[:, :, 0]

    def _scores(self, part: str, which: Indices, states: Floats, outputs: int) -> Floats:
        if len(self.banks) == 1:
            found: Floats = getattr(self.banks[0], part).scores(which, states)
            return found
        found = np.empty((*states.shape[:2], outputs), np.float32)
        for bank, at, local in self.by_bank(which):
            found[at] = getattr(bank, part).scores(local, states[at])
        return found

    def by_bank(self, which: Indices) -> Iterator[tuple[Bank, Indices, Indices]]:
        """Of each bank: the places in `which` of its members, and their places in the bank."""
        for bank in self.banks:
            (at,) = np.nonzero(np.isin(which, bank.members))
            if len(at):
                yield bank, at, np.searchsorted(bank.members, which[at])

    def step_actor(self, which: Indices, x: Floats, gradient: Floats, lr: float) -> None:
        for bank, at, local in self.by_bank(which):
            bank.actor.step(local, x[at], gradient[at], lr, self.learning.clip)

    def step_critic(self, which: Indices, x: Floats, gradient: Floats, lr: float) -> None:
        for bank, at, local in self.by_bank(which):
            bank.critic.step(local, x[at], gradient[at], lr, self.learning.clip)

    # ------------------------------------------------------------ a round

    def play(
        self, which: Indices, round_: int, episodes: int, *, learn: bool = True, keep: bool = False
    ) -> list[Played]:
        """So many episodes of each agent in `which`; what they saw, if it is kept."""
        stage = _Stage(self, which, round_)
        log: list[tuple[Indices, Floats, Floats]] = []
        left = np.zeros(len(self.names), np.int64)
        left[which] = episodes
        full = np.zeros(len(self.names), bool)  # has a whole segment, waits for its update
        while left.any() or full.any():
            (acting,) = np.nonzero((left > 0) & ~full)
            if len(acting) == 0 or 3 * np.count_nonzero(full) > len(which):
                (learning,) = np.nonzero(full)
                if learn:
                    self._learn(stage, learning)
                stage.position[learning] = 0
                full[:] = False
                continue
            states, policies = stage.act(acting)
            if keep:
                log.append((acting, states, policies))
            ended = stage.end_episodes(acting)
            left[ended] -= 1
            full[acting] = (stage.position[acting] == self.learning.options.segment) | stage.over[acting]
        return _by_agent(log, which) if keep else []

    def _learn(self, stage: _Stage, which: Indices) -> None:
        """One step of actor and critic on each agent's segment."""
        setting, n, lr = self.learning.options, self.learning.options.segment, self.learning.lr
        states, length = stage.states[which], stage.position[which]  # (M, n+1, S), (M,)
        valid = np.arange(n) < length[:, None]  # (M, n)
        values = self.values(which, states)  # (M, n+1)
        values[np.arange(len(which)), length] *= ~stage.terminal[which]
        rewards = stage.rewards[which] * np.float32(setting.reward)
        delta = (rewards + np.float32(setting.discount) * values[:, 1:] - values[:, :-1]) * valid
        advantage = np.zeros_like(delta)
        carried = np.zeros(len(which), np.float32)
        decay = np.float32(setting.discount * setting.trace)
        for t in range(n - 1, -1, -1):
            carried = delta[:, t] + decay * carried
            advantage[:, t] = carried
        share = (valid / length[:, None]).astype(np.float32)  # each row's part of the mean
        p = stage.policies[which]  # (M, n, A)
        log_p = np.log(np.maximum(p, np.float32(1e-30)))
        surprise = log_p - (p * log_p).sum(axis=2, keepdims=True)  # log p + H
        gradient = p * (np.float32(setting.entropy) * surprise)
        chosen = np.arange(p.shape[2]) == stage.actions[which][:, :, None]
        gradient += (advantage[:, :, None] / np.float32(setting.reward)) * (p - chosen)
        self.step_actor(which, states[:, :n], gradient * share[:, :, None], lr)
        error = -advantage * share  # V - (A + V)
        self.step_critic(which, states[:, :n], error[:, :, None], lr * setting.critic)


class _Stage:
    """The environments of one round, and each agent's segment."""

    def __init__(self, agents: Agents, which: Indices, round_: int) -> None:
        task, n, N = agents.task, agents.learning.options.segment, len(agents.names)
        self._agents = agents
        self._environments = environments(task, N)
        self._starts, self._explore = (
            {i: stream(agents.seeds[i], agents.names[i], round_, purpose) for i in which.tolist()}
            for purpose in (Purpose.ENVIRONMENT, Purpose.EXPLORE)
        )
        self._draws = np.zeros((N, DRAWS), np.float32)
        self._drawn = np.full(N, DRAWS)
        S, A = len(task.ranges), len(task.actions)
        self.states = np.zeros((N, n + 1, S), np.float32)
        self.policies = np.full((N, n, A), 1 / A, np.float32)
        self.actions = np.zeros((N, n), np.int64)
        self.rewards = np.zeros((N, n), np.float32)
        self.position = np.zeros(N, np.int64)
        self.terminal = np.zeros(N, bool)
        self.over = np.zeros(N, bool)
        """Whether the segment ends with its episode."""
        self._now = np.zeros((N, S), np.float32)
        self._age = np.zeros(N, np.int64)
        self._return = np.zeros(N)
        for i in which.tolist():
            self._begin(i)

    def _begin(self, agent: int) -> None:
        seed = int(self._starts[agent].integers(2**31))
        self._now[agent] = self._environments.reset(agent, seed)
        self._age[agent], self._return[agent] = 0, 0.0

    def act(self, which: Indices) -> tuple[Floats, Floats]:
        """One step of each -> the states (M, S) they were in, their policies (M, A)."""
        now, at = self._now[which], self.position[which]
        p = self._agents.policies(which, now[:, None])[:, 0]
        actions = (np.cumsum(p, axis=1)[:, :-1] <= self._uniform(which)[:, None]).sum(axis=1)
        after, rewards, ended = self._environments.step(which, actions)
        self.states[which, at], self.states[which, at + 1] = now, after
        self.policies[which, at], self.actions[which, at], self.rewards[which, at] = p, actions, rewards
        self.position[which] = at + 1
        self._now[which] = after
        self._age[which] += 1
        self._return[which] += rewards
        self.terminal[which] = ended
        self.over[which] = ended | (self._age[which] == self._agents.task.steps)
        self._agents.steps_taken[which] += 1
        return now, p

    def _uniform(self, which: Indices) -> Floats:
        """(M,) the next number of each agent's stream."""
        at = self._drawn[which]
        for i in which[at == DRAWS].tolist():
            self._draws[i] = self._explore[i].random(DRAWS, np.float32)
            self._drawn[i] = 0
        at = self._drawn[which]
        self._drawn[which] = at + 1
        found: Floats = self._draws[which, at]
        return found

    def end_episodes(self, which: Indices) -> Indices:
        """Note the returns of episodes that are over, begin the next -> whose they were."""
        ended = which[self.over[which]]
        agents = self._agents
        for i in ended.tolist():
            agents.returns[i].append(float(self._return[i]))
            last = agents.returns[i][-SOLVED_EPISODES:]
            if agents.solved_at[i] < 0 and len(last) == SOLVED_EPISODES and np.mean(last) > agents.task.solved:
                agents.solved_at[i] = len(agents.returns[i])
            self._begin(i)
        return ended


def _by_agent(log: list[tuple[Indices, Floats, Floats]], which: Indices) -> list[Played]:
    who, states, policies = (np.concatenate(parts) for parts in zip(*log, strict=True))
    found = []
    for i in which.tolist():
        mine = who == i
        found.append(Played(states[mine], policies[mine]))
    return found


def population(
    task: Task,
    learning: Learning,
    *,
    names: Sequence[str],
    seeds: Sequence[int],
    hidden: Sequence[tuple[int, ...]],
    common: bool,
) -> Agents:
    """Agents with hidden layers `hidden[i]` and parameters drawn from (seed, name), or from the seed alone (`common`).

    The last layers start near zero: at first every action is as likely, every value 0.
    """
    shapes: dict[tuple[int, ...], list[int]] = {}
    for i, layers in enumerate(hidden):
        shapes.setdefault(tuple(layers), []).append(i)
    S, A = len(task.ranges), len(task.actions)
    banks = []
    for layers, members in shapes.items():
        actors, critics = [], []
        for i in members:
            actor, critic = parameters(task, layers, seeds[i], FLEET if common else names[i])
            actors.append(actor)
            critics.append(critic)
        banks.append(
            Bank(
                members=np.array(members),
                actor=Networks((S, *layers, A), task.scale, np.stack(actors)),
                critic=Networks((S, *layers, 1), task.scale, np.stack(critics)),
            )
        )
    return Agents(task, learning, names, seeds, banks)


def parameters(task: Task, hidden: Sequence[int], seed: int, name: str) -> tuple[Floats, Floats]:
    """First parameters of actor and critic, flat; `name` "" for those that a whole fleet starts from."""
    rng = stream(seed, name, 0, Purpose.BATCHES)
    S, A = len(task.ranges), len(task.actions)
    actor = initial((S, *hidden, A), rng, LAST)
    return actor, initial((S, *hidden, 1), rng, LAST)


LAST = 0.02
"""What the last layer's first parameters are multiplied by."""
