"""Gymnasium's CartPole-v1 and Acrobot-v1, N at a time: the same states to the last bit or nearly so (docs/rl.md).

A Python object a step costs 20 us and more; N environments as columns of one array cost that together. Equations,
constants and reset distribution are those of gymnasium 1.4 (`gymnasium/envs/classic_control`), and the tests step
both side by side. The time limit is the caller's. Letters: N environments, M of them at a time, S components.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.tasks import Task

Doubles: TypeAlias = NDArray[np.float64]
Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.intp]
Flags: TypeAlias = NDArray[np.bool_]


class Environments(Protocol):
    """N environments; `which` (M,) says which of them are meant."""

    def reset(self, which: int, seed: int) -> Floats:
        """Begin an episode as `gymnasium.Env.reset(seed=seed)` does -> (S,) its first observation."""
        ...

    def step(self, which: Indices, actions: NDArray[np.int64]) -> tuple[Floats, Floats, Flags]:
        """Actions (M,) -> observations (M, S), rewards (M,), whether the episode has ended by itself (M,)."""
        ...


def environments(task: Task, count: int) -> Environments:
    """Raises ValueError for a task without a vectorised environment."""
    kinds: dict[str, type[CartPoles] | type[Acrobots]] = {"CartPole-v1": CartPoles, "Acrobot-v1": Acrobots}
    if task.name not in kinds:
        raise ValueError(f"{task.name}: the trainer has {', '.join(kinds)}")
    return kinds[task.name](count)


def _start(seed: int, half_width: float) -> Doubles:
    """(4,) gymnasium's first state: uniform, from PCG64 seeded as `gymnasium.utils.seeding.np_random` does."""
    start: Doubles = np.random.Generator(np.random.PCG64(seed)).uniform(-half_width, half_width, 4)
    return start


class CartPoles:
    """Barto, Sutton and Anderson's cart and pole; Euler steps of 20 ms."""

    GRAVITY, FORCE, TAU = 9.8, 10.0, 0.02
    POLE_MASS, TOTAL_MASS, HALF_LENGTH = 0.1, 1.1, 0.5
    LARGEST_X, LARGEST_ANGLE = 2.4, 12 * 2 * np.pi / 360

    def __init__(self, count: int) -> None:
        self._states = np.zeros((4, count))  # x, its speed, angle, its speed

    def reset(self, which: int, seed: int) -> Floats:
        self._states[:, which] = _start(seed, 0.05)
        return self._states[:, which].astype(np.float32)

    def step(self, which: Indices, actions: NDArray[np.int64]) -> tuple[Floats, Floats, Flags]:
        x, x_dot, angle, angle_dot = self._states[:, which]
        cos, sin = np.cos(angle), np.sin(angle)
        moment = self.POLE_MASS * self.HALF_LENGTH
        temp = (np.where(actions == 1, self.FORCE, -self.FORCE) + moment * np.square(angle_dot) * sin) / self.TOTAL_MASS
        angle_acc = (self.GRAVITY * sin - cos * temp) / (
            self.HALF_LENGTH * (4.0 / 3.0 - self.POLE_MASS * np.square(cos) / self.TOTAL_MASS)
        )
        x_acc = temp - moment * angle_acc * cos / self.TOTAL_MASS
        new = np.stack(
            (
                x + self.TAU * x_dot,
                x_dot + self.TAU * x_acc,
                angle + self.TAU * angle_dot,
                angle_dot + self.TAU * angle_acc,
            )
        )
        self._states[:, which] = new
        ended = (np.abs(new[0]) > self.LARGEST_X) | (np.abs(new[2]) > self.LARGEST_ANGLE)
        return new.T.astype(np.float32), np.ones(len(which), np.float32), ended


class Acrobots:
    """Sutton's two-link pendulum ("book" equations); one Runge-Kutta step of 0.2 s."""

    DT = 0.2
    FASTEST = (4 * np.pi, 9 * np.pi)
    GRAVITY, LENGTH, CENTRE, MASS, INERTIA = 9.8, 1.0, 0.5, 1.0, 1.0

    def __init__(self, count: int) -> None:
        self._states = np.zeros((4, count))  # two angles, their speeds

    def reset(self, which: int, seed: int) -> Floats:
        self._states[:, which] = _start(seed, 0.1).astype(np.float32)
        seen: Floats = self._observe(self._states[:, which][:, None])[0]
        return seen

    def step(self, which: Indices, actions: NDArray[np.int64]) -> tuple[Floats, Floats, Flags]:
        state, torque, dt = self._states[:, which], (actions - 1).astype(np.float64), self.DT
        k1 = self._slope(state, torque)
        k2 = self._slope(state + dt / 2.0 * k1, torque)
        k3 = self._slope(state + dt / 2.0 * k2, torque)
        k4 = self._slope(state + dt * k3, torque)
        new = state + dt / 6.0 * (k1 + 2 * k2 + 2 * k3 + k4)
        for angle in new[:2]:
            angle[angle > np.pi] -= 2 * np.pi
            angle[angle < -np.pi] += 2 * np.pi
        for speed, fastest in zip(new[2:], self.FASTEST, strict=True):
            np.clip(speed, -fastest, fastest, out=speed)
        self._states[:, which] = new
        ended = -np.cos(new[0]) - np.cos(new[1] + new[0]) > 1.0
        return self._observe(new), np.where(ended, 0, -1).astype(np.float32), ended

    def _slope(self, state: Doubles, torque: Doubles) -> Doubles:
        """(4, M), (M,) -> (4, M) the state's derivative."""
        angle1, angle2, speed1, speed2 = state
        m, l, c, inertia, g = self.MASS, self.LENGTH, self.CENTRE, self.INERTIA, self.GRAVITY  # noqa: E741
        cos2, sin2 = np.cos(angle2), np.sin(angle2)
        d1 = m * c**2 + m * (l**2 + c**2 + 2 * l * c * cos2) + inertia + inertia
        d2 = m * (c**2 + l * c * cos2) + inertia
        phi2 = m * c * g * np.cos(angle1 + angle2 - np.pi / 2.0)
        phi1 = (
            -m * l * c * speed2**2 * sin2
            - 2 * m * l * c * speed2 * speed1 * sin2
            + (m * c + m * l) * g * np.cos(angle1 - np.pi / 2)
            + phi2
        )
        acc2 = (torque + d2 / d1 * phi1 - m * l * c * speed1**2 * sin2 - phi2) / (m * c**2 + inertia - d2**2 / d1)
        return np.stack((speed1, speed2, -(d2 * acc2 + phi1) / d1, acc2))

    @staticmethod
    def _observe(state: Doubles) -> Floats:
        """(4, M) -> (M, 6)."""
        angle1, angle2, speed1, speed2 = state
        found: Doubles = np.stack(
            (np.cos(angle1), np.sin(angle1), np.cos(angle2), np.sin(angle2), speed1, speed2), axis=1
        )
        return found.astype(np.float32)
