"""The trainer's environments beside gymnasium's own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from edge.wire.tasks import TASKS, Task, task
from trainer.rl.environments import environments


@pytest.fixture(params=sorted(TASKS))
def both(request: pytest.FixtureRequest) -> tuple[Task, gymnasium.Env[Any, Any]]:
    return TASKS[request.param], gymnasium.make(request.param)


def test_a_task_says_what_gymnasium_says(both: tuple[Task, gymnasium.Env[Any, Any]]) -> None:
    known, env = both
    assert env.spec is not None
    assert known.steps == env.spec.max_episode_steps
    assert env.action_space.n == len(known.actions)  # type: ignore[attr-defined]
    assert env.observation_space.shape == (len(known.ranges),)


def test_episodes_go_as_gymnasiums_do(both: tuple[Task, gymnasium.Env[Any, Any]]) -> None:
    """Start and every step, from gymnasium's state each time: Acrobot is chaotic, and one bit grows to 1e-7 in 500."""
    known, env = both
    mine = environments(known, 3)
    rng = np.random.default_rng(0)
    which = np.array([0, 2])
    ends = 0
    for episode in range(10):
        seen, _ = env.reset(seed=episode)
        starts = [mine.reset(0, episode + 1), mine.reset(2, episode)]
        np.testing.assert_array_equal(starts[1], seen)
        assert np.abs(starts[0] - starts[1]).max() > 0
        for _ in range(known.steps):
            pushed = int(rng.integers(len(known.actions)))
            action = pushed if rng.random() < 0.3 else int(seen[-1] > 0) * (len(known.actions) - 1)  # swings Acrobot up
            seen, reward, terminated, truncated, _ = env.step(action)
            states, rewards, ended = mine.step(which, np.array([0, action]))
            np.testing.assert_allclose(states[1], seen, rtol=0, atol=1e-6)
            assert rewards[1] == reward
            assert ended[1] == terminated
            state: Any = env.unwrapped
            exact = mine._states[:, 2]  # type: ignore[attr-defined]
            np.testing.assert_allclose(exact, state.state, rtol=0, atol=1e-12)
            exact[:] = state.state
            if terminated or truncated:
                ends += terminated
                break
    assert ends > 0


def test_cartpole_is_gymnasiums_to_the_last_bit() -> None:
    env, mine = gymnasium.make("CartPole-v1"), environments(task("CartPole-v1"), 1)
    rng = np.random.default_rng(1)
    for episode in range(20):
        env.reset(seed=episode)
        mine.reset(0, episode)
        over = False
        while not over:
            action = int(rng.integers(2))
            seen, _, over, _, _ = env.step(action)
            np.testing.assert_array_equal(mine.step(np.array([0]), np.array([action]))[0][0], seen)


def test_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="one of CartPole-v1, Acrobot-v1"):
        task("MountainCar-v0")
