"""The device half of reinforcement learning: an agent's targets, what it tells, how it replays what the fleet told.

Actor and critic are programs (docs/rl.md): the actor's loss is the soft-target cross entropy of every method, the
critic's the squared error of rows (value, weight). Letters: n steps of a segment, B the programs' batch, A actions,
S components of a state, E entries of a memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.options import AgentOptions
from edge.wire.proxy import Cells, Grid
from edge.wire.streams import Purpose, stream

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]


# ---------------------------------------------------------------- learning from a segment


def advantages(rewards: FloatArray, values: FloatArray, *, discount: float, trace: float) -> FloatArray:
    """Generalised advantage estimation (arXiv 1506.02438, equation 16): rewards (n,), values (n+1,) -> (n,).

    The last value is that of the state after the last step, 0 where the episode ended there by itself.
    """
    delta = rewards + np.float32(discount) * values[1:] - values[:-1]
    decay, carried = np.float32(discount * trace), np.float32(0)
    found = np.zeros(len(rewards), np.float32)
    for t in range(len(rewards) - 1, -1, -1):
        carried = delta[t] + decay * carried
        found[t] = carried
    return found


def actor_targets(
    policies: FloatArray, actions: IntArray, advantage: FloatArray, *, entropy: float, batch: int
) -> FloatArray:
    """(n, A), (n,), (n,) -> (B, A): A onehot(a) - beta p (log p + H), whose step is that of -A log p(a) - beta H.

    `policies` are those acted on: the parameters have not changed since.
    """
    n = len(actions)
    log_p = np.log(np.maximum(policies, np.float32(1e-30)))
    surprise = log_p - (policies * log_p).sum(axis=1, keepdims=True)  # log p + H
    target = np.zeros((batch, policies.shape[1]), np.float32)
    target[:n] = -np.float32(entropy) * policies * surprise
    target[np.arange(n), actions] += advantage
    return target * np.float32(batch / n)


def critic_targets(values: FloatArray, batch: int) -> FloatArray:
    """(n,) -> (B, 2): values and their weights."""
    n = len(values)
    target = np.zeros((batch, 2), np.float32)
    target[:n, 0], target[:n, 1] = values, batch / n
    return target


# ---------------------------------------------------------------- telling


def mean_policies(grid: Grid, states: FloatArray, policies: FloatArray) -> tuple[Cells, FloatArray]:
    """States (n, S) and the policies acted on (n, A) -> cells (E,) ascending, the mean policy in each (E, A)."""
    cells, which, counts = np.unique(grid.cell(states), return_inverse=True, return_counts=True)
    sums = np.zeros((len(cells), policies.shape[1]))
    np.add.at(sums, which.ravel(), policies)
    return cells, (sums / counts[:, None]).astype(np.float32)


# ---------------------------------------------------------------- replaying


class Replayed(NamedTuple):
    """One batch of b <= B entries."""

    states: FloatArray
    """(b, S)."""
    policies: FloatArray
    """(b, A)."""
    values: FloatArray | None
    """(b,)."""


def replay(
    memory: Replayed, options: AgentOptions, seed: int, device: str, round_: int, *, mix: bool, batch: int
) -> Iterator[Replayed]:
    """Epochs of a memory in batches, each epoch in a new order; mixed up with partners from the memory (MixFRD).

    A mixed entry is w (s, p) + (1 - w) (s', p'), w drawn from Beta(a, a) (arXiv 2005.06105; a is ours).
    """
    rng, partners = stream(seed, device, round_, Purpose.REPLAY), stream(seed, device, round_, Purpose.MIXUP)
    E = len(memory.states)
    for _ in range(options.epochs):
        order = rng.permutation(E)
        for start in range(0, E, batch):
            rows = order[start : start + batch]
            if not mix:
                yield _take(memory, rows)
                continue
            others = _take(memory, partners.integers(E, size=len(rows)))
            weight = partners.beta(options.mixup, options.mixup, (len(rows), 1)).astype(np.float32)
            yield _mixed(_take(memory, rows), others, weight)


def _take(memory: Replayed, rows: IntArray) -> Replayed:
    values = None if memory.values is None else memory.values[rows]
    return Replayed(memory.states[rows], memory.policies[rows], values)


def _mixed(a: Replayed, b: Replayed, weight: FloatArray) -> Replayed:
    rest = np.float32(1) - weight
    values = None
    if a.values is not None and b.values is not None:
        values = weight[:, 0] * a.values + rest[:, 0] * b.values
    return Replayed(weight * a.states + rest * b.states, weight * a.policies + rest * b.policies, values)


def padded(rows: FloatArray, batch: int) -> FloatArray:
    """(b, ...) -> (B, ...), zeros behind."""
    full = np.zeros((batch, *rows.shape[1:]), np.float32)
    full[: len(rows)] = rows
    return full


def replay_targets(policies: FloatArray, batch: int) -> FloatArray:
    """(b, A) -> (B, A): the policies themselves, scaled for a short batch."""
    return padded(policies, batch) * np.float32(batch / len(policies))
