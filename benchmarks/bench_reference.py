"""What a step of all devices costs: one device after another on onnxruntime, the same in torch, and batched by vmap.

    python benchmarks/bench_reference.py [--steps 30]

CPU time of one thread, for D devices with models of their own; the three take their turns in one process.
"""

from __future__ import annotations

import os

# Before numpy, torch and onnxruntime are imported.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1")

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from edge.runtime.choose import load_runtime
from edge.runtime.program import load_program
from trainer.compile.build import build_program
from trainer.compile.package import write_folder
from trainer.models import MODELS, build_model
from trainer.reference.eager import EagerRuntime

FLEETS = (("cnn", 32, 10), ("mlp-32", 16, 25), ("mlp-32", 16, 100))
"""Model, batch, devices."""
LR = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    print(f"{'model':8} {'B':>3} {'devices':>7} {'onnx ms':>9} {'torch ms':>9} {'vmap ms':>9}")
    for model, batch, devices in FLEETS:
        times = measure(model, batch, devices, steps)
        print(f"{model:8} {batch:3} {devices:7} " + " ".join(f"{value:9.2f}" for value in times))


def measure(model: str, batch: int, devices: int, steps: int) -> list[float]:
    """Milliseconds of CPU for one step of every device: onnx, torch eager, torch vmap."""
    kind = MODELS[model]
    with tempfile.TemporaryDirectory() as folder:
        write_folder(build_program(model, batch=batch), Path(folder))
        program = load_program(Path(folder))
    rng = np.random.default_rng(0)
    x = rng.random((devices, batch, *kind.input_shape), np.float32)
    target = rng.dirichlet(np.ones(len(kind.labels)), (devices, batch)).astype(np.float32)
    runtimes = (load_runtime(program, "onnx"), EagerRuntime(program.manifest, model))
    states = [[program.initial] * devices for _ in runtimes]

    def one_by_one(which: int) -> None:
        for device in range(devices):
            runtimes[which].set_state(states[which][device])
            runtimes[which].train(x[device], target[device], LR)
            states[which][device] = runtimes[which].state()

    calls = [
        lambda: one_by_one(0),
        lambda: one_by_one(1),
        batched(model, devices, torch.tensor(x), torch.tensor(target)),
    ]
    spent: list[list[float]] = [[], [], []]
    for _ in range(steps):
        for call, times in zip(calls, spent, strict=True):
            began = time.process_time()
            call()
            times.append(time.process_time() - began)
    return [1000 * median(times[2:]) for times in spent]


def batched(model: str, devices: int, x: Tensor, target: Tensor) -> Callable[[], None]:
    """One step of all devices at once: parameters stacked along a new first axis (torch.func)."""
    modules = [build_model(model, input_shape=None, labels=None, seed=seed) for seed in range(devices)]
    parameters, _ = stack_module_state(modules)
    parameters = {name: value.detach() for name, value in parameters.items()}

    def loss(p: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return -(target * functional.log_softmax(functional_call(modules[0], p, (x,)), dim=1)).sum() / len(x)

    gradients = vmap(grad(loss))

    def step() -> None:
        for name, gradient in gradients(parameters, x, target).items():
            parameters[name] = parameters[name] - LR * gradient

    return step


if __name__ == "__main__":
    main()
