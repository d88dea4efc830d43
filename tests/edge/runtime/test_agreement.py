"""Every installed runtime takes torch's own step: autograd and torch.optim are the oracle.

Within 1e-5 of each parameter after 1 step and 1e-3 after 200, from the same state on the same batches, for dense,
2-D and 1-D convolutional programs and every optimiser.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from edge.runtime.choose import installed, load_runtime
from edge.runtime.graph import FloatArray
from edge.runtime.program import Program, load_program
from trainer.compile.optimise import Optimiser
from trainer.compile.package import pack, write_folder

AFTER_ONE, AFTER_ALL, STEPS, BATCH, LABELS = 1e-5, 1e-3, 200, 16, 5

LR: dict[Optimiser, float] = {"sgd": 0.05, "momentum": 0.01, "adam": 0.001}

MODELS: dict[str, tuple[tuple[int, ...], Callable[[], nn.Sequential]]] = {
    "dense": (
        (3, 4, 4),
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, LABELS)
        ),
    ),
    "images": (
        (2, 9, 8),
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, stride=2, padding=1),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(24, LABELS),
        ),
    ),
    "signals": (
        (3, 40),
        lambda: nn.Sequential(
            nn.Conv1d(3, 6, 5, stride=2),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(6, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(72, LABELS),
        ),
    ),
}


def module(model: str) -> nn.Sequential:
    torch.manual_seed(3)
    return MODELS[model][1]()


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Program]:
    folder = tmp_path_factory.mktemp("programs")
    return {(model, optimiser): compiled(model, optimiser, folder) for model in MODELS for optimiser in LR}


def compiled(model: str, optimiser: Optimiser, folder: Path) -> Program:
    packed = pack(
        module(model),
        name=model,
        input_shape=MODELS[model][0],
        labels=tuple("abcde"),
        optimiser=optimiser,
        batch=BATCH,
        predict_batch=8,
    )
    write_folder(packed, folder / f"{model}-{optimiser}")
    return load_program(folder / f"{model}-{optimiser}")


@cache
def batches(model: str) -> list[tuple[FloatArray, FloatArray]]:
    """Non-negative inputs with many zeros, as pictures have; targets y + gamma q as federated distillation has."""
    rng = np.random.default_rng(11)
    shape = MODELS[model][0]
    made = []
    for _ in range(STEPS):
        x = np.maximum(rng.standard_normal((BATCH, *shape)), 0).astype(np.float32)
        y = np.eye(LABELS, dtype=np.float32)[rng.integers(LABELS, size=BATCH)]
        made.append((x, y + rng.dirichlet(np.ones(LABELS), BATCH).astype(np.float32)))
    return made


@cache
def oracle(model: str, optimiser: Optimiser) -> tuple[FloatArray, FloatArray, float, FloatArray]:
    """Parameters after 1 and after all steps, first loss, first logits: torch eager."""
    net = module(model)
    lr = LR[optimiser]
    update: torch.optim.Optimizer
    if optimiser == "adam":
        update = torch.optim.Adam(net.parameters(), lr)
    else:
        update = torch.optim.SGD(net.parameters(), lr, momentum=0.9 if optimiser == "momentum" else 0)
    trail = []
    first: tuple[float, FloatArray] | None = None
    for x, target in batches(model):
        update.zero_grad()
        scores = net(torch.from_numpy(x))
        loss = -(torch.from_numpy(target) * torch.log_softmax(scores, -1)).sum() / BATCH
        loss.backward()  # type: ignore[no-untyped-call]
        update.step()
        trail.append(parameters_to_vector(net.parameters()).detach().numpy().copy())
        first = first or (float(loss.detach()), torch.softmax(scores, -1).detach().numpy())
    assert first is not None
    return trail[0], trail[-1], *first


@pytest.mark.parametrize("optimiser", LR)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("runtime", installed())
def test_a_runtime_takes_the_steps_that_torch_takes(
    runtime: str, model: str, optimiser: Optimiser, programs: dict[tuple[str, str], Program]
) -> None:
    program = programs[model, optimiser]
    held = load_runtime(program, runtime)
    after_one, after_all, first_loss, first_logits = oracle(model, optimiser)
    start = held.parameters()
    assert np.array_equal(start, parameters_to_vector(module(model).parameters()).detach().numpy())
    for step, (x, target) in enumerate(batches(model)):
        loss, logits = held.train(x, target, LR[optimiser])
        if step == 0:
            assert abs(loss - first_loss) < 1e-5
            np.testing.assert_allclose(logits, first_logits, rtol=0, atol=1e-5)
            np.testing.assert_allclose(held.parameters(), after_one, rtol=0, atol=AFTER_ONE)
    np.testing.assert_allclose(held.parameters(), after_all, rtol=0, atol=AFTER_ALL)
    assert np.abs(after_all - start).max() > 10 * AFTER_ALL  # the steps went somewhere


@pytest.mark.parametrize("runtime", installed())
def test_a_row_of_zeros_adds_nothing(runtime: str, programs: dict[tuple[str, str], Program]) -> None:
    """A short last batch: the rest of the rows padded with anything and target zero, the others scaled by B/n."""
    for model in MODELS:
        n = 5
        x, target = batches(model)[0]
        whole = load_runtime(programs[model, "sgd"], runtime)
        padded = x.copy()
        padded[n:] = 0
        short = np.zeros_like(target)
        short[:n] = target[:n] * (BATCH / n)
        loss, logits = whole.train(padded, short, 0.05)
        net = module(model)
        scores = net(torch.from_numpy(x[:n]))
        wanted = -(torch.from_numpy(target[:n]) * torch.log_softmax(scores, -1)).sum() / n
        wanted.backward()  # type: ignore[no-untyped-call]
        stepped = [p - 0.05 * p.grad for p in net.parameters() if p.grad is not None]
        np.testing.assert_allclose(
            whole.parameters(), parameters_to_vector(stepped).detach().numpy(), rtol=0, atol=AFTER_ONE
        )
        np.testing.assert_allclose(logits[:n], torch.softmax(scores, -1).detach().numpy(), rtol=0, atol=1e-5)
        assert abs(loss - float(wanted.detach())) < 1e-5


@pytest.mark.parametrize("runtime", installed())
def test_prediction_takes_any_number_of_samples(runtime: str, programs: dict[tuple[str, str], Program]) -> None:
    for model in MODELS:
        held = load_runtime(programs[model, "sgd"], runtime)
        x = np.concatenate([batches(model)[0][0], batches(model)[1][0]])
        with torch.no_grad():
            wanted = torch.softmax(module(model)(torch.from_numpy(x)), -1).numpy()
        for n in (0, 1, 8, 13, 32):
            got = held.predict(x[:n])
            assert got.shape == (n, LABELS)
            np.testing.assert_allclose(got, wanted[:n], rtol=0, atol=1e-5)


@pytest.mark.parametrize("runtime", installed())
def test_state_comes_and_goes(runtime: str, programs: dict[tuple[str, str], Program]) -> None:
    """What is saved and restored goes on exactly where it was; FL's parameters leave the optimiser's state alone."""
    program = programs["dense", "adam"]
    held = load_runtime(program, runtime)
    (x, target), (x2, target2) = batches("dense")[:2]
    held.train(x, target, 0.01)
    saved = held.state()
    assert saved.shape == (program.manifest.state_count,)
    P = program.manifest.parameter_count
    np.testing.assert_array_equal(saved[:P], held.parameters())
    held.train(x2, target2, 0.01)
    wanted = held.state()
    held.reset()
    np.testing.assert_array_equal(held.state(), program.initial)
    held.set_state(saved)
    saved[:] = 0  # the runtime keeps a copy
    held.train(x2, target2, 0.01)
    np.testing.assert_allclose(held.state(), wanted, rtol=0, atol=1e-7)
    held.set_parameters(np.zeros(P, np.float32))
    np.testing.assert_array_equal(held.state()[:P], 0)
    np.testing.assert_allclose(held.state()[P:], wanted[P:], rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="numbers"):
        held.set_parameters(np.zeros(P + 1, np.float32))
    with pytest.raises(ValueError, match="this program takes"):
        held.train(x[:3], target[:3], 0.01)
