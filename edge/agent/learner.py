"""An agent as the client knows it: it distils what the fleet told, plays its episodes, tells what it does.

The environment is gymnasium's (an extra of the device). Every random number is of the plan's streams, so that the
trainer's agents (`trainer.rl`) with the same seed, names and networks play the same episodes (tests/edge/agent).
Letters: n steps of a segment, B the programs' batch, A actions, S components of a state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

import numpy as np

from edge.agent.pair import Pair
from edge.memory import release_code
from edge.methods import agent as method
from edge.methods.agent import Replayed
from edge.runtime.choose import choose, installed, load_runtime
from edge.runtime.program import Program, ProgramRefused, load_program
from edge.runtime.protocol import FloatArray, Runtime
from edge.session import Train
from edge.train import DivergedError, Result
from edge.wire.codec import FrameError, Reason
from edge.wire.limits import memory_limit, pairs_limit, parameters_limit
from edge.wire.manifest import LOSSES
from edge.wire.messages import (
    AnyUpload,
    Done,
    FleetMemory,
    FleetPairs,
    MemoryUpload,
    Method,
    Opening,
    PairsUpload,
    Parameters,
    ParameterUpload,
    Plan,
    UintArray,
)
from edge.wire.options import AgentOptions
from edge.wire.proxy import POLICY_BITS, Grid, code_memory, pair
from edge.wire.streams import Purpose, stream
from edge.wire.tasks import SOLVED_EPISODES, Task, task


class Environment(Protocol):
    """What is needed of `gymnasium.Env`."""

    def reset(self, *, seed: int | None = None) -> tuple[Any, dict[str, Any]]: ...

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]: ...


def make(name: str) -> Environment:
    """Raises ValueError where gymnasium is missing."""
    try:
        import gymnasium
    except ImportError as problem:
        raise ValueError("playing needs gymnasium: pip install 'potstill[rl]' on this device") from problem
    env: Environment = gymnasium.make(name)
    return env


class Agent:
    """Plays one task with the programs FOLDER/actor and FOLDER/critic."""

    def __init__(self, folder: Path, name: str, runtime: str | None) -> None:
        """Raises ValueError that says what to change."""
        self._task: Task = task(name)
        actor, critic = load_program(folder / "actor"), load_program(folder / "critic")
        _check_programs(self._task, actor, critic)
        why = choose(actor, runtime, installed()).reason
        release_code()
        self._pair = Pair(load_runtime(actor, runtime), load_runtime(critic, runtime))
        release_code()
        self._batch = actor.manifest.batch
        self._environment = make(name)
        self._returns: list[float] = []
        self.about = (
            f"{name}, runtime {self._pair.name} ({why}), programs {actor.manifest.name}, {critic.manifest.name}"
        )

    @property
    def program(self) -> bytes:
        return self._task.digest

    @property
    def schema(self) -> bytes:
        return self._task.digest

    @property
    def labels(self) -> int:
        return len(self._task.actions)

    @property
    def runtime(self) -> Runtime:
        return self._pair

    def samples(self) -> UintArray:
        return np.zeros(self.labels, np.uint32)

    def opening_limit(self) -> int:
        memory = memory_limit(2**32, self.labels, max(POLICY_BITS))
        return max(memory, pairs_limit(self._width), parameters_limit(len(self._pair.parameters())))

    @property
    def _width(self) -> int:
        """Of a raw pair."""
        return len(self._task.ranges) + self.labels - 1

    def check(self, message: Plan | Opening) -> None:
        S = len(self._task.ranges)
        if isinstance(message, Parameters):
            known = len(self._pair.parameters())
            if len(message.parameters) != known:
                raise FrameError(
                    Reason.SHAPE, f"{len(message.parameters)} parameters, not {known}: frl wants one network everywhere"
                )
        elif isinstance(message, FleetMemory):
            if (message.memory.components, message.memory.actions) != (S, self.labels):
                raise FrameError(Reason.SHAPE, "a memory of another task's states or actions")
        elif isinstance(message, FleetPairs) and (message.pairs.components, message.pairs.numbers.shape[1]) != (
            S,
            self._width,
        ):
            raise FrameError(Reason.SHAPE, "pairs of another task's states or actions")
        elif isinstance(message, Plan) and message.program == self.program:
            _options(message)

    def score(self) -> float:
        """The mean return of the last ten episodes, between the task's least and largest."""
        last = self._returns[-SOLVED_EPISODES:]
        return self._task.fraction(float(np.mean(last))) if last else 0.0

    # ------------------------------------------------------------ a round

    def train(self, action: Train, device: str, go_on: Callable[[], bool]) -> Result | None:
        plan, options = action.plan, _options(action.plan)
        if plan.round == 0:
            self._returns = []
        if action.memory is not None and not self._distil(action, device, options, go_on):
            return None
        played = self._play(plan, device, options, go_on)
        if played is None:
            return None
        states, policies, losses = played
        if not math.isfinite(losses):
            raise DivergedError("the loss is no longer a number; start the run again with a lower learning rate")
        return Result(upload=self._upload(plan, options, states, policies), loss=losses)

    def _distil(self, action: Train, device: str, options: AgentOptions, go_on: Callable[[], bool]) -> bool:
        """Epochs of the fleet's memory; Adam starts anew for them and is back where it was after them."""
        plan, B = action.plan, self._batch
        memory = _replayed(action.memory, self._task)
        mix = plan.method is Method.MIXFRD
        batches = method.replay(memory, options, plan.seed, device, plan.round, mix=mix, batch=B)
        with self._pair.fresh_moments():
            for rows in batches:
                if not go_on():
                    return False
                x = method.padded(rows.states, B)
                self._pair.actor.train(x, method.replay_targets(rows.policies, B), options.distil_lr)
                if rows.values is not None:
                    self._pair.critic.train(x, method.critic_targets(rows.values, B), options.distil_lr)
        return True

    def _play(
        self, plan: Plan, device: str, options: AgentOptions, go_on: Callable[[], bool]
    ) -> tuple[FloatArray, FloatArray, float] | None:
        """`plan.steps` episodes -> states (n, S), policies acted on (n, A), the critic's mean loss."""
        starts = stream(plan.seed, device, plan.round, Purpose.ENVIRONMENT)
        explore = stream(plan.seed, device, plan.round, Purpose.EXPLORE)
        segment, seen, acted = _Segment(), [], []
        losses: list[float] = []
        for _ in range(plan.steps):
            now, total, over = _state(self._environment.reset(seed=int(starts.integers(2**31)))[0]), 0.0, False
            while not over:
                if not go_on():
                    return None
                p = self._pair.predict(now[None])[0]
                chosen = int((np.cumsum(p)[:-1] <= explore.random(dtype=np.float32)).sum())
                after, reward, terminated, truncated, _ = self._environment.step(chosen)
                segment.add(now, p, chosen, float(reward))
                seen.append(now)
                acted.append(p)
                now, total, over = _state(after), total + float(reward), terminated or truncated
                if over or len(segment.actions) == options.segment:
                    losses.append(self._learn(segment, now, terminated, plan.lr, options))
                    segment = _Segment()
            self._returns.append(total)
        return np.stack(seen), np.stack(acted), float(np.mean(losses))

    def _learn(self, segment: _Segment, after: FloatArray, terminated: bool, lr: float, options: AgentOptions) -> float:
        """One step of the actor, one of the critic -> the critic's loss."""
        B, states = self._batch, np.stack([*segment.states, after])  # (n+1, S)
        values = self._pair.critic.predict(states)[:, 0]
        if terminated:
            values[-1] = 0
        rewards = np.array(segment.rewards, np.float32) * np.float32(options.reward)
        advantage = method.advantages(rewards, values, discount=options.discount, trace=options.trace)
        target = method.actor_targets(
            np.stack(segment.policies),
            np.array(segment.actions),
            advantage / np.float32(options.reward),
            entropy=options.entropy,
            batch=B,
        )
        x = method.padded(states[:-1], B)
        self._pair.actor.train(x, target, lr)
        loss, _ = self._pair.critic.train(x, method.critic_targets(advantage + values[:-1], B), lr * options.critic)
        return loss

    # ------------------------------------------------------------ what goes up

    def _upload(self, plan: Plan, options: AgentOptions, states: FloatArray, policies: FloatArray) -> AnyUpload:
        check = int.from_bytes(self.schema[:2], "big")
        if plan.method is Method.ALONE:
            return Done(run=plan.run, round=plan.round)
        if plan.method is Method.FRL:
            parameters = self._pair.parameters()
            if not np.isfinite(parameters).all():
                raise DivergedError("parameters are no longer numbers; start the run again with a lower learning rate")
            return ParameterUpload(run=plan.run, round=plan.round, check=check, samples=1, parameters=parameters)
        if plan.method is Method.PD:
            return PairsUpload(run=plan.run, round=plan.round, check=check, pairs=pair(states, policies))
        grid = Grid(ranges=self._task.ranges, bins=options.bins)
        cells, told = method.mean_policies(grid, states, policies)
        centres = grid.centres(cells)
        if not options.average:
            told = self._pair.predict(centres)
        values = self._pair.critic.predict(centres)[:, 0] if options.values else None
        memory = code_memory(grid, cells, told, values, bits=plan.bits)
        return MemoryUpload(run=plan.run, round=plan.round, check=check, memory=memory)


class _Segment:
    """Steps that are yet to be learnt from."""

    def __init__(self) -> None:
        self.states: list[FloatArray] = []
        self.policies: list[FloatArray] = []
        self.actions: list[int] = []
        self.rewards: list[float] = []

    def add(self, state: FloatArray, policy: FloatArray, action: int, reward: float) -> None:
        self.states.append(state)
        self.policies.append(policy)
        self.actions.append(action)
        self.rewards.append(reward)


def _state(observation: Any) -> FloatArray:
    return np.asarray(observation, np.float32)


def _options(plan: Plan) -> AgentOptions:
    """An agent alone learns with the defaults. Raises FrameError on a plan for classifiers."""
    options = plan.read_options()
    if options is None and plan.method is Method.ALONE:
        return AgentOptions()
    if not isinstance(options, AgentOptions):
        raise FrameError(Reason.UNEXPECTED, f"{plan.method.name.lower()} is not for agents")
    if plan.method in {Method.FRD, Method.MIXFRD} and plan.bits not in POLICY_BITS:
        raise FrameError(Reason.BITS, f"policies have 4 or 8 bits, not {plan.bits}")
    return options


def _replayed(opening: FleetMemory | FleetPairs | None, known: Task) -> Replayed:
    assert opening is not None  # asked for only where there is one
    if isinstance(opening, FleetPairs):
        return Replayed(opening.pairs.states, opening.pairs.policies, None)
    memory = opening.memory
    grid = Grid(ranges=known.ranges, bins=memory.bins)
    return Replayed(grid.centres(memory.cells), memory.policies, memory.values)


def _check_programs(known: Task, actor: Program, critic: Program) -> None:
    """Raises ProgramRefused."""
    S = (len(known.ranges),)
    for part, program, outputs, loss in (
        ("actor", actor, len(known.actions), LOSSES[0]),
        ("critic", critic, 1, LOSSES[1]),
    ):
        manifest = program.manifest
        if manifest.input_shape != S or len(manifest.labels) != outputs or manifest.loss != loss:
            raise ProgramRefused(
                f"{part}: {manifest.name} does not take {known.name}'s states or give its {part}'s outputs: compile it "
                f"with potstill trainer agent --env {known.name}"
            )
    if actor.manifest.batch != critic.manifest.batch:
        raise ProgramRefused("actor and critic have one batch: compile them together with potstill trainer agent")
