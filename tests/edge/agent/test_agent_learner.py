"""A device's agent beside the trainer's: the same episodes, the same networks, the same uploads."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported

import numpy as np
import pytest

from broker.methods import proxy
from broker.settings import AGENT_DEFAULTS, RunSettings, make_plan, nobody
from edge.agent.learner import Agent
from edge.runtime.choose import installed
from edge.runtime.program import ProgramRefused
from edge.session import Train
from edge.train import Result
from edge.wire.codec import FrameError, Reason, decode, encode
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
)
from edge.wire.options import AgentOptions
from edge.wire.proxy import Grid, code_memory
from edge.wire.tasks import TASKS
from trainer.rl.agents import Agents, Learning, population
from trainer.rl.exchange import distil, exchange, merge
from trainer.rl.programs import pack_agent, write_agent

TASK = TASKS["CartPole-v1"]
NAMES, SEED, HIDDEN, EPISODES, LR = ("d00", "d01"), 3, (12, 12), 6, 3e-3


def trainer_agents(options: AgentOptions) -> Agents:
    learning = Learning(lr=LR, options=options)
    return population(TASK, learning, names=NAMES, seeds=[SEED] * 2, hidden=[HIDDEN] * 2, common=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The two agents' programs, with the trainer's own first parameters."""
    (bank,) = trainer_agents(AgentOptions()).banks
    made = []
    for place, name in enumerate(NAMES):
        folder = tmp_path_factory.mktemp("agents") / name
        actor, critic = bank.actor.parameters[place], bank.critic.parameters[place]
        write_agent(pack_agent(TASK, HIDDEN, actor, critic, clip=Learning().clip, name="cartpole"), folder)
        made.append(folder)
    return made


def settings(method: Method, options: AgentOptions) -> RunSettings:
    return RunSettings(
        run=7,
        program=TASK.digest,
        schema=TASK.digest,
        labels=2,
        parameters=1,
        size=4,
        devices=2,
        method=method,
        options=None if method is Method.ALONE else options,
        **{**AGENT_DEFAULTS, "steps": EPISODES, "lr": LR, "seed": SEED},
    )


def plan(method: Method, options: AgentOptions, round_: int) -> Plan:
    run = settings(method, options)
    return make_plan(run, round_, frozenset(), nobody(run), None)


def play(agents: list[Agent], action: Train) -> list[AnyUpload]:
    """A round of each -> what they upload, as it arrives."""
    found = []
    for agent, name in zip(agents, NAMES, strict=True):
        result = agent.train(action, name, lambda: True)
        assert isinstance(result, Result)
        frame = encode(result.upload)
        upload = decode(frame, limit=len(frame))
        found.append(upload)
    return found  # type: ignore[return-value]  # uploads, by what a Result holds


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (Method.FRD, AgentOptions()),
        (Method.FRD, AgentOptions(average=True, values=True, bins=10)),
        (Method.MIXFRD, AgentOptions(epochs=2)),
        (Method.PD, AgentOptions(epochs=1)),
    ],
    ids=["frd", "frd-average-values", "mixfrd", "pd"],
)
def test_a_device_plays_and_tells_what_the_trainers_agent_does(
    method: Method, options: AgentOptions, folders: list[Path]
) -> None:
    """Two rounds with an exchange between them, down to every episode's return and every cell told."""
    devices = [Agent(folder, TASK.name, "numpy") for folder in folders]
    mine, which = trainer_agents(options), np.arange(2)
    memory: FleetMemory | FleetPairs | None = None
    for round_ in range(2):
        uploads = play(devices, Train(plan(method, options, round_), None, memory=memory))
        played = mine.play(which, round_, EPISODES, keep=True)
        told, replayed = exchange(method, mine, which, played, options, round_)
        assert [device._returns for device in devices] == mine.returns
        assert [len(encode(upload)) for upload in uploads] == pytest.approx(told.up, abs=16)
        assert replayed is not None
        memory = _opening(uploads, round_ + 1)
        heard = memory.pairs if isinstance(memory, FleetPairs) else memory.memory
        np.testing.assert_allclose(heard.policies, replayed.policies, atol=0.02)
        distil(mine, which, [replayed] * 2, options, round_ + 1, mix=method is Method.MIXFRD)
    for device, place in zip(devices, which, strict=True):
        (bank,) = mine.banks
        wanted = np.concatenate([bank.actor.parameters[place], bank.critic.parameters[place]])
        device._distil(Train(plan(method, options, 2), None, memory=memory), NAMES[place], options, lambda: True)
        np.testing.assert_allclose(device.runtime.parameters(), wanted, atol=0.02)


def _opening(uploads: list[AnyUpload], round_: int) -> FleetMemory | FleetPairs:
    """As the aggregator makes it."""
    if isinstance(uploads[0], PairsUpload):
        return FleetPairs(run=7, round=round_, pairs=proxy.gather([u for u in uploads if isinstance(u, PairsUpload)]))
    memories = [upload for upload in uploads if isinstance(upload, MemoryUpload)]
    return FleetMemory(run=7, round=round_, memory=proxy.merge(memories))


def test_the_aggregators_mean_is_the_trainers(folders: list[Path]) -> None:
    devices = [Agent(folder, TASK.name, "numpy") for folder in folders]
    options = AgentOptions(values=True)
    uploads = play(devices, Train(plan(Method.FRD, options, 0), None))
    memories = [upload for upload in uploads if isinstance(upload, MemoryUpload)]
    tiles = Grid(ranges=TASK.ranges, bins=options.bins)
    assert proxy.merge(memories) == merge([upload.memory for upload in memories], tiles, 4)


@pytest.mark.parametrize("runtime", installed())
def test_every_runtime_plays(runtime: str, folders: list[Path]) -> None:
    """The first episodes are those of the numpy runtime: a step's rounding has not yet changed an action."""
    found = {}
    for name in ("numpy", runtime):
        agent = Agent(folders[0], TASK.name, name)
        short = replace(plan(Method.FRD, AgentOptions(), 0), steps=2)
        result = agent.train(Train(short, None), "d00", lambda: True)
        assert result is not None
        found[name] = agent._returns
    assert found[runtime] == found["numpy"]


def test_alone_and_frl(folders: list[Path]) -> None:
    device = Agent(folders[0], TASK.name, "numpy")
    done = device.train(Train(plan(Method.ALONE, AgentOptions(), 0), None), "d00", lambda: True)
    assert done is not None
    assert isinstance(done.upload, Done)
    assert 0 < device.score() < 1
    frl = device.train(Train(plan(Method.FRL, AgentOptions(), 1), None), "d00", lambda: True)
    assert frl is not None
    assert isinstance(frl.upload, ParameterUpload)
    np.testing.assert_array_equal(frl.upload.parameters, device.runtime.parameters())
    state = device.runtime.state()
    device.runtime.reset()
    assert np.abs(device.runtime.parameters() - frl.upload.parameters).max() > 0
    device.runtime.set_state(state)
    np.testing.assert_array_equal(device.runtime.parameters(), frl.upload.parameters)


def test_told_to_leave_it_stops_at_once(folders: list[Path]) -> None:
    device = Agent(folders[0], TASK.name, "numpy")
    asked: list[int] = []

    def go_on() -> bool:
        asked.append(1)
        return len(asked) < 5

    assert device.train(Train(plan(Method.FRD, AgentOptions(), 0), None), "d00", go_on) is None
    assert len(asked) == 5


def test_what_is_not_for_this_agent_is_refused(folders: list[Path]) -> None:
    device = Agent(folders[0], TASK.name, "numpy")
    known = len(device.runtime.parameters())
    other = Grid(ranges=(1.0,), bins=5)
    cells, policies = np.array([1], np.uint32), np.full((1, 2), 0.5, np.float32)
    refused: list[Plan | Opening] = [
        Parameters(run=1, round=1, parameters=np.zeros(known + 1, np.float32)),
        FleetMemory(run=1, round=1, memory=code_memory(other, cells, policies)),
        replace(plan(Method.ALONE, AgentOptions(), 0), method=Method.FD),
    ]
    for message in refused:
        with pytest.raises(FrameError) as found:
            device.check(message)
        assert found.value.reason in {Reason.SHAPE, Reason.UNEXPECTED}
    device.check(Parameters(run=1, round=1, parameters=np.zeros(known, np.float32)))
    device.check(plan(Method.FRD, AgentOptions(), 0))


def test_programs_of_another_task_are_refused(folders: list[Path]) -> None:
    with pytest.raises(ProgramRefused, match="potstill trainer agent --env Acrobot-v1"):
        Agent(folders[0], "Acrobot-v1", "numpy")
