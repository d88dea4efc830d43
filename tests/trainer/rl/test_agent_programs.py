"""An agent's programs on every installed runtime, torch's autograd being the oracle."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from edge.runtime.choose import installed, load_runtime
from edge.runtime.program import Program, load_program
from edge.wire.manifest import parse_manifest
from edge.wire.tasks import TASKS
from trainer.compile.aten import Unsupported
from trainer.compile.package import pack
from trainer.rl.networks import Floats, Networks, initial
from trainer.rl.programs import BATCH, network, pack_agent, write_agent

TASK = TASKS["CartPole-v1"]
HIDDEN = (24, 24)
STEPS, CLIP, LR = 50, 0.5, 0.01


def start(outputs: int) -> Floats:
    return initial((4, *HIDDEN, outputs), np.random.default_rng(outputs), 1.0)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Program]:
    folder = tmp_path_factory.mktemp("agent")
    write_agent(pack_agent(TASK, HIDDEN, start(2), start(1), clip=CLIP, name="cartpole"), folder)
    return {part: load_program(folder / part) for part in ("actor", "critic")}


def rows(n: int, step: int) -> tuple[Floats, Floats, Floats]:
    """States, actor targets and critic targets (value, weight) of n rows, scaled and padded to the batch."""
    rng = np.random.default_rng(step)
    x, actor, critic = np.zeros((BATCH, 4)), np.zeros((BATCH, 2)), np.zeros((BATCH, 2))
    x[:n] = rng.normal(0, 0.5, (n, 4))
    actor[:n] = rng.normal(0, 3, (n, 2)) * (BATCH / n)
    critic[:n, 0] = rng.normal(0, 20, n)
    critic[:n, 1] = BATCH / n
    return x.astype(np.float32), actor.astype(np.float32), critic.astype(np.float32)


def torch_steps(part: str) -> tuple[Floats, list[float]]:
    """Parameters and losses after all steps of torch's own clip and Adam."""
    outputs = 2 if part == "actor" else 1
    net = network(TASK, HIDDEN, outputs)
    vector_to_parameters(torch.from_numpy(start(outputs)), net.parameters())
    adam = torch.optim.Adam(net.parameters(), LR)
    losses = []
    for step in range(STEPS):
        x, actor, critic = (torch.from_numpy(a) for a in rows(20 if step % 2 else 7, step))
        adam.zero_grad()
        if part == "actor":
            loss = -(actor * torch.log_softmax(net(x), -1)).sum() / BATCH
        else:
            loss = (critic[:, 1:] * (net(x) - critic[:, :1]) ** 2).sum() / 2 / BATCH
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
        adam.step()
        losses.append(float(loss.detach()))
    return parameters_to_vector(net.parameters()).detach().numpy(), losses


@pytest.mark.parametrize("part", ["actor", "critic"])
@pytest.mark.parametrize("runtime", installed())
def test_a_runtime_takes_the_steps_that_torch_takes(runtime: str, part: str, programs: dict[str, Program]) -> None:
    held = load_runtime(programs[part], runtime)
    wanted, losses = torch_steps(part)
    begin = held.parameters()
    for step in range(STEPS):
        x, actor, critic = rows(20 if step % 2 else 7, step)
        loss, _ = held.train(x, actor if part == "actor" else critic, LR)
        assert loss == pytest.approx(losses[step], rel=1e-3, abs=1e-3)
    np.testing.assert_allclose(held.parameters(), wanted, rtol=0, atol=1e-3)
    assert np.abs(wanted - begin).max() > 0.1  # the steps went somewhere


@pytest.mark.parametrize("part", ["actor", "critic"])
def test_the_trainers_networks_take_the_programs_steps(part: str, programs: dict[str, Program]) -> None:
    """Three networks at once, each with its own rows: the vectorised agents are those of a device."""
    outputs = 2 if part == "actor" else 1
    side_by_side = Networks((4, *HIDDEN, outputs), TASK.scale, np.stack([start(outputs)] * 3))
    which = np.arange(3)
    held = [load_runtime(programs[part], "numpy") for _ in which]
    for step in range(STEPS):
        batches = [rows(20 if (step + agent) % 2 else 7, step + 100 * agent) for agent in range(3)]
        x = np.stack([batch[0] for batch in batches])
        for agent, (own_x, actor, critic) in enumerate(batches):
            held[agent].train(own_x, actor if part == "actor" else critic, LR)
        scores = side_by_side.scores(which, x)
        if part == "actor":
            target = np.stack([batch[1] for batch in batches])
            p = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
            gradient = (target.sum(axis=2, keepdims=True) * p - target) / BATCH
        else:
            target = np.stack([batch[2] for batch in batches])
            gradient = target[:, :, 1:] * (scores - target[:, :, :1]) / BATCH
        side_by_side.step(which, x, gradient, LR, CLIP)
    for agent in range(3):
        np.testing.assert_allclose(side_by_side.parameters[agent], held[agent].parameters(), rtol=0, atol=2e-4)


@pytest.mark.parametrize("runtime", installed())
def test_a_critic_predicts_what_its_last_layer_says(runtime: str, programs: dict[str, Program]) -> None:
    held = load_runtime(programs["critic"], runtime)
    net = network(TASK, HIDDEN, 1)
    vector_to_parameters(torch.from_numpy(start(1)), net.parameters())
    x = rows(20, 0)[0]
    np.testing.assert_allclose(held.predict(x), net(torch.from_numpy(x)).detach().numpy(), rtol=0, atol=1e-5)


def test_a_manifest_names_loss_and_clip_only_where_they_are_not_the_default(programs: dict[str, Program]) -> None:
    """So that programs compiled before there were any keep their digests."""
    for program, loss in ((programs["actor"], "cross-entropy"), (programs["critic"], "squared-error")):
        text = program.manifest.to_json()
        assert ('"loss"' in text) == (loss == "squared-error")
        assert '"clip": 0.5' in text
        assert parse_manifest(text) == program.manifest
        assert program.manifest.loss == loss


def test_a_clipped_sgd_is_refused() -> None:
    with pytest.raises(Unsupported, match="momentum or adam"):
        pack(network(TASK, (4,), 2), name="x", input_shape=(4,), labels=("a", "b"), optimiser="sgd", batch=4, clip=1.0)
